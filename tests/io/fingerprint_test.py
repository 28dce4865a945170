"""Hashes of weights: the same for the same files wherever they lie, another for any other."""

import shutil

import numpy as np

from arft_jax.io.fingerprint import sampled_sha256


def test_a_copy_has_the_same_hash_and_other_names_sizes_or_contents_another(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.json").write_text("{}")
    large = np.random.default_rng(0).bytes(9 << 20)  # larger than what is read whole
    (first / "model.safetensors").write_bytes(large)
    (first / "README.md").write_text("no matter")
    want = sampled_sha256(first)
    shutil.copytree(first, second := tmp_path / "second")
    (second / "README.md").write_text("still none")
    assert sampled_sha256(second) == want
    for name, contents in (
        ("config.json", b"[]"),
        ("model.safetensors", large + b"x"),
        ("model.safetensors", large[:-1] + bytes([large[-1] ^ 1])),  # the last block is among those that are read
        ("model.safetensors", bytes(b ^ 1 for b in large)),
    ):
        before = (second / name).read_bytes()
        (second / name).write_bytes(contents)
        assert sampled_sha256(second) != want
        (second / name).write_bytes(before)
    (second / "config.json").rename(second / "confog.json")
    assert sampled_sha256(second) != want


def test_of_a_file_the_name_does_not_matter(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"weights")
    assert sampled_sha256(tmp_path / "a.gguf") == sampled_sha256(tmp_path / "b.gguf")
