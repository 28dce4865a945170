"""Every prompt of a run against its limits, from questions and image headers alone: no pixel is decoded.

A rollout refuses the same prompts, but only in the step that draws them, and again in every resumed run.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

from arft_jax.data import chat, system_prompts
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.openai_checks import FILE
from arft_jax.tools.offer import Offer
from arft_jax.trajectory import Task

_N_NAMED = 10


def system_texts(config, offer: Offer) -> Callable[[Task], str]:
    """What gives a task its system prompt: the task's own, else its set's, else that of its kind.

    A set's is ``config.system_prompts[name]``, the text or ``file:PATH``; a kind's is in the style of
    ``config.system_prompt``, with every tool that the task is offered (data/system_prompts.py).

    Raises:
      ValueError: a file of a prompt that cannot be read, or holds nothing.
    """
    of_set = {
        name: text_or_file(text, "a system prompt", "config.system_prompts") for name, text in config.system_prompts
    }

    def system_text(task: Task) -> str:
        own = task.system or of_set.get(task.task_set)
        return system_prompts.system_prompt(task.kind, config.system_prompt, offer.specs(task), offer.syntax, own)

    return system_text


def text_or_file(text: str, what: str, key: str, must_hold: str = "") -> str:
    """A text of the configuration; of ``file:PATH`` what is in the file.

    Args:
      text: the value.
      what: it is, for messages: a prompt.
      key: that has it, for messages.
      must_hold: what has to stand in a file.

    Raises:
      ValueError: a file that cannot be read, holds nothing, or lacks ``must_hold``.
    """
    if not text.startswith(FILE):
        return text
    path = pathlib.Path(text.removeprefix(FILE)).expanduser()
    try:
        read = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} must be a readable file: got {path} ({error}) ({key})") from error
    if must_hold not in read:
        raise ValueError(f"{what} must hold {must_hold}: {path} does not ({key})")
    if not read:
        raise ValueError(f"{what} must hold text: got an empty {path} ({key})")
    return read


def check_prompts(
    config,
    system: Callable[[Task], str],
    tasks: Mapping[str, Mapping[str, Sequence[Task]]],
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    bucket: VisionBucket,
) -> None:
    """Raises where a rollout could not begin; half a second for 4000 tasks.

    Args:
      config: whose limits and system prompts hold.
      system: the system prompt of a task.
      tasks: by name and split.
      tokenizer, processor: text and images to model input.
      bucket: sizes of one encode call.

    Raises:
      ValueError: prompts that leave no room for an answer, or whose images go beyond a limit: the first ten by name
        with the keys to change, the number of the others.
    """

    @functools.cache
    def n_system(text: str) -> int:  # most of a prompt, and the same for many tasks: tokenised once
        lengths = [len(chat.prompt_segment(tokenizer, processor, part, "?", ()).tokens) for part in (text, "")]
        return lengths[0] - lengths[1]

    bad = []
    for name, splits in tasks.items():
        for split, items in splits.items():
            for task in items:
                segment = chat.prompt_segment(tokenizer, processor, "", task.question, task.images)
                wrong = _wrong_with(segment, n_system(system(task)), config.rollout, bucket)
                if wrong:
                    bad.append(f"{task.id} of {name}/{split}: {', '.join(wrong)}")
    if bad:
        more = f" and {len(bad) - _N_NAMED} more" if len(bad) > _N_NAMED else ""
        raise ValueError(
            f"every prompt must leave room for an answer and its images must fit: got {'; '.join(bad[:_N_NAMED])}{more}"
        )


def _wrong_with(segment: chat.Segment, n_system: int, rollout, bucket: VisionBucket) -> list[str]:
    """What a rollout would refuse of a prompt without its system block of so many tokens; each with its key."""
    n_tokens, n_images, n_features = len(segment.tokens) + n_system, len(segment.images), sum(segment.image_lens)
    n_patches = [grid[0] * grid[1] * grid[2] for grid in segment.grids]
    of_one = {
        "n_patches": max(n_patches, default=0),
        "n_windows": max(map(bucket.windows_of, segment.grids), default=0),
    }
    found = {"max_tokens": n_tokens + 1, "n_features": n_features, **of_one}
    words = {"max_tokens": "tokens with one of an answer", "n_features": "image tokens"}
    words |= {"n_patches": "patches of one image", "n_windows": "windows of one image"}
    if rollout.max_images:
        found["max_images"], words["max_images"] = n_images, "images"
    if rollout.max_image_pixels:
        found["max_image_pixels"], words["max_image_pixels"] = sum(n_patches) * bucket.patch**2, "px of images"
    return [
        f"{n} {words[key]}, {key}={rollout[key]} (config.rollout.{key})" for key, n in found.items() if n > rollout[key]
    ]
