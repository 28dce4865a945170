"""What is said of compiled programs: the table, and what would help where one does not fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arft_jax.build.plan import PolicyPlan
from arft_jax.compile_check.programs import GIB, kind_of
from arft_jax.io import terminal

# What to change where a program does not fit, as far as it is not done yet (:func:`remedies`).
REMEDIES = {
    "warm_start": ("train.micro_tokens", "model.remat", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "reshard": ("rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "encode": ("rollout.tensor", "rollout.n_patches"),
    "extend": (
        "rollout.tensor", "rollout.extend_rows", "rollout.extend_chunk", "rollout.n_slots", "rollout.max_tokens",
    ),
    "fork": ("rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "decode": ("rollout.tensor", "rollout.bucket_columns", "rollout.n_slots", "rollout.max_tokens"),
    "embed": ("rollout.n_patches", "rollout.tensor", "rollout.n_slots", "rollout.max_tokens"),
    "score": ("train.micro_tokens", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "score_base": ("train.micro_tokens", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "accumulate": ("train.micro_tokens", "model.remat", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "apply": ("mesh.fsdp", "model.lora"),
}  # fmt: skip
_HEAD = "program      compile  arguments  temporary   beside     peak       GFLOP      sent  by kind"


def row_printer() -> Callable[[Mapping[str, Any]], None]:
    """Prints a program's line of the table, in seconds, GiB a device and GFLOP a device; the first with the head."""
    head = [_HEAD]

    def show(row: Mapping[str, Any]) -> None:
        if head:
            terminal.say(head.pop())
        peak = row["peak_gib"]
        memory = (row["argument_gib"], row["temporary_gib"], row["beside_gib"], peak and peak + row["beside_gib"])
        flops = "-" if row["flops"] is None else f"{row['flops'] / 1e9:.1f}"
        kinds = row["sent_bytes"]
        sent = "-" if kinds is None else f"{sum(kinds.values()) / GIB:.3g}"
        by_kind = ", ".join(f"{kind} {x / GIB:.3g}" for kind, x in (kinds or {}).items())
        terminal.say(
            f"{row['program']:11s} {row['seconds']:5.1f} s "
            + " ".join(f"{'-' if x is None else f'{x:.2f}':>{n}s}" for x, n in zip(memory, (10, 10, 8, 8), strict=True))
            + f"  {flops:>10s} {sent:>9s}  {by_kind}"
            + ("" if row["fits"] else "  DOES NOT FIT"),
        )

    return show


def remedies(name: str, plan: PolicyPlan) -> list[str]:
    """The config keys that would make a program smaller; none that is as far as it goes already.

    Args:
      name: of the program.
      plan: of the run.
    """
    config, placement, own = plan.config, plan.placement, plan.local_placement
    done = {
        "model.remat": config.model.remat == "full",
        "mesh.fsdp": placement.mesh.shape["fsdp"] == placement.mesh.size,
        # 0 saves the copy of the columns that are read, where one is made
        "rollout.bucket_columns": not (config.rollout.bucket_columns and own.reads_unstacked_layers),
        "rollout.tensor": own.mesh.shape["tensor"] == own.mesh.size,
        "train.micro_tokens": config.train.micro_tokens == config.rollout.max_tokens,
        "model.lora": config.model.lora.rank > 0,
    }
    return [key for key in REMEDIES[kind_of(name)] if not done.get(key)]


def problem(row: Mapping[str, Any], memory_gib: float | None, keys: Sequence[str]) -> str:
    """One sentence on a program that does not fit: what it needs, and what to change."""
    need = "more memory than there is"
    if row["peak_gib"] is not None:
        least = "" if row["argument_gib"] is not None else "at least "
        of = "" if memory_gib is None else f" of {memory_gib:.1f}"
        need = f"{least}{row['peak_gib'] + row['beside_gib']:.1f} GiB{of}"
    return f"{row['program']} needs {need}: change {', '.join(f'config.{key}' for key in keys)}"


def summary(result: Mapping[str, Any]) -> str:
    """What the table means, in a few lines."""
    memory = "unknown" if result["memory_gib"] is None else f"{result['memory_gib']:.2f} GiB"
    seconds = sum(row["seconds"] for row in result["programs"])
    lines = [f"{result['hardware']}: {result['devices']} devices, memory of one {memory}; {seconds:.0f} s in all"]
    unseen = {row["program"]: ", ".join(row["unseen"]) for row in result["programs"] if row["unseen"]}
    lines += [f"{name}: the operations of {kernels} are not counted" for name, kernels in unseen.items()]
    return "\n".join([*lines, *(result["problems"] or ["every program fits" if result["memory_gib"] else ""])])
