"""Plan, then make: everything that a run reads and checks on the host, once, before anything is written or computed.

:func:`plan` returns what :func:`arft_jax.build.parts.make` builds on the devices and what the loops read. What it
refuses costs one sentence and leaves no trace. A plan holds no array of a device: hardware that is only described will
do, which is what the compile check plans with.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import ml_collections
import optax
from flax import nnx

from arft_jax.build import data, model, search_indices, settings
from arft_jax.build import placement as layout
from arft_jax.build.data import Tasks
from arft_jax.build.prompts import check_prompts, system_texts
from arft_jax.build.rewards import make_scorer
from arft_jax.config import task_set_name
from arft_jax.config_checks import validate
from arft_jax.data.batch import VisionBucket
from arft_jax.data.chat_chains import load_chains
from arft_jax.data.images import ImageProcessor, Quarantine
from arft_jax.data.synthetic.chains import Chain
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hosts
from arft_jax.io.weights import CONFIG, check_weights
from arft_jax.models.lora import Lora, LoraParam
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.rewards.combine import Scorer
from arft_jax.rollout.request import RolloutLimits
from arft_jax.sharding import Placement
from arft_jax.steps.init import abstract_params
from arft_jax.trajectory import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyPlan:
    """What the policy is, where it lies and what its rollouts may take: all that one question to it needs.

    Args:
      config: frozen; its values are valid.
      tokenizer: of the weights, or the config's own.
      sizes: of the model.
      lora: adapters that are trained in place of all parameters; rank 0: none.
      processor: images to patches, within the config's bounds.
      bucket: sizes of one encode call.
      limits: of a rollout.
      system: the system prompt of a task.
      placement: of training, on all devices.
      global_placement: the same devices as rollouts use them.
      local_placement: those of this process alone, on which its rollouts run.
    """

    config: ml_collections.FrozenConfigDict
    tokenizer: Tokenizer
    sizes: ModelConfig
    lora: Lora
    processor: ImageProcessor
    bucket: VisionBucket
    limits: RolloutLimits
    system: Callable[[Task], str]
    placement: Placement
    global_placement: Placement
    local_placement: Placement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(PolicyPlan):
    """The whole of a run.

    Args:
      own_tasks: by name and split, read from the user's files; :func:`prepare_data` adds the self-made ones.
      quarantine: of their training images that cannot be read; goes on counting as they are shown.
      chains: the user's own, to imitate in the warm start.
      scorer: gives trajectories their rewards.
      optimizer: clipping and AdamW.
      keeps_reference: whether a copy of the policy is kept as reference.
    """

    own_tasks: Tasks
    quarantine: Quarantine
    chains: tuple[Chain, ...]
    scorer: Scorer
    optimizer: optax.GradientTransformation
    keeps_reference: bool


def check_inputs(config) -> None:
    """Raises one ValueError where weights or data that the config needs are not there; asks for no device."""
    problems = data.missing_files(config)
    if config.model.size and not config.weights:
        name = f"Qwen2.5-VL-{config.model.size.upper()}"
        problems.insert(0, f"weights must be a Hugging Face directory of {name}: got none (config.weights)")
    elif config.weights and not (pathlib.Path(config.weights) / CONFIG).is_file():
        got = "which holds none" if pathlib.Path(config.weights).is_dir() else "which is no directory"
        problems.insert(
            0, f"weights must be a Hugging Face directory with {CONFIG}: got {config.weights}, {got} (config.weights)"
        )
    if problems:
        raise ValueError("; ".join(problems))


def plan_policy(config, tokenizer: Tokenizer | None = None, devices: Sequence[jax.Device] | None = None) -> PolicyPlan:
    """Plans the policy of a valid config; reads the tokenizer's files and the sizes of its weights.

    Args:
      config: whose values :func:`arft_jax.config_checks.validate` has let through.
      tokenizer: another than the config's.
      devices: of the run; None: all that are there. Those of one process's rollouts are this process's, or of devices
        that are only described the first process's.

    Raises:
      ValueError: a tokenizer that is not there, sizes that no model, image processor or mesh takes.
    """
    tokenizer = tokenizer or model.load_tokenizer(config)
    sizes = model.model_config(config, tokenizer)
    processor = model.image_processor(config, sizes)
    placement = layout.make_placement(config, devices)
    process = jax.process_index() if devices is None else placement.mesh.devices.flat[0].process_index
    global_placement, local_placement = layout.rollout_placements(config, placement, process)
    return PolicyPlan(
        config=ml_collections.FrozenConfigDict(config),
        tokenizer=tokenizer,
        sizes=sizes,
        lora=model.lora(config),
        processor=processor,
        bucket=model.vision_bucket(config, sizes),
        limits=settings.rollout_limits(config),
        system=system_texts(config),
        placement=placement,
        global_placement=global_placement,
        local_placement=local_placement,
    )


def plan(config) -> Plan:
    """Reads and checks everything that a run needs, and joins its processes where it has several.

    Raises:
      ValueError: a config, weights, a tokenizer or data that do not fit, with the keys to change; nothing is written
        and nothing lies on a device then.
    """
    validate(config)
    check_inputs(config)
    if config.distributed.enabled:  # before anything asks for a device
        hosts.start(config.distributed.coordinator, config.distributed.n_processes, config.distributed.process)
    policy, quarantine = plan_policy(config), Quarantine()
    scorer = make_scorer(config)
    if config.weights:
        _, params = abstract_params(model.model_maker(config, policy.sizes, policy.placement))
        check_weights(config.weights, nnx.split_state(params, LoraParam, ...)[1])
    own_tasks = data.read_own_tasks(config, quarantine)
    check_prompts(config, own_tasks, policy.tokenizer, policy.processor, policy.bucket)
    return Plan(
        **{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)},
        own_tasks=own_tasks,
        quarantine=quarantine,
        chains=tuple(load_chains(config.warm_start.chains)),
        scorer=scorer,
        optimizer=settings.optimizer(config),
        keeps_reference=settings.keeps_reference(config),
    )


def prepare_data(plan: Plan) -> tuple[Tasks, dict[str, pathlib.Path] | None]:
    """Writes the self-made task sets and the search indices where they are not there yet.

    Returns:
      The tasks of the run by name, in the config's order, and split; the paths of the indices that they are asked over
      (search_indices.py), which exist where searching is local, None where nothing searches.

    Raises:
      ValueError: a prompt of a self-made task that no rollout could begin; a corpus that cannot be read.
    """
    mini_tasks = data.prepare_mini_tasks(plan.config)
    check_prompts(plan.config, mini_tasks, plan.tokenizer, plan.processor, plan.bucket)
    tasks = {**plan.own_tasks, **mini_tasks}
    in_order = {name: tasks[name] for name in map(task_set_name, plan.config.data.tasks)}
    return search_indices.route_tasks(plan.config, in_order), search_indices.make_indices(plan.config)
