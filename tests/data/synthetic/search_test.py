import collections

import pytest

from arft_jax.data.synthetic import corpus, lexicon, search
from arft_jax.tools.search_index import Document, SearchIndex


def test_items_follow_from_seed_split_and_index():
    a, b = search.make_items(1, "train", 6), search.make_items(1, "train", 9)
    assert [(i.id, i.question, i.answer, i.corpus) for i in a] == [
        (i.id, i.question, i.answer, i.corpus) for i in b[:6]
    ]
    assert all((x.image == y.image).all() for x, y in zip(a, b, strict=False))
    assert [i.answer for i in search.make_items(2, "train", 9)] != [i.answer for i in b]


def test_the_test_split_has_mats_shares_and_its_own_corpora():
    items = search.make_items(0, "test", search.N_TEST)
    assert [item.split for item in items] == ["simple"] * 75 + ["hard"] * 75
    train = {item.corpus for item in search.make_items(0, "train", 200)}
    assert len(train) == 16 and len({item.corpus for item in items}) == 4
    assert not train & {item.corpus for item in items}


def test_one_word_more_makes_two_hops():
    for item in search.make_items(0, "train", 40):
        assert (lexicon.RIVAL in item.question) == (item.split == "hard")
        assert item.answer in lexicon.NAMES and item.answer not in item.question


def test_answers_are_spread_over_the_names():
    """Nobody can guess: the commonest of 156 names answers under 5 % of the questions."""
    counts = collections.Counter(item.answer for item in search.make_items(0, "test", 150))
    assert counts.most_common(1)[0][1] <= 7


def test_rivals_are_others_and_facts_are_unlike_between_worlds():
    worlds = corpus.make_worlds(0, "train") + corpus.make_worlds(0, "test")
    for world in worlds:
        assert all(house != rival for house, rival in world.rivals.items())
        assert len(set(world.rivals.values())) == 16
        values = [value for facts in world.facts.values() for value in facts.values()]
        assert len(set(values)) == len(values) == 64
    house = lexicon.HOUSES[0]
    assert len({world.facts[house]["city"] for world in worlds}) > 10


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "docs.sqlite"
    SearchIndex.build(path, (Document(d.title, d.text, d.corpus) for d in corpus.make_documents(3)))
    with SearchIndex(path) as opened:
        yield opened


def test_the_query_of_a_fact_finds_it_first(index):
    for world in (corpus.make_world(3, "train", 0), corpus.make_world(3, "test", 3)):
        for house in lexicon.HOUSES:
            expected = world.facts[house] | {lexicon.RIVAL: corpus.house_name(world.rivals[house])}
            for relation, value in expected.items():
                first = index.search(corpus.query_of(house, relation), 1, world.corpus)[0]
                assert (first.title, first.text) == (corpus.query_of(house, relation), value)


def test_unknown_worlds_are_refused():
    with pytest.raises(ValueError, match="world"):
        corpus.make_world(0, "test", 4)
    with pytest.raises(ValueError, match="split"):
        search.make_items(0, "dev", 1)
