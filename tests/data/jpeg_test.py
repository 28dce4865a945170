"""Scans of a JPEG are counted as libjpeg reads them, and the door bounds them."""

import io
import time

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import images, jpeg

NOISE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def encoded(**options):
    buffer = io.BytesIO()
    NOISE.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_more_scans(data, n):
    """The last scan n times more."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + n * data[last:-2] + data[-2:]


def test_scans_are_counted_and_what_looks_like_one_in_the_metadata_is_not():
    plain, progressive = encoded(quality=95), encoded(progressive=True)
    assert jpeg.n_scans(plain) == 1
    assert jpeg.n_scans(progressive) == 10  # libjpeg's own script for three channels
    assert jpeg.n_scans(encoded(comment=b"\xff\xda\0\x0c" * 99)) == 1
    assert jpeg.n_scans(encoded(progressive=True, restart_marker_blocks=1)) == 10
    assert jpeg.n_scans(plain + 5 * progressive) == 1  # behind the end of the image
    hidden = progressive[:-2] + b"\xff\xfe\0\4\xff\xd9" + b"\xff\xff" + progressive[progressive.rindex(b"\xff\xda") :]
    assert jpeg.n_scans(hidden) == 11  # an end inside a comment is none


def test_a_file_of_more_scans_than_any_encoder_writes_is_refused_before_it_is_decoded(monkeypatch):
    progressive = encoded(progressive=True)
    most = with_more_scans(progressive, images.MAX_SCANS - 10)
    assert images.decode_image(most).size == (64, 64)
    with pytest.raises(images.BadImage, match="at most 100 scans: got 101 in <bytes>"):
        images.decode_image(with_more_scans(progressive, images.MAX_SCANS - 9))
    bomb = with_more_scans(progressive, 5000)
    started = time.monotonic()
    with pytest.raises(images.BadImage, match="got 5010"):
        images.decode_image(bomb)
    refused_s = time.monotonic() - started
    monkeypatch.setattr(images, "MAX_SCANS", 10_000)
    started = time.monotonic()
    images.decode_image(bomb)
    assert refused_s < (time.monotonic() - started) / 2  # a sixth of it here


def test_a_broken_file_ends_the_count():
    for data in (b"", b"\xff", b"\xff\xda", b"\xff\xda\0", b"\xff\xda\xff\xff\0", 9 * b"\xff\xda\0\0"):
        assert jpeg.n_scans(data) == data.count(b"\xff\xda")
