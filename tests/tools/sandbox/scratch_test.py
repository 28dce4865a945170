"""Removal and collection hold against what a hostile call leaves."""

import contextlib
import ctypes
import itertools
import os
import pathlib
import sys
import tempfile

import pytest

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


@pytest.fixture
def folder_fd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_fullness_counts_bytes_and_entries(tmp_path, folder_fd):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "big").write_bytes(bytes(100_000))
    assert scratch.is_over(folder_fd, 50_000, 10)
    assert not scratch.is_over(folder_fd, 500_000, 10)
    assert scratch.is_over(folder_fd, 500_000, 1)
    assert not scratch.is_over(folder_fd, 500_000, 2)  # measured again from the start


def test_fullness_sees_what_lies_below_a_path_too_long_to_open(tmp_path, folder_fd):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(20):  # 20 * 251 bytes of path, above PATH_MAX = 4096
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        pathlib.Path("big").write_bytes(bytes(400_000))
    finally:
        os.chdir(here)
    assert scratch.is_over(folder_fd, 300_000, 100)
    assert not scratch.is_over(folder_fd, 700_000, 100)
    scratch.remove(str(tmp_path))


def test_deleted_files_that_a_process_holds_are_counted(tmp_path, folder_fd):
    with open(tmp_path / "gone", "w+b") as f:
        f.write(bytes(100_000))
        f.flush()
        before = scratch.held_bytes(os.getpid(), folder_fd, 1 << 30)
        os.unlink(f.name)
        assert 100_000 <= scratch.held_bytes(os.getpid(), folder_fd, 1 << 30) - before < 200_000


def test_a_descriptor_that_is_closed_during_the_count_hides_no_other(tmp_path, folder_fd, monkeypatch):
    class Closed:
        def stat(self):
            raise FileNotFoundError

    @contextlib.contextmanager
    def scandir(path, real=os.scandir):
        with real(path) as entries:
            yield itertools.chain([Closed()], entries)

    with open(tmp_path / "gone", "w+b") as f:
        f.write(bytes(100_000))
        f.flush()
        before = scratch.held_bytes(os.getpid(), folder_fd, 1 << 30)
        os.unlink(f.name)
        monkeypatch.setattr(os, "scandir", scandir)
        assert 100_000 <= scratch.held_bytes(os.getpid(), folder_fd, 1 << 30) - before < 200_000


def test_a_deleted_file_of_which_a_page_is_mapped_counts_as_the_largest_that_there_may_be(tmp_path, folder_fd):
    """The kernel tells its size to nobody without rights."""
    map_page, unmap = ctypes.CDLL(None).mmap, ctypes.CDLL(None).munmap
    map_page.restype = ctypes.c_void_p
    before, pages = scratch.held_bytes(os.getpid(), folder_fd, 1 << 30), []
    for name in ("a", "b \r (deleted)\n"):
        (tmp_path / name).write_bytes(bytes(10_000))
        fd = os.open(tmp_path / name, os.O_RDWR)
        for _ in range(2):  # two mappings of a file are one file
            pages.append(map_page(None, ctypes.c_size_t(4096), 1, 1, fd, ctypes.c_long(0)))
        os.close(fd)
        assert scratch.held_bytes(os.getpid(), folder_fd, 1 << 30) - before == (len(pages) // 2 - 1) << 30
        os.unlink(tmp_path / name)
        assert scratch.held_bytes(os.getpid(), folder_fd, 1 << 30) - before == (len(pages) // 2) << 30
    for page in pages:
        unmap(ctypes.c_void_p(page), ctypes.c_size_t(4096))
    assert scratch.held_bytes(os.getpid(), folder_fd, 1 << 30) == before


def test_outputs_come_in_the_order_of_their_numbers(tmp_path, folder_fd):
    for name in ("output_10.png", "output_2.png", "output_a.jpg", "other.png", "output_.png", "output_1.txt"):
        (tmp_path / name).touch()
    assert scratch.output_names(folder_fd) == ["output_2.png", "output_10.png", "output_a.jpg"]
