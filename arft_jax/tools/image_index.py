"""Search in a folder of captioned images: by an image, over vectors; by text, over the captions.

The folder holds ``captions.jsonl``, a line ``{"image": "a/b.png", "caption": "..."}`` for each image. Vectors come from
a function that the caller gives, so that this module needs no model; they are compared by inner product (all of length
1: the cosine). Up to 20,000 images every vector is compared; above, usearch's graph (HNSW, Malkov & Yashunin, arXiv
1603.09320) finds nearly all of the nearest. Its file is memory-mapped. Why usearch and not faiss: a sixth of the size.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from arft_jax.data.images import decode_image
from arft_jax.data.items import check_texts
from arft_jax.io import terminal
from arft_jax.tools.search_index import Document, SearchIndex
from arft_jax.tools.whole_directory import read_header, write_directory
from arft_jax.trajectory import Image

KIND, VERSION = "image_index", 1
CAPTIONS = "captions.jsonl"
Embed = Callable[[Sequence[Image]], np.ndarray]

_EXACT = 20_000
_EXPANSION = 256  # neighbours that a search of the graph looks at
_MIN_COSINE = 0.999  # of the probes; other weights give less, another device or batch more
_DIGITS = 5
_REPORT_EVERY = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class ImageHit:
    """An image found. ``name`` is its path in the folder; ``score`` the cosine, or BM25 where text was asked."""

    name: str
    caption: str
    score: float


def _usearch() -> ModuleType:
    try:
        import usearch.index
    except ImportError as error:
        raise ValueError(f"image search needs usearch: pip install 'arft_jax[search]' ({error})") from error
    return usearch.index


def probes() -> list[Image]:
    """Three fixed pictures, by whose vectors an index knows the weights it was built with."""
    y, x = np.mgrid[:112, :112].astype(np.int64)
    slopes = np.stack([2 * x, 2 * y, x + y], axis=-1)
    checks = ((x // 16 + y // 16) % 2)[:, :, None] * np.array([255, 128, 0])
    noise = (x * 7919 + y * 104_729 + x * y * 31)[:, :, None] * np.array([1, 3, 7]) % 251
    return [Image(picture.astype(np.uint8), "probe") for picture in (slopes, checks, noise)]


def _embed_checked(embed: Embed, images: Sequence[Image]) -> np.ndarray:
    """float32[n, D] of length 1.

    Raises:
      ValueError: the function gave something else.
    """
    vectors = np.asarray(embed(images))
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(images):
        raise ValueError(f"embed must give float32[{len(images)}, D]: got {vectors.dtype}{list(vectors.shape)}")
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
        raise ValueError("embed must give finite vectors of length 1")
    return vectors


def read_captions(folder: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """(path in the folder, caption) of every image of ``captions.jsonl``, in its order.

    Raises:
      ValueError: no such file or no line in it, or, by file and line number: a malformed line, an image that is
        missing, outside the folder or named twice.
    """
    folder = pathlib.Path(folder)
    file, seen = folder / CAPTIONS, {}
    if not file.is_file():
        raise ValueError(f"a folder of images must hold {CAPTIONS}: none in {folder} (--images)")
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
            if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in ("image", "caption")):
                raise ValueError("a line must be an object with the strings 'image' and 'caption'")
            check_texts({key: record[key] for key in ("image", "caption")}, "", "--images")
            name = record["image"]
            if name in seen:
                raise ValueError(f"an image must be named once: {name!r} stands in line {seen[name][0]} too")
            image_path(folder, name)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None
        seen[name] = (number, record["caption"])
    if not seen:
        raise ValueError(f"{file} must name at least one image")
    return [(name, caption) for name, (_, caption) in seen.items()]


def image_path(folder: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The file of an image of the folder.

    Raises:
      ValueError: it is missing, or the name or a link leads out of the folder.
    """
    root = pathlib.Path(folder).resolve()
    try:
        path = (root / name).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # NUL, names too long, loops of links
        raise ValueError(f"an image must be a file of its folder: got {name!r} ({error})") from None
    if not path.is_relative_to(root) or not path.is_file():
        raise ValueError(f"an image must be a file of its folder: got {name!r}")
    return path


def _vectors(folder, names: list[str], embed: Embed, batch: int, out: TextIO) -> Iterator[np.ndarray]:
    started = last = time.monotonic()
    for start in range(0, len(names), batch):
        images = [decode_image(image_path(folder, name), links=False) for name in names[start : start + batch]]
        yield _embed_checked(embed, images)
        done, now = start + len(images), time.monotonic()
        if now - last >= _REPORT_EVERY:
            last, rate = now, done / (now - started)
            terminal.say(
                f"{done:,} of {len(names):,} images, {rate:.1f} a second, {(len(names) - done) / rate:.0f} s left",
                file=out,
            )


