"""Removal and collection hold against what a hostile call leaves."""

import os
import pathlib
import sys
import tempfile

from arft_jax.tools.sandbox import scratch


def test_a_chain_deeper_than_the_stack_is_removed():
    root = pathlib.Path(tempfile.mkdtemp(dir=scratch.choose_root()))
    (root / "file").write_text("x")
    fd = os.open(root, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    scratch.remove(str(root))
    assert not root.exists()


def test_removal_does_not_follow_links(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / "call").mkdir()
    (tmp_path / "call" / "link").symlink_to(tmp_path / "precious")
    scratch.remove(str(tmp_path / "call"))
    assert (tmp_path / "precious" / "file").exists()


def test_collect_takes_only_a_small_regular_file(tmp_path):
    (tmp_path / "ok").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "ok")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert scratch.collect(fd, "ok", 3) == ("file", b"abc")
        assert scratch.collect(fd, "ok", 2) == ("large", b"")
        assert scratch.collect(fd, "link", 3) == ("irregular", b"")
        assert scratch.collect(fd, "none", 3) == ("none", b"")
    finally:
        os.close(fd)


def test_fullness_counts_bytes_and_entries(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "big").write_bytes(bytes(100_000))
    assert scratch.is_over(str(tmp_path), 50_000, 10)
    assert not scratch.is_over(str(tmp_path), 500_000, 10)
    assert scratch.is_over(str(tmp_path), 500_000, 1)
