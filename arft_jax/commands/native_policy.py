"""The policy that an evaluation runs itself: a run's checkpoint, published weights, or an adapter on top of them."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from arft_jax.build import model, search_indices
from arft_jax.build import tools as toolset
from arft_jax.build.parts import describe, make, set_up_jax
from arft_jax.build.plan import PolicyPlan, missing_weights, plan_policy
from arft_jax.build.prompts import check_prompts
from arft_jax.commands.agent import checkpoint_dir, load_policy
from arft_jax.config import JSONL
from arft_jax.data import source
from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.evaluator import play_greedily
from arft_jax.evaluate.policy import Item, OnEnd, Policy
from arft_jax.io import hosts, params_checkpoint, seal
from arft_jax.io.fingerprint import sampled_sha256
from arft_jax.rollout.request import Request
from arft_jax.tools.record import ToolHost
from arft_jax.train.random_streams import Stream, stream_key
from arft_jax.trajectory import Task, Trajectory

CHECKPOINTS = ("run", "none")  # --checkpoint


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which weights are evaluated.

    Args:
      system: their name in tables.
      identity: what tells them from all others, JSON values.
      step: of the checkpoint; None: there is none.
    """

    system: str
    identity: Mapping[str, Any]
    step: int | None


def check_weights_there(config, checkpoint: str) -> None:
    """Raises a ValueError where there are no weights to evaluate; asks for no device.

    Args:
      config: of the run.
      checkpoint: one of :data:`CHECKPOINTS`.
    """
    if checkpoint == "run":
        try:
            checkpoint_dir(config)
        except ValueError as error:
            raise ValueError(f"{error}; --checkpoint=none evaluates config.weights as they are") from None
    elif problems := missing_weights(config):
        raise ValueError("; ".join(problems))


def find_weights(config, checkpoint: str) -> Weights:
    """The weights to evaluate, by what is in their files.

    Raises:
      ValueError: a work directory without a good checkpoint.
    """
    if checkpoint == "run":
        folder = checkpoint_dir(config)
        step = params_checkpoint.newest_good_step(folder)
        manifest = sampled_sha256(folder / "steps" / str(step) / seal.MANIFEST)
        return Weights(f"{config.name}, step {step}", {"checkpoint": manifest, "step": step}, step)
    system, adapter = f"{config.name}, drawn", config.model.lora.adapter
    identity: dict[str, Any] = {"drawn": config.seed}
    if config.weights:
        system, identity = pathlib.Path(config.weights).absolute().name, {"weights": sampled_sha256(config.weights)}
    if adapter:
        system += f" + {pathlib.Path(adapter).absolute().name}"
        identity["adapter"] = sampled_sha256(adapter)
    return Weights(system, identity, None)


def config_to_evaluate(config, entries: Mapping[str, str], checkpoint: str, out: pathlib.Path):
    """The configuration with the benchmarks among its task sets: tools and syntax stay those of its own.

    Where no run is evaluated, what has to be made lies in ``out``: a work directory must be left to the run.
    """
    taken = ml_collections.ConfigDict(config.to_dict())
    known = tuple(config.data.tasks)
    taken.data.tasks = known + tuple(entry for entry in entries.values() if entry not in known)
    if checkpoint == "none":
        taken.workdir = str(out)
        taken.data.n_train = 1  # of self-made sets, whose test split is all that is asked for
    return taken.lock()


def own_tasks(config) -> list[Task]:
    """Tasks of the user's own files: their kinds, and the tools that they name, say which tools there are."""
    own = [entry for entry in config.data.tasks if entry.startswith(JSONL)]
    splits = source.load_splits(own, "", seed=config.seed, n_train=config.data.n_train)
    return [task for parts in splits.values() for part in parts.values() for task in part]


def plan_native(config, checkpoint: str, benchmarks: Sequence[Benchmark], enabled: bool) -> PolicyPlan:
    """Plans the policy, and checks it against every item; nothing lies on a device yet.

    Args:
      config: of :func:`config_to_evaluate`.
      checkpoint: one of :data:`CHECKPOINTS`.
      benchmarks: whose items are asked.
      enabled: whether tools are on.

    Raises:
      ValueError: weights, a tokenizer, a tool or an item that do not fit; the key to change is named.
    """
    tasks = {benchmark.name: {"test": benchmark.tasks} for benchmark in benchmarks}
    every = [task for benchmark in benchmarks for task in benchmark.tasks]
    if enabled:
        search_indices.check_collections(config, every)
    planned = plan_policy(config, own_tasks=own_tasks(config))
    if checkpoint == "none":
        model.check_first_params(planned.config, planned.sizes, planned.placement)
    model.check_tasks(config, planned.sizes, tasks)
    check_prompts(config, planned.system, tasks, planned.tokenizer, planned.processor, planned.bucket)
    return planned


