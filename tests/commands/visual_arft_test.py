"""The rows "+ Visual-ARFT" in small: each agent trained by both recipes, exported, evaluated, as docs/mat.md has it."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # minutes: whole runs


def chain_of(repo_root):
    """The commands of the chain in small, from the page itself."""
    text = (repo_root / "docs" / "mat.md").read_text()
    block = re.search(r"The same chain in small.*?```bash\n(.*?)```", text, re.DOTALL)[1]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def run(repo_root, folder, words):
    words = [sys.executable, str(repo_root / words[1]), *words[2:]]
    words = [word.replace("--config=configs", f"--config={repo_root}/configs") for word in words]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=900, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("recipe", ["smoke", "smoke_released"])
@pytest.mark.parametrize("agent", ["coding", "search"])
def test_the_chain_of_the_page_ends_with_a_row_of_the_table(repo_root, tmp_path, agent, recipe):
    for words in chain_of(repo_root):
        words = [word.replace("coding", agent).replace(":smoke", f":{recipe}") for word in words]
        if recipe == "smoke_released":
            words = [word.replace("7b_gpu_smoke", "7b_gpu_released_smoke") for word in words]
        said = run(repo_root, tmp_path, words)
    assert re.search(rf"mat_{agent} \(a part: 8 of 8|mat_{agent} +.*tiny_trained", said), said
    assert "Visual-ARFT" in said and "wrote" in said
    results = json.loads((tmp_path / f"runs/tiny_mat_{agent}/results.json").read_text())
    figures = results["benchmarks"][f"mat_{agent}"]
    assert figures["n_answered"] == figures["n_items"] == 8 and not figures["missing"]
    metrics = tmp_path / f"runs/visual_arft_{agent}_7b_gpu{'_released' if 'released' in recipe else ''}_smoke"
    steps = [json.loads(line) for line in (metrics / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in steps if line.get("phase") == "grpo" and "turns" in line]
    assert len(steps) == 2 and (recipe == "smoke" or all(line["tool_calls"] == 0 for line in steps))
