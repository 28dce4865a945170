"""Image search: an image finds itself and its copies, captions are searched, other weights are noticed."""

import io
import json
import os
import pathlib
import sys

import jax
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from flax import nnx

from arft_jax.build.image_embedder import Embedder
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor, decode_image
from arft_jax.testing.tiny_model import TINY_PACKING, tiny_model
from arft_jax.tools import image_index
from arft_jax.tools.image_index import CAPTIONS, ImageIndex, image_path, read_captions
from arft_jax.trajectory import Image

N = 50


def scene(seed):
    """A picture of its own: a background and five figures, at random."""
    rng = np.random.default_rng(seed)
    picture = PIL.Image.new("RGB", (112, 112), tuple(rng.integers(0, 256, 3)))
    draw = PIL.ImageDraw.Draw(picture)
    for number in range(5):
        x, y, w, h = rng.integers(0, 84, 2).tolist() + rng.integers(12, 60, 2).tolist()
        figure = (draw.rectangle, draw.ellipse)[number % 2]
        figure((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def tiny_embedder(seed):
    graphdef, params = nnx.split(tiny_model(seed=seed).vision)
    processor = ImageProcessor(min_pixels=112 * 112, max_pixels=112 * 112)
    return Embedder(graphdef, params, processor, VisionBucket(256, 16, TINY_PACKING))


@pytest.fixture(scope="module")
def embed():
    return tiny_embedder(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    (root / "more").mkdir()
    lines = []
    for i in range(N):
        name = f"more/{i}.png" if i % 2 else f"{i}.png"
        scene(i).save(root / name)
        lines.append(json.dumps({"image": name, "caption": f"scene number{i} with figures"}))
    (root / CAPTIONS).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def built(folder, embed, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "photos"
    report = ImageIndex.build(path, folder, embed, batch=7)
    assert (report["images"], report["dim"]) == (N, 48)
    return path


@pytest.fixture(scope="module")
def index(built, embed):
    with ImageIndex(built, embed) as opened:
        yield opened


def number_of(hit):
    return int(pathlib.Path(hit.name).stem)


def as_image(picture):
    return Image(np.asarray(picture))


def test_an_image_finds_itself(index):
    assert len(index) == N
    for i in range(N):
        first, second = index.search(as_image(scene(i)), 2)
        assert number_of(first) == i and first.caption == f"scene number{i} with figures"
        assert first.score == pytest.approx(1.0, abs=1e-4) and second.score < first.score


def noisy(picture):
    pixels = np.asarray(picture) + np.random.default_rng(7).normal(0, 12, (112, 112, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60)
    return PIL.Image.open(file)


def turned(picture, degrees):
    return picture.rotate(degrees, PIL.Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))


CHANGES = {
    "noise": noisy,
    "turned by 4 degrees": lambda picture: turned(picture, 4),
    "jpeg": jpeg,
    "smaller": lambda picture: picture.resize((80, 80)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_finds_its_original_among_fifty(index, change):
    for i in range(N):
        assert number_of(index.search(as_image(CHANGES[change](scene(i))), 1)[0]) == i


def test_a_copy_turned_by_a_quarter_finds_its_original_among_the_first(index):
    # Random weights know no directions; measured: 47 of 50 first, the others among the first four.
    found = [[number_of(hit) for hit in index.search(as_image(turned(scene(i), 90)), 5)] for i in range(N)]
    assert all(i in hits for i, hits in enumerate(found))
    assert sum(i == hits[0] for i, hits in enumerate(found)) >= 45


def test_the_graph_of_large_indices_finds_the_same(index, monkeypatch):
    pictures = [as_image(scene(i)) for i in range(0, N, 10)]
    exact = [index.search(picture, 5) for picture in pictures]
    monkeypatch.setattr(image_index, "_EXACT", 0)
    assert [index.search(picture, 5) for picture in pictures] == exact
    assert len(index.search(pictures[0], 1000)) == N


def test_captions_are_searched_without_a_model(built, folder):
    with ImageIndex(built, None) as index:
        hits = index.search_text("number17 figures", 3)
        assert number_of(hits[0]) == 17 and len(hits) == 3
        np.testing.assert_array_equal(index.load(hits[0], "found_1").pixels, np.asarray(scene(17)))
        assert index.load(hits[0], "found_1").name == "found_1"
        with pytest.raises(ValueError, match="needs the function that embeds it"):
            index.search(as_image(scene(0)), 1)


def test_a_rebuilt_index_is_the_same_but_for_the_names_of_the_text_index(built, folder, embed, tmp_path):
    ImageIndex.build(tmp_path / "again", folder, embed, batch=7)
    for name in ("vectors.usearch", "probes.npy", "index.json"):
        assert (built / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_an_older_index_is_replaced_whole_and_read_on_by_who_opened_it(folder, embed, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    scene(3).save(few / "3.png")
    (few / CAPTIONS).write_text('{"image": "3.png", "caption": "three"}')
    ImageIndex.build(tmp_path / "i", few, embed)
    with ImageIndex(tmp_path / "i", embed) as old:
        ImageIndex.build(tmp_path / "i", folder, embed)
        assert [number_of(hit) for hit in old.search(as_image(scene(5)), 9)] == [3]
        assert old.search_text("three", 1)[0].caption == "three"
    with ImageIndex(tmp_path / "i", embed) as new:
        assert number_of(new.search(as_image(scene(5)), 1)[0]) == 5
    assert sorted(os.listdir(tmp_path)) == ["few", "i"]


def test_other_weights_than_the_indexs_are_refused(built, embed):
    with pytest.raises(ValueError, match=r"weights must be those .* agree to -?0\.\d+ only, .*photos"):
        ImageIndex(built, tiny_embedder(1))
    nudged = tiny_embedder(0)  # the same weights but for one layer
    nudged.params = jax.tree.map(lambda leaf: leaf, embed.params)
    kernel = nudged.params["patch_embed"]["kernel"]
    nudged.params["patch_embed"]["kernel"] = kernel.replace(kernel.get_value() * 1.5)
    with pytest.raises(ValueError, match="weights must be those"):
        ImageIndex(built, nudged)
    with pytest.raises(ValueError, match="has vectors of 48, these give 3"):
        ImageIndex(built, lambda images: np.eye(3, dtype=np.float32)[: len(images)])


@pytest.mark.parametrize(
    "vectors",
    [np.ones((3, 4), np.float32), np.eye(3), np.eye(4, dtype=np.float32), np.full((3, 4), np.nan, np.float32)],
)
def test_what_is_no_unit_vector_is_refused(folder, tmp_path, vectors):
    with pytest.raises(ValueError, match="embed must give"):
        ImageIndex.build(tmp_path / "i", folder, lambda images: vectors)
    assert os.listdir(tmp_path) == []


BAD = {
    "{": "Expecting property name",
    '["a.png", "x"]': "must be an object with the strings 'image' and 'caption'",
    '{"image": "a.png"}': "must be an object with the strings",
    '{"image": "a.png", "caption": 5}': "must be an object with the strings",
    '{"image": "a.png", "caption": "twice"}': "'a.png' stands in line 1 too",
    '{"image": "none.png", "caption": ""}': "must be a file of its folder: got 'none.png'",
    '{"image": "../out.png", "caption": ""}': "must be a file of its folder: got '../out.png'",
    '{"image": "/etc/passwd", "caption": ""}': "must be a file of its folder: got '/etc/passwd'",
    '{"image": "link.png", "caption": ""}': "must be a file of its folder: got 'link.png'",
    '{"image": "a\\u0000.png", "caption": ""}': "image must hold no NUL and no lone surrogate: got 'a\\\\x00.png'",
    '{"image": "", "caption": ""}': "must be a file of its folder: got ''",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_captions_are_named_by_line(tmp_path, line):
    folder = tmp_path / "in"
    folder.mkdir()
    for place in (folder / "a.png", tmp_path / "out.png"):
        scene(0).save(place)
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / CAPTIONS).write_text('{"image": "a.png", "caption": "x"}\n\n' + line)
    with pytest.raises(ValueError, match=f"{CAPTIONS}:3: .*{BAD[line]}"):
        read_captions(folder)


def test_folders_without_captions_and_damaged_images_are_named(tmp_path, embed):
    with pytest.raises(ValueError, match="a folder of images must hold captions.jsonl: none in"):
        read_captions(tmp_path)
    (tmp_path / CAPTIONS).write_text("\n")
    with pytest.raises(ValueError, match="must name at least one image"):
        read_captions(tmp_path)
    (tmp_path / CAPTIONS).write_text('{"image": "a.png", "caption": "x"}')
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png"):
        ImageIndex.build(tmp_path / "i", tmp_path, embed)
    assert sorted(os.listdir(tmp_path)) == ["a.png", CAPTIONS]
    with pytest.raises(ValueError):
        decode_image(image_path(tmp_path, "a.png"))


def test_damaged_and_missing_indices_are_named(built, folder, embed, tmp_path):
    with pytest.raises(FileNotFoundError, match="no image index at"):
        ImageIndex(tmp_path / "none", embed)
    with pytest.raises(ValueError, match="captions is no image index"):
        ImageIndex(built / "captions", embed)
    ImageIndex.build(tmp_path / "i", folder, embed)
    whole = (built / "vectors.usearch").read_bytes()
    for contents in (b"", b"no graph " * 100, whole[: len(whole) // 2]):
        (tmp_path / "i" / "vectors.usearch").write_bytes(contents)
        with pytest.raises(ValueError, match="damaged"):
            ImageIndex(tmp_path / "i", embed)
    (tmp_path / "i" / "vectors.usearch").write_bytes(whole)
    header = json.loads((tmp_path / "i" / "index.json").read_text())
    header["images"].append(["51.png", "one more"])
    (tmp_path / "i" / "index.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match="must hold 51 vectors: got 50"):
        ImageIndex(tmp_path / "i", embed)


def test_without_the_extra_the_error_names_it(folder, embed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(ValueError, match=r"pip install 'arft_jax\[search\]'"):
        ImageIndex.build(tmp_path / "i", folder, embed)


def test_wrong_counts_are_named(index, folder, embed):
    with pytest.raises(ValueError, match="top_k must be at least 1: got 0"):
        index.search(as_image(scene(0)), 0)
    with pytest.raises(ValueError, match="batch must be at least 1: got 0"):
        ImageIndex.build("never", folder, embed, batch=0)
