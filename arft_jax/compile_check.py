"""Every program of a run, lowered and compiled for hardware that need not be there: what fits, and what it costs.

Nothing is computed and no weight is made: the programs are those of ``steps/``, their arguments shapes with shardings
on the devices that libtpu (TPU) or the CUDA plugin (GPU) describes.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from arft_jax import build, protocol
from arft_jax.config import validate
from arft_jax.data.batch import Batch
from arft_jax.gpu_targets import gpu_target
from arft_jax.models.qwen2_5_vl.packing import VisionLayout
from arft_jax.sampling.stops import build_stop_table
from arft_jax.sharding import Placement
from arft_jax.steps import learner
from arft_jax.steps.init import abstract_params
from arft_jax.steps.sampler import Extension, Rules, make_sampler
from arft_jax.steps.state import state_shardings

GIB = 2**30
# Memory of one device that a program can have, GiB: the published figure less what the runtime keeps.
TPU_GIB = {"v4": 31.25, "v5e": 15.75, "v5p": 95.25, "v6e": 31.25}
GPU_GIB = {"a100": 78.0, "h100": 78.0, "h200": 138.5}
# What to change where a program does not fit.
REMEDIES = {
    "encode": ("rollout.n_patches", "mesh"),
    "extend": ("rollout.extend_rows", "rollout.extend_chunk", "rollout.n_slots", "rollout.max_tokens", "mesh.tensor"),
    "fork": ("rollout.n_slots", "rollout.max_tokens", "mesh"),
    "decode": ("rollout.n_slots", "rollout.max_tokens", "mesh.tensor"),
    "score": ("train.rows_per_update", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
    "update": ("train.rows_per_update", "model.remat", "train.logps_chunk", "rollout.max_tokens", "mesh.fsdp"),
}
# What a run keeps on the devices at all times, and which of it a program is given: the rest waits beside it.
GIVEN = {
    "encode": ("params", "slots"),
    "extend": ("params", "slots"),
    "fork": ("slots",),
    "decode": ("params", "slots"),
    "score": ("params",),
    "update": ("params", "moments"),
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler says of one program, for one device.

    Args:
      program: its name.
      seconds: to lower and compile.
      argument_gib, temporary_gib, peak_gib: memory; the peak counts what the program is given, donated buffers once.
      flops: of one call; a scanned body counts once (a limit of the compiler's own figure); None where it gives none.
      collectives: how many of each kind of exchange between devices the program holds; None: cannot be printed.
    """

    program: str
    seconds: float
    argument_gib: float
    temporary_gib: float
    peak_gib: float
    flops: float | None
    collectives: dict[str, int] | None


def devices_of(hardware: str) -> tuple[list[Any], float | None]:
    """Devices that a string describes, and the memory of one in GiB (None: unknown).

    Args:
      hardware: ``tpu v5e:4x4`` (a topology as libtpu names it), ``gpu h100:8`` (so many on one host), empty: this
        machine's own.

    Raises:
      ValueError: a string of another form, or hardware that the compiler at hand does not know.
    """
    if not hardware:
        return jax.devices(), None
    platform, _, name = hardware.partition(" ")
    kind, _, shape = name.partition(":")
    kinds = {"tpu": TPU_GIB, "gpu": GPU_GIB}.get(platform, {})
    if not shape or kind not in kinds:
        raise ValueError(
            f"hardware must be like 'tpu v5e:8x8' or 'gpu h100:8', of {', '.join([*TPU_GIB, *GPU_GIB])}: got "
            f"{hardware!r} (config.hardware)"
        )
    options = {}
    if platform == "gpu":
        options = {"target_config": gpu_target(kind), "topology": f"1x1x{shape}"}
    try:
        described = topologies.get_topology_desc(
            platform="cuda" if platform == "gpu" else "tpu",
            topology_name=name if platform == "tpu" else kind,
            **options,
        )
    except Exception as error:  # the plugins raise what they like
        raise ValueError(
            f"hardware must be known to the compiler: got {hardware!r}: {error} (config.hardware)"
        ) from error
    return list(described.devices), kinds[kind]


def _shaped(tree: Any, places: Any) -> Any:
    """Shapes with shardings; ``places`` is one sharding or a tree of them."""
    if isinstance(places, jax.sharding.Sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places), tree)
    return jax.tree.map(lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p), tree, places)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)


