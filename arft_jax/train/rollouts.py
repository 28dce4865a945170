"""The rollouts of training: which tasks a step begins, what it returns, what it may leave to the next.

Every step trains ``train.prompts`` groups, P. With ``rollout.carry_over`` above 0 the first step begins ceil(carry_over
P) groups more and the last one as many fewer, so that every rollout but the last ends with so many groups unfinished or
not yet due: they stay in their slots and go on in the next step, under its weights (partial rollouts, as in Kimi k1.5,
arXiv 2501.12599, section 2.6.2). A group keeps the key of the step that began it, so which rows are carried changes who
wrote a token, not how it was drawn.

A checkpoint names the carried groups and holds none of their rows: a resumed run begins their tasks again, with the
keys that they had. With equal weights that gives the same trajectories; otherwise their first tokens come from newer
weights than in a run that was not broken.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from arft_jax.build.data import Tasks
from arft_jax.build.plan import Plan
from arft_jax.data.image_files import FileImage
from arft_jax.data.images import Quarantine
from arft_jax.data.pipeline import task_stream
from arft_jax.io import hosts, terminal
from arft_jax.rewards.combine import Scorer
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.request import Request
from arft_jax.tools.toolbox import Toolbox
from arft_jax.train.batches import share
from arft_jax.train.random_streams import Stream, stream_key
from arft_jax.trajectory import Status, Task, Trajectory


def n_carried(config, step: int) -> int:
    """Groups that a process leaves behind at the end of a step's rollout.

    Example: carry_over 0.25, 8 prompts, one process: 2, and 0 at the last step.
    """
    if not 0 < step < config.train.steps:
        return 0
    return math.ceil(config.rollout.carry_over * (config.train.prompts // jax.process_count()))


def valid_rows(trajectories: list[Trajectory]) -> np.ndarray:
    """bool[B]: False for a row that ended by an infrastructure failure, a damaged image included."""
    return np.array([tr.status is not Status.INFRA for tr in trajectories], bool)


class TrainRollouts:
    """Which tasks each step begins, in which order, and what is still under way.

    Args:
      config: of the run.
      engine: on this process's devices.
      tasks: by name and split.
      toolbox: serves the policy's calls.
      quarantine: of the training images.
      scorer: gives trajectories their rewards.
      orders: by name of the task set the indices of its training tasks, for ever; None: shuffled by the seed.
    """

    def __init__(
        self,
        config,
        engine: Engine,
        tasks: Tasks,
        toolbox: Toolbox,
        *,
        quarantine: Quarantine,
        scorer: Scorer,
        orders: Mapping[str, Iterator[int]] | None = None,
    ):
        self.config, self.engine, self.tasks, self.toolbox = config, engine, tasks, toolbox
        self.quarantine, self.scorer = quarantine, scorer
        self.orders: Mapping[str, Any] = orders or {
            name: task_stream(len(split["train"]), config.seed) for name, split in tasks.items()
        }
        self._names = list(tasks)
        self._resumed: list[Request] = []  # carried groups of a checkpoint, to be begun again
        self._n_told = 0  # of the quarantine's messages

    @classmethod
    def of_plan(cls, plan: Plan, engine: Engine, tasks: Tasks, toolbox: Toolbox) -> "TrainRollouts":
        """Those of a run; ``tasks`` are all of them, the self-made ones too."""
        return cls(plan.config, engine, tasks, toolbox, quarantine=plan.quarantine, scorer=plan.scorer)

    def step(self, policy: Any, step: int) -> list[Trajectory]:
        """One step's trajectories, scored; row p*G + g."""
        rows = [trajectory for group in self.roll_out(policy, step) for trajectory in group]
        return [self.scorer(trajectory) for trajectory in self._mask_bad_images(rows)]

    def roll_out(self, policy: Any, step: int) -> list[list[Trajectory]]:
        """One step's groups. Prompts are dealt from the tasks in turn, to the processes too.

        Args:
          policy: as the engine reads it.
          step: of GRPO, from 1 on; the weights' version is one less.
        """
        config, r, names = self.config, self.config.rollout, self._names
        engine, n_processes = self.engine, jax.process_count()
        n_groups = config.train.prompts // n_processes
        again = self._take_resumed() if r.carry_over > 0 else []
        before = n_carried(config, step - 1) * n_processes  # begun beyond the prompts of the steps so far
        n_new = n_groups + n_carried(config, step) - len(again) - len(engine.in_flight)
        requests = []
        for p in range(n_new * n_processes):
            name = names[(step * config.train.prompts + before + p) % len(names)]
            index = next(self.orders[name])
            requests.append(self._request(index * len(names) + names.index(name)))
        requests = [*again, *requests[share(len(requests))]]
        key = engine.put(stream_key(config.seed, Stream.ROLLOUT, step))
        options = dict(rng=key, temperature=r.temperature, version=step - 1)
        if not r.carry_over > 0:
            return engine.run(policy, requests, self.toolbox, **options)
        options |= dict(n_groups=n_groups, max_age=r.max_staleness, rebuild=r.refresh == "rebuild")
        return engine.run_on(policy, requests, self.toolbox, **options)

    def _request(self, number: int, rng: np.ndarray | None = None) -> Request:
        """The group of a task by its number: index * n_names + place of its name."""
        n = len(self._names)
        task = self.tasks[self._names[number % n]]["train"][number // n]
        return Request(task, number, self.config.rollout.group_size, rng)

    def _take_resumed(self) -> list[Request]:
        resumed, self._resumed = self._resumed, []
        return resumed

    def _mask_bad_images(self, rows: list[Trajectory]) -> list[Trajectory]:
        """Those that were shown a stand-in for a bad file end by an infrastructure failure; each such file is named.

        A file that is damaged behind its header is known when its task is first rolled out. The whole group is then
        left out: what the policy says of a grey picture is worth nothing.
        """
        self.tell_quarantined()
        return [dataclasses.replace(tr, status=Status.INFRA) if _has_bad_image(tr.task) else tr for tr in rows]

    def tell_quarantined(self) -> None:
        """One line for each file that was put away since the last call; the quarantine remembers the first of them."""
        for message in self.quarantine.messages[self._n_told :]:
            terminal.say(f"a grey picture takes the place of a training image, its groups are left out: {message}")
        self._n_told = len(self.quarantine.messages)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the rollouts, JSON-able. A meeting of the processes.

        Returns:
          ``streams``, the places in the orders of the tasks, and ``carried``, [number, step of its key] of every
          process's carried groups.
        """
        return {
            "streams": {name: order.get_state() for name, order in self.orders.items()},
            "carried": self.carried(),
        }

    def restore(self, host: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state` was taken; carried groups are begun again by the next step.

        Raises:
          ValueError: groups that cannot be dealt to these processes.
        """
        for name, order in self.orders.items():
            order.set_state(host["streams"][name])
        self.resume_carried(host.get("carried", []))

    def carried(self) -> list[list[int]]:
        """[number, step of its key] of every process's carried groups. A meeting of the processes."""
        if not self.config.rollout.carry_over > 0:
            return []
        # Saved again before any step: what was read is still to be begun.
        under_way = self._resumed or self.engine.in_flight
        mine = [[request.number, int(request.rng[1])] for request in under_way]
        rows = np.array(mine, np.int32).reshape(-1, 2)
        return hosts.gather_dealt(rows, len(rows) * jax.process_count()).tolist()

    def resume_carried(self, carried: list[list[int]]) -> None:
        """Keeps what :meth:`carried` named for the next step to begin again.

        Raises:
          ValueError: groups that cannot be dealt to these processes.
        """
        if len(carried) % jax.process_count():
            raise ValueError(
                f"the carried groups must be dealt evenly: got {len(carried)} of them and {jax.process_count()} "
                "processes; resume with as many processes as before (config.distributed.n_processes)"
            )
        mine = carried[jax.process_index() :: jax.process_count()]
        seed = self.config.seed
        self._resumed = [self._request(number, stream_key(seed, Stream.ROLLOUT, step)) for number, step in mine]


def _has_bad_image(task: Task) -> bool:
    return any(isinstance(image, FileImage) and image.is_bad for image in task.images)
