"""The host's record of one slot: what was written, by whom, and what it became."""

import dataclasses
from collections.abc import Callable

import numpy as np

from arft_jax import protocol
from arft_jax.data.chat import Segment
from arft_jax.tools.bank import ImageBank
from arft_jax.trajectory import Image, ImageSpan, Observation, Status, Task, ToolCall, Trajectory, Turn


def image_spans(segment: Segment) -> list[ImageSpan]:
    """Where the images of a segment stand in it.

    Example: tokens [start, pad, pad, end, text], one image of grid (1, 2, 4), merge 2: [1, 3).
    """
    pads = np.flatnonzero(segment.is_image)
    spans, at = [], 0
    for image, grid, n in zip(segment.images, segment.grids, segment.image_lens, strict=True):
        spans.append(ImageSpan(image.sha256, int(pads[at]), n, tuple(int(g) for g in grid)))
        at += n
    return spans


@dataclasses.dataclass
class Feed:
    """A segment on its way into a slot.

    Args:
      slot: where.
      segment: tokens and images.
      spans: where its images stand, counted from the segment's first token.
      positions: int32[3, n] of the segment.
      start: column of the segment's first token.
      pending: (token, position) of the sampled token before it, whose cache column is not written yet.
    """

    slot: int
    segment: Segment
    spans: list[ImageSpan]
    positions: np.ndarray
    start: int
    pending: tuple[int, int] | None

    @property
    def first_column(self) -> int:
        return self.start - (self.pending is not None)

    def stream(self, bank: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens int32[n], positions int32[3, n], feature_index int32[n]), the pending token first."""
        tokens, positions = self.segment.tokens, self.positions
        index = np.full(len(tokens), -1, np.int32)
        for span in self.spans:
            index[span.start : span.start + span.n] = bank[span.sha256] + np.arange(span.n)
        if self.pending is not None:
            token, position = self.pending
            tokens = np.concatenate([np.array([token], np.int32), tokens])
            positions = np.concatenate([np.full((3, 1), position, np.int32), positions], 1)
            index = np.concatenate([np.array([-1], np.int32), index])
        return tokens, positions, index


class Row:
    """One trajectory in the making; grows by whole segments and whole turns."""

    def __init__(self, task: Task, number: int, row: int, request: int, slot: int):
        self.task, self.number, self.row, self.request, self.slot = task, number, row, request, slot
        self.bank = ImageBank(task.images)
        self.image: Image | None = next(iter(self.bank), None)
        self.length = self.next_position = self.prompt_len = 0
        self.n_images = self.n_pixels = 0  # injected, pixels as encoded
        self.limit = 0  # length at which the turn in the making must stop
        self.bound = 0  # the length that the row can have reached at most, reports not read yet included
        self.live_from = 0  # the first decode segment in which the row ran
        self.turns: list[Turn] = []
        self._images: list[ImageSpan] = []
        self._tokens: list[np.ndarray] = []
        self._logps: list[np.ndarray] = []
        self._sampled: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._turn: list[tuple[np.ndarray, np.ndarray]] = []  # tokens and log-probs of the turn in the making

    @property
    def last_token(self) -> tuple[int, int]:
        """(token, position) of the last token."""
        return int(self._tokens[-1][-1]), int(self._positions[-1][0, -1])

    def _append(self, tokens, logps, positions, sampled: bool) -> None:
        self._tokens.append(np.asarray(tokens, np.int32))
        self._logps.append(np.asarray(logps, np.float32))
        self._positions.append(positions)
        self._sampled.append(np.full(len(tokens), sampled))
        self.length += len(tokens)

    def inject(self, segment: Segment, spans: list[ImageSpan], positions: np.ndarray, next_position: int) -> None:
        """Appends a segment that the policy did not write; the first one is the prompt."""
        self._images += [dataclasses.replace(span, start=span.start + self.length) for span in spans]
        self._append(segment.tokens, np.zeros(len(segment.tokens)), positions, sampled=False)
        self.next_position = next_position
        self.prompt_len = self.prompt_len or self.length

    def sample(self, tokens: np.ndarray, logps: np.ndarray, sampled: bool = True) -> None:
        """Appends a turn that the policy wrote (``sampled=False``: that a recorded chain holds as context)."""
        positions = np.broadcast_to(self.next_position + np.arange(len(tokens), dtype=np.int32), (3, len(tokens)))
        self._append(tokens, logps, positions, sampled)
        self.next_position += len(tokens)

    def grow(self, tokens: np.ndarray, logps: np.ndarray, length: int) -> None:
        """Takes in what one segment added to the turn in the making.

        Args:
          tokens, logps: int32[n_steps], float32[n_steps]; more than were sampled.
          length: the row's, behind the segment.
        """
        n = length - self.length - sum(len(part) for part, _ in self._turn)
        self._turn.append((tokens[:n].copy(), logps[:n].copy()))

    def end_turn(self) -> None:
        """The turn in the making becomes part of the record."""
        tokens, logps = (np.concatenate(parts) for parts in zip(*self._turn, strict=True))
        self._turn = []
        self.sample(tokens, logps)

    def read_turn(self, tokenizer, eos: int, parse: Callable[[str], protocol.Action] | None = None) -> protocol.Action:
        """Parses the last segment as a turn, by the protocol where ``parse`` is None."""
        tokens = self._tokens[-1]
        text = tokenizer.decode([t for t in tokens.tolist() if t != eos])
        action = (parse or protocol.parse_turn)(text)
        self.turns.append(Turn(text, action, self.length - len(tokens), self.length, call=_call(action)))
        return action

    def attach(self, observation: Observation) -> Observation:
        """Gives the last turn its observation, images under their names; the last takes the input image's place."""
        observation = self.bank.admit(observation)
        self.turns[-1] = dataclasses.replace(self.turns[-1], observation=observation)
        if observation.images:
            self.image = observation.images[-1]
        return observation

    def trajectory(self, status: Status) -> Trajectory:
        """The finished record."""
        sampled = np.concatenate(self._sampled)
        completion = np.arange(self.length) >= self.prompt_len
        return Trajectory(
            task=self.task,
            row=self.row,
            tokens=np.concatenate(self._tokens),
            sampler_logps=np.concatenate(self._logps),
            completion_mask=completion,
            observation_mask=completion & ~sampled,
            positions=np.concatenate(self._positions, axis=1).astype(np.int32),
            prompt_len=self.prompt_len,
            images=tuple(self._images),
            turns=tuple(self.turns),
            status=status,
        )


def _call(action: protocol.Action) -> ToolCall | None:
    match action:
        case protocol.Search(query):
            return ToolCall("search", query)
        case protocol.Code(source):
            return ToolCall("python", source)
        case protocol.Problem(kinds):
            return ToolCall("diagnose", ", ".join(kinds))
    return None
