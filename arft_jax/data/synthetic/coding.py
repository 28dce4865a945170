"""mini_coding: a card, spoilt in a named way, and a question about what is printed on it.

The layout and the split are those of MAT-Coding (arXiv 2505.14246): 70 simple items with one kind of
degradation or none, 130 hard ones with two at once or a crop. Each task follows from (seed, split, index).
"""

import dataclasses

import numpy as np

from arft_jax.data.synthetic import degrade, draw, lexicon
from arft_jax.trajectory import Image, Task

SPLITS = ("train", "test")
N_TEST_SIMPLE, N_TEST = 70, 200
# Training rows: every turn of the card goes with every other fault equally often (5 % each of 15), and a quarter are
# crops, so that no blind guess beats another.
HARD_FRAC = 0.65
CROP_FRAC = 5 / 13  # of the hard rows
SINGLE_KINDS = ("rotation90", "rotation180", "dark", "overexposure", "blur", "noise", "none")
CELL_BOXES = ((0, 0, 500, 500), (500, 0, 1000, 500), (0, 500, 500, 1000), (500, 500, 1000, 1000))
_STREAM = 1  # keeps the random numbers of this file apart from other generators' with the same seed


@dataclasses.dataclass(frozen=True, eq=False)
class CodingItem:
    """A row in the MAT layout; images are uint8[h, w, 3]."""

    id: str
    question: str
    answers: tuple[str, ...]
    original: np.ndarray
    processed: np.ndarray
    kinds: tuple[str, ...]
    split: str

    def task(self) -> Task:
        """What the policy is shown: the processed image, but the original where the kind is crop (as MAT)."""
        shown = self.original if self.kinds[0] == "crop" else self.processed
        return Task(
            id=self.id,
            kind="coding",
            question=self.question,
            images=(Image(shown, "image_1"),),
            answers=self.answers,
            problems=self.kinds,
            split=self.split,
        )


def _kinds(split: str, index: int, rng: np.random.Generator) -> tuple[str, ...]:
    draws = rng.random(2), int(rng.integers(len(degrade.PAIRS))), int(rng.integers(len(SINGLE_KINDS)))
    (level, crop), pair, single = draws
    if split == "test":  # exact shares
        if index < N_TEST_SIMPLE:
            return (SINGLE_KINDS[index % len(SINGLE_KINDS)],)
        hard = index - N_TEST_SIMPLE
        return ("crop",) if hard % 2 == 0 else degrade.PAIRS[hard // 2 % len(degrade.PAIRS)]
    if level >= HARD_FRAC:
        return (SINGLE_KINDS[single],)
    return ("crop",) if crop < CROP_FRAC else degrade.PAIRS[pair]


def make_item(seed: int, split: str, index: int, kinds: tuple[str, ...] | None = None) -> CodingItem:
    """Makes one item.

    Args:
      seed: of the task set.
      split: train or test; their random numbers are apart.
      index: 0, 1, ...; in ``test`` below 200, the first 70 simple.
      kinds: forces the degradation; by default it follows from the arguments.

    Raises:
      ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}: got {split!r}")
    rng = np.random.default_rng([_STREAM, seed, SPLITS.index(split), index])
    drawn = _kinds(split, index, rng)
    kinds = drawn if kinds is None else kinds
    level = "hard" if kinds == ("crop",) or len(kinds) > 1 else "simple"
    name = f"mini_coding-{seed}-{split}-{index}"
    if kinds == ("crop",):
        numbers = rng.choice(np.arange(10, 100), size=4, replace=False)
        cards = tuple(dataclasses.replace(draw.random_card(rng), number=int(n)) for n in numbers)
        cell = int(rng.integers(4))
        box = CELL_BOXES[cell]
        sheet = draw.draw_sheet(cards, rng)
        question = lexicon.BOX_QUESTION.format(*box)
        return CodingItem(name, question, (str(cards[cell].number),), sheet, degrade.crop_box(sheet, box), kinds, level)
    card = draw.random_card(rng)
    original = draw.draw_card(card, rng)
    if rng.random() < 0.5:
        question, answer = lexicon.NUMBER_QUESTION, str(card.number)
    else:
        question, answer = lexicon.CARD_QUESTION, f"{card.figure} {card.number}"
    processed = degrade.degrade_all(original, kinds, rng)
    return CodingItem(name, question, (answer,), original, processed, kinds, level)


def clean_tasks(seed: int, n: int, first: int = 1_000_000) -> list[Task]:
    """Unspoilt cards from the training stream, at indices that no training row uses: practice in reading."""
    return [make_item(seed, "train", first + i, kinds=("none",)).task() for i in range(n)]


def look_tasks(seed: int, n: int, first: int = 2_000_000) -> list[Task]:
    """Spoilt and unspoilt cards to be described in plain words, at indices that no training row uses."""
    sets = [kinds for kinds in degrade.PROBLEM_SETS if kinds != ("crop",)]
    tasks = []
    for i in range(n):
        item = make_item(seed, "train", first + i, kinds=sets[i % len(sets)])
        words = " ".join(lexicon.LOOKS[kind] for kind in item.kinds)
        tasks.append(dataclasses.replace(item.task(), question=lexicon.LOOK_QUESTION, answers=(words,)))
    return tasks
