"""The image bank: names, one copy of each content, bounds."""

import numpy as np
import pytest

from arft_jax.tools.bank import ImageBank, Refused
from arft_jax.trajectory import Image, Observation, ToolStatus


def image(value, size=(8, 10), name=""):
    return Image(np.full((*size, 3), value, np.uint8), name)


def test_the_nth_image_is_image_n_whoever_brought_it():
    bank = ImageBank([image(1, name="../../<|im_end|>.png"), image(2)])
    assert bank.names == ("image_1", "image_2") and [i.name for i in bank] == ["image_1", "image_2"]
    made = bank.admit(Observation("", (image(3), image(4))))
    assert [i.name for i in made.images] == ["image_3", "image_4"]
    assert bank.add(image(5, name="image_1")).name == "image_5"
    assert bank.get("image_1").pixels[0, 0, 0] == 1 and bank.get("image_5").pixels[0, 0, 0] == 5
    assert bank.last.name == "image_5" and len(bank) == 5


def test_an_image_that_has_its_name_stays_the_object_it_is():
    """An image of a data set may be a file that is decoded when it is asked for."""
    given = image(1, name="image_1")
    bank = ImageBank([given])
    assert bank.get("image_1") is given
    assert bank.add(given).name == "image_2" and given.name == "image_1"


def test_names_follow_from_the_order_alone():
    def names(values):
        bank = ImageBank([image(values[0])])
        return [(bank.add(image(v)).name, bank.last.sha256) for v in values[1:]]

    assert names([1, 2, 3, 2]) == names([1, 2, 3, 2])


def test_one_content_is_held_once_and_counted_once():
    bank = ImageBank([image(1)], max_pixels=2 * 80)
    first, again = bank.get("image_1"), bank.add(image(1))
    assert again.name == "image_2" and again.pixels is first.pixels and bank.n_pixels == 80
    assert bank.add(image(2)).name == "image_3" and bank.n_pixels == 160
    assert bank.add(image(2)).name == "image_4" and bank.n_pixels == 160
    with pytest.raises(Refused, match="An image of 8x10 needs more than the 0 pixels"):  # same bytes, another shape
        bank.add(Image(first.pixels.reshape(10, 8, 3)))


def test_a_refused_image_leaves_the_bank_as_it_was():
    bank = ImageBank([image(1)], max_images=3, max_pixels=200)
    for bad, sentence in [
        (image(2, (20, 10)), r"^An image of 10x20 needs more than the 120 pixels that can still be kept\.$"),
        (image(2, (2, 9)), r"^An image must have sides of 4 to 30000 px: got 2x9\.$"),
        (image(2, (4, 900)), r"^An image must have an aspect ratio below 200: got 4x900\.$"),
    ]:
        with pytest.raises(Refused, match=sentence):
            bank.add(bad)
        assert bank.names == ("image_1",) and bank.n_pixels == 80
    bank.add(image(2))
    bank.add(image(2))
    with pytest.raises(Refused, match=r"^At most 3 images can be kept\.$"):
        bank.add(image(2))
    assert bank.names == ("image_1", "image_2", "image_3")


def test_a_reply_keeps_what_fits_and_says_what_does_not():
    bank = ImageBank([image(1)], max_images=2)
    reply = bank.admit(Observation("Found two.", (image(2), image(3)), seconds=0.5))
    assert [i.name for i in reply.images] == ["image_2"] and reply.status == ToolStatus.OK and reply.seconds == 0.5
    assert reply.text == "Found two.\nAt most 2 images can be kept."
    nothing = bank.admit(Observation("", (image(4),)))
    assert (nothing.text, nothing.images, nothing.status) == ("At most 2 images can be kept.", (), ToolStatus.LIMIT)


def test_names_are_announced_where_asked_and_a_reply_without_images_is_untouched():
    bank = ImageBank([image(1)])
    reply = bank.admit(Observation("Done.", (image(2, (12, 16)),)), announce=True)
    assert reply.text == "Done.\nimage_2: 16x12"
    assert bank.admit(Observation("", (image(3),))).text == ""
    text_only = Observation("7", (), ToolStatus.ERROR)
    assert bank.admit(text_only) is text_only


@pytest.mark.parametrize("name", ["image_3", "image_0", "image_01", "Image_1", "", "<|im_end|>", "image_1\n"])
def test_an_unknown_name_is_answered_with_what_there_is_and_is_not_repeated(name):
    bank = ImageBank([image(1), image(2)])
    with pytest.raises(Refused) as caught:
        bank.get(name)
    assert str(caught.value) == "There is no image of that name. Images: image_1, image_2."
    with pytest.raises(Refused, match=r"Images: none\."):
        ImageBank().get(name)


def test_given_images_must_fit_and_bounds_be_positive():
    with pytest.raises(ValueError, match="must fit into the bank: At most 1 images"):
        ImageBank([image(1), image(2)], max_images=1)
    with pytest.raises(ValueError, match="max_pixels must be at least 1: got 0"):
        ImageBank(max_pixels=0)
    assert ImageBank().last is None
