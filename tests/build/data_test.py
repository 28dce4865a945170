"""Where data lie and what is prepared."""

from arft_jax.build import data, search_indices
from arft_jax.config import default_config
from arft_jax.tools.search_index import SearchIndex
from arft_jax.tools.search_router import ALL


def test_data_lies_in_the_work_directory_or_where_the_config_says(tmp_path):
    config = default_config()
    config.update(workdir=str(tmp_path / "run"), seed=4)
    assert data.data_dir(config) == tmp_path / "run" / "data"
    config.data.dir = str(tmp_path / "shared")
    assert search_indices.index_paths(config) == {ALL: tmp_path / "shared" / "mini_search-4.index"}
    config.data.tasks = ("mat_search",)
    (tmp_path / "shared" / "mat_search").mkdir(parents=True)
    assert search_indices.index_paths(config) == {ALL: tmp_path / "shared" / "mat_search" / "corpus.index"}


def test_the_index_of_the_self_made_search_is_built_where_something_searches(tmp_path):
    config = default_config()
    config.workdir, config.data.tasks = str(tmp_path), ("mini_coding",)
    search_indices.make_indices(config)
    assert search_indices.found_indices(config) is None and list(tmp_path.iterdir()) == []
    config.data.tasks = ("mini_search",)
    search_indices.make_indices(config)
    with SearchIndex(search_indices.found_indices(config)[ALL]) as index:
        assert index.search("Red Star city", 1, "")
