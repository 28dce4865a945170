"""What a call is given arrives whole, by no other way than the channel to its child."""

import os
import socket
import threading

import numpy as np
import PIL.Image
import pytest

from arft_jax import protocol
from arft_jax.tools.sandbox import request


def picture(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pass_on(made):
    """What :func:`request.receive` returns of a request sent from another thread."""
    ours, theirs = socket.socketpair()

    def send():
        with ours:
            made.send(ours)

    thread = threading.Thread(target=send)
    thread.start()
    with theirs:
        head = request.receive(theirs.fileno())
    thread.join()
    return head


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_images_arrive_pixel_by_pixel_and_the_last_one_also_under_the_papers_name():
    named = {"image_1": picture(0, 7, 5), "image_2": picture(1, 300, 401)[:, ::2]}  # larger than a piece, with gaps
    made = request.make("x = '\ud800é'", [("y = 1", 1)], named, by_name=True)
    head = pass_on(made)
    assert head == made.head and head["source"] == "x = '\ud800é'"
    assert (head["images"], [cell["n_images"] for cell in head["cells"]]) == (["image_1", "image_2"], [1])
    for name, pixels in named.items():
        assert np.array_equal(np.asarray(PIL.Image.open(name + ".png")), pixels)
    assert np.array_equal(np.asarray(PIL.Image.open(protocol.INPUT_NAME)), named["image_2"])
    files = sorted(os.listdir("."))
    assert files == ["image_1.png", "image_2.png", protocol.INPUT_NAME]
    on_disk = sum(os.stat(name).st_blocks * 512 for name in files)
    assert on_disk <= made.n_given <= on_disk + len(files) * 8192


def test_the_papers_only_image_has_no_other_name():
    head = pass_on(request.make("", None, {"": picture(2, 3, 4)}, by_name=False))
    assert os.listdir(".") == [protocol.INPUT_NAME] and head["images"] is None and head["cells"] == []


def test_the_seed_is_that_of_code_and_pixels_and_in_a_session_of_the_code():
    one, other = {"a": picture(3, 4, 4)}, {"a": picture(4, 4, 4)}

    def seed(source, cells, named):
        return request.make(source, cells, named, by_name=True).head["seed"]

    assert seed("x", None, one) == seed("x", None, one) != seed("x", None, other)
    assert seed("x", [], one) == seed("x", [], other) != seed("y", [], one)
    (cell,) = request.make("x", [("y", 1)], one, by_name=True).head["cells"]
    assert cell["seed"] == seed("y", [], one)  # an earlier cell meets the seed of its first time


def test_a_channel_that_closes_at_once_is_no_call_and_one_that_closes_late_an_error():
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert request.receive(theirs.fileno()) is None
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(b"\x10\x00")
        with pytest.raises(EOFError, match="in its midst"):
            request.receive(theirs.fileno())
