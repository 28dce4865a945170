"""What is said of compiled programs: the table, and what would help where one does not fit."""

from collections.abc import Callable, Mapping
from typing import Any

from arft_jax.compile_programs import GIB

# What to change where a program does not fit.
REMEDIES = {
    "reshard": ("rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "encode": ("rollout.tensor", "rollout.n_patches"),
    "extend": (
        "rollout.tensor", "rollout.extend_rows", "rollout.extend_chunk", "rollout.n_slots", "rollout.max_tokens",
    ),
    "fork": ("rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "decode": ("rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "score": ("train.rows_per_update", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "update": ("train.rows_per_update", "model.remat", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
}  # fmt: skip
_HEAD = "program     compile  arguments  temporary   beside     peak       GFLOP      sent  by kind"


def row_printer() -> Callable[[Mapping[str, Any]], None]:
    """Prints a program's line of the table, in seconds, GiB a device and GFLOP a device; the first with the head."""
    head = [_HEAD]

    def show(row: Mapping[str, Any]) -> None:
        if head:
            print(head.pop())
        flops = "-" if row["flops"] is None else f"{row['flops'] / 1e9:.1f}"
        kinds = row["sent_bytes"]
        sent = "-" if kinds is None else f"{sum(kinds.values()) / GIB:.3g}"
        by_kind = ", ".join(f"{kind} {x / GIB:.3g}" for kind, x in (kinds or {}).items())
        print(
            f"{row['program']:8s} {row['seconds']:7.1f} s {row['argument_gib']:10.2f} {row['temporary_gib']:10.2f} "
            f"{row['beside_gib']:8.2f} {row['peak_gib'] + row['beside_gib']:8.2f}  {flops:>10s} {sent:>9s}  {by_kind}"
            + ("" if row["fits"] else "  DOES NOT FIT"),
            flush=True,
        )

    return show


def summary(result: Mapping[str, Any]) -> str:
    """What the table means, in a few lines."""
    memory = "unknown" if result["memory_gib"] is None else f"{result['memory_gib']:.2f} GiB"
    seconds = sum(row["seconds"] for row in result["programs"])
    lines = [f"{result['hardware']}: {result['devices']} devices, memory of one {memory}; {seconds:.0f} s in all"]
    unseen = {row["program"]: ", ".join(row["unseen"]) for row in result["programs"] if row["unseen"]}
    lines += [f"{name}: the operations of {kernels} are not counted" for name, kernels in unseen.items()]
    return "\n".join([*lines, *(result["problems"] or ["every program fits" if result["memory_gib"] else ""])])
