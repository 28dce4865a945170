"""Images of requests: data URIs and files of one folder, and nothing else, whatever the address looks like."""

import base64

import numpy as np
import pytest

from arft_jax.data.images import encode_png
from arft_jax.serve.pictures import Pictures
from arft_jax.serve.requests import BadRequest
from arft_jax.trajectory import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
PNG = encode_png(Image(PIXELS))
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def test_a_data_uri_is_decoded_and_images_are_numbered():
    pictures = Pictures(None)
    first, second = pictures.open(URI, "a"), pictures.open(URI, "b")
    np.testing.assert_array_equal(first.pixels, PIXELS)
    assert (first.name, second.name) == ("image_1", "image_2")


def test_files_below_the_folder_are_read_by_either_path(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.png").write_bytes(PNG)
    for source in ("file://a%20b.png", f"file://{tmp_path}/in/a%20b.png", f"file://{tmp_path}/in/a b.png"):
        np.testing.assert_array_equal(Pictures(tmp_path / "in").open(source, "a").pixels, PIXELS)


def test_no_address_leads_out_of_the_folder_or_to_the_network(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "text.png").write_text("no image")
    pictures, told = Pictures(tmp_path / "in"), set()
    for source in (
        "file://../secret.png", "file://%2e%2e/secret.png", f"file://{tmp_path}/secret.png", "file://link.png",
        f"file://{tmp_path}/in/../secret.png", "file://absent.png", "file:///etc/passwd", "file://a\0b", "file://",
    ):  # fmt: skip
        with pytest.raises(BadRequest) as refused:
            pictures.open(source, "messages[0]")
        told.add(str(refused.value))
    assert len(told) == 1  # what is there and what is not look the same
    for source in ("http://localhost/a.png", "HTTPS://x/a.png", "a.png", "", None, 5, "data:text/html;base64,AAAA"):
        with pytest.raises(BadRequest):
            pictures.open(source, "messages[0]")
    with pytest.raises(BadRequest, match="no files"):
        Pictures(None).open("file://a.png", "messages[0]")


@pytest.mark.parametrize("content", ["!!", "AAAA", base64.b64encode(PNG[:40]).decode()])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(BadRequest):
        Pictures(None).open(f"data:image/png;base64,{content}", "messages[0]")
