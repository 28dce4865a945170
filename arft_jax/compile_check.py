"""Every program of a run, lowered and compiled for hardware that need not be there: what fits, and what it costs.

Nothing is computed and no weight is made: the programs are those of ``steps/``, their arguments shapes with shardings
on the devices that libtpu (TPU) or the CUDA plugin (GPU) describes.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from arft_jax import build, hlo_costs, layout, protocol
from arft_jax.config_checks import validate
from arft_jax.data.batch import Batch
from arft_jax.gpu_targets import gpu_target
from arft_jax.models.qwen2_5_vl.packing import VisionLayout
from arft_jax.sampling.stops import build_stop_table
from arft_jax.sharding import Placement, make_mesh
from arft_jax.steps import learner, reshard
from arft_jax.steps.init import abstract_params
from arft_jax.steps.sampler import Extension, Rules, make_sampler
from arft_jax.steps.state import state_shardings

GIB = 2**30
# Memory of one device that a program can have, GiB: the published figure less what the runtime keeps.
TPU_GIB = {"v4": 31.25, "v5e": 15.75, "v5p": 95.25, "v6e": 31.25}
# The chips of one host of a pod slice: a rollout's programs are compiled for them alone.
TPU_HOST = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
GPU_GIB = {"a100": 78.0, "h100": 78.0, "h200": 138.5}
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
# What a run keeps on the devices, and which of it a program is given or makes: the rest waits beside it. The copy of
# the policy that rollouts read is let go before training and made anew after it.
GIVEN = {
    "reshard": ("params", "policy"),
    "encode": ("policy", "slots"),
    "extend": ("policy", "slots"),
    "fork": ("slots",),
    "decode": ("policy", "slots"),
    "score": ("params", "policy"),
    "update": ("params", "moments", "policy"),
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler says of one program, for one device.

    Args:
      program: its name.
      seconds: to lower and compile.
      argument_gib, temporary_gib, peak_gib: memory; the peak counts what the program is given, donated buffers once.
      flops: of one call, in products (:mod:`arft_jax.hlo_costs`); None: the compiler does not print the program.
      sent_bytes: to other devices in one call, by kind of exchange; None: as before.
      exchanges: how often each kind is run; None: as before.
      unseen: kernels whose products are not in ``flops``.
    """

    program: str
    seconds: float
    argument_gib: float
    temporary_gib: float
    peak_gib: float
    flops: float | None
    sent_bytes: dict[str, float] | None
    exchanges: dict[str, float] | None
    unseen: list[str]


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


def _own_placement(config, placement: Placement) -> Placement:
    """Where one process rolls out. The compiler wants a slice of a pod described as a pod of its own."""
    own = layout.rollout_placements(config, placement, 0)[1]
    if own.mesh.size == placement.mesh.size:
        return own
    kind = config.hardware.split(" ")[1].split(":")[0]
    devices, _ = devices_of(f"tpu {kind}:{TPU_HOST[kind]}")
    if len(devices) != own.mesh.size:
        raise ValueError(
            f"a host of {kind} must have {len(devices)} chips: {config.hardware!r} describes {own.mesh.size} a process"
        )
    return Placement(make_mesh(dict(own.mesh.shape), devices))


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
    return _shaped(by_row, layout.batch_places(by_row, placement))


def lowered(config, placement: Placement) -> Iterator[tuple[str, Any]]:
    """(name, program ready to compile) of every program of a run."""
    sizes = build.model_config(config, build.load_tokenizer(config))
    graphdef, params = abstract_params(build.model_maker(config, sizes, placement))
    optimizer = build.optimizer(config)
    train = learner.abstract_train_state(optimizer, params, False, placement)
    tensor = layout.rollout_tensor(config, placement)
    every = placement.for_rollout(tensor)
    if reshard.is_needed(params, config.model.dtype, placement, every):
        yield (
            "reshard",
            reshard.make_reshard(params, config.model.dtype, placement, tensor).lower(train["params"]),
        )
    yield from _lowered_rollout(config, sizes, placement)
    params, opt_state = train["params"], train["opt_state"]
    allowed = _shaped(_rules(sizes.text.vocab_size).allowed, placement.whole)
    batch, objective = _batch(config, sizes, placement), build.objective(config, "policy")
    logps = _shaped(batch.sampler_logps, placement.split(0))
    if config.train.beta > 0 or not objective.on_policy:
        yield "score", learner.make_score(graphdef, objective).lower(params, batch, allowed)
    update = learner.make_update(graphdef, objective, optimizer, like=(params, opt_state))
    rate = _shaped(jax.ShapeDtypeStruct((), np.float32), placement.whole)
    old, ref = None if objective.on_policy else logps, logps if config.train.beta > 0 else None
    yield "update", update.lower(params, opt_state, batch, allowed, rate, old, ref)


