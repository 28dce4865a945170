"""The one place where tasks, observations and turns become model input, for rollouts and recorded chains alike."""

from collections.abc import Callable

import numpy as np

from arft_jax.data import chat
from arft_jax.data.batch import VisionBucket
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.row import Injection, image_spans
from arft_jax.syntax.spec import Syntax
from arft_jax.trajectory import Image, Observation, Task


class Renderer:
    """Turns tasks and observations into segments of the token stream.

    Args:
      tokenizer: text to ids.
      patches: images to patches.
      bucket: sizes of one encode call.
      system: the system text of a task's prompt; empty: the prompt has no system block.
      syntax: in which the policy writes, and which frames replies.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        patches: PatchStore,
        bucket: VisionBucket,
        system: Callable[[Task], str],
        syntax: Syntax,
    ):
        self.tokenizer, self.patches, self.bucket, self.system = tokenizer, patches, bucket, system
        self.syntax = syntax

    def prompt(self, task: Task) -> chat.Segment:
        """The task's prompt as one segment of the token stream."""
        return chat.prompt_segment(
            self.tokenizer, self.patches.processor, self.system(task), task.question, task.images
        )

    def observation(self, observation: Observation) -> chat.Segment:
        """An observation, in its chat frame, as one segment of the token stream."""
        return chat.observation_segment(self.tokenizer, self.patches.processor, observation, self.syntax.reply)

    def turn(self, text: str) -> np.ndarray:
        """int32[n], the tokens of a turn that is known as text."""
        return np.asarray(self.tokenizer.encode(text), np.int32)

    def can_show(self, image: Image) -> bool:
        """Whether a prompt can hold the image: a sliver cannot be cut into patches, a text model is shown none."""
        if self.tokenizer.image_pad_id < 0:
            return False
        try:
            self.patches.processor.grid_of(*image.size)
        except ValueError:
            return False
        return True

    def n_pixels(self, segment: chat.Segment) -> int:
        """Pixels of a segment's images as they are encoded."""
        return sum(int(np.prod(grid)) for grid in segment.grids) * self.bucket.patch**2

    def positions(self, segment: chat.Segment) -> tuple[np.ndarray, int]:
        """(M-RoPE positions int32[3, n], the position of the next token) of a sequence that begins with the segment.

        Behind other tokens they are shifted and otherwise the same, as every segment begins with text.
        """
        return self.bucket.packing.positions(segment.tokens, segment.grids, self.tokenizer.image_pad_id)

    def injection(self, segment: chat.Segment) -> Injection:
        """The segment with its image spans, positions and pixels, as :meth:`Row.inject` takes it."""
        positions, next_position = self.positions(segment)
        return Injection(segment, image_spans(segment), positions, next_position, self.n_pixels(segment))
