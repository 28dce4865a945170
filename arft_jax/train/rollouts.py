"""The rollouts of training: which tasks a step begins, what it returns, what it may leave to the next.

Every step trains ``train.prompts`` groups, P. With ``rollout.carry_over`` above 0 the first step begins ceil(carry_over
P) groups more and the last one as many fewer, so that every rollout but the last ends with so many groups unfinished or
not yet due: they stay in their slots and go on in the next step, under its weights (partial rollouts, as in Kimi k1.5,
arXiv 2501.12599, section 2.6.2). A group keeps the key of the step that began it, so which rows are carried changes who
wrote a token, not how it was drawn.

With ``train.dynamic_sampling`` groups whose rewards do not vary are dropped and refilled while the rollout runs
(train/dynamic_sampling.py). Refills do not move the orders of the tasks, so a resumed run goes on as an unbroken one.

A checkpoint names the carried groups and holds none of their rows: a resumed run begins their tasks again, with the
keys that they had. With equal weights that gives the same trajectories; otherwise their first tokens come from newer
weights than in a run that was not broken.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
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
from arft_jax.train.dynamic_sampling import GroupFilter, Refills, varies
from arft_jax.train.random_streams import Stream, group_number, stream_key, task_place
from arft_jax.trajectory import Status, Task, Trajectory


def n_carried(config, step: int) -> int:
    """Groups that a process leaves behind at the end of a step's rollout.

    Example: carry_over 0.25, 8 prompts, one process: 2, and 0 at the last step.
    """
    if not 0 < step < config.train.steps:
        return 0
    return math.ceil(config.rollout.carry_over * (config.train.prompts // jax.process_count()))


def valid_rows(config, trajectories: Sequence[Trajectory]) -> np.ndarray:
    """bool[B]: whether a row is scored and learnt from.

    False for one that ended by an infrastructure failure, a damaged image included, and under
    ``config.train.unfinished = "mask"`` for one that a budget cut: it is in no loss, count, figure or group's mean.
    """
    masks_cut = config.train.unfinished == "mask"
    return np.array([tr.status is not Status.INFRA and not (masks_cut and tr.is_cut) for tr in trajectories], bool)


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
        self.figures: dict[str, float] = {}  # of the last step, see SamplingTally
        self._names = list(tasks)
        self._sizes = [len(split["train"]) for split in tasks.values()]
        self._n_unfilled = 0  # steps that kept a group without variance
        self._resumed: list[Request] = []  # carried groups of a checkpoint, to be begun again
        self._n_told = 0  # of the quarantine's messages

    @classmethod
    def of_plan(cls, plan: Plan, engine: Engine, tasks: Tasks, toolbox: Toolbox) -> "TrainRollouts":
        """Those of a run; ``tasks`` are all of them, the self-made ones too."""
        return cls(plan.config, engine, tasks, toolbox, quarantine=plan.quarantine, scorer=plan.scorer)

    def step(self, policy: Any, step: int) -> list[Trajectory]:
        """One step's trajectories, scored; row p*G + g."""
        rows = [trajectory for group in self.roll_out(policy, step) for trajectory in group]
        return rows if self.config.train.dynamic_sampling.enabled else self._score(rows)

    def roll_out(self, policy: Any, step: int) -> list[list[Trajectory]]:
        """One step's groups. Prompts are dealt from the tasks in turn, to the processes too.

        Args:
          policy: as the engine reads it.
          step: of GRPO, from 1 on; the weights' version is one less.

        Returns:
          The trajectories of each group, scored where sampling is dynamic, else not yet.
        """
        config, r = self.config, self.config.rollout
        engine, n_processes = self.engine, jax.process_count()
        n_groups = config.train.prompts // n_processes
        again = self._take_resumed() if r.carry_over > 0 else []
        before = n_carried(config, step - 1) * n_processes  # begun beyond the prompts of the steps so far
        n_new = n_groups + n_carried(config, step) - len(again) - len(engine.in_flight)
        numbers = self._draw(n_new * n_processes, first=step * config.train.prompts + before)
        requests = [*again, *(self._request(number) for number in numbers[share(len(numbers))])]
        key = engine.put(stream_key(config.seed, Stream.ROLLOUT, step))
        options = dict(rng=key, temperature=r.temperature, version=step - 1, on_finish=self.scorer.begin)
        if config.train.dynamic_sampling.enabled:
            on_group = self._filter(step, numbers)
            engine.run(policy, requests, self.toolbox, on_group=on_group, **options)
            self._tell_unfilled(step, on_group)
            return on_group.groups
        if not r.carry_over > 0:
            return engine.run(policy, requests, self.toolbox, **options)
        options |= dict(n_groups=n_groups, max_age=r.max_staleness, rebuild=r.refresh == "rebuild")
        return engine.run_on(policy, requests, self.toolbox, **options)

    def _draw(self, n: int, first: int) -> list[int]:
        """The numbers of the next ``n`` groups of all processes, from the task sets in turn, the one ``first`` on.

        A task that is drawn again has another number (random_streams.group_number), the same on any process count.
        """
        numbers, seen = [], collections.Counter()
        for p in range(first, first + n):
            place = p % len(self._names)
            task = place, next(self.orders[self._names[place]])
            numbers.append(group_number(self._sizes, *task, occurrence=seen[task]))
            seen[task] += 1
        return numbers

    def _request(self, number: int, rng: np.ndarray | None = None) -> Request:
        """The group of this number."""
        place, index = task_place(self._sizes, number)
        task = self.tasks[self._names[place]]["train"][index]
        return Request(task, number, self.config.rollout.group_size, rng)

    def _score(self, rows: list[Trajectory]) -> list[Trajectory]:
        """The rows with their rewards; those that are not learnt from have none."""
        rows = self._mask_bad_images(rows)
        valid = valid_rows(self.config, rows)
        return [self.scorer(row) if learnt else row for row, learnt in zip(rows, valid, strict=True)]

    def _filter(self, step: int, numbers: Sequence[int]) -> GroupFilter:
        """What drops and refills the groups of a step that begins with these numbers."""
        config, dynamic = self.config, self.config.train.dynamic_sampling
        refills, key = Refills(config.seed, step, numbers, self._sizes), stream_key(config.seed, Stream.REFILL, step)
        places = range(len(numbers))[share(len(numbers))]  # of this process among all of the step

        def teaches(rows: list[Trajectory]) -> bool:
            rewards = np.array([row.rewards.get(dynamic.metric, 0.0) for row in rows], np.float32)
            return varies(rewards, valid_rows(config, rows))

        def refill(place: int, attempt: int) -> Request:
            return self._request(refills(places[place], attempt), key)

        return GroupFilter(len(places), dynamic.max_attempts, self._score, teaches, refill)

    def _tell_unfilled(self, step: int, on_group: GroupFilter) -> None:
        """Keeps a step's figures; a line where groups without variance were kept, ever more rarely in a run."""
        self.figures, n = on_group.tally.figures(), on_group.tally.n_without
        self._n_unfilled += n > 0
        if n and self._n_unfilled & (self._n_unfilled - 1) == 0:  # the 1st, 2nd, 4th, 8th of such steps
            terminal.say(
                f"step {step}: the rewards of {n} of {on_group.n_places} groups do not vary, though each was the last "
                f"of {on_group.max_attempts} tasks tried in its place; they are kept and have no gradient "
                "(config.train.dynamic_sampling.max_attempts); dynamic/without_variance_frac counts them"
            )

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