def make_indices(config, entries: Mapping[str, str]) -> None:
    """Builds the search indices of the benchmarks where they are not there.

    Raises:
      ValueError: a corpus that cannot be read, or holds nothing.
    """
    only = ml_collections.ConfigDict(config.to_dict())
    only.data.tasks = tuple(entries.values())
    search_indices.make_indices(only)


def with_made_indices(host: ToolHost) -> ToolHost:
    """The host with those search indices that are there: what no benchmark searches was not made."""
    indices = host.search_indices
    there = indices and {name: path for name, path in indices.items() if path.exists()}
    return dataclasses.replace(host, search_indices=there)


def routed(config, benchmarks: Sequence[Benchmark]) -> dict[str, list[Task]]:
    """The items of each benchmark as the tools take them: each with the corpus of its set."""
    tasks = {benchmark.name: {"test": benchmark.tasks} for benchmark in benchmarks}
    return {name: splits["test"] for name, splits in search_indices.route_tasks(config, tasks).items()}


@contextlib.contextmanager
def open_native(planned: PolicyPlan, weights: Weights, tasks: Sequence[Task], enabled: bool) -> Iterator[Policy]:
    """The policy on this process's devices, with its tools; these are closed on leaving.

    Args:
      planned: of :func:`plan_native`.
      weights: which.
      tasks: of all benchmarks: tools that none of them is offered are not opened.
      enabled: whether tools are on.

    Raises:
      ValueError: a checkpoint of another model or tokenizer, a tool that cannot be opened.
    """
    config, parts = planned.config, make(planned)
    params = parts.first_params() if weights.step is None else load_policy(config, parts)[0]
    policy = parts.for_rollout(params)
    hosts.print_once(f"{weights.system}: {describe(parts)}")
    rng = parts.engine.put(stream_key(config.seed, Stream.EVALUATION, 0))
    host = with_made_indices(planned.host)
    with toolset.open_toolbox(config, planned.offer.only(tasks), host, enabled=enabled) as toolbox:
        hosts.print_once(toolbox.line)
        stamp = toolbox.stamp()

        def play(items: Sequence[Item], on_end: OnEnd) -> None:
            numbers = {item.task.id: item.number for item in items}

            def end(trajectory: Trajectory) -> None:
                stamped = dataclasses.replace(trajectory, info=trajectory.info | stamp)
                on_end(numbers[trajectory.task.id], stamped)

            play_greedily(
                parts.engine,
                policy,
                [Request(item.task, item.number, 1) for item in items],
                toolbox,
                max_turns=config.rollout.max_turns_eval,
                rng=rng,
                on_finish=end,
                context=config.rollout.context,
            )

        yield play


class NativeEntrant:
    """The weights that are evaluated, from the check of their files to the policy.

    Args:
      config: of the run.
      checkpoint: one of :data:`CHECKPOINTS`.

    Raises:
      ValueError: a work directory without a good checkpoint.
    """

    def __init__(self, config, checkpoint: str):
        self._checkpoint, self._weights = checkpoint, find_weights(config, checkpoint)
        self._planned: PolicyPlan | None = None
        self.system, self.step = self._weights.system, self._weights.step
        self.told = {"weights": config.weights, "workdir": config.workdir}

    def plan(self, config, benchmarks: Sequence[Benchmark], enabled: bool) -> dict[str, Any]:
        """See :func:`plan_native`; returns what tells the policy from all others."""
        self._planned = plan_native(config, self._checkpoint, benchmarks, enabled)
        return {**self._weights.identity, "tokenizer": self._planned.tokenizer.sha256}

    def open(
        self, config, tasks: Sequence[Task], enabled: bool, out: pathlib.Path
    ) -> contextlib.AbstractContextManager[Policy]:
        """See :func:`open_native`."""
        set_up_jax(config)
        return open_native(self._planned, self._weights, tasks, enabled)

    def note(self) -> str:
        """Of a line of progress: nothing."""
        return ""

    def finish(self, config, out: pathlib.Path) -> dict[str, Any]:
        """What else the results hold: nothing."""
        return {}
