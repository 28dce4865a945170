"""Every program of a run, lowered and compiled for hardware that need not be there: what fits, and what it costs.

The programs are those of ``programs.py``, on the devices that libtpu (TPU) or the CUDA plugin (GPU) describes.
"""

import dataclasses
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from arft_jax.build.plan import PolicyPlan, plan_policy
from arft_jax.compile_check import hlo_costs
from arft_jax.compile_check.gpu_targets import gpu_target
from arft_jax.compile_check.programs import GIB, GIVEN, kind_of, lowered, resident_gib
from arft_jax.compile_check.report import problem, remedies
from arft_jax.config_checks import validate
from arft_jax.sharding import Placement, make_mesh

# Memory of one device that a program can have, GiB: the published figure less what the runtime keeps.
TPU_GIB = {"v4": 31.25, "v5e": 15.75, "v5p": 95.25, "v6e": 31.25}
# The chips of one host of a pod slice: a rollout's programs are compiled for them alone.
TPU_HOST = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
GPU_GIB = {"a100": 78.0, "h100": 78.0, "h200": 138.5}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler says of one program, for one device.

    Args:
      program: its name.
      seconds: to lower and compile.
      argument_gib, temporary_gib: memory; None: the program was too large for the compiler to make.
      peak_gib: with what the program is given, donated buffers once; of a program that was not made the part that the
        compiler tells, None where it tells nothing.
      flops: of one call, in products (hlo_costs.py); None: the compiler does not print the program.
      sent_bytes: to other devices in one call, by kind of exchange; None: as before.
      exchanges: how often each kind is run; None: as before.
      unseen: kernels whose products are not in ``flops``.
    """

    program: str
    seconds: float
    argument_gib: float | None
    temporary_gib: float | None
    peak_gib: float | None
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


def plan_on(config, devices: Sequence[Any]) -> PolicyPlan:
    """The plan of a run on devices that need not be there; its rollouts are those of the first process.

    The compiler wants a slice of a pod described as a pod of its own: that is where one process then rolls out.

    Raises:
      ValueError: a config that does not fit the devices.
    """
    plan = plan_policy(config, devices=devices)
    own = plan.local_placement
    if own.mesh.size == plan.placement.mesh.size:
        return plan
    kind = config.hardware.split(" ")[1].split(":")[0]
    host, _ = devices_of(f"tpu {kind}:{TPU_HOST[kind]}")
    if len(host) != own.mesh.size:
        raise ValueError(
            f"a host of {kind} must have {len(host)} chips: {config.hardware!r} describes {own.mesh.size} a process"
        )
    return dataclasses.replace(plan, local_placement=Placement(make_mesh(dict(own.mesh.shape), host)))


def figures_of(plan: PolicyPlan, name: str, program: Any, begin: float) -> Figures:
    """Compiles a program and says what it costs.

    Args:
      plan: of the run.
      name: of the program.
      program: lowered.
      begin: of the clock (``time.perf_counter``), when its lowering began.
    """
    try:
        compiled, text = _compiled(program, plan.placement)
    except jax.errors.JaxRuntimeError as error:
        if not _is_out_of_memory(str(error)):
            raise
        return Figures(name, time.perf_counter() - begin, None, None, _told_gib(str(error)), None, None, None, [])
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    given = memory.argument_size_in_bytes
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    told = (None, None, None, [])
    if text is not None:
        costs = _costs(plan, name, text)
        told = (costs.flops, costs.sent_bytes, costs.exchanges, sorted(costs.unseen))
    return Figures(
        name, seconds, given / GIB, memory.temp_size_in_bytes / GIB, (given + made + memory.temp_size_in_bytes) / GIB,
        *told,
    )  # fmt: skip


def _is_out_of_memory(message: str) -> bool:
    """Of the device's memory, not of a kernel's scratch pad (vmem): that no config key helps."""
    return "RESOURCE_EXHAUSTED" in message and "hbm" in message.lower()


def _told_gib(message: str) -> float | None:
    """The memory that a failed compilation says it wanted; None: it does not say.

    "Used 20.15G of 15.75G hbm" is 20.15, "HLO temporaries (512.00M) exceeds" is 0.5 and leaves the arguments out.
    """
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", message)
    return found and float(found[1]) * 1024.0 ** ("KMGT".index(found[2]) - 2)


def _compiled(program: Any, placement: Placement) -> tuple[Any, str | None]:
    """The compiled program and its text. jaxlib cannot print every program of a newer libtpu, which itself can."""
    if placement.mesh.devices.flat[0].platform != "tpu":
        compiled = program.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory() as folder:
        compiled = program.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        written = sorted(pathlib.Path(folder).glob("*.after_optimizations.txt"))
        return compiled, written[-1].read_text(encoding="utf-8") if written else None


def _costs(plan: PolicyPlan, name: str, text: str) -> hlo_costs.Costs:
    """What the text does not tell is the run's: no decode is longer than its steps; which vision layers are full.

    A kernel's loop over the runs of a packed row makes one turn where a row holds one trajectory.
    """
    trips = plan.config.rollout.decode_steps if kind_of(name) == "decode" else 1
    return hlo_costs.count(text, open_trips=trips, shares=plan.sizes.family.branch_shares(plan.sizes))


def check(config, hardware: str = "", on_program=None) -> dict[str, Any]:
    """Compiles every program of the config's run.

    Args:
      config: of the run.
      hardware: overrides ``config.hardware``.
      on_program: called with the figures of each program as it is done.

    Returns:
      ``hardware``, ``devices``, ``memory_gib`` of one (None: unknown), ``programs`` (:class:`Figures` as dicts, with
      ``beside_gib``, what else the run keeps meanwhile, and ``fits``), ``problems``: one sentence for each program that
      does not fit, naming the keys that would help.

    Raises:
      ValueError: a bad config or hardware that the compiler does not know.
    """
    validate(config)
    hardware = hardware or config.hardware
    with config.unlocked():
        config.hardware = hardware
    devices, memory = devices_of(hardware)
    plan = plan_on(config, devices)
    resident = resident_gib(plan)
    rows, problems = [], []
    begin = time.perf_counter()
    for name, program in lowered(plan):
        figures = figures_of(plan, name, program, begin)
        beside = sum(gib for what, gib in resident.items() if what not in GIVEN[kind_of(name)])
        was_made = figures.argument_gib is not None
        fits = was_made and (memory is None or figures.peak_gib + beside <= memory)
        rows.append(dataclasses.asdict(figures) | {"beside_gib": beside, "fits": fits})
        if not fits:
            problems.append(problem(rows[-1], memory, remedies(name, plan)))
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
