"""Questions over images with a checkpoint: the smallest use of a trained policy."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from arft_jax.build import tools as toolset
from arft_jax.build.parts import Parts, check_trained_with, describe, make, set_up_jax
from arft_jax.build.plan import plan_policy
from arft_jax.build.search_indices import index_paths
from arft_jax.config import JSONL, SEARCHING_TASKS, task_set_name
from arft_jax.config_checks import validate
from arft_jax.data.images import decode_image
from arft_jax.data.items import check_texts
from arft_jax.data.jsonl_tasks import KINDS
from arft_jax.io import params_checkpoint, terminal
from arft_jax.report.trajectories import write_trajectories
from arft_jax.rollout.request import Request
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Task, Trajectory

MAX_TOKENS = 2048  # of a trajectory at least, where the caller names no limit


def checkpoint_dir(config) -> pathlib.Path:
    """Where the config's run keeps its checkpoints.

    Raises:
      ValueError: there is no such folder.
    """
    folder = pathlib.Path(config.workdir) / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"the work directory must hold a checkpoint: none in {config.workdir} (config.workdir)")
    return folder


def load_policy(config, parts: Parts):
    """(params, step) of the newest good checkpoint in the config's work directory.

    Raises:
      ValueError: there is none.
    """
    folder = checkpoint_dir(config)
    step = params_checkpoint.newest_good_step(folder)
    check_trained_with(parts.plan.tokenizer, params_checkpoint.read_host(folder, step), str(folder))
    return params_checkpoint.read_params(folder, step, parts.placed_shapes()), step


def transcript(trajectory: Trajectory) -> str:
    """The trajectory as plain text for a terminal."""
    task = trajectory.task
    sizes = ", ".join(f"{image.size[0]}x{image.size[1]} px" for image in task.images)
    lines = [f"question: {task.question}", f"images: {len(task.images)} ({sizes})"]
    for number, turn in enumerate(trajectory.turns, start=1):
        lines.append(f"--- turn {number}: {turn.end - turn.start} tokens\n{turn.text}")
        if turn.observation is not None:
            seen = turn.observation
            shown = "".join(f" [image {image.size[0]}x{image.size[1]} px]" for image in seen.images)
            lines.append(f"--- {turn.call.tool}: {seen.status}, {seen.seconds:.3f} s{shown}\n{seen.text}")
    answer = "none" if trajectory.answer is None else trajectory.answer
    lines.append(f"--- {trajectory.status} after {len(trajectory.tokens)} tokens; answer: {answer}")
    return "\n".join(lines)


def kind_of(config, kind: str = "") -> str:
    """The kind of task that an agent is asked with: the one given, else the only one that its run has trained.

    Raises:
      ValueError: a kind that the run has not trained, or none given where it has trained several.
    """
    bundled = [name for name in config.data.tasks if not name.startswith(JSONL)]
    kinds = {"search" if name in SEARCHING_TASKS else "coding" for name in bundled}
    has_own = len(bundled) < len(config.data.tasks)  # whose items say their kinds, general where they do not
    known = sorted(kinds | (set(KINDS) if has_own else set()))
    kinds = sorted(kinds | ({"general"} if has_own else set()))
    if kind and kind not in known:
        raise ValueError(f"--kind must be of a task that the run has trained ({', '.join(known)}): got {kind!r}")
    if not kind and len(kinds) > 1:
        raise ValueError(f"--kind must be given, one of {', '.join(kinds)}: the run has trained several kinds of task")
    return kind or kinds[0]


def _tasks(
    config, kind: str, images: Sequence[str], questions: Sequence[str], corpus: str, tools: Sequence[str]
) -> list[Task]:
    """One task for each question, all over the same images."""
    shown = tuple(decode_image(image, f"image_{number}") for number, image in enumerate(images, 1))
    names = [task_set_name(entry) for entry in config.data.tasks]
    task_set = names[0] if len(names) == 1 else ""  # whose system prompt it is asked with
    options = dict(corpus=corpus, tools=tuple(tools), task_set=task_set)
    return [Task(f"question {n}", kind, text, shown, (), **options) for n, text in enumerate(questions, 1)]


def _check_questions(questions: Sequence[str]) -> None:
    for question in questions:
        if not question.strip():
            raise ValueError("question must not be empty (--question)")
        check_texts(question, "", "--question", "question")  # a shell passes on bytes that are no UTF-8


def the_index(paths: set[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The one local index that there is, for all tasks; empty where there is none, or several."""
    return {ALL: min(paths)} if len(paths) == 1 and min(paths).exists() else {}


