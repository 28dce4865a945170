"""A directory is replaced by a complete one, and is there until then."""

import os
import pathlib

import pytest

from arft_jax.tools.whole_directory import read_header, write_directory


def test_a_writer_that_ended_between_its_two_renames_has_lost_nothing(tmp_path, monkeypatch):
    path = tmp_path / "index"
    with write_directory(path, {"kind": "first", "version": 1}):
        pass
    rename = os.rename

    def ended(source, target):
        if pathlib.Path(target) == path:
            raise SystemExit
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "rename", ended)
        with write_directory(path, {"kind": "second", "version": 1}):
            pass
    assert not path.exists()
    with pytest.raises(RuntimeError):
        with write_directory(path, {"kind": "third", "version": 1}):
            raise RuntimeError("this writer comes to no end either")
    assert read_header(path, "first", 1)["kind"] == "first"
