"""Contexts that are rendered again for each turn: one prompt with the question and all that was written and seen since.

Visual-ARFT (arXiv 2505.14246) is evaluated so, and its recorded training steps are such prompts: the chain so far
stands in the text behind the question, and the picture that code made takes the input picture's place. Departure: of
several given pictures the first alone is replaced.
"""

import dataclasses
from collections.abc import Callable, Sequence

from arft_jax.trajectory import Image, Task, Turn


def rerendered(task: Task, turns: Sequence[Turn], can_show: Callable[[Image], bool]) -> Task:
    """The task as the next turn's prompt shows it.

    Example: question ``Which?``, one turn ``<search>fox</search>`` that was told ``red``: the question
    ``Which?\\n<search>fox</search>\\nred``.

    Args:
      task: as it was given.
      turns: all so far.
      can_show: False for a picture that no prompt can hold; an earlier one is shown then.
    """
    lines = [task.question]
    newest = task.images[:1]
    for turn in turns:
        lines.append(turn.text)
        if turn.observation is not None:
            lines.append(turn.observation.text)
            newest = tuple(image for image in turn.observation.images if can_show(image))[-1:] or newest
    return dataclasses.replace(
        task, question="\n".join(line for line in lines if line), images=newest + task.images[1:]
    )
