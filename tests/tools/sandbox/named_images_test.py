"""The richer protocol: images by name beside the paper's files, several outputs, and room for what is given."""

import numpy as np
import pytest

from arft_jax.testing.toolboxes import code_call, context_of, make_toolbox
from arft_jax.tools.bank import ImageBank
from arft_jax.tools.sandbox import PythonSandbox, broker
from arft_jax.trajectory import Image, Task, ToolStatus


def grey(value, height=8, width=8):
    return Image(np.full((height, width, 3), value, np.uint8))


@pytest.fixture(scope="module")
def sandbox():
    with PythonSandbox(n_workers=1, timeout_s=30.0, max_image_px=1_000_000) as box:
        yield box


def test_every_image_lies_under_its_name_and_the_newest_under_the_papers_name_too(sandbox):
    code = (
        "import os, cv2, numpy as np\nprint(sorted(os.listdir('.')), list(images))\n"
        "print([cv2.imread(n)[0, 0, 0] for n in ('image_1.png', 'image_2.png', 'path_to_input_image.jpg')])\n"
        "cv2.imwrite('path_to_input_image.jpg', np.zeros((9, 9, 3)))\nprint(np.array(image_1)[0, 0], image_2.size)"
    )
    seen = sandbox.run(code, {"image_1": grey(10), "image_2": grey(20, 5, 6)})
    assert seen.status == ToolStatus.OK, seen.text
    assert seen.text.splitlines() == [
        "['image_1.png', 'image_2.png', 'path_to_input_image.jpg'] ['image_1', 'image_2']",
        "[np.uint8(10), np.uint8(20), np.uint8(20)]",
        "[10 10 10] (6, 5)",
    ]


def test_code_may_be_given_no_image(sandbox):
    seen = sandbox.run("import os\nprint(os.listdir('.'), images)\nshow(__import__('numpy').ones((8, 8)) > 0)", {})
    assert (seen.text, seen.images[0].size) == ("[] {}", (8, 8))


def test_outputs_come_in_order_behind_the_papers_output(sandbox):
    code = (
        "import numpy as np, cv2\n"
        "def shade(value): return np.full((8, 8, 3), value, np.uint8)\n"
        "for value in range(3, 12): show(shade(value))\n"
        "cv2.imwrite('output_b.bmp', shade(99))\n"
        "open('path_to_output_image.jpg', 'wb').write(open('image_1.png', 'rb').read())\n"
    )
    seen = sandbox.run(code, {"image_1": grey(1)})
    assert [image.pixels[0, 0, 0] for image in seen.images] == [1, *range(3, 11)]  # at most 8 beside the paper's
    assert broker.MAX_OUTPUTS == 8
    # Alone, the paper's protocol has the paper's output alone.
    only = sandbox.run(code.replace("show(", "str(").replace("image_1.png", "path_to_input_image.jpg"), grey(1))
    assert [image.pixels[0, 0, 0] for image in only.images] == [1]


def test_what_is_shown_means_what_the_door_makes_of_it(sandbox):
    code = (
        "import numpy as np\nfrom PIL import Image\nshow(Image.new('RGBA', (8, 8), (0, 0, 0, 0)))\n"
        "show(np.full((8, 8), 0x80ff, np.uint16))\nshow(Image.new('CMYK', (8, 8), (0, 0, 0, 255)))\n"
    )
    seen = sandbox.run(code, {})
    assert [image.pixels[0, 0].tolist() for image in seen.images] == [[255] * 3, [0x80] * 3, [0] * 3], seen.text
    floats = sandbox.run("import numpy as np\nshow(np.ones((8, 8), np.float32))", {})
    assert (floats.status, floats.text) == (
        ToolStatus.ERROR,
        "TypeError: show() takes images of 8 or 16 bits a channel (line 2)",
    )


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_given_images_take_nothing_from_the_room_for_files(level):
    images = {f"image_{n}": grey(n, 1000, 1000) for n in range(1, 13)}  # 39 MB with the newest once more
    with PythonSandbox(n_workers=1, timeout_s=30.0, max_image_px=10_000, level=level) as box:  # 32 MiB of files
        write = "import time\nfor n in range({}): open(str(n), 'wb').write(bytes(8 << 20))\ntime.sleep(0.1)\nprint(1)"
        fits = box.run(write.format(3), images)
        assert (fits.status, fits.text) == (ToolStatus.OK, "1")
        assert box.run(write.format(5), images).status == ToolStatus.LIMIT
        assert box.run(write.format(5), grey(1)).status == ToolStatus.LIMIT  # and the quota is as it was


def test_a_full_bank_fits_a_call(sandbox):
    bank = ImageBank([grey(n % 200) for n in range(ImageBank().max_images)])
    with make_toolbox(sandbox, None) as box:
        task = Task("t", "coding", "?", (), ("a",))
        seen = box.submit(code_call("print(len(images), image_32.size)"), context_of(task, tuple(bank))).result(30)
    assert (seen.status, seen.text) == (ToolStatus.OK, "32 (8, 8)")


def test_outputs_are_named_by_the_bank_and_later_code_reads_them(sandbox):
    bank, task = ImageBank([grey(10)]), Task("t", "coding", "?", (grey(10),), ("a",))
    with make_toolbox(sandbox, None) as box:
        first = "import PIL.Image\nshow(PIL.Image.new('RGB', (8, 8), (30, 30, 30)))\nshow(image_1)"
        made = bank.admit(box.submit(code_call(first), context_of(task, tuple(bank))).result(30))
        assert [image.name for image in made.images] == ["image_2", "image_3"]
        second = "print(list(images), image_2.getpixel((0, 0)))\nimage_2.save('path_to_output_image.jpg', 'PNG')"
        seen = bank.admit(box.submit(code_call(second), context_of(task, tuple(bank))).result(30))
    assert seen.text == "['image_1', 'image_2', 'image_3'] (30, 30, 30)"
    assert seen.images[0].name == "image_4" and seen.images[0].sha256 == made.images[0].sha256
