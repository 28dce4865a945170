"""Task sets that each search a corpus of their own."""

import pytest

from arft_jax.tools.search_index import Document, SearchIndex
from arft_jax.tools.search_router import ALL, open_indices, routed


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("indices"), {}
    for name in ("birds", "trees"):
        found[name] = folder / f"{name}.index"
        SearchIndex.build(
            found[name], [Document("Big", f"A big one of the {name}", "north"), Document("Tit", name, "")]
        )
    return found


def texts(search, query, corpus):
    return sorted(hit.text for hit in search.search(query, 5, corpus))


def test_a_query_goes_to_the_corpus_of_its_tasks_set(indices):
    with open_indices(indices) as search:
        assert texts(search, "big", routed("birds", "")) == ["A big one of the birds"]
        assert texts(search, "big", routed("trees", "north")) == ["A big one of the trees"]
        assert texts(search, "tit", routed("trees", "north")) == []  # the collection inside is kept
        assert texts(search, "big", routed("stones", "")) == [] == texts(search, "big", "")  # a set without a corpus


def test_one_index_for_all_is_searched_as_it_is(indices):
    with open_indices({ALL: indices["birds"]}) as search:
        assert isinstance(search, SearchIndex) and texts(search, "big", "north") == ["A big one of the birds"]


def test_two_sets_may_share_an_index_and_none_is_no_search(indices):
    with open_indices({"a": indices["birds"], "b": indices["birds"]}) as search:
        assert texts(search, "tit", routed("a", "")) == texts(search, "tit", routed("b", "")) == ["birds"]
    with open_indices({}) as search:
        assert search is None


def test_an_index_that_is_not_there_is_refused(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)), open_indices({"a": tmp_path / "gone"}):
        pass
