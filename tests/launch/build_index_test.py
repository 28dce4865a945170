"""The build_index and bench_search commands as typed."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from arft_jax.tools.image_index import CAPTIONS, ImageIndex
from arft_jax.tools.search_index import SearchIndex


def run(root, script, *flags):
    return subprocess.run(
        [sys.executable, str(root / "launch" / script), *flags],
        capture_output=True, text=True, cwd=root, timeout=200, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_files_of_both_kinds_become_one_index(repo_root, tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"id": "1", "contents": "\\"Ada\\"\\nBorn in 1815."}\n{broken\n{"id": "2", "text": "A fox."}\n')
    table = tmp_path / "b.tsv"
    table.write_text("id\ttext\ttitle\n3\tA crater of the Moon.\tAda\n")
    flags = (f"--input={lines}", f"--input={table}", f"--out={tmp_path}/i", "--corpus=all")
    done = run(repo_root, "build_index.py", *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {lines}:2: ") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "i").exists()
    done = run(repo_root, "build_index.py", *flags, "--max_bad_lines=1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["passages"], report["bad_lines"]) == (3, 1) and report["bytes"] > 0
    with SearchIndex(tmp_path / "i") as index:
        assert [(hit.source, hit.text) for hit in index.search("ada moon", 5, corpus="all")] == [
            ("3", "A crater of the Moon."),
            ("1", "Born in 1815."),
        ]


@pytest.mark.slow  # compiles a vision tower again
def test_a_folder_of_images_becomes_an_index_by_the_configs_tower(repo_root, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 84, 84, 3)).astype(np.uint8)
    for i in range(3):
        PIL.Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    (folder / CAPTIONS).write_text("".join(f'{{"image": "{i}.png", "caption": "photo {i}"}}\n' for i in range(3)))
    flags = ("--config=configs/tiny_cpu.py", f"--images={folder}", f"--out={tmp_path}/i")
    done = run(repo_root, "build_index.py", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 3
    from arft_jax.build import image_embedder
    from configs import tiny_cpu

    config = tiny_cpu.get_config()
    with ImageIndex(tmp_path / "i", image_embedder.make_embedder(config)) as index:
        image = index.load(index.search_text("photo 2", 1)[0])
        assert index.search(image, 1)[0].name == "2.png"
    config.seed = 1
    with pytest.raises(ValueError, match="weights must be those that the index was built with"):
        ImageIndex(tmp_path / "i", image_embedder.make_embedder(config))


REFUSALS = {
    "no output": (["--input=a.jsonl"], "--out must be given"),
    "no input": (["--out=x"], "either --input or --images must be given"),
    "both inputs": (["--out=x", "--input=a.jsonl", "--images=b"], "either --input or --images must be given"),
    "images without a config": (["--out=x", "--images=b"], "--images needs --config"),
    "a missing file": (["--out=x", "--input=none.jsonl"], "an input file must exist: got none.jsonl"),
    "a loose word": (["--out=x", "a.jsonl"], "every argument must be a --flag=value: got 'a.jsonl'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_costs_one_sentence(repo_root, case):
    flags, message = REFUSALS[case]
    done = run(repo_root, "build_index.py", *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_benchmark_measures_a_small_index_and_keeps_it(repo_root, tmp_path):
    flags = ("--passages=3000", "--questions=300", f"--out={tmp_path}/i", "--format=json", "--seed=5")
    done = run(repo_root, "bench_search.py", *flags)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["recall_at_1"] == 1.0 and figures["questions"] == 300 and figures["p99_ms"] >= figures["p50_ms"] > 0
    with SearchIndex(tmp_path / "i") as index:
        assert index.n_documents == 3000
