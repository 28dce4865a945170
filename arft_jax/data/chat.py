"""Qwen's chat frame as token segments: the only place that writes control tokens.

A trajectory's token stream is prompt segment, sampled turn, observation segment, sampled turn, ...; segments
are concatenated as ids and nothing is ever tokenised again.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.trajectory import Image, Observation


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Tokens that the policy did not write.

    Args:
      tokens: int32[n].
      images: in order of their tokens.
      grids: patch grid (1, h, w) of each image.
      image_lens: tokens of each image.
      is_image: bool[n], True on image tokens.
    """

    tokens: np.ndarray
    images: tuple[Image, ...]
    grids: tuple[tuple[int, int, int], ...]
    image_lens: tuple[int, ...]
    is_image: np.ndarray


class _Writer:
    """Gathers the ids and images of one segment."""

    def __init__(self, tokenizer: Tokenizer, processor: ImageProcessor):
        self.tokenizer, self.processor = tokenizer, processor
        self.ids: list[int] = []
        self._text: list[str] = []  # behind the last control token: encoded as one text, as a chat template's is
        self.images: list[Image] = []
        self.grids: list[tuple[int, int, int]] = []
        self.lens: list[int] = []

    def text(self, text: str) -> None:
        self._text.append(text)

    def control(self, *ids: int) -> None:
        self.ids += [*self.tokenizer.encode("".join(self._text)), *ids]
        self._text.clear()

    def open(self, role: str) -> None:
        self.control(self.tokenizer.im_start_id)
        self.text(f"{role}\n")

    def close(self) -> None:
        self.control(self.tokenizer.eos_id)
        self.text("\n")

    def image(self, image: Image) -> None:
        grid = self.processor.grid_of(*image.size)
        n = self.processor.n_tokens(grid)
        t = self.tokenizer
        if t.image_pad_id < 0:
            raise ValueError(
                "an image must have a policy with a vision tower: got a tokenizer without <|image_pad|> "
                "(config.model.vision)"
            )
        self.control(t.vision_start_id, *[t.image_pad_id] * n, t.vision_end_id)
        self.images.append(image)
        self.grids.append(grid)
        self.lens.append(n)

    def segment(self) -> Segment:
        self.control()
        tokens = np.array(self.ids, np.int32)
        is_image = tokens == self.tokenizer.image_pad_id
        return Segment(tokens, tuple(self.images), tuple(self.grids), tuple(self.lens), is_image)


def prompt_segment(
    tokenizer: Tokenizer, processor: ImageProcessor, system: str, question: str, images: Sequence[Image]
) -> Segment:
    """The prompt, up to the point where the policy writes.

    ``<|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n{images}{question}<|im_end|>\\n<|im_start|>assistant\\n``;
    an image of n tokens is ``<|vision_start|><|image_pad|>*n<|vision_end|>``. An empty system text drops its block.

    Raises:
      ValueError: no question, or an image whose aspect ratio is over 200.
    """
    if not question.strip():
        raise ValueError("question must not be empty")
    writer = _Writer(tokenizer, processor)
    if system:
        writer.open("system")
        writer.text(system)
        writer.close()
    writer.open("user")
    for image in images:
        writer.image(image)
    writer.text(question)
    writer.close()
    writer.open("assistant")
    return writer.segment()


def visible(observation: Observation, processor: ImageProcessor, has_vision: bool = True) -> tuple[list[Image], str]:
    """(the images of an observation that a prompt can show, its text with a word about each of the others)."""
    shown, text = [], observation.text
    for image in observation.images:
        height, width = image.size
        if not has_vision:
            text += f"\nThe picture cannot be shown here: {width}x{height}."
            continue
        try:
            processor.grid_of(height, width)
            shown.append(image)
        except ValueError:
            text += f"\nThe picture is too narrow to show: {width}x{height}."
    return shown, text


def observation_segment(
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    observation: Observation,
    reply: Callable[[str], tuple[str, str]] = lambda text: ("", text),
) -> Segment:
    """A tool's reply in its frame, up to the point where the policy writes again.

    ``<|im_end|>\\n<|im_start|>user\\n{before}{images}{behind}<|im_end|>\\n<|im_start|>assistant\\n``, where ``reply``
    gives what stands before and behind the images. An image that cannot be shown (a sliver) is left out with a word
    about it, as every image is before a policy without a vision tower: the policy's mistake must not stop the loop.
    """
    writer = _Writer(tokenizer, processor)
    writer.close()
    writer.open("user")
    shown, text = visible(observation, processor, has_vision=tokenizer.image_pad_id >= 0)
    before, behind = reply(text)
    writer.text(before)
    for image in shown:
        writer.image(image)
    writer.text(behind)
    writer.close()
    writer.open("assistant")
    return writer.segment()


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """One message of a conversation.

    Args:
      role: ``system``, ``user`` or ``assistant``.
      parts: in order: text, an image, or int32[n] token ids as they were sampled.
    """

    role: str
    parts: tuple["str | Image | np.ndarray", ...]


def conversation_segment(tokenizer: Tokenizer, processor: ImageProcessor, messages: Sequence[Said]) -> Segment:
    """A whole conversation, up to the point where the policy writes its next turn.

    It has the tokens of the trajectory that says the same: each message is framed as :func:`prompt_segment` and
    :func:`observation_segment` do it, and an assistant's text is encoded by itself, as it is sampled.

    Raises:
      ValueError: an image whose aspect ratio is over 200, or one before a policy without a vision tower.
    """
    writer = _Writer(tokenizer, processor)
    for message in messages:
        writer.open(message.role)
        for part in message.parts:
            if isinstance(part, Image):
                writer.image(part)
            elif isinstance(part, np.ndarray):
                writer.control(*part.tolist())
            elif message.role == "assistant":
                writer.control(*tokenizer.encode(part))
            else:
                writer.text(part)
        writer.close()
    writer.open("assistant")
    return writer.segment()
