"""What every process knows of a step: all samples in the processes' order, and their images."""

import dataclasses

import jax
import numpy as np
import pytest

from arft_jax.data.samples import Sample
from arft_jax.io import hosts
from arft_jax.testing.tiny_rollout import tiny_image
from arft_jax.train.exchange import Pool, gathered
from arft_jax.trajectory import ImageSpan


def pool(seed, n_groups, n_images=2):
    """Two samples a group, each with spans of the images, the last of them without any."""
    rng, images = np.random.default_rng(seed), [tiny_image(10 * seed + k, 28, 28 * (k + 1)) for k in range(n_images)]
    samples = []
    for i in range(2 * n_groups):
        n = int(rng.integers(5, 9))
        spans = tuple(ImageSpan(image.sha256, k, 1, (1, 2, 2 * k + 2)) for k, image in enumerate(images))
        samples.append(
            Sample(
                tokens=rng.integers(0, 900, n).astype(np.int32),
                positions=rng.integers(0, 900, (3, n)).astype(np.int32),
                loss_mask=rng.random(n) < 0.5,
                sampler_logps=rng.normal(size=n).astype(np.float32),
                images=spans if i < 2 * n_groups - 1 else (),
                group=i // 2,
                prefix_len=i % 3,
            )
        )
    rewards, valid = rng.normal(size=2 * n_groups).astype(np.float32), rng.random(2 * n_groups) < 0.5
    return Pool(samples, {image.sha256: image for image in images}, rewards, valid)


def test_one_process_keeps_what_it_has():
    mine = pool(1, 2)
    assert gathered(mine) is mine


@pytest.mark.parametrize("n_images", [2, 0])
def test_all_processes_have_all_samples_in_their_order_bit_for_bit(n_images, monkeypatch):
    first, second, sent = pool(1, 2, n_images), pool(2, 3, n_images), {}
    for name, one in (("first", first), ("second", second)):  # what each sends
        monkeypatch.setattr(hosts, "gather_bytes", lambda data, name=name: [sent.setdefault(name, data)])
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        gathered(one)
    monkeypatch.setattr(hosts, "gather_bytes", lambda data: [sent["first"], sent["second"]])
    found = gathered(first)
    wanted = [*first.samples, *(dataclasses.replace(s, group=s.group + 2) for s in second.samples)]
    assert [sample.group for sample in found.samples] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for got, want in zip(found.samples, wanted, strict=True):
        assert [*map(dataclasses.astuple, got.images)] == [*map(dataclasses.astuple, want.images)]
        assert (got.group, got.prefix_len) == (want.group, want.prefix_len)
        for name in ("tokens", "positions", "loss_mask", "sampler_logps"):
            a, b = getattr(got, name), getattr(want, name)
            assert a.dtype == b.dtype and np.array_equal(a, b), name
        assert got.advantages is None and got.old_logps is None and got.ref_logps is None
    np.testing.assert_array_equal(found.rewards, np.concatenate([first.rewards, second.rewards]))
    np.testing.assert_array_equal(found.valid, np.concatenate([first.valid, second.valid]))
    assert found.images.keys() == first.images.keys() | second.images.keys()
    for name, image in found.images.items():
        assert image.sha256 == name


def test_bytes_of_all_processes_arrive_whole_in_pieces(monkeypatch):
    others = b"x" * 70
    lengths = []

    def gather(values):  # what this process and another one, which has more, would get
        if values.ndim == 0:
            return np.array([values, len(others)])
        lengths.append(len(values))
        at = sum(lengths[:-1])
        return np.stack([values, np.frombuffer(others.ljust(999)[at : at + len(values)], np.uint8)])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_PIECE", 32)
    monkeypatch.setattr(hosts, "_gather", gather)
    mine = bytes(range(40))
    assert hosts.gather_bytes(mine) == [mine, others] and lengths == [32, 32, 6]
