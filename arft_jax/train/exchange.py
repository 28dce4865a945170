"""Samples and images of all processes on every process, so that an update does not depend on who rolled a group out.

A step's tokens, positions, masks and log-probs are 21 bytes a token; its images are sent as pixels. In a run of one
process nothing is sent.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from arft_jax.data.samples import Sample
from arft_jax.io import hosts
from arft_jax.trajectory import Image, ImageSpan


class Pool(NamedTuple):
    """What all processes learn from in a step.

    Args:
      samples: of the first process, then of the second, and so on; row p*G + g.
      images: that they show, by hash.
      rewards: float32[B].
      valid: bool[B].
    """

    samples: list[Sample]
    images: Mapping[str, Image]
    rewards: np.ndarray
    valid: np.ndarray


def gathered(pool: Pool) -> Pool:
    """The pools of all processes as one, the same on each. A meeting of the processes."""
    if jax.process_count() == 1:
        return pool
    parts = [_read(data) for data in hosts.gather_bytes(_written(pool))]
    samples, images = [], {}
    for part in parts:
        first = samples[-1].group + 1 if samples else 0
        samples += [dataclasses.replace(sample, group=first + sample.group) for sample in part.samples]
        images |= part.images
    return Pool(samples, images, *(np.concatenate([getattr(p, name) for p in parts]) for name in ("rewards", "valid")))


_BY_TOKEN = ("tokens", "loss_mask", "sampler_logps")


def _written(pool: Pool) -> bytes:
    """A pool as the bytes of an npz archive; advantages, old and reference log-probs are made later."""
    samples, images = pool.samples, list(pool.images.items())
    spans = [(i, span) for i, sample in enumerate(samples) for span in sample.images]
    arrays = {name: _joined([getattr(s, name) for s in samples]) for name in _BY_TOKEN}
    arrays |= dict(
        rewards=pool.rewards,
        valid=pool.valid,
        positions=np.concatenate([np.zeros((3, 0), np.int32), *(s.positions for s in samples)], axis=1),
        heads=np.array([(len(s.tokens), s.group, s.prefix_len) for s in samples], np.int64).reshape(-1, 3),
        spans=np.array([(i, span.start, span.n, *span.grid) for i, span in spans], np.int64).reshape(-1, 6),
        span_hashes=_hashes([span.sha256 for _, span in spans]),
        image_hashes=_hashes([sha256 for sha256, _ in images]),
        image_shapes=np.array([image.pixels.shape for _, image in images], np.int64).reshape(-1, 3),
        pixels=_joined([np.ascontiguousarray(image.pixels).reshape(-1) for _, image in images], np.uint8),
    )
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _joined(arrays: Sequence[np.ndarray], dtype=None) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _hashes(names: Sequence[str]) -> np.ndarray:
    """uint8[n, 32] of hexadecimal digests."""
    return np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 32)


def _read(data: bytes) -> Pool:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    heads = arrays["heads"]
    ends = np.cumsum(heads[:, 0])
    spans: list[list[ImageSpan]] = [[] for _ in heads]
    for (i, start, n, *grid), digest in zip(arrays["spans"].tolist(), arrays["span_hashes"], strict=True):
        spans[i].append(ImageSpan(digest.tobytes().hex(), start, n, tuple(grid)))
    samples = [
        Sample(
            **{name: arrays[name][end - n : end] for name in _BY_TOKEN},
            positions=arrays["positions"][:, end - n : end],
            images=tuple(spans[i]),
            group=group,
            prefix_len=prefix_len,
        )
        for i, ((n, group, prefix_len), end) in enumerate(zip(heads.tolist(), ends.tolist(), strict=True))
    ]
    images, at = {}, 0
    for shape, digest in zip(arrays["image_shapes"].tolist(), arrays["image_hashes"], strict=True):
        n = int(np.prod(shape))
        images[digest.tobytes().hex()] = Image(arrays["pixels"][at : at + n].reshape(shape))
        at += n
    return Pool(samples, images, arrays["rewards"], arrays["valid"])
