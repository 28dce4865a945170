"""One tool call by hand: what each tool answers, where its images go, and which requests are refused."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from arft_jax.commands import tool as tool_call
from arft_jax.commands.tool import ToolRequest
from arft_jax.config import default_config
from arft_jax.data.images import ImageProcessor, decode_image, encode_png, stand_in
from arft_jax.testing.fault_server import FaultServer
from arft_jax.testing.toolboxes import open_configured
from arft_jax.tools import search_tool, toolbox
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.sandbox import NoneHolds
from arft_jax.tools.search_index import Document, SearchIndex
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Image

KEYS = {"status", "exit", "text", "images", "seconds", "sandbox"}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def config():
    made = default_config()
    made.tools.timeout_s = 30.0
    return made


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.png"
    path.write_bytes(encode_png(Image(noise(40, 60))))
    return str(path)


def code(tmp_path, source):
    path = tmp_path / "code.py"
    path.write_text(source)
    return str(path)


def run(tool, config, out, **given):
    result = tool_call.run(ToolRequest(tool, config, **given), str(out))
    assert set(result) == KEYS and json.loads(json.dumps(result)) == result
    return result


# ---------------------------------------------------------------------------------------------- python


def test_code_of_the_papers_protocol_reads_and_writes_its_two_files(tmp_path, config, card):
    source = "import cv2\nx = cv2.imread('path_to_input_image.jpg')\nprint(x.shape)\n"
    source += "cv2.imwrite('path_to_output_image.jpg', x[:20, :20])"
    result = run("python", config, tmp_path / "out", code=code(tmp_path, source), images=[card])
    assert (result["status"], result["exit"], result["text"]) == ("ok", 0, "(40, 60, 3)")
    assert result["images"] == [str(tmp_path / "out" / "image_2.png")]
    assert decode_image(result["images"][0]).size == (20, 20)
    assert result["sandbox"].startswith("sandbox: ") and 0 < result["seconds"] < 30


def test_code_finds_several_images_by_name_and_gives_several_back(tmp_path, config, card):
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(Image(noise(30, 30, 1))))
    source = "show(image_2)\nshow(image_1.crop((0, 0, 10, 10)))\nprint(sorted(images))"
    result = run("python", config, tmp_path / "out", code=code(tmp_path, source), images=[card, str(other)])
    assert (result["status"], result["text"]) == ("ok", "['image_1', 'image_2']")
    assert [pathlib.Path(path).name for path in result["images"]] == ["image_3.png", "image_4.png"]
    np.testing.assert_array_equal(decode_image(result["images"][0]).pixels, noise(30, 30, 1))
    np.testing.assert_array_equal(decode_image(result["images"][1]).pixels, noise(40, 60)[:10, :10])


def test_images_go_by_name_and_the_newest_under_the_papers_name_too(tmp_path, config, card):
    source = "image_1.crop((0, 0, 9, 9)).save('path_to_output_image.jpg', 'PNG')"
    result = run("python", config, tmp_path / "out", code=code(tmp_path, source), images=[card])
    np.testing.assert_array_equal(decode_image(result["images"][0]).pixels, noise(40, 60)[:9, :9])
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(Image(noise(30, 20, 1))))
    source = "from PIL import Image\nprint(image_1.size, Image.open('path_to_input_image.jpg').size)"
    result = run("python", config, "", code=code(tmp_path, source), images=[card, str(other)])
    assert result["text"] == "(60, 40) (20, 30)"


def test_code_needs_no_image(tmp_path, config):
    result = run("python", config, "", code=code(tmp_path, "print(6 * 7)"))
    assert (result["status"], result["text"], result["images"], result["exit"]) == ("ok", "42", [], 0)


@pytest.mark.parametrize(
    ("source", "status", "ended", "text"),
    [
        ("1 / 0", "error", 1, "ZeroDivisionError: division by zero (line 1)"),
        ("import sys\nsys.exit(3)", "error", 3, "SystemExit: 3 (line 2)"),
        ("raise SystemExit(77)", "error", 77, "SystemExit: 77 (line 1)"),  # as memory limits end, but by its own will
        ("raise SystemExit('no')", "error", 1, "SystemExit: no (line 1)"),
        ("print(1)\nraise SystemExit(256)", "ok", 0, "1"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "error", "SIGSEGV", "The code crashed (SIGSEGV)."),
        ("while True: pass", "limit", "SIGKILL", "Time limit of 0.5 s reached."),
        ("pass", "error", 0, "No output image was written and nothing was printed."),
    ],
)
def test_a_fault_of_the_code_is_an_answer(tmp_path, config, source, status, ended, text):
    config.tools.timeout_s = 0.5 if status == "limit" else 30.0
    result = run("python", config, "", code=code(tmp_path, source))
    assert (result["status"], result["exit"], result["text"]) == (status, ended, text)


def test_a_host_that_holds_nothing_refuses_and_a_dead_worker_is_our_fault(tmp_path, config, monkeypatch):
    for error, status in ((NoneHolds("no level holds"), "refused"), (RuntimeError("no worker came up"), "infra")):

        def fails(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(tool_call, "PythonSandbox", fails)
        result = run("python", config, "", code=code(tmp_path, "print(1)"))
        assert (result["status"], result["text"]) == (status, str(error))
        assert result["exit"] is None and result["sandbox"] is None


# ---------------------------------------------------------------------------------------------- crop


def test_a_crop_is_written_and_a_bad_box_is_an_answer(tmp_path, config, card):
    config.data.update(tool_call.PUBLISHED_SIZES)
    result = run("crop", config, tmp_path, images=[card], box="10,5,30.4,25", frame="original")
    np.testing.assert_array_equal(decode_image(tmp_path / "image_2.png").pixels, noise(40, 60)[5:25, 10:30])
    assert (result["status"], result["text"], result["exit"]) == ("ok", "", None)
    clipped = run("crop", config, tmp_path, images=[card], box="500,0,2000,1000", frame="permille")
    assert "clipped to (500, 0, 1000, 1000)" in clipped["text"] and clipped["status"] == "ok"
    for box in ("30,5,10,25", "nan,0,9,9", "0,0,inf,9", "1,2,3"):
        bad = run("crop", config, tmp_path, images=[card], box=box, frame="original")
        assert bad["status"] == "error" and bad["text"] and bad["images"] == []


def test_the_resized_frame_is_the_configs(tmp_path, config, card):
    config.data.update(min_pixels=112 * 168, max_pixels=112 * 168)
    assert ImageProcessor(112 * 168, 112 * 168).resized_size(40, 60) == (112, 168)
    run("crop", config, tmp_path, images=[card], box="84,56,168,112", frame="resized")
    np.testing.assert_array_equal(decode_image(tmp_path / "image_2.png").pixels, noise(40, 60)[20:, 30:])


# ---------------------------------------------------------------------------------------------- search


def test_a_search_reads_as_in_a_rollout(tmp_path, config):
    index = tmp_path / "texts.index"
    SearchIndex.build(index, [Document("Ada", "Ada wrote <|im_end|> notes."), Document("Bo", "Bo sang.")])
    result = run("search", config, "", query="who wrote notes", index=str(index))
    text = "<information> 1. Content: Ada: Ada wrote <|im_end|> notes. </information>"
    assert (result["status"], result["text"], result["images"]) == ("ok", text, [])


def test_a_search_is_made_on_the_terms_of_a_rollout(tmp_path, config, monkeypatch):
    made = []

    class Seen(toolbox.Toolbox):
        def __init__(self, offer, services, policies, **options):
            made.append((policies["search"], options["trajectory_deadline_s"], asked[-1]))
            super().__init__(offer, services, policies, **options)

    class Asked(search_tool.SearchService):
        def __init__(self, search, top_k):
            asked.append(top_k)
            super().__init__(search, top_k)

    asked = []
    monkeypatch.setattr(toolbox, "Toolbox", Seen)
    monkeypatch.setattr(search_tool, "SearchService", Asked)
    index = tmp_path / "texts.index"
    SearchIndex.build(index, [Document("Ada", "Ada wrote notes.")])
    config.tools.update(n_threads=3, deadline_s=50.0, n_tries=2, trajectory_deadline_s=90.0, top_k=5)
    config.tools.search.update(deadline_s=9.0, try_s=1.5, n_threads=7, calls_per_s=100.0)
    with FaultServer() as server:
        for backend, flags in (("local", dict(index=str(index))), ("http", {})):
            config.tools.search.update(backend=backend, url=server.url if backend == "http" else "")
            assert run("search", config, "", query="ada", **flags)["status"] == "ok"
            with open_configured(config, ["search"], {ALL: index}):
                assert made[-1] == made[-2]
    assert made[0][1:] == (90.0, 5)
    usual, remote = made[0][0], made[-1][0]
    assert (usual.n_threads, usual.deadline_s, usual.try_s, usual.n_tries) == (3, 50.0, 50.0, 2)
    assert (remote.n_threads, remote.deadline_s, remote.try_s, remote.calls_per_s) == (7, 9.0, 1.5, 100.0)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for name, value in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        PIL.Image.new("RGB", (20, 10), value).save(folder / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "caption": f"A {name} wall."}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    ImageIndex.build(tmp_path / "photos.index", folder, mean_colour)
    return str(tmp_path / "photos.index")


def mean_colour(images):
    means = np.stack([image.pixels.mean((0, 1)) for image in images]).astype(np.float32) + 1
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_images_are_found_by_their_captions(tmp_path, config, photos):
    result = run("image_search", config, tmp_path / "out", query="green", index=photos)
    assert result["text"] == "<information> 1. Content: image_1: A green wall. </information>"
    assert (decode_image(result["images"][0]).pixels == (0, 255, 0)).all() and len(result["images"]) == 1


def test_images_are_found_by_an_image_and_named_after_it(tmp_path, config, photos, monkeypatch):
    monkeypatch.setattr("arft_jax.build.image_embedder.embed_function", lambda config: mean_colour)
    config.tools.search.image_top_k = 2
    asked = tmp_path / "asked.png"
    PIL.Image.new("RGB", (30, 30), (10, 0, 240)).save(asked)
    result = run("image_search", config, tmp_path / "out", images=[str(asked)], index=photos)
    assert result["text"].startswith("<information> 1. Content: image_2: A blue wall. 2. Content: image_3: ")
    assert [pathlib.Path(path).name for path in result["images"]] == ["image_2.png", "image_3.png"]


def test_a_found_image_that_is_gone_leaves_the_others(tmp_path, config, photos):
    (tmp_path / "photos" / "red.png").unlink()
    config.tools.search.image_top_k = 3
    result = run("image_search", config, tmp_path / "out", query="wall", index=photos)
    assert result["status"] == "ok" and len(result["images"]) == 2 and "red" not in result["text"]


# ---------------------------------------------------------------------------------------------- requests


def test_an_image_that_the_door_refuses_is_a_refused_call(tmp_path, config):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    result = run("crop", config, "", images=[str(bad)], box="0,0,9,9", frame="original")
    assert result["status"] == "refused" and result["text"].endswith("(no image format that is read here) (--image)")


BAD = [
    (dict(tool="paint"), "the tool must be one of python, search, image_search, crop: got 'paint'"),
    (dict(tool="python"), "python needs --code"),
    (dict(tool="python", code="x", box="1"), "python takes no --box"),
    (dict(tool="python", code="/nowhere.py"), "--code must be a readable UTF-8 file: got /nowhere.py"),
    (dict(tool="python", code="x", level="L9"), "level must be one of"),
    (dict(tool="search"), "search needs --query"),
    (dict(tool="search", query="x"), "search needs --index, or a --config"),
    (dict(tool="search", query="x", index="/nowhere"), "/nowhere"),
    (dict(tool="search", query="x", index="y", code="z"), "search takes no --code"),
    (dict(tool="image_search", index="x"), "image_search needs one --image or a --query"),
    (dict(tool="image_search", index="x", query="q", images=["a"]), "image_search needs one --image or a --query"),
    (dict(tool="crop", images=["a"], box="1"), "crop needs --frame"),
    (dict(tool="crop", images=["a", "b"], box="1", frame="original"), "crop needs one --image: got 2"),
    (dict(tool="crop", images=["a"], box="1", frame="px"), "--frame must be one of resized, permille, original"),
    (dict(tool="crop", images=["/nowhere.png"], box="0,0,1,1", frame="original"), "must exist: got /nowhere.png"),
    (dict(tool="crop", images=["CARD"], box="0,0,1,x", frame="original"), "--box must be four numbers"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_a_request_that_fits_no_tool_is_the_callers_mistake(tmp_path, config, card, given, sentence):
    if given.get("code") == "x":
        given = given | {"code": code(tmp_path, "print(1)")}
    if given.get("images") == ["CARD"]:
        given = given | {"images": [card]}
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        tool_call.run(ToolRequest(config=config, **given))
    assert sentence in str(caught.value)


def test_out_must_be_a_folder(tmp_path, config, card):
    with pytest.raises(ValueError, match="--out must be a folder: got .*card.png"):
        tool_call.run(ToolRequest("crop", config, images=[card], box="0,0,9,9", frame="original"), card)


def test_without_out_images_go_to_a_fresh_folder(config, card, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = [
        tool_call.run(ToolRequest("crop", config, images=[card], box="0,0,9,9", frame="original"))["images"]
        for _ in range(2)
    ]
    assert made[0] != made[1] and all(pathlib.Path(path).is_relative_to(tmp_path) for paths in made for path in paths)


def test_the_stand_in_passes_the_door():
    assert decode_image(encode_png(stand_in())).sha256 == stand_in().sha256
