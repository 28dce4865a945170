"""Recorded chains for a warm start that teaches the protocol, not the skill.

The novice of these chains knows the tags, the tools and how to read, but not how to see what is wrong: his
choice of problems, and of the emblem that he searches for, is drawn before he looks and depends on nothing in
the task. Turns carry a ``train`` flag; only flagged turns are learnt:

- novice chains (coding): random problems, code that is right for the problems *stated*; the answer is not learnt;
- reading chains (coding): the right problems as unlearnt context, then code for them and the answer, learnt;
- practice: a card read, its look described in plain words, an emblem named, names repeated: answers learnt;
- search chains: a random emblem with the question's own relation, real results, and the answer (or the next
  query) copied from the first result: all learnt, mostly wrong for the picture.

So no learnt token tells which problem an image has or which emblem it shows.
"""

import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import numpy as np

from arft_jax.data.synthetic import degrade, lexicon
from arft_jax.data.synthetic.coding import CELL_BOXES, clean_tasks, look_tasks
from arft_jax.data.synthetic.corpus import query_of
from arft_jax.data.synthetic.search import emblem_tasks, repeat_tasks
from arft_jax.protocol import Action, Answer, ToolCall
from arft_jax.syntax.spec import Syntax
from arft_jax.trajectory import Observation, Task, ToolStatus

_STREAM = 4
_BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")
_HOUSE = re.compile("|".join(f"{colour} {figure}" for colour, figure in lexicon.HOUSES))
_THOUGHT_OF = {"diagnose": "problem", "python": "code", "search": "search"}
_NAME = re.compile(r"\b(?:" + "|".join(lexicon.NAMES) + r")\b")