class ImageIndex:
    """Searches an index; threads may share it.

    Args:
      path: a directory that :meth:`build` wrote.
      embed: what it was built with; None: only texts can be asked.
      folder: where the images are now; None: where they were when it was built.

    Raises:
      FileNotFoundError: there is nothing under that name.
      ValueError: it is no image index, a damaged one, or ``embed`` has other weights than it was built with.
    """

    def __init__(self, path: str | os.PathLike[str], embed: Embed | None, folder: str | os.PathLike[str] | None = None):
        path = pathlib.Path(path)
        header = read_header(path, KIND, VERSION)
        self.folder = pathlib.Path(folder if folder is not None else header["folder"])
        self._embed, self._images = embed, header["images"]
        engine = _usearch()
        try:
            self._graph = engine.Index.restore(str(path / "vectors.usearch"), view=True)
            n_vectors, expected = len(self._graph), np.load(path / "probes.npy")
        except (OSError, RuntimeError, ValueError, EOFError, TypeError) as error:  # None where it knows no such file
            raise ValueError(f"{path} is a damaged image index ({error}): rebuild it") from None
        if n_vectors != len(self):
            raise ValueError(f"{path} must hold {len(self)} vectors: got {n_vectors}; it is damaged, rebuild it")
        self._graph.expansion_search = _EXPANSION
        if embed is not None:
            self._check_weights(path, expected)
        self._captions = SearchIndex(path / "captions")

    def _check_weights(self, path: pathlib.Path, expected: np.ndarray) -> None:
        got = _embed_checked(self._embed, probes())
        if got.shape != expected.shape:
            raise ValueError(
                f"the weights must be those that the index was built with: {path} has vectors of {expected.shape[1]}, "
                f"these give {got.shape[1]} (config.weights, config.seed); rebuild it"
            )
        cosine = float(np.sum(got * expected, axis=1).min())
        if not cosine >= _MIN_COSINE:
            raise ValueError(
                f"the weights must be those that the index was built with: the probe pictures' vectors agree to "
                f"{cosine:.3f} only, {path} (config.weights, config.seed); rebuild it"
            )

    @staticmethod
    def build(
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        embed: Embed,
        batch: int = 16,
        progress: TextIO = sys.stderr,
    ) -> dict[str, Any]:
        """Writes an index, whole or not at all. The images stay in their folder.

        Args:
          path: the directory to write; its parent must exist. An older index of that name is replaced.
          folder: images and ``captions.jsonl``.
          embed: images -> float32[n, D] of length 1.
          batch: images decoded at a time.
          progress: where a line goes every few seconds.

        Returns:
          images, dim, seconds.

        Raises:
          ValueError: as :func:`read_captions`, an unreadable image, or no place for an index.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1: got {batch}")
        engine, started = _usearch(), time.monotonic()
        pairs = read_captions(folder)
        names = [name for name, _ in pairs]
        header = {"kind": KIND, "version": VERSION, "folder": str(pathlib.Path(folder).resolve()), "images": pairs}
        with write_directory(path, header) as directory:
            expected = _embed_checked(embed, probes())
            np.save(directory / "probes.npy", expected)
            graph, at = engine.Index(ndim=expected.shape[1], metric="ip", dtype="f32"), 0
            for vectors in _vectors(folder, names, embed, batch, progress):
                graph.add(np.arange(at, at + len(vectors)), vectors, threads=1)  # in order: the same graph each time
                at += len(vectors)
            graph.save(str(directory / "vectors.usearch"))
            SearchIndex.build(
                directory / "captions", (Document("", text, id=str(i)) for i, (_, text) in enumerate(pairs))
            )
        return {"images": len(names), "dim": expected.shape[1], "seconds": time.monotonic() - started}

    def __len__(self) -> int:
        return len(self._images)

    def search(self, image: Image, top_k: int) -> list[ImageHit]:
        """The images that look most alike, best first.

        Raises:
          ValueError: ``top_k`` below 1, or an index opened without ``embed``.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1: got {top_k}")
        if self._embed is None:
            raise ValueError("a search by image needs the function that embeds it: the index was opened without")
        vector = _embed_checked(self._embed, [image])[0]
        found = self._graph.search(vector, min(top_k, len(self)), exact=len(self) <= _EXACT)
        rows = [int(key) for key in found.keys]
        scores = [round(1.0 - float(distance), _DIGITS) for distance in found.distances]
        hits = sorted(zip(scores, rows, strict=True), key=lambda hit: (-hit[0], hit[1]))
        return [ImageHit(*self._images[row], score) for score, row in hits]

    def search_text(self, query: str, top_k: int) -> list[ImageHit]:
        """The images whose captions hold words of the query, best first."""
        hits = self._captions.search(query, top_k)
        return [ImageHit(*self._images[int(hit.source)], hit.score) for hit in hits]

    def load(self, hit: ImageHit, name: str = "") -> Image:
        """The pixels of a hit; ``name`` is how the trajectory shall call them.

        Raises:
          ValueError: the file is gone, unreadable or has left the folder.
        """
        return decode_image(image_path(self.folder, hit.name), name, links=False)

    def close(self) -> None:
        """Lets go of the files; safe to repeat."""
        self._captions.close()

    def __enter__(self) -> "ImageIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
