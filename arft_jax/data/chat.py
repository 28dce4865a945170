"""Qwen's chat frame as token segments: the only place that writes control tokens.

A trajectory's token stream is prompt segment, sampled turn, observation segment, sampled turn, ...; segments
are concatenated as ids and nothing is ever tokenised again.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import INPUT_NAME, OUTPUT_NAME
from arft_jax.trajectory import Image, Observation

_CODING = f"""\
You answer a question about a picture. The picture may be spoilt, and you can repair it with Python.
Every turn starts with a short <think>...</think> and then holds exactly one of these:
<problem>{{'dark'}}</problem> names what is wrong, as a set of one or more of: rotation90 (turned clockwise by a \
quarter), rotation180 (upside down), dark, overexposure, blur, noise, crop (only a part of it matters), none.
<code> ... </code> holds one fenced ```python block. It reads '{INPUT_NAME}' and writes '{OUTPUT_NAME}' with \
OpenCV. The written picture is shown to you and takes the place of the input picture.
<answer>...</answer> gives the final answer, as short as it can be.
Name the problem first, repair it, then answer. Where the question gives a box [x0, y0, x1, y1], its numbers run from \
0 to 1000 over the picture's width (x) and height (y); to crop, scale them to the shape of the picture."""

_SEARCH = """\
You answer a question about a picture with the help of a text search.
Every turn starts with a short <think>...</think> and then holds exactly one of these:
<search>...</search> gives a query in words, without the picture. The best results come back between <information> \
and </information>.
<answer>...</answer> gives the final answer, as short as it can be.
First see what the picture shows, then search for what you do not know, more than once if need be, then answer."""

_GENERAL = """\
You answer a question; pictures may come with it.
Every turn starts with a short <think>...</think> and then holds exactly one of these:
<search>...</search> gives a query in words. The best results come back between <information> and </information>.
<code> ... </code> holds one fenced ```python block. It reads the pictures as image_1, image_2, ...; what it prints \
and the picture that it writes are shown to you.
<answer>...</answer> gives the final answer, as short as it can be.
Use a tool for what you do not know or cannot see, more than once if need be, then answer."""

SYSTEM = {
    "coding": {"full": _CODING, "short": "Fix, then answer."},
    "search": {"full": _SEARCH, "short": "Search, then answer."},
    "general": {"full": _GENERAL, "short": "Think, then answer."},
}


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
        self.images: list[Image] = []
        self.grids: list[tuple[int, int, int]] = []
        self.lens: list[int] = []

    def text(self, text: str) -> None:
        self.ids += self.tokenizer.encode(text)

    def open(self, role: str) -> None:
        self.ids.append(self.tokenizer.im_start_id)
        self.text(f"{role}\n")

    def close(self) -> None:
        self.ids.append(self.tokenizer.eos_id)
        self.text("\n")

    def image(self, image: Image) -> None:
        grid = self.processor.grid_of(*image.size)
        n = self.processor.n_tokens(grid)
        t = self.tokenizer
        self.ids += [t.vision_start_id, *[t.image_pad_id] * n, t.vision_end_id]
        self.images.append(image)
        self.grids.append(grid)
        self.lens.append(n)

    def segment(self) -> Segment:
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


def observation_segment(tokenizer: Tokenizer, processor: ImageProcessor, observation: Observation) -> Segment:
    """A tool's reply in its frame, up to the point where the policy writes again.

    ``<|im_end|>\\n<|im_start|>user\\n{images}{text}<|im_end|>\\n<|im_start|>assistant\\n``. An image that cannot
    be shown (a sliver) is left out with a word about it: the policy's mistake must not stop the loop.
    """
    writer = _Writer(tokenizer, processor)
    writer.close()
    writer.open("user")
    text = observation.text
    for image in observation.images:
        try:
            writer.image(image)
        except ValueError:
            height, width = image.size
            text += f"\nThe picture is too narrow to show: {width}x{height}."
    writer.text(text)
    writer.close()
    writer.open("assistant")
    return writer.segment()
