"""mini_search: an emblem, and a question whose answer stands in a corpus and nowhere else.

The split is that of MAT-Search (arXiv 2505.14246): 75 simple items (one fact of the house shown) and 75 hard
ones (the same of its rival: two hops). Each task follows from (seed, split, index).
"""

import dataclasses

import numpy as np

from arft_jax.data.synthetic import draw, lexicon
from arft_jax.data.synthetic.corpus import N_WORLDS, World, house_name, make_worlds, query_of
from arft_jax.trajectory import Image, Task

SPLITS = ("train", "test")
N_TEST_SIMPLE, N_TEST = 75, 150
_STREAM = 3


@dataclasses.dataclass(frozen=True, eq=False)
class SearchItem:
    """A row in the MAT layout, with the name of its corpus; image uint8[84, 84, 3]."""

    id: str
    question: str
    answer: str
    image: np.ndarray
    split: str
    corpus: str
    query: str

    def task(self) -> Task:
        """What the policy is shown."""
        return Task(
            id=self.id,
            kind="search",
            question=self.question,
            images=(Image(self.image, "image_1"),),
            answers=(self.answer,),
            split=self.split,
            corpus=self.corpus,
            query=self.query,
        )


def make_items(seed: int, split: str, n: int) -> list[SearchItem]:
    """The first ``n`` items of a split.

    Raises:
      ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}: got {split!r}")
    worlds = make_worlds(seed, split)
    return [_make_item(seed, split, index, worlds) for index in range(n)]


def _make_item(seed: int, split: str, index: int, worlds: list[World]) -> SearchItem:
    rng = np.random.default_rng([_STREAM, seed, SPLITS.index(split), index])
    world = worlds[int(rng.integers(N_WORLDS[split]))]
    house = lexicon.HOUSES[int(rng.integers(len(lexicon.HOUSES)))]
    relation = lexicon.RELATIONS[int(rng.integers(len(lexicon.RELATIONS)))]
    hard = bool(rng.random() < 0.5) if split == "train" else index >= N_TEST_SIMPLE
    subject = world.rivals[house] if hard else house
    template = lexicon.RIVAL_QUESTION if hard else lexicon.HOUSE_QUESTION
    return SearchItem(
        id=f"mini_search-{seed}-{split}-{index}",
        question=template.format(relation=relation),
        answer=world.facts[subject][relation],
        image=draw.draw_emblem(*house, rng),
        split="hard" if hard else "simple",
        corpus=world.corpus,
        query=query_of(house, lexicon.RIVAL if hard else relation),
    )


def emblem_tasks(seed: int, n: int) -> list[Task]:
    """Emblems to be named, from a stream of their own: practice in seeing."""
    tasks = []
    for index in range(n):
        rng = np.random.default_rng([_STREAM, seed, len(SPLITS), index])
        house = lexicon.HOUSES[int(rng.integers(len(lexicon.HOUSES)))]
        image = Image(draw.draw_emblem(*house, rng), "image_1")
        name = f"emblem-{seed}-{index}"
        tasks.append(Task(name, "search", lexicon.EMBLEM_QUESTION, (image,), (house_name(house),)))
    return tasks


def repeat_tasks(seed: int, n: int, n_names: int = 6) -> list[Task]:
    """Names to be repeated in order: practice in copying."""
    tasks = []
    for index in range(n):
        rng = np.random.default_rng([_STREAM, seed, len(SPLITS) + 1, index])
        names = " ".join(rng.choice(lexicon.NAMES, n_names, replace=False).tolist())
        question = lexicon.REPEAT_QUESTION.format(names=names)
        tasks.append(Task(f"repeat-{seed}-{index}", "search", question, (), (names,)))
    return tasks
