"""From a config to tools: what is opened, where searches go, and that all is closed."""

import contextlib
import types

import numpy as np
import pytest

from arft_jax import protocol
from arft_jax.build import tools as toolset
from arft_jax.build.image_embedder import make_embedder
from arft_jax.build.plan import check_inputs
from arft_jax.config import default_config
from arft_jax.data.images import encode_png
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.fault_server import FaultServer
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.search_backend import Hit
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Image, ToolStatus


@pytest.fixture
def config():
    made = default_config()
    made.data.update(min_pixels=28 * 28, max_pixels=112 * 112)
    made.rollout.update(n_patches=128, n_windows=8)
    return made


def test_a_toolbox_that_is_switched_off_starts_no_process(config, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("started")

    monkeypatch.setattr(toolset, "PythonSandbox", fail)
    monkeypatch.setattr(toolset, "open_indices", fail)
    for enabled, switch in ((False, True), (None, False)):
        config.tools.enabled = switch
        with toolset.open_toolbox(config, {ALL: "no/index"}, enabled=enabled) as off:
            seen = off.submit(tiny.tiny_task(1), protocol.Search("x"), ()).result()
            assert seen.status is ToolStatus.REFUSED
    config.tools.enabled = True
    with pytest.raises(AssertionError, match="started"):
        toolset.open_toolbox(config, None).__enter__()


def test_a_real_toolbox_serves_and_is_closed(config):
    config.tools.update(n_workers=1, timeout_s=30.0, max_output_bytes=20)
    with toolset.open_toolbox(config, None) as box:
        task = tiny.tiny_task(1, "coding")
        seen = box.submit(task, protocol.Code("print('a' * 100)"), task.images).result()
        assert "a" * 10 in seen.text and "a" * 50 not in seen.text  # max_output_bytes
        # without an index nothing can be searched
        assert box.submit(tiny.tiny_task(2), protocol.Search("x"), ()).result().status is ToolStatus.REFUSED
    late = box.submit(task, protocol.Code("print(1)"), task.images).result()
    assert late.status is ToolStatus.INFRA


def test_searches_go_where_the_config_says(config, tmp_path, monkeypatch):
    monkeypatch.setattr(toolset, "PythonSandbox", lambda **kwargs: contextlib.nullcontext())
    task, fox = tiny.tiny_task(2), protocol.Search("red fox")

    def search():
        with toolset.open_toolbox(config, {}) as box:
            return box.submit(task, fox, ()).result(10)

    with FaultServer() as server:
        cache = dict(cache=str(tmp_path / "replies.sqlite"), cache_mode="record")
        config.tools.search.update(backend="http", url=server.url, **cache)
        config.tools.update(top_k=1, n_tries=2)
        asked = search()
        assert asked.text == "<information> 1. Content: Page 0: About red fox. </information>"
        server.set_mode("storm_503")
        assert search().status is ToolStatus.INFRA and server.n_questions == 1 + 2  # n_tries
    config.tools.search.cache_mode = "replay"
    assert search().text == asked.text
    with toolset.open_toolbox(config, None) as box:  # nothing searches: nothing is opened
        assert box.submit(task, fox, ()).result(10).status is ToolStatus.REFUSED


def wall(red, green, blue):
    return Image(np.full((56, 56, 3), (red, green, blue), np.uint8))


@pytest.fixture
def pictures(config, tmp_path):
    folder = tmp_path / "walls"
    folder.mkdir()
    lines = []
    for name, colour in {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250)}.items():
        (folder / f"{name}.png").write_bytes(encode_png(wall(*colour)))
        lines.append(f'{{"image": "{name}.png", "caption": "A {name} wall"}}\n')
    (folder / "captions.jsonl").write_text("".join(lines))
    ImageIndex.build(tmp_path / "walls.index", folder, make_embedder(config))
    config.tools.search.image_index = str(tmp_path / "walls.index")
    config.tools.n_workers = 1
    return config


def test_a_search_for_an_image_finds_its_like_and_names_it(pictures):
    check_inputs(pictures)
    task = tiny.tiny_task(2)
    with toolset.open_toolbox(pictures, None) as box:

        def ask(words, *images):
            return box.submit(task, protocol.Search(words), images).result(60)

        seen = ask(" image_2", wall(5, 250, 5), wall(240, 10, 0))
        assert seen.status is ToolStatus.OK
        assert seen.text == "<information> 1. Content: image_3: A red wall </information>"
        [found] = seen.images
        assert found.name == "image_3" and (found.pixels == (250, 5, 5)).all()
        assert ask("image_1", wall(0, 0, 200)).text.endswith("A blue wall </information>")
        missing = ask("image_3", wall(1, 2, 3))
        assert (missing.status, missing.images) == (ToolStatus.ERROR, ()) and "Images: image_1." in missing.text
        assert "image_2: A green wall" in ask("green", wall(1, 2, 3)).text  # no texts here: captions
        assert box.metrics()["tool/image_search/calls"] == 4


def test_words_go_to_the_texts_where_there_are_any(pictures, monkeypatch):
    texts = contextlib.nullcontext(types.SimpleNamespace(search=lambda *args: [Hit("Fox", "red", 1.0)]))
    monkeypatch.setattr(toolset, "open_indices", lambda paths: texts)
    pictures.tools.search.image_top_k = 2
    task = tiny.tiny_task(2)
    with toolset.open_toolbox(pictures, {ALL: "an index"}) as box:
        assert "Fox: red" in box.submit(task, protocol.Search("green"), (wall(1, 2, 3),)).result(60).text
        assert len(box.submit(task, protocol.Search("image_1"), (wall(1, 2, 3),)).result(60).images) == 2


def test_an_image_index_that_is_not_there_or_of_other_weights_is_refused(pictures, tmp_path):
    pictures.seed += 1
    with pytest.raises(ValueError, match=r"the weights must be those .* \(config.tools.search.image_index\)"):
        toolset.open_toolbox(pictures, None).__enter__()
    pictures.tools.search.image_index = str(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must exist: got .*none \(config.tools.search.image_index\)"):
        check_inputs(pictures)
