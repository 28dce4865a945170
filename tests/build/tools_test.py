"""From a config to tools: what is opened, where searches go, and that all is closed."""

import contextlib
import types

import numpy as np
import pytest

from arft_jax.build import tools as build_tools
from arft_jax.build.image_embedder import make_embedder
from arft_jax.build.plan import check_inputs
from arft_jax.config import default_config
from arft_jax.data.images import encode_png
from arft_jax.protocol import ToolCall
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.fault_server import FaultServer
from arft_jax.testing.toolboxes import code_call, context_of, open_configured, search_call
from arft_jax.tools import python_tool, search_tool
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.search_backend import Hit
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Image, ToolStatus

BOTH = ("coding", "search")


@pytest.fixture
def config():
    made = default_config()
    made.data.update(min_pixels=28 * 28, max_pixels=112 * 112)
    made.rollout.update(n_patches=128, n_windows=8)
    return made


def test_a_toolbox_that_is_switched_off_starts_no_process(config, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("started")

    monkeypatch.setattr(python_tool, "PythonSandbox", fail)
    monkeypatch.setattr(search_tool, "open_indices", fail)
    for enabled, switch in ((False, True), (None, False)):
        config.tools.enabled = switch
        with open_configured(config, BOTH, {ALL: "no/index"}, enabled=enabled) as off:
            seen = off.submit(search_call("x"), context_of(tiny.tiny_task(1), ())).result()
            assert seen.status is ToolStatus.REFUSED
    config.tools.enabled = True
    for kinds in (["coding"], ["search"]):
        with pytest.raises(AssertionError, match="started"):
            open_configured(config, kinds, {ALL: "no/index"}).__enter__()


def test_a_real_toolbox_serves_and_is_closed(config):
    config.tools.update(n_workers=1, timeout_s=30.0, max_output_bytes=20)
    with open_configured(config, BOTH) as box:
        task = tiny.tiny_task(1, "coding")
        seen = box.submit(code_call("print('a' * 100)"), context_of(task, task.images)).result()
        assert "a" * 10 in seen.text and "a" * 50 not in seen.text  # max_output_bytes
        # without an index nothing can be searched
        assert box.submit(search_call("x"), context_of(tiny.tiny_task(2), ())).result().status is ToolStatus.REFUSED
    late = box.submit(code_call("print(1)"), context_of(task, task.images)).result()
    assert late.status is ToolStatus.INFRA


def test_no_sandbox_is_opened_where_no_task_is_offered_code(config, tmp_path, monkeypatch):
    monkeypatch.setattr(python_tool, "PythonSandbox", None)
    with open_configured(config, ["search"]) as box:
        task = tiny.tiny_task(1, "coding")
        assert box.submit(code_call("pass"), context_of(task, ())).result().status is ToolStatus.REFUSED
        assert box.stamp() == {"sandbox": "off"}


def test_searches_go_where_the_config_says(config, tmp_path):
    task, fox = tiny.tiny_task(2), search_call("red fox")

    def search():
        with open_configured(config, ["search"], {ALL: tmp_path / "unused"}) as box:
            return box.submit(fox, context_of(task, ())).result(10)

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
    with open_configured(config, ["coding"]) as box:  # nothing searches: nothing is opened
        assert box.submit(fox, context_of(task, ())).result(10).status is ToolStatus.REFUSED


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


def image_search_call(query):
    return ToolCall("image_search", {"query": query})


def test_a_search_for_an_image_finds_its_like_and_names_it(pictures):
    check_inputs(pictures)
    task = tiny.tiny_task(2)
    with open_configured(pictures, ["search"]) as box:

        def ask(words, *images):
            return box.submit(image_search_call(words), context_of(task, images)).result(60)

        seen = ask(" image_2", wall(5, 250, 5), wall(240, 10, 0))
        assert seen.status is ToolStatus.OK
        assert seen.text == "<information> 1. Content: image_3: A red wall </information>"
        [found] = seen.images
        assert found.name == "image_3" and (found.pixels == (250, 5, 5)).all()
        assert ask("image_1", wall(0, 0, 200)).text.endswith("A blue wall </information>")
        missing = ask("image_3", wall(1, 2, 3))
        assert (missing.status, missing.images) == (ToolStatus.ERROR, ()) and "Images: image_1." in missing.text
        assert "image_2: A green wall" in ask("green", wall(1, 2, 3)).text  # words are looked for in the captions
        assert box.metrics()["tool/image_search/calls"] == 4


def test_a_search_for_texts_is_another_tool_whatever_its_words(pictures, monkeypatch):
    texts = contextlib.nullcontext(types.SimpleNamespace(search=lambda *args: [Hit("Fox", "red", 1.0)]))
    monkeypatch.setattr(search_tool, "open_indices", lambda path: texts)
    pictures.tools.search.image_top_k = 2
    task = tiny.tiny_task(2)
    with open_configured(pictures, ["search"], {ALL: "an index"}) as box:
        for query in ("green", "image_1"):
            assert "Fox: red" in box.submit(search_call(query), context_of(task, (wall(1, 2, 3),))).result(60).text
        found = box.submit(image_search_call("image_1"), context_of(task, (wall(1, 2, 3),))).result(60)
        assert len(found.images) == 2


def test_an_image_index_that_is_not_there_or_of_other_weights_is_refused(pictures, tmp_path):
    pictures.seed += 1
    with pytest.raises(ValueError, match=r"the weights must be those .* \(config.tools.search.image_index\)"):
        open_configured(pictures, ["search"]).__enter__()
    pictures.tools.search.image_index = str(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must exist: got .*none \(config.tools.search.image_index\)"):
        check_inputs(pictures)


def test_one_policy_may_have_every_tool(pictures, monkeypatch):
    monkeypatch.setattr(search_tool, "open_indices", lambda path: contextlib.nullcontext(types.SimpleNamespace()))
    pictures.tools.offer = ("python", "search", "image_search", "crop")
    host = build_tools.tool_host(pictures, {ALL: "an index"})
    offer = build_tools.plan_offer(pictures, host, ["coding"])
    assert list(offer.tools) == ["python", "search", "image_search", "crop"]
    task = tiny.tiny_task(2, "coding")
    pictures.tools.crop_frame = "original"
    with open_configured(pictures, ["coding"], {ALL: "an index"}) as box:
        context = context_of(task, (wall(9, 9, 9),))
        cut = box.submit(ToolCall("crop", {"box": [0, 0, 28, 14]}), context).result(60)
        assert cut.images[0].size == (14, 28)
        assert box.submit(image_search_call("image_1"), context).result(60).status is ToolStatus.OK
        assert box.submit(code_call("print(7)"), context).result(60).text == "7"
