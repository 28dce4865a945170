"""A manifest binds a step's number and files; whatever stands in its place is a fault told in one sentence."""

import json
import os

import pytest

from arft_jax.io import seal


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "6"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "a").write_bytes(b"values")
    seal.seal(folder, 6)
    return folder


def good(folder):
    return json.loads((folder / seal.MANIFEST).read_text())


def test_a_sealed_step_has_no_fault_under_its_own_number_alone(folder):
    assert seal.is_sealed(folder) and seal.fault_of(folder, 6) is None
    assert seal.fault_of(folder, 7) == "its manifest is that of step 6"
    assert good(folder)["step"] == 6


def test_a_manifest_without_a_number_is_told_apart_from_a_malformed_one(folder):
    (folder / seal.MANIFEST).write_text(json.dumps({"files": good(folder)["files"]}))
    assert seal.fault_of(folder, 6) == seal.NO_STEP
    (folder / "state" / "a").write_bytes(b"value5")
    assert seal.fault_of(folder, 6) == "state/a has other contents than were written"


def entry(value):
    return {"step": 6, "files": {"state/a": value}}


SHAPES = [
    [], None, 3, "x", {}, {"step": 6}, {"step": 6, "files": None}, {"step": 6, "files": []}, {"step": 6, "files": "a"},
    entry(None), entry([]), entry([6]), entry([6, "x", 1]), entry(["6", "x"]), entry([6, 6]), entry([6, None]),
    entry([True, "x"]), entry([6.0, "x"]), entry([[6], "x"]), entry({"6": "x"}), entry("6x"), entry([-1, "x"]),
    entry([10**400, "x"]), {"step": 6, "files": {"../../etc/passwd": [6, "x"]}},
    {"step": 6, "files": {"/etc": [6, "x"]}},
    {"step": 6, "files": {"": [6, "x"]}}, {"step": 6, "files": {"\0\ud800": [6, "x"]}}, {"step": 6, "files": {}},
    {"step": 6, "files": {"\n" * 10**5: [6, "x"]}},
]  # fmt: skip
NUMBERS = ["6", None, 6.0, True, [6], 7, -6, 10**400]
TEXTS = [
    b"", b"{", b"\xff\xfe", b'{"step": 6, "files": {"\xff": [1, "x"]}}', b"[" * 10**6, b'{"files":' * 10**5,
    b"9" * 10**5, b'{"step": NaN, "files": {}}', b"\0" * 100, b" " * (2**24 + 1),  # the last is too long
]  # fmt: skip


def test_every_malformed_manifest_is_one_sentence(folder):
    files = good(folder)["files"]
    shapes = SHAPES + [{"step": number, "files": files} for number in NUMBERS]
    texts = TEXTS + [json.dumps(shape).encode() for shape in shapes]
    for text in texts:
        (folder / seal.MANIFEST).write_bytes(text)
        fault = seal.fault_of(folder, 6)
        assert fault is not None and "\n" not in fault and len(fault) < 300, text[:80]


def test_what_is_no_file_in_the_place_of_a_manifest_is_a_fault_and_is_not_waited_for(folder):
    path = folder / seal.MANIFEST
    path.unlink()
    assert seal.fault_of(folder, 6) == "it was never completed (no manifest)"
    path.mkdir()
    assert seal.fault_of(folder, 6) == "its manifest is unreadable (not a regular file)"
    path.rmdir()
    os.mkfifo(path)
    assert seal.fault_of(folder, 6) == "its manifest is unreadable (not a regular file)"
    path.unlink()
    path.symlink_to(path)
    assert seal.fault_of(folder, 6).startswith("its manifest is unreadable (")
    assert seal.fault_of(folder / "state" / "a", 6).startswith("its manifest is unreadable (")  # a file for a step
