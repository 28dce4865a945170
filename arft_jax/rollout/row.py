"""The host's record of one slot: what was written, by whom, and what it became."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from arft_jax.data.chat import Segment
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Action
from arft_jax.rollout.outcome import read_turn
from arft_jax.syntax.spec import Syntax
from arft_jax.tools.context import ToolContext
from arft_jax.trajectory import ImageSpan, Observation, Status, Task, Trajectory, Turn


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


@dataclasses.dataclass(frozen=True, eq=False)
class Injection:
    """A segment that the policy did not write, with all that a row needs to take it in.

    Args:
      segment: tokens and images.
      spans: where its images stand, counted from the segment's first token.
      positions: int32[3, n], those of a sequence that begins with the segment.
      next_position: behind it, in such a sequence.
      n_pixels: of its images, as encoded.
    """

    segment: Segment
    spans: list[ImageSpan]
    positions: np.ndarray
    next_position: int
    n_pixels: int = 0


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
      runs: decoding goes on behind it; False: the cache alone is written.
    """

    slot: int
    segment: Segment
    spans: list[ImageSpan]
    positions: np.ndarray
    start: int
    pending: tuple[int, int] | None
    runs: bool = True

    @property
    def first_column(self) -> int:
        return self.start - (self.pending is not None)

    def stream(self, feature_rows: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pending token and the segment as the device reads them.

        Args:
          feature_rows: row of each image's first feature, by the image's hash.

        Returns:
          tokens int32[n], positions int32[3, n], feature_index int32[n], -1 for ordinary tokens.
        """
        tokens, positions = self.segment.tokens, self.positions
        index = np.full(len(tokens), -1, np.int32)
        for span in self.spans:
            index[span.start : span.start + span.n] = feature_rows[span.sha256] + np.arange(span.n)
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
        self.context = ToolContext(task)  # what its tools share and keep
        self.length = self.next_position = self.prompt_len = 0
        self.n_images = self.n_pixels = 0  # injected, pixels as encoded
        self.limit = 0  # length at which the turn in the making must stop
        self.bound = 0  # the length that the row can have reached at most, reports not read yet included
        self.live_from = 0  # the first decode call in which the row ran
        self.turns: list[Turn] = []
        self._images: list[ImageSpan] = []
        self._tokens: list[np.ndarray] = []
        self._logps: list[np.ndarray] = []
        self._sampled: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._versions: list[np.ndarray] = []
        self._turn: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # tokens, log-probs, versions; in the making

    @property
    def last_token(self) -> tuple[int, int]:
        """(token, position) of the last token."""
        return int(self._tokens[-1][-1]), int(self._positions[-1][0, -1])

    def _append(self, tokens, logps, positions, versions, sampled: bool) -> None:
        self._tokens.append(np.asarray(tokens, np.int32))
        self._logps.append(np.asarray(logps, np.float32))
        self._positions.append(positions)
        self._sampled.append(np.full(len(tokens), sampled))
        self._versions.append(np.asarray(versions, np.int32))
        self.length += len(tokens)

    def inject(self, injection: Injection) -> Feed:
        """Appends a segment that the policy did not write, the first one being the prompt.

        Returns:
          What the row's slot must be fed.
        """
        segment, spans = injection.segment, injection.spans
        positions = injection.positions + np.int32(self.next_position)
        feed = Feed(self.slot, segment, spans, positions, self.length, self.last_token if self.length else None)
        self._images += [dataclasses.replace(span, start=span.start + self.length) for span in spans]
        n = len(segment.tokens)
        self._append(segment.tokens, np.zeros(n), positions, np.full(n, -1), sampled=False)
        self.next_position += injection.next_position
        self.prompt_len = self.prompt_len or self.length
        self.n_images, self.n_pixels = self.n_images + len(spans), self.n_pixels + injection.n_pixels
        return feed

    def open_turn(self, max_turn_tokens: int, max_tokens: int) -> None:
        """The next turn may begin behind the stream: it takes so many tokens at most, and the whole row so many."""
        self.limit = min(self.length + max_turn_tokens, max_tokens)
        self.bound = self.length

    def run_from(self, decode_call: int) -> None:
        """The row's slot runs in the decode call of this number and in later ones."""
        self.live_from = decode_call

    def expect(self, n_steps: int) -> None:
        """A decode call of so many steps was dispatched while the row ran."""
        self.bound = min(self.bound + n_steps, self.limit)

    def restart(self) -> None:
        """Empties the stream for a prompt that is rendered again; turns stay, as text without a place in it."""
        self.length = self.next_position = self.prompt_len = 0
        self.n_images = self.n_pixels = 0
        for stream in (self._images, self._tokens, self._logps, self._sampled, self._positions, self._versions):
            stream.clear()
        self.turns = [dataclasses.replace(turn, start=0, end=0) for turn in self.turns]

    def sample(
        self, tokens: np.ndarray, logps: np.ndarray, sampled: bool = True, versions: np.ndarray | None = None
    ) -> None:
        """Appends a turn that the policy wrote (``sampled=False``: that a recorded chain holds as context).

        Args:
          tokens, logps: int32[n], float32[n].
          sampled: by the policy.
          versions: int32[n], of the weights that sampled them; None: 0.
        """
        n = len(tokens)
        positions = np.broadcast_to(self.next_position + np.arange(n, dtype=np.int32), (3, n))
        versions = np.zeros(n) if versions is None else versions
        self._append(tokens, logps, positions, versions if sampled else np.full(n, -1), sampled)
        self.next_position += n

    def grow(self, tokens: np.ndarray, logps: np.ndarray, length: int, version: int = 0) -> None:
        """Takes in what one decode call added to the turn in the making.

        Args:
          tokens, logps: int32[n_steps], float32[n_steps]; more than were sampled.
          length: the row's, behind the decode call.
          version: of the weights that sampled it.
        """
        n = length - self.length - self.turn_len
        if not 0 <= n <= len(tokens):
            raise ValueError(f"a decode call adds at most {len(tokens)} tokens: got {n} for row {self.row}")
        self._turn.append((tokens[:n].copy(), logps[:n].copy(), np.full(n, version, np.int32)))

    @property
    def turn_len(self) -> int:
        """Tokens of the turn in the making, as far as reports were read."""
        return sum(len(part[0]) for part in self._turn)

    @property
    def turn_tokens(self) -> np.ndarray:
        """int32[n], the turn in the making, as far as reports were read."""
        return np.concatenate([np.zeros(0, np.int32), *(part[0] for part in self._turn)])

    @property
    def turn_logps(self) -> np.ndarray:
        """float32[n], log-probs of :attr:`turn_tokens`."""
        return np.concatenate([np.zeros(0, np.float32), *(part[1] for part in self._turn)])

    def cut_turn(self, n: int) -> None:
        """Keeps the first ``n`` tokens of the turn in the making."""
        whole = (np.concatenate(parts)[:n] for parts in zip(*self._turn, strict=True))
        self._turn = [tuple(whole)]

    def pieces(self, max_features: int) -> list[Feed]:
        """The whole stream, the turn in the making included, to be fed once more, its last token left out.

        A decode step or an observation feeds that one token again. A piece shows ``max_features`` image tokens at most.

        Example: 5 tokens, no image: one piece of tokens 0 .. 3.
        """
        made = [part[0] for part in self._turn]
        n = self.turn_len
        tokens = np.concatenate([*self._tokens, *made])[:-1]
        ahead = np.broadcast_to(self.next_position + np.arange(n, dtype=np.int32), (3, n))
        positions = np.concatenate([*self._positions, ahead], axis=1)[:, :-1]
        images = {image.sha256: image for image in self.context.images}
        cuts, used = [0], 0
        for span in self._images:
            if used + span.n > max_features:
                cuts, used = [*cuts, span.start], 0
            used += span.n
        feeds = []
        for start, end in zip(cuts, [*cuts[1:], len(tokens)], strict=True):
            inside = [span for span in self._images if start <= span.start < end]
            is_image = np.zeros(end - start, bool)
            for span in inside:
                is_image[span.start - start : span.start - start + span.n] = True
            segment = Segment(
                tokens[start:end], tuple(images[span.sha256] for span in inside), tuple(span.grid for span in inside),
                tuple(span.n for span in inside), is_image,
            )  # fmt: skip
            spans = [dataclasses.replace(span, start=span.start - start) for span in inside]
            feeds.append(Feed(self.slot, segment, spans, positions[:, start:end], start, None, runs=False))
        return feeds

    def end_turn(self) -> None:
        """The turn in the making becomes part of the record."""
        tokens, logps, versions = (np.concatenate(parts) for parts in zip(*self._turn, strict=True))
        self._turn = []
        self.sample(tokens, logps, versions=versions)

    def read_turn(self, tokenizer: Tokenizer, syntax: Syntax, is_cut: bool = False) -> Action:
        """Reads the last segment as a turn.

        Args:
          tokenizer: of the policy.
          syntax: in which the policy writes.
          is_cut: a budget ended the turn; what then reads as an answer is none.
        """
        tokens = self._tokens[-1]
        text = tokenizer.decode([t for t in tokens.tolist() if t != tokenizer.eos_id])
        action, in_form = read_turn(text, syntax, is_cut)
        self.turns.append(Turn(text, action, self.length - len(tokens), self.length, in_form=in_form))
        return action

    def attach(self, observation: Observation) -> Observation:
        """Gives the last turn its observation, images under their names."""
        observation = self.context.admit(observation)
        self.turns[-1] = dataclasses.replace(self.turns[-1], observation=observation)
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
            versions=np.concatenate(self._versions),
        )