def _lowered_rollout(config, sizes, placement: Placement) -> Iterator[tuple[str, Any]]:
    """The sampler's programs, on the devices of one process."""
    r, own = config.rollout, _own_placement(config, placement)
    graphdef, params = abstract_params(build.model_maker(config, sizes, own))
    params = reshard.rollout_shapes(params, config.model.dtype, own)
    state = jax.eval_shape(build.state_maker(config, sizes))
    sampler = make_sampler(
        graphdef, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p, state=state, placement=own
    )
    state = _shaped(state, state_shardings(state, own))

    def whole(tree):
        return _shaped(tree, own.whole)

    bucket = build.vision_bucket(config, sizes)
    patches = jax.ShapeDtypeStruct((own.n_lanes, bucket.n_patches, sizes.vision.patch_dim), np.float32)
    images = (patches, _layout(bucket, own.n_lanes), _ints(own.n_lanes * bucket.n_features))
    yield "encode", sampler.encode.lower(params, state, *whole(images))
    n, c = r.extend_rows, r.extend_chunk
    rows = {name: _ints(n) for name in Extension._fields}
    rows |= dict(tokens=_ints(n, c), positions=_ints(n, 3, c), feature_index=_ints(n, c))
    rows["final"] = jax.ShapeDtypeStruct((n,), np.bool_)
    yield "extend", sampler.extend.lower(params, state, whole(Extension(**rows)))
    width = max(r.group_size - 1, 1)
    yield "fork", sampler.fork.lower(state, *whole((_ints(), _ints(width), _ints(width))))
    key = whole(jax.ShapeDtypeStruct((2,), np.uint32))
    yield "decode", sampler.decode.lower(params, state, whole(_rules(sizes.text.vocab_size)), key, r.temperature)


def _figures(config, name: str, program: Any, placement: Placement, begin: float) -> Figures:
    compiled, text = _compiled(program, placement)
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    given = memory.argument_size_in_bytes
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    told = (None, None, None, [])
    if text is not None:
        costs = _costs(config, name, text)
        told = (costs.flops, costs.sent_bytes, costs.exchanges, sorted(costs.unseen))
    return Figures(
        name, seconds, given / GIB, memory.temp_size_in_bytes / GIB, (given + made + memory.temp_size_in_bytes) / GIB,
        *told,
    )  # fmt: skip


def _compiled(program: Any, placement: Placement) -> tuple[Any, str | None]:
    """The compiled program and its text. jaxlib cannot print every program of a newer libtpu, which itself can."""
    if placement.mesh.devices.flat[0].platform != "tpu":
        compiled = program.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory() as folder:
        compiled = program.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        written = sorted(pathlib.Path(folder).glob("*.after_optimizations.txt"))
        return compiled, written[-1].read_text(encoding="utf-8") if written else None


def _costs(config, name: str, text: str) -> hlo_costs.Costs:
    """What the text does not tell is the run's: no decode is longer than its steps; which vision layers are full.

    A kernel's loop over the runs of a packed row makes one turn where a row holds one trajectory.
    """
    trips = config.rollout.decode_steps if name == "decode" else 1
    vision = build.model_config(config, build.load_tokenizer(config)).vision
    full = len(vision.full_layers) / vision.n_layers
    return hlo_costs.count(text, open_trips=trips, shares=(1 - full, full))


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
    with config.unlocked():
        config.hardware = hardware
    devices, memory = devices_of(hardware)
    placement = layout.make_placement(config, devices)
    resident = _resident_gib(config, placement)
    rows, problems = [], []
    begin = time.perf_counter()
    for name, program in lowered(config, placement):
        figures = _figures(config, name, program, placement, begin)
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
    """GiB a device of what a run keeps: parameters, moments, reference, the policy as rolled out, the slots."""
    sizes = build.model_config(config, build.load_tokenizer(config))
    _, params = abstract_params(build.model_maker(config, sizes, placement))
    train = learner.abstract_train_state(build.optimizer(config), params, build.keeps_reference(config), placement)

    def share(tree) -> float:
        return sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GIB

    slots = jax.eval_shape(build.state_maker(config, sizes))
    every, own = placement.for_rollout(layout.rollout_tensor(config, placement)), _own_placement(config, placement)
    # Without a copy the policy that is rolled out is the parameters themselves.
    is_copy = reshard.is_needed(params, config.model.dtype, placement, every)
    policy = reshard.rollout_shapes(params, config.model.dtype, own) if is_copy else train["params"]
    return {
        "params": share(train["params"]) if is_copy else 0.0,
        "policy": share(policy),
        "moments": share(train["opt_state"]),
        "reference": share(train["ref_params"]),
        "slots": share(_shaped(slots, state_shardings(slots, own))),
    }


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
