"""One question over one image with a checkpoint: the smallest use of a trained policy."""

import pathlib

import numpy as np

from arft_jax.build import parts as build
from arft_jax.build import tools as toolset
from arft_jax.build.search_indices import index_paths
from arft_jax.config_checks import validate
from arft_jax.data.images import decode_image
from arft_jax.io import params_checkpoint
from arft_jax.report.trajectories import write_trajectories
from arft_jax.rollout.engine import Request
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Task, Trajectory


def checkpoint_dir(config) -> pathlib.Path:
    """Where the config's run keeps its checkpoints.

    Raises:
      ValueError: there is no such folder.
    """
    folder = pathlib.Path(config.workdir) / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"the work directory must hold a checkpoint: none in {config.workdir} (config.workdir)")
    return folder


def load_policy(config, parts: build.Parts):
    """(params, step) of the newest good checkpoint in the config's work directory.

    Raises:
      ValueError: there is none.
    """
    folder = checkpoint_dir(config)
    step = params_checkpoint.newest_good_step(folder)
    build.check_trained_with(parts.tokenizer, params_checkpoint.read_host(folder, step), str(folder))
    return params_checkpoint.read_params(folder, step, parts.placed_shapes()), step


def transcript(trajectory: Trajectory) -> str:
    """The trajectory as plain text for a terminal."""
    task = trajectory.task
    lines = [f"question: {task.question}", f"image: {task.images[0].size[0]}x{task.images[0].size[1]} px"]
    for number, turn in enumerate(trajectory.turns, start=1):
        lines.append(f"--- turn {number}: {turn.end - turn.start} tokens\n{turn.text}")
        if turn.observation is not None:
            seen = turn.observation
            shown = "".join(f" [image {image.size[0]}x{image.size[1]} px]" for image in seen.images)
            lines.append(f"--- {turn.call.tool}: {seen.status}, {seen.seconds:.3f} s{shown}\n{seen.text}")
    answer = "none" if trajectory.answer is None else trajectory.answer
    lines.append(f"--- {trajectory.status} after {len(trajectory.tokens)} tokens; answer: {answer}")
    return "\n".join(lines)


def ask(
    config,
    *,
    image: str,
    question: str,
    kind: str,
    corpus: str = "",
    index: str = "",
    temperature: float = 0.0,
    max_tokens: int = 2048,
    html: str = "",
) -> Trajectory:
    """Rolls out one trajectory and prints it.

    Args:
      config: of the run whose checkpoint answers.
      image: file.
      question: text in any language.
      kind: ``coding`` or ``search``.
      corpus: collection of the index to search; empty: all.
      index: another search index than the run's.
      temperature: 0 is greedy.
      max_tokens: of the trajectory.
      html: page to write, empty for none.

    Raises:
      ValueError: a missing or unreadable image, an empty question, no checkpoint, no index for a search.
    """
    if not question.strip():
        raise ValueError("question must not be empty (--question)")
    picture = decode_image(image, "image_1")
    task = Task("question", kind, question, (picture,), (), corpus=corpus)
    paths = {pathlib.Path(index)} if index else set(index_paths(config).values())
    if kind == "search" and (len(paths) != 1 or not min(paths).exists()):
        got = ", ".join(sorted(map(str, paths))) or "none"
        raise ValueError(f"a search index must exist, and be one: got {got} (--index)")
    checkpoint_dir(config)
    with config.unlocked():
        config.rollout.update(max_tokens=max_tokens, n_slots=config.rollout.group_size, extend_rows=1)
    validate(config)
    build.set_up_jax(config)
    parts = build.build(config)
    params, step = load_policy(config, parts)
    print(f"{build.describe(parts)}; checkpoint of step {step}", flush=True)
    rng = parts.engine.put(np.array([config.seed, 0], np.uint32))
    with toolset.open_toolbox(config, {ALL: min(paths)} if kind == "search" else None) as toolbox:
        request = Request(task, 0, 1)
        turns, context = config.rollout.max_turns_eval, config.rollout.context
        [[trajectory]] = parts.engine.run(
            params, [request], toolbox, rng=rng, temperature=temperature, max_turns=turns, context=context
        )
    print(transcript(trajectory), flush=True)
    if html:
        write_trajectories(html, question, [trajectory], (), "")
        print(f"wrote {html}")
    return trajectory
