"""The records that flow through the loops: tasks, turns, tool calls, observations, trajectories.

Everything here is a frozen value. Token spans are half-open ``[start, end)`` indices into the one
token stream of a trajectory, which is never decoded and encoded again: what the sampler wrote is what
the loss reads.
"""

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from arft_jax.protocol import Action, Answer, ToolCall


class Status(enum.StrEnum):
    """Why a trajectory ended."""

    ANSWERED = "answered"  # an <answer> closed it
    MALFORMED = "malformed"  # a turn that no action can be read in, ended by a stop string
    NO_ACTION = "no_action"  # the end token behind a turn that is no action
    TURN_LIMIT = "turn_limit"  # max_turns turns and no answer
    TURN_TOKENS = "turn_tokens"  # a turn reached max_turn_tokens without a stop tag
    TOKENS = "tokens"  # the trajectory's token budget is spent, at a whole observation
    IMAGES = "images"  # the trajectory's budget of images or of their pixels is spent, at a whole observation
    INFRA = "infra"  # an infrastructure failure: masked, never scored


_OF_A_BUDGET = frozenset({Status.TURN_LIMIT, Status.TURN_TOKENS, Status.TOKENS, Status.IMAGES})


class ToolStatus(enum.StrEnum):
    """Outcome of one tool call."""

    OK = "ok"
    ERROR = "error"  # the policy's own mistake: exception, bad request
    LIMIT = "limit"  # time, memory or output limit reached
    INFRA = "infra"  # an infrastructure failure, never shown to the policy and never scored
    REFUSED = "refused"  # the tool is switched off or not offered to this task


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """A decoded image, RGB.

    Args:
      pixels: uint8[height, width, 3].
      name: how the trajectory refers to it, for example ``image_1``.
    """

    pixels: np.ndarray
    name: str = ""

    @functools.cached_property
    def sha256(self) -> str:
        """Content hash of shape and pixels, computed once: the key under which an image is stored and encoded."""
        header = str(self.pixels.shape).encode()
        return hashlib.sha256(header + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One dataset row.

    Args:
      id: unique within its data set and split.
      kind: ``coding`` or ``search``: which agent's protocol and tools serve it; ``general``: any tools, in any order.
      question: the user's text.
      images: what the user shows, in order.
      answers: acceptable answers; the best match counts.
      problems: the true kinds of degradation (coding); empty for search.
      split: ``simple`` or ``hard``; empty where its data set has no halves.
      corpus: name of the local text collection that a search task is asked over.
      query: a search task's recorded first query, where the data set has one.
      target: the step that a recorded chain takes next, tag included, where the task is that step alone: what the
        policy writes first is then scored against it, and the question holds the chain so far.
      tools: names of the tools that it may use; empty: all that its kind is offered.
      system: its own system prompt; empty: that of its task set, or of its kind.
      task_set: name of the task set that it is of; empty for a task of none.
      extra: what else its data set says of it, JSON values by name, for rewards to read.
      choices: the options of a multiple choice, in the order of their letters A, B, ..; its one answer is the right
        letter. Empty: it is none.
    """

    id: str
    kind: str
    question: str
    images: tuple[Image, ...]
    answers: tuple[str, ...]
    problems: tuple[str, ...] = ()
    split: str = "simple"
    corpus: str = ""
    query: str = ""
    target: str = ""
    tools: tuple[str, ...] = ()
    system: str = ""
    task_set: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What a tool returned, as the policy sees it."""

    text: str
    images: tuple[Image, ...] = ()
    status: ToolStatus = ToolStatus.OK
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """One segment written by the policy.

    Args:
      text: the decoded turn, for people and parsers only.
      action: what the syntax read in it.
      start, end: its token span in the trajectory.
      observation: what came back, where the turn asked for a tool or was told what was wrong with it.
      in_form: whether the turn is in the form that R_format asks for, by the syntax in which it was written.
    """

    text: str
    action: Action
    start: int
    end: int
    observation: Observation | None = None
    in_form: bool = False

    @property
    def call(self) -> ToolCall | None:
        """The tool call that the turn asks for, if it does."""
        return self.action if isinstance(self.action, ToolCall) else None


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSpan:
    """Where an image's tokens stand: ``tokens[start : start + n]`` with patch grid (t, h, w)."""

    sha256: str
    start: int
    n: int
    grid: tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """The record of one rollout; T tokens, prompt included.

    Args:
      task: the dataset row.
      row: index within its group, 0 .. G-1.
      tokens: int32[T].
      sampler_logps: float32[T], nats; 0 where a token was not sampled.
      completion_mask: bool[T], True after the prompt.
      observation_mask: bool[T], True on injected tokens (tool text, images, chat frame).
      positions: int32[3, T], M-RoPE positions.
      prompt_len: tokens before sampling starts.
      images: the image spans, in order of their start.
      turns: in order.
      status: why it ended.
      rewards: components by name (``format``, ``accuracy``, ``total``, ...); empty before scoring.
      info: what else is known of it, as JSON values.
      versions: int32[T], the version of the weights that sampled a token, -1 where it was not sampled. One trajectory
        has several where its rollout went on after an update. None: version 0 throughout.
    """

    task: Task
    row: int
    tokens: np.ndarray
    sampler_logps: np.ndarray
    completion_mask: np.ndarray
    observation_mask: np.ndarray
    positions: np.ndarray
    prompt_len: int
    images: tuple[ImageSpan, ...]
    turns: tuple[Turn, ...]
    status: Status
    rewards: dict[str, float] = dataclasses.field(default_factory=dict)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: np.ndarray | None = None

    def __post_init__(self):
        if self.versions is None:
            sampled = np.logical_and(self.completion_mask, np.logical_not(self.observation_mask))
            object.__setattr__(self, "versions", np.where(sampled, 0, -1).astype(np.int32))

    @property
    def loss_mask(self) -> np.ndarray:
        """bool[T]: the policy's own tokens, the end token included. The only mask a loss takes."""
        return self.completion_mask & ~self.observation_mask

    @property
    def is_cut(self) -> bool:
        """Whether a budget of turns, tokens or images ended it before the policy did.

        A recorded step is whole with its one turn: the limit of turns cuts nothing off it.
        """
        return self.status in _OF_A_BUDGET and not (self.task.target and self.status is Status.TURN_LIMIT)

    @property
    def answer(self) -> str | None:
        """The text of the final <answer>, or None."""
        for turn in reversed(self.turns):
            if isinstance(turn.action, Answer):
                return turn.action.text
        return None