def _check_index(config, paths: set[pathlib.Path]) -> None:
    """Refuses a search without one local index; a search service needs none."""
    if config.tools.search.backend == "local" and not the_index(paths):
        listed = ", ".join(sorted(map(str, paths))) or "none"
        raise ValueError(f"a search index must exist, and be one: got {listed} (--index)")


def _tell(trajectories: list[Trajectory], title: str, html: str) -> list[Trajectory]:
    terminal.say("\n\n".join(transcript(trajectory) for trajectory in trajectories))
    if html:
        write_trajectories(html, title, trajectories)
        terminal.say(f"wrote {html}")
    return trajectories


def ask(
    config,
    *,
    images: Sequence[str],
    questions: Sequence[str],
    kind: str = "",
    corpus: str = "",
    tools: Sequence[str] = (),
    index: str = "",
    temperature: float = 0.0,
    max_tokens: int = 0,
    html: str = "",
) -> list[Trajectory]:
    """Rolls out one trajectory for each question, all over the same images, and prints them.

    Args:
      config: of the run whose checkpoint answers.
      images: files, in order: image_1, image_2, ...
      questions: texts in any language.
      kind: ``coding``, ``search`` or ``general``; empty: the run's, where it has trained one kind of task.
      corpus: collection of the index to search; empty: all.
      tools: names of the only tools to offer; empty: those of the kind.
      index: another search index than the run's.
      temperature: 0 is greedy.
      max_tokens: of a trajectory; 0: as in training, and at least 2048.
      html: page to write, empty for none.

    Raises:
      ValueError: a missing or unreadable image, an empty question, no checkpoint, no index for a search.
    """
    _check_questions(questions)
    kind = kind_of(config, kind)
    tasks = _tasks(config, kind, images, questions, corpus, tools)
    paths = {pathlib.Path(index)} if index else set(index_paths(config).values())
    if kind == "search":
        _check_index(config, paths)
    checkpoint_dir(config)
    with config.unlocked():
        max_tokens = max_tokens or max(config.rollout.max_tokens, MAX_TOKENS)
        config.rollout.update(max_tokens=max_tokens, n_slots=config.rollout.group_size, extend_rows=1)
        config.distributed.update(enabled=False, coordinator="", n_processes=0, process=-1)  # this process alone
    validate(config)
    set_up_jax(config)
    planned = plan_policy(config, own_tasks=tasks)
    if "search" in planned.offer.only(tasks).tools:
        _check_index(config, paths)
    parts = make(planned)
    params, step = load_policy(config, parts)
    policy = parts.for_rollout(params)
    terminal.say(f"{describe(parts)}; checkpoint of step {step}; {kind} agent, {len(images)} image(s)")
    rng = parts.engine.put(np.array([config.seed, 0], np.uint32))
    host = dataclasses.replace(planned.host, search_indices=the_index(paths))
    with toolset.open_toolbox(config, planned.offer.only(tasks), host) as toolbox:
        requests = [Request(task, number, 1) for number, task in enumerate(tasks)]
        turns, context = config.rollout.max_turns_eval, config.rollout.context
        groups = parts.engine.run(
            policy, requests, toolbox, rng=rng, temperature=temperature, max_turns=turns, context=context
        )
    return _tell([trajectory for [trajectory] in groups], f"{config.name}, step {step}", html)