class Conversation(Protocol):
    """The tools as one chain meets them."""

    def submit(self, call: ToolCall) -> "concurrent.futures.Future[Observation]":
        """Starts a call."""

    def admit(self, observation: Observation) -> Observation:
        """Takes a reply in, so that later calls find its images."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChainTurn:
    """One turn and what came back; ``train``: whether its tokens are learnt."""

    text: str
    observation: Observation | None
    train: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """A recorded trajectory of a task."""

    task: Task
    turns: tuple[ChainTurn, ...]

    def trimmed(self) -> "Chain":
        """Without what stands behind the last learnt turn: no loss depends on it."""
        n = max(i + 1 for i, turn in enumerate(self.turns) if turn.train)
        last = dataclasses.replace(self.turns[n - 1], observation=None)
        return Chain(self.task, (*self.turns[: n - 1], last))


@dataclasses.dataclass(frozen=True)
class _Said:
    action: Action
    thought: str
    train: bool


Script = Generator[_Said, Observation, None]


def _say(action: Action, rng: np.random.Generator, train: bool) -> _Said:
    kind = _THOUGHT_OF[action.tool] if isinstance(action, ToolCall) else "answer"
    return _Said(action, str(rng.choice(lexicon.THOUGHTS[kind])), train)


def question_box(question: str) -> degrade.Box | None:
    """The box that a question names, or None."""
    found = _BOX.search(question)
    return tuple(int(v) for v in found.groups()) if found else None


def _coding_script(task: Task, rng: np.random.Generator, *, novice: bool) -> Script:
    choice = degrade.PROBLEM_SETS[int(rng.integers(len(degrade.PROBLEM_SETS)))]
    blind_box = CELL_BOXES[int(rng.integers(len(CELL_BOXES)))]
    kinds = choice if novice else tuple(sorted(task.problems, key=lambda kind: kind not in degrade.ROTATIONS))
    yield _say(ToolCall("diagnose", {"problems": list(kinds)}), rng, novice)
    if kinds != ("none",):
        box = question_box(task.question) or blind_box
        seen = yield _say(ToolCall("python", {"code": degrade.repair_code(tuple(kinds), box)}), rng, True)
        if not novice and not seen.images:
            raise RuntimeError(f"the repair of {kinds} must give an image: got {seen.text!r} for {task.id}")
    yield _say(Answer(task.answers[0]), rng, not novice)


def _after(text: str, query: str) -> str:
    """What an observation says behind the first title that equals the query."""
    at = text.find(query)
    return text[at + len(query) :] if at >= 0 else text


def _search_script(task: Task, rng: np.random.Generator) -> Script:
    house = lexicon.HOUSES[int(rng.integers(len(lexicon.HOUSES)))]
    relation = next(word for word in lexicon.RELATIONS if f" {word} of " in task.question)
    if f" {lexicon.RIVAL} of " in task.question:
        query = query_of(house, lexicon.RIVAL)
        seen = yield _say(ToolCall("search", {"query": query}), rng, True)
        found = _HOUSE.search(_after(seen.text, query))
        if found is None:
            return
        house = tuple(found.group().split())
    query = query_of(house, relation)
    seen = yield _say(ToolCall("search", {"query": query}), rng, True)
    found = _NAME.search(_after(seen.text, query))
    if found is not None:
        yield _say(Answer(found.group()), rng, True)


def practice_chains(seed: int, n: int, syntax: Syntax) -> list[Chain]:
    """What a base model can do already: read, describe, name, repeat; answered at once, no tool.

    A third of the ``n`` chains are unspoilt cards to be read, a third cards whose look is described in plain words
    (dim, flipped: words that are not the protocol's), a sixth emblems (colour and figure), a sixth names to be repeated
    (copying is what reading a search result takes). No task of the data sets shows these images.
    """
    sixth = n // 6
    cards = clean_tasks(seed, n - 4 * sixth)
    # Worded apart from the data sets' questions: those are to be answered by the protocol, never at once.
    tasks = [dataclasses.replace(card, question=lexicon.READ_QUESTION.format(card.question)) for card in cards]
    tasks += look_tasks(seed, 2 * sixth)
    tasks += emblem_tasks(seed, sixth) + repeat_tasks(seed, sixth)
    chains = []
    for i, task in enumerate(tasks):
        said = _say(Answer(task.answers[0]), np.random.default_rng([_STREAM, seed, 1, i]), train=True)
        chains.append(Chain(task, (ChainTurn(syntax.write(said.action, said.thought), None, train=True),)))
    return chains


class _Recorder:
    """Plays one script against the tools, a turn at a time."""

    def __init__(self, task: Task, script: Script, conversation: Conversation, syntax: Syntax):
        self.task, self.script, self.conversation, self.syntax = task, script, conversation, syntax
        self.turns: list[ChainTurn] = []
        self.said: _Said | None = next(script)

    def send(self) -> "concurrent.futures.Future[Observation] | None":
        """Starts the tool call of the turn just said; None where the turn is the answer."""
        action = self.said.action
        return None if isinstance(action, Answer) else self.conversation.submit(action)

    def receive(self, observation: Observation | None) -> None:
        """Takes the observation and says the next turn."""
        if observation is not None and observation.status is ToolStatus.INFRA:
            raise RuntimeError(f"a tool failed while chains were recorded: {observation.text}")
        if observation is not None:
            observation = self.conversation.admit(observation)
        text = self.syntax.write(self.said.action, self.said.thought)
        self.turns.append(ChainTurn(text, observation, self.said.train))
        try:
            self.said = None if observation is None else self.script.send(observation)
        except StopIteration:
            self.said = None


def script_of(task: Task, index: int, seed: int, reading_frac: float) -> Script:
    """The turns of one chain, as a generator that is sent each turn's observation.

    Args:
      task: what it answers.
      index: the chain's place in the list.
      seed: of the novice's choices.
      reading_frac: share of coding chains that practise reading.
    """
    rng = np.random.default_rng([_STREAM, seed, index])  # of the place in the list: blind to the task
    if task.kind == "search":
        return _search_script(task, rng)
    return _coding_script(task, rng, novice=rng.random() >= reading_frac)


def record_chains(
    tasks: Sequence[Task],
    begin: Callable[[Task], Conversation],
    seed: int,
    syntax: Syntax,
    *,
    reading_frac: float = 0.5,
    in_flight: int = 32,
) -> list[Chain]:
    """Plays one chain for each task, with the tools really running.

    Args:
      tasks: training tasks; coding and search may be mixed.
      begin: the tools as the chain of a task meets them.
      seed: of the novice's choices; they depend on it and on the chain's place in the list alone.
      syntax: in which turns are written.
      reading_frac: share of coding chains that practise reading.
      in_flight: chains played side by side.

    Returns:
      Chains in the order of their tasks.

    Raises:
      RuntimeError: a tool failed by an infrastructure failure, or a right repair gave no image.
    """
    chains = []
    for first in range(0, len(tasks), in_flight):
        part = [
            _Recorder(task, script_of(task, first + i, seed, reading_frac), begin(task), syntax)
            for i, task in enumerate(tasks[first : first + in_flight])
        ]
        live = part
        while live:
            calls = [(recorder, recorder.send()) for recorder in live]
            for recorder, future in calls:
                recorder.receive(None if future is None else future.result())
            live = [recorder for recorder in live if recorder.said is not None]
        chains += [Chain(recorder.task, tuple(recorder.turns)) for recorder in part]
    return chains
