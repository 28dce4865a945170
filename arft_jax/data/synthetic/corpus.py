"""Worlds: who lives where is drawn from a seed, so that only a real search can tell.

A world gives each of the 16 houses (colour x figure) a city, a ruler, a craft, a drink and a rival. Documents
are short, and their titles name house and relation, so that the query of those words finds its document first.
"""

import dataclasses
import itertools

import numpy as np

from arft_jax.data.synthetic import lexicon

_STREAM = 2
N_WORLDS = {"train": 16, "test": 4}

House = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class CorpusDocument:
    """One text of one corpus."""

    corpus: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class World:
    """Facts of one corpus: ``facts[house][relation]`` is a name; ``rivals[house]`` another house."""

    corpus: str
    facts: dict[House, dict[str, str]]
    rivals: dict[House, House]
    documents: tuple[CorpusDocument, ...]


def house_name(house: House) -> str:
    """``("Red", "Star")`` -> ``Red Star``."""
    return " ".join(house)


def query_of(house: House, relation: str) -> str:
    """The query that finds a fact: ``Red Star city``."""
    return f"{house_name(house)} {relation}"


def make_world(seed: int, split: str, index: int) -> World:
    """Draws world ``index`` of a split; every split's worlds are apart.

    Raises:
      ValueError: an unknown split or an index it does not have.
    """
    if split not in N_WORLDS or not 0 <= index < N_WORLDS[split]:
        raise ValueError(f"split and index must name a world of {N_WORLDS}: got {split!r}, {index}")
    rng = np.random.default_rng([_STREAM, seed, list(N_WORLDS).index(split), index])
    corpus = f"mini_search-{seed}-{split}-{index}"
    names = iter(rng.permutation(lexicon.NAMES).tolist())
    facts = {house: {relation: next(names) for relation in lexicon.RELATIONS} for house in lexicon.HOUSES}
    order = [lexicon.HOUSES[i] for i in rng.permutation(len(lexicon.HOUSES))]
    rivals = {house: order[(i + 1) % len(order)] for i, house in enumerate(order)}  # a ring: nobody is his own rival
    documents = []
    for house in lexicon.HOUSES:
        for relation in lexicon.RELATIONS:
            documents.append(CorpusDocument(corpus, query_of(house, relation), facts[house][relation]))
        documents.append(CorpusDocument(corpus, query_of(house, lexicon.RIVAL), house_name(rivals[house])))
    for house in itertools.product(lexicon.OTHER_COLOURS, lexicon.OTHER_FIGURES):
        for relation in lexicon.RELATIONS:
            documents.append(CorpusDocument(corpus, query_of(house, relation), next(names)))
    documents = [documents[i] for i in rng.permutation(len(documents))]
    return World(corpus, facts, rivals, tuple(documents))


def make_worlds(seed: int, split: str) -> list[World]:
    """All worlds of a split: 16 for train, 4 others for test."""
    return [make_world(seed, split, index) for index in range(N_WORLDS[split])]


def make_documents(seed: int) -> list[CorpusDocument]:
    """The documents of every world of every split: what goes into the search index."""
    return [doc for split in N_WORLDS for world in make_worlds(seed, split) for doc in world.documents]
