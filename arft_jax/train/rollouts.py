"""The rollouts of training: which tasks a step begins, what it returns, what it may leave to the next.

Every step trains ``train.prompts`` groups, P. With ``rollout.carry_over`` above 0 the first step begins ceil(carry_over
P) groups more and the last one as many fewer, so that every rollout but the last ends with so many groups unfinished or
not yet due: they stay in their slots and go on in the next step, under its weights (partial rollouts, as in Kimi k1.5,
arXiv 2501.12599, section 2.6.2). A group keeps the key of the step that began it, so which rows are carried changes who
wrote a token, not how it was drawn.

A checkpoint names the carried groups and holds none of their rows: a resumed run begins their tasks anew, with the keys
that they had. With equal weights that gives the same trajectories; otherwise their first tokens come from newer weights
than in a run that was not broken.
"""

import dataclasses
import math

import jax
import numpy as np

from arft_jax.data.image_files import FileImage
from arft_jax.io import hosts
from arft_jax.rollout.engine import Request
from arft_jax.trajectory import Status, Task, Trajectory


def share(n_items: int) -> slice:
    """This process's part of what all processes have in one order."""
    n = n_items // jax.process_count()
    return slice(n * jax.process_index(), n * (jax.process_index() + 1))


def n_carried(config, step: int) -> int:
    """Groups that a process leaves behind at the end of a step's rollout.

    Example: carry_over 0.25, 8 prompts, one process: 2, and 0 at the last step.
    """
    if not 0 < step < config.train.steps:
        return 0
    return math.ceil(config.rollout.carry_over * (config.train.prompts // jax.process_count()))


def roll_out(run, step: int) -> list[list[Trajectory]]:
    """One step's groups. Prompts are dealt from the tasks in turn, to the processes too."""
    config, r, names = run.config, run.config.rollout, list(run.tasks)
    engine, n_processes = run.parts.engine, jax.process_count()
    n_groups = config.train.prompts // n_processes
    again = _take_resumed(run) if r.carry_over > 0 else []
    before = n_carried(config, step - 1) * n_processes  # begun beyond the prompts of the steps so far
    n_new = n_groups + n_carried(config, step) - len(again) - len(engine.in_flight)
    requests = []
    for p in range(n_new * n_processes):
        name = names[(step * config.train.prompts + before + p) % len(names)]
        index = next(run.streams[name])
        requests.append(_request(run, names, index * len(names) + names.index(name)))
    requests = [*again, *requests[share(len(requests))]]
    options = dict(rng=run.rng(0, step), temperature=r.temperature, version=step - 1)
    if not r.carry_over > 0:
        return engine.run(run.policy(), requests, run.toolbox, **options)
    options |= dict(n_groups=n_groups, max_age=r.max_staleness, rebuild=r.refresh == "rebuild")
    return engine.run_on(run.policy(), requests, run.toolbox, **options)


def mask_bad_images(run, trajectories: list[Trajectory]) -> list[Trajectory]:
    """Those that were shown a stand-in for a bad file end by an infrastructure failure; each such file is named once.

    A file that is damaged behind its header is known when its task is first rolled out. The whole group is then left
    out, as where a tool failed: what the policy says of a grey picture is worth nothing.
    """
    tell_quarantined(run)
    return [dataclasses.replace(tr, status=Status.INFRA) if _has_bad_image(tr.task) else tr for tr in trajectories]


def _has_bad_image(task: Task) -> bool:
    return any(isinstance(image, FileImage) and image.is_bad for image in task.images)


def tell_quarantined(run) -> None:
    """One line for each file that was put away since the last call; the quarantine remembers the first of them."""
    for message in run.quarantine.messages[run.n_told :]:
        print(f"a grey picture takes the place of a training image, its groups are left out: {message}", flush=True)
    run.n_told = len(run.quarantine.messages)


def valid_rows(trajectories: list[Trajectory], group_size: int) -> np.ndarray:
    """bool[B]: False on every row of a group that had an infrastructure failure, a damaged image included."""
    good = np.array([tr.status is not Status.INFRA for tr in trajectories]).reshape(-1, group_size)
    return np.repeat(good.all(axis=1), group_size)


def _request(run, names: list[str], number: int, rng: np.ndarray | None = None) -> Request:
    """The group of a task by its number: index * n_names + place of its name."""
    task = run.tasks[names[number % len(names)]]["train"][number // len(names)]
    return Request(task, number, run.config.rollout.group_size, rng)


def carried_state(run) -> list[list[int]]:
    """[number, step of its key] of every process's carried groups, for a checkpoint. A meeting of the processes."""
    if not run.config.rollout.carry_over > 0:
        return []
    if run.resumed:  # saved again before any step: what was read is still to be begun
        mine = [[request.number, int(request.rng[1])] for request in run.resumed]
    else:
        mine = [[request.number, int(request.rng[1])] for request in run.parts.engine.in_flight]
    rows = np.array(mine, np.int32).reshape(-1, 2)
    return hosts.gather_dealt(rows, len(rows) * jax.process_count()).tolist()


def resume_carried(run, state: list[list[int]]) -> None:
    """Keeps what :func:`carried_state` named for the next step to begin anew.

    Raises:
      ValueError: groups that cannot be dealt to these processes.
    """
    if len(state) % jax.process_count():
        raise ValueError(
            f"the carried groups must be dealt evenly: got {len(state)} of them and {jax.process_count()} processes; "
            "resume with as many processes as before (config.distributed.n_processes)"
        )
    names = list(run.tasks)
    mine = state[jax.process_index() :: jax.process_count()]
    run.resumed = [_request(run, names, number, run.key(0, step)) for number, step in mine]


def _take_resumed(run) -> list[Request]:
    resumed, run.resumed = run.resumed, []
    return resumed
