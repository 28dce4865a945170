"""The crop tool: hand values in every frame, clipping, refusals, and the frames held against one another."""

import math

import numpy as np
import pytest

from arft_jax.data.images import ImageProcessor
from arft_jax.tools import crop as crop_lib
from arft_jax.tools.crop import FRAMES, crop, pixel_box
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image, ToolStatus

PROCESSOR = ImageProcessor(28 * 28, 16 * 28 * 28)
SIZES = [(480, 640), (481, 639), (37, 53), (29, 1003), (4, 700), (13, 17), (2999, 31), (56, 56)]


def numbered(height, width):
    """Every pixel tells its place: (row high byte, row low byte, column low byte)."""
    rows, columns = np.mgrid[:height, :width]
    return Image(np.stack([rows >> 8, rows & 255, columns & 255], -1).astype(np.uint8), "image_1")


@pytest.mark.parametrize(
    ("size", "frame", "box", "expected"),
    [
        ((480, 640), "original", (10, 20, 110, 220), (10, 20, 110, 220)),
        ((480, 640), "original", (10.4, 20.5, 110.5, 220.49), (10, 21, 111, 220)),
        ((480, 640), "permille", (0, 0, 1000, 1000), (0, 0, 640, 480)),
        ((480, 640), "permille", (250, 500, 500, 750), (160, 240, 320, 360)),
        ((481, 639), "permille", (333, 333, 667, 667), (213, 160, 426, 321)),  # 212.787 160.173 426.213 320.827
        ((37, 53), "permille", (500, 500, 1000, 1000), (27, 19, 53, 37)),  # 26.5 and 18.5, halves up
        # 100x150 is shown as 112x140 (height x width): x times 150/140, y times 100/112
        ((100, 150), "resized", (14, 28, 70, 56), (15, 25, 75, 50)),
        ((100, 150), "resized", (0, 0, 140, 112), (0, 0, 150, 100)),
        ((100, 150), "resized", (1, 1, 139, 111), (1, 1, 149, 99)),  # 1.07 0.89 148.9 99.1
        # 481x639 is shown as 84x112
        ((481, 639), "resized", (28, 21, 56, 42), (160, 120, 320, 241)),  # 159.75 120.25 319.5 240.5, halves up
    ],
)
def test_hand_values(size, frame, box, expected):
    processor = ImageProcessor() if size == (100, 150) else PROCESSOR
    assert pixel_box(box, size, frame, processor) == (expected, "")
    image = numbered(*size)
    seen = crop(image, box, frame, processor)
    assert seen.status == ToolStatus.OK and seen.text == ""
    x0, y0, x1, y1 = expected
    np.testing.assert_array_equal(seen.images[0].pixels, image.pixels[y0:y1, x0:x1])


def test_the_resized_frame_is_what_the_model_is_shown():
    assert ImageProcessor().resized_size(100, 150) == (112, 140) and PROCESSOR.resized_size(481, 639) == (84, 112)


@pytest.mark.parametrize("size", SIZES)
def test_the_three_frames_agree(size):
    """A box of whole pixels, written in each frame, cuts the same pixels."""
    rng = np.random.default_rng(0)
    height, width = size
    for _ in range(200):
        x0, x1 = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        y0, y1 = sorted(rng.choice(height + 1, 2, replace=False).tolist())
        for frame in FRAMES:
            frame_height, frame_width = crop_lib.frame_size(size, frame, PROCESSOR)
            box = [x * frame_width / width for x in (x0, x1)], [y * frame_height / height for y in (y0, y1)]
            box = (box[0][0], box[1][0], box[0][1], box[1][1])
            assert pixel_box(box, size, frame, PROCESSOR)[0] == (x0, y0, x1, y1), frame


@pytest.mark.parametrize("size", SIZES)
def test_whole_numbers_of_a_frame_are_right_to_half_of_its_step(size):
    """A policy writes whole numbers: an edge is off by half a step of its frame and half a pixel at most."""
    rng = np.random.default_rng(1)
    for frame in ("resized", "permille"):
        frame_height, frame_width = crop_lib.frame_size(size, frame, PROCESSOR)
        for _ in range(100):
            x0, x1 = sorted(rng.choice(size[1] + 1, 2, replace=False).tolist())
            left, right = round(x0 * frame_width / size[1]), round(x1 * frame_width / size[1])
            if left < right:
                (got0, _, got1, _), _ = pixel_box((left, 0, right, frame_height), size, frame, PROCESSOR)
                slack = 0.5 * size[1] / frame_width + 0.5 + (got1 - got0 == 1)  # never narrower than a pixel
                assert abs(got0 - x0) <= slack and abs(got1 - x1) <= slack


def test_a_box_always_lies_inside_and_holds_a_pixel():
    rng = np.random.default_rng(2)
    for _ in range(2000):
        size = tuple(int(v) for v in rng.integers(4, 60, 2))
        frame = FRAMES[rng.integers(3)]
        frame_height, frame_width = crop_lib.frame_size(size, frame, PROCESSOR)
        box = rng.uniform(-0.3, 1.3, 4) * np.array([frame_width, frame_height] * 2)
        try:
            (x0, y0, x1, y1), _ = pixel_box(box.tolist(), size, frame, PROCESSOR)
        except crop_lib.BadBox:
            continue
        assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]


