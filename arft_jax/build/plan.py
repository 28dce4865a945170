"""Plan, then make: everything that a run reads and checks on the host, once, before anything is written or computed.

:func:`plan` returns what :func:`arft_jax.build.parts.make` builds on the devices and what the loops read. What it
refuses costs one sentence and leaves no trace. A plan holds no array of a device: hardware that is only described will
do, which is what the compile check plans with.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
import ml_collections
import optax

from arft_jax.build import data, model, search_indices, settings, tools
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
from arft_jax.io import gguf_file, hosts
from arft_jax.io.weights import CONFIG
from arft_jax.models.families import DEFAULT
from arft_jax.models.family import Sizes
from arft_jax.models.lora import Lora
from arft_jax.rewards.combine import Scorer
from arft_jax.rollout.request import RolloutLimits
from arft_jax.sharding import Placement
from arft_jax.tools.offer import Offer
from arft_jax.tools.record import ToolHost
from arft_jax.trajectory import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyPlan:
    """What the policy is, where it lies and what its rollouts may take: all that one question to it needs.

    Args:
      config: frozen; its values are valid, those of an adapter that it names among them.
      tokenizer: of the weights, or the config's own.
      sizes: of the model.
      lora: adapters that are trained in place of all parameters; rank 0: none.
      processor: images to patches, within the config's bounds.
      bucket: sizes of one encode call.
      limits: of a rollout.
      host: what the tools are opened with.
      offer: the tools of the run, which of them a task is offered, and their syntax.
      system: the system prompt of a task.
      placement: of training, on all devices.
      global_placement: the same devices as rollouts use them.
      local_placement: those of this process alone, on which its rollouts run.
    """

    config: ml_collections.FrozenConfigDict
    tokenizer: Tokenizer
    sizes: Sizes
    lora: Lora
    processor: ImageProcessor
    bucket: VisionBucket
    limits: RolloutLimits
    host: ToolHost
    offer: Offer
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
      keeps_reference: whether a copy of what is trained is kept for the reference policy.
    """

    own_tasks: Tasks
    quarantine: Quarantine
    chains: tuple[Chain, ...]
    scorer: Scorer
    optimizer: optax.GradientTransformation
    keeps_reference: bool


def check_inputs(config) -> None:
    """Raises one ValueError where weights or data that the config needs are not there; asks for no device."""
    if problems := missing_weights(config) + data.missing_files(config):
        raise ValueError("; ".join(problems))


def missing_weights(config) -> list[str]:
    """A sentence where the weights that the config needs are not there; else nothing."""
    if config.model.size and not config.weights:
        name = f"{(model.chosen_family(config) or DEFAULT).title}-{config.model.size.upper()}"
        return [f"weights must be a Hugging Face directory of {name}: got none (config.weights)"]
    if gguf_file.is_gguf(config.weights):
        if not pathlib.Path(config.weights).is_file():
            return [f"weights must be a file: got {config.weights}, which is none (config.weights)"]
    elif config.weights and not (pathlib.Path(config.weights) / CONFIG).is_file():
        got = "which holds none" if pathlib.Path(config.weights).is_dir() else "which is no directory"
        return [f"weights must be a Hugging Face directory with {CONFIG}: got {config.weights}, {got} (config.weights)"]
    return []


def plan_policy(
    config,
    tokenizer: Tokenizer | None = None,
    devices: Sequence[jax.Device] | None = None,
    own_tasks: Iterable[Task] = (),
) -> PolicyPlan:
    """Plans the policy of a valid config; reads the tokenizer's files and the sizes of its weights.

    Args:
      config: whose values :func:`arft_jax.config_checks.validate` has let through.
      tokenizer: another than the config's.
      own_tasks: of the user's own files: their kinds, and the tools that they name, say which tools there are.
      devices: of the run, which may be only described; its rollouts are then planned as the first process's. None: all
        devices that are there, and rollouts on this process's own.

    Raises:
      ValueError: a tokenizer or a tool that is not there, sizes that no model, image processor or mesh takes, an
        adapter that does not fit them.
    """
    own_tasks, tokenizer = list(own_tasks), tokenizer or model.load_tokenizer(config)
    sizes = model.model_config(config, tokenizer)
    config = model.with_adapter(config, sizes)
    processor = model.image_processor(config, sizes)
    host = tools.tool_host(config, search_indices.found_indices(config), processor, sizes.family.boxes)
    kinds = tools.kinds_of(config, own_tasks)
    offer = tools.plan_offer(config, host, kinds, {name for task in own_tasks for name in task.tools})
    tools.check_template(config, tokenizer, offer)
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
        host=host,
        offer=offer,
        system=system_texts(config, offer),
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
    quarantine = Quarantine()
    own_tasks = data.read_own_tasks(config, quarantine)
    every_own_task = [task for splits in own_tasks.values() for tasks in splits.values() for task in tasks]
    search_indices.check_collections(config, every_own_task)
    policy = plan_policy(config, own_tasks=every_own_task)
    config = policy.config  # which has what its adapter says
    scorer = make_scorer(config)
    model.check_first_params(config, policy.sizes, policy.placement)
    model.check_tasks(config, policy.sizes, own_tasks)
    check_prompts(config, policy.system, own_tasks, policy.tokenizer, policy.processor, policy.bucket)
    return Plan(
        **{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)},
        own_tasks=own_tasks,
        quarantine=quarantine,
        chains=tuple(load_chains(config.warm_start.chains, policy.offer.syntax)),
        scorer=scorer,
        optimizer=settings.optimizer(config),
        keeps_reference=settings.keeps_reference(config),
    )


def prepare_data(plan: Plan) -> Tasks:
    """Writes the self-made task sets and the search indices where they are not there yet.

    Returns:
      The tasks of the run by name, in the config's order, and split.

    Raises:
      ValueError: a prompt of a self-made task that no rollout could begin; a corpus that cannot be read.
    """
    mini_tasks = data.prepare_mini_tasks(plan.config)
    check_prompts(plan.config, plan.system, mini_tasks, plan.tokenizer, plan.processor, plan.bucket)
    tasks = {**plan.own_tasks, **mini_tasks}
    in_order = {name: tasks[name] for name in map(task_set_name, plan.config.data.tasks)}
    search_indices.make_indices(plan.config)
    return search_indices.route_tasks(plan.config, in_order)
