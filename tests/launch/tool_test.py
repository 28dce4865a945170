"""The tool command: one JSON object, or one sentence and status 2."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from arft_jax.data.images import decode_image, encode_png
from arft_jax.trajectory import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "launch" / "tool.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.png"
    path.write_bytes(encode_png(Image(np.full((40, 60, 3), 9, np.uint8))))
    return path


def test_python_prints_one_object(tmp_path, card):
    (tmp_path / "code.py").write_text("show(image_1)\nprint('hello')\n")
    done = run("python", f"--code={tmp_path}/code.py", f"--image={card}", f"--out={tmp_path}/out", "--format=json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["exit"], result["text"]) == ("ok", 0, "hello")
    assert result["images"] == [f"{tmp_path}/out/image_2.png"] and pathlib.Path(result["images"][0]).is_file()
    assert result["sandbox"].startswith("sandbox: ")


def test_a_fault_of_the_call_ends_with_status_0(card):
    done = run("crop", f"--image={card}", "--box=9,9,1,1", "--frame=permille", "--format=json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "error"


def test_without_a_config_images_are_resized_as_for_the_published_model(tmp_path, card):
    """40 x 60 becomes 56 x 84 (height x width): 42 of its 84 columns are 30 of 60."""
    done = run("crop", f"--image={card}", "--box=0,0,42,56", "--frame=resized", f"--out={tmp_path}", "--format=json")
    assert decode_image(json.loads(done.stdout)["images"][0]).size == (40, 30)


def test_text_output_has_a_line_for_each_field(card):
    done = run("crop", f"--image={card}", "--box=0,0,500,500", "--frame=permille", f"--out={card.parent}")
    assert done.returncode == 0 and done.stdout.startswith("status: ok\nexit: None\n")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "the first argument must be a tool"),
        (["crop", "python"], "the first argument must be a tool"),
        (["paint"], "the tool must be one of"),
        (["python", "--cod=x"], "Unknown command line flag 'cod'"),
        (["python", "--format=xml"], "format"),
        (["python", "--code=/nowhere.py"], "--code must be a readable UTF-8 file"),
        (["crop", "--image=/nowhere.png", "--box=0,0,1,1", "--frame=original"], "image file must exist"),
    ],
)
def test_bad_flags_are_one_sentence_and_status_2(flags, sentence):
    done = run(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_neither_a_crop_nor_a_search_for_texts_imports_jax():
    source = "import sys; import arft_jax.commands.tool, arft_jax.build.tools; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0