@pytest.mark.parametrize(
    ("frame", "box", "clipped", "pixels"),
    [
        ("original", (-5, 10, 700, 470), "(0, 10, 640, 470)", (0, 10, 640, 470)),
        ("permille", (500, -1, 1000, 1001), "(500, 0, 1000, 1000)", (320, 0, 640, 480)),
        ("resized", (28, 0, 1e300, 42), "(28, 0, 112, 42)", (160, 0, 640, 240)),
        ("original", (0, 0, 10**400, 480), "(0, 0, 640, 480)", (0, 0, 640, 480)),
    ],
)
def test_a_box_beyond_the_image_is_clipped_with_a_message(frame, box, clipped, pixels):
    seen = crop(numbered(480, 640), box, frame, PROCESSOR)
    assert seen.text == f"The box reached beyond the image and was clipped to {clipped}."
    assert seen.status == ToolStatus.OK and pixel_box(box, (480, 640), frame, PROCESSOR)[0] == pixels


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((5, 5, 5, 50), "The box is empty"),
        ((50, 5, 5, 50), "The box is empty"),
        ((5, 50, 50, 5), "The box is empty"),
        ((math.nan, 0, 10, 10), "must be finite"),
        ((0, 0, math.inf, 10), "must be finite"),
        ((0, 0, 10, -math.inf), "must be finite"),
        ((0, 0, 10), "must be four numbers"),
        ((0, 0, 10, 10, 10), "must be four numbers"),
        ((), "must be four numbers"),
        (("0", 0, 10, 10), "must be four numbers"),
        ((True, False, 10, 10), "must be four numbers"),
        ((None, 0, 10, 10), "must be four numbers"),
        ((700, 0, 800, 10), "outside of the image, which is 640 wide and 480 high"),
        ((-20, 0, 0, 10), "outside of the image"),
        ((0, 480, 9, 900), "outside of the image"),
        ((10, 10, 13, 400), "too small or too narrow: it holds 3x390 pixels"),
        ((10, 10, 10.1, 400), "too small or too narrow: it holds 1x390 pixels"),
    ],
)
def test_a_box_that_names_nothing_is_the_policys_error(box, sentence):
    seen = crop(numbered(480, 640), box, "original")
    assert seen.status == ToolStatus.ERROR and seen.images == () and sentence in seen.text
    assert seen.text.endswith(".") and "\n" not in seen.text


def test_a_sliver_is_refused():
    seen = crop(numbered(4, 900), (0, 0, 850, 4), "original")
    assert seen.status == ToolStatus.ERROR and "it holds 850x4 pixels" in seen.text


def test_frames_are_named():
    with pytest.raises(ValueError, match="frame must be one of resized, permille, original: got 'pixels'"):
        crop(numbered(8, 8), (0, 0, 8, 8), "pixels")
    with pytest.raises(ValueError, match="needs the image processor"):
        crop(numbered(8, 8), (0, 0, 8, 8), "resized")


def test_the_part_is_a_copy_of_its_own():
    image = numbered(40, 40)
    part = crop(image, (0, 0, 10, 10), "original").images[0]
    assert part.pixels.base is None and part.pixels.flags.c_contiguous and part.name == ""


def test_code_crops_named_images_as_the_tool_does():
    image, other = numbered(48, 64), numbered(30, 200)
    with PythonSandbox(n_workers=1, timeout_s=30.0) as sandbox:

        def asked(call):
            return sandbox.run(f"import numpy as np\nshow({call})", {"image_1": image, "image_2": other})

        for name, shown in (("image_1", image), ("image_2", other)):
            for frame, box in (
                ("permille", (250, 500, 500.5, 750)), ("original", (3, 4, 20, 30)), ("permille", (-5, 100, 900, 2000)),
                ("original", (60, 2, 300, 20)),
            ):  # fmt: skip
                want, got = crop(shown, box, frame), asked(f"crop('{name}', np.array({list(box)}), '{frame}')")
                assert (got.status, got.text.strip()) == (ToolStatus.OK, want.text), got.text
                np.testing.assert_array_equal(got.images[0].pixels, want.images[0].pixels)
        for box, frame, sentence in (
            ((5, 5, 5, 9), "original", "ValueError: The box is empty: x0 must be below x1 and y0 below y1. (line 2)"),
            ((0, 0, 9), "permille", "ValueError: A box must be four numbers: x0, y0, x1, y1. (line 2)"),
            ((70, 0, 90, 9), "original", "ValueError: The box lies outside of the image, which is 64 wide and 48 high"),
            ((0, 0, 9, 9), "resized", "ValueError: frame 'resized' needs the image processor of the model (line 2)"),
            ((0, 0, 9, 9), "percent", "ValueError: frame must be one of"),
        ):
            seen = asked(f"crop('image_1', {box}, '{frame}')")
            assert seen.status == ToolStatus.ERROR and sentence in seen.text
        assert "KeyError: 'image_9'" in asked("crop('image_9', (0, 0, 9, 9), 'original')").text