def _layout(bucket, *lead: int) -> VisionLayout:
    window_len = (bucket.window_px // bucket.patch) ** 2
    return VisionLayout(
        segment_ids=_ints(*lead, bucket.n_patches),
        hw=_ints(*lead, bucket.n_patches, 2),
        window_index=_ints(*lead, bucket.n_windows, window_len),
        window_slot=_ints(*lead, bucket.n_patches),
    )


def _rules(vocab_size: int) -> Rules:
    n_states = len(build_stop_table([bytes([i]) for i in range(256)], protocol.STOPS).hit_of)
    table = build_stop_table([b"x"], protocol.STOPS).next_state
    return Rules(
        next_state=jax.ShapeDtypeStruct((n_states, vocab_size), table.dtype),
        hit_of=_ints(n_states),
        allowed=jax.ShapeDtypeStruct((vocab_size,), np.bool_),
        eos=_ints(),
    )


def _batch(config, sizes, placement: Placement) -> Batch:
    b, t, lanes = config.train.rows_per_update, config.rollout.max_tokens, placement.n_lanes
    bucket = build.vision_bucket(config, sizes)
    waves = config.train.image_chunks // lanes
    by_row = Batch(
        tokens=_ints(b, t),
        feature_index=_ints(b, t),
        segment_ids=_ints(b, t),
        positions=_ints(b, 3, t),
        loss_mask=jax.ShapeDtypeStruct((b, t), np.bool_),
        sampler_logps=jax.ShapeDtypeStruct((b, t), np.float32),
        advantages=jax.ShapeDtypeStruct((b,), np.float32),
        patches=jax.ShapeDtypeStruct((waves, lanes, bucket.n_patches, sizes.vision.patch_dim), np.float32),
        layout=_layout(bucket, waves, lanes),
    )
    return _shaped(by_row, build.batch_places(by_row, placement))


def lowered(config, placement: Placement) -> Iterator[tuple[str, Any]]:
    """(name, program ready to compile) of every program of a run."""
    sizes, r = build.model_config(config, build.load_tokenizer(config)), config.rollout
    graphdef, params = abstract_params(build.model_maker(config, sizes, placement))
    optimizer = build.optimizer(config)
    train = learner.abstract_train_state(optimizer, params, False, placement)
    params, opt_state = train["params"], train["opt_state"]
    state = jax.eval_shape(build.state_maker(config, sizes))
    sampler = make_sampler(
        graphdef, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p, state=state, placement=placement
    )
    state = _shaped(state, state_shardings(state, placement))

    def whole(tree):
        return _shaped(tree, placement.whole)

    rules, bucket = whole(_rules(sizes.text.vocab_size)), build.vision_bucket(config, sizes)
    patches = jax.ShapeDtypeStruct((placement.n_lanes, bucket.n_patches, sizes.vision.patch_dim), np.float32)
    images = (patches, _layout(bucket, placement.n_lanes), _ints(placement.n_lanes * bucket.n_features))
    yield "encode", sampler.encode.lower(params, state, *whole(images))
    n, c = r.extend_rows, r.extend_chunk
    rows = {name: _ints(n) for name in Extension._fields}
    rows |= dict(tokens=_ints(n, c), positions=_ints(n, 3, c), feature_index=_ints(n, c))
    rows["final"] = jax.ShapeDtypeStruct((n,), np.bool_)
    yield "extend", sampler.extend.lower(params, state, whole(Extension(**rows)))
    width = max(r.group_size - 1, 1)
    yield "fork", sampler.fork.lower(state, *whole((_ints(), _ints(width), _ints(width))))
    key = whole(jax.ShapeDtypeStruct((2,), np.uint32))
    yield "decode", sampler.decode.lower(params, state, rules, key, r.temperature)
    batch, objective = _batch(config, sizes, placement), build.objective(config, "policy")
    logps = _shaped(batch.sampler_logps, placement.split(0))
    if config.train.beta > 0 or not objective.on_policy:
        yield "score", learner.make_score(graphdef, objective).lower(params, batch, rules.allowed)
    update = learner.make_update(graphdef, objective, optimizer, like=(params, opt_state))
    rate = whole(jax.ShapeDtypeStruct((), np.float32))
    old, ref = None if objective.on_policy else logps, logps if config.train.beta > 0 else None
    yield "update", update.lower(params, opt_state, batch, rules.allowed, rate, old, ref)


def _figures(name: str, program: Any, begin: float) -> Figures:
    compiled = program.compile()
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    given = memory.argument_size_in_bytes
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Figures(
        name, seconds, given / GIB, memory.temp_size_in_bytes / GIB, (given + made + memory.temp_size_in_bytes) / GIB,
        cost.get("flops"),
        _collectives(compiled),
    )  # fmt: skip


def _collectives(compiled: Any) -> dict[str, int] | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # jaxlib cannot print every program of a newer libtpu
        return None
    return {kind: n for kind in COLLECTIVES if (n := text.count(f" {kind}(") + text.count(f" {kind}-start("))}


def check(config, hardware: str = "", on_program=None) -> dict[str, Any]:
    """Compiles every program of the config's run.

    Args:
      config: of the run.
      hardware: overrides ``config.hardware``.
      on_program: called with the figures of each program as it is done.

    Returns:
      ``hardware``, ``devices``, ``memory_gib`` of one (None: unknown), ``programs`` (:class:`Figures` as dicts, with
      ``fits``), ``problems``: one sentence for each program that does not fit, naming the keys that would help.

    Raises:
      ValueError: a bad config or hardware that the compiler does not know.
    """
    validate(config)
    hardware = hardware or config.hardware
    devices, memory = devices_of(hardware)
    placement = build.make_placement(config, devices)
    resident = _resident_gib(config, placement)
    rows, problems = [], []
    begin = time.perf_counter()
    for name, program in lowered(config, placement):
        figures = _figures(name, program, begin)
        beside = sum(gib for what, gib in resident.items() if what not in GIVEN[name])
        need = figures.peak_gib + beside
        fits = memory is None or need <= memory
        rows.append(dataclasses.asdict(figures) | {"beside_gib": beside, "fits": fits})
        if not fits:
            keys = ", ".join(f"config.{key}" for key in REMEDIES[name])
            problems.append(f"{name} needs {need:.1f} GiB of {memory:.1f}: change {keys}")
        if on_program is not None:
            on_program(rows[-1])
        begin = time.perf_counter()
    return {
        "hardware": hardware or f"{len(devices)} {devices[0].platform}",
        "devices": len(devices),
        "memory_gib": memory,
        "programs": rows,
        "problems": problems,
    }


def _resident_gib(config, placement: Placement) -> Mapping[str, float]:
    """GiB a device of what a run keeps at all times: policy, optimiser moments, reference, the sampler's slots."""
    sizes = build.model_config(config, build.load_tokenizer(config))
    _, params = abstract_params(build.model_maker(config, sizes, placement))
    train = learner.abstract_train_state(build.optimizer(config), params, build.keeps_reference(config), placement)

    def share(tree) -> float:
        return sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GIB

    slots = jax.eval_shape(build.state_maker(config, sizes))
    return {
        "params": share(train["params"]),
        "moments": share(train["opt_state"]),
        "reference": share(train["ref_params"]),
        "slots": share(_shaped(slots, state_shardings(slots, placement))),
    }


_HEAD = "program     compile  arguments  temporary   beside     peak       GFLOP  exchanges"


def print_row(row: Mapping[str, Any]) -> None:
    """One line of the table, in seconds and GiB a device; the head goes before the first program."""
    if row["program"] == "encode":
        print(_HEAD)
    flops = "-" if row["flops"] is None else f"{row['flops'] / 1e9:.1f}"
    kinds = row["collectives"]
    moved = "unknown" if kinds is None else ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"
    print(
        f"{row['program']:8s} {row['seconds']:7.1f} s {row['argument_gib']:10.2f} {row['temporary_gib']:10.2f} "
        f"{row['beside_gib']:8.2f} {row['peak_gib'] + row['beside_gib']:8.2f}  {flops:>10s}  {moved}"
        + ("" if row["fits"] else "  DOES NOT FIT"),
        flush=True,
    )


def summary(result: Mapping[str, Any]) -> str:
    """What the table means, in a few lines."""
    memory = "unknown" if result["memory_gib"] is None else f"{result['memory_gib']:.2f} GiB"
    seconds = sum(row["seconds"] for row in result["programs"])
    lines = [f"{result['hardware']}: {result['devices']} devices, memory of one {memory}; {seconds:.0f} s in all"]
    return "\n".join([*lines, *(result["problems"] or ["every program fits" if result["memory_gib"] else ""])])
