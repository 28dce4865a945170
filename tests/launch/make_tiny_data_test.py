"""The make_tiny_data command as typed, the README's own commands on what it wrote, and refusals in one sentence."""

import os
import pathlib
import re
import subprocess
import sys

import pytest


def run(root, *command, cwd=None, **env):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd or root, timeout=600,
        env={**os.environ, "PYTHONPATH": str(root), **env},
    )  # fmt: skip


def test_the_command_writes_a_data_directory_without_jax(repo_root, tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')\n")
    flags = [f"--out={tmp_path / 'data'}", "--seed=1", "--n_train=2", "--n_test=2"]
    done = run(repo_root, "launch/make_tiny_data.py", *flags, PYTHONPATH=f"{tmp_path}:{repo_root}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {tmp_path / 'data'}: mat_coding, mat_search\n"
    again = run(repo_root, "launch/make_tiny_data.py", *flags)
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr == f"error: the output directory must be new or empty: got {tmp_path / 'data'}\n"


@pytest.mark.parametrize(
    "flags, sentence",
    [([], "--out must be given"), (["here"], "got 'here'"), (["--out=x", "--n_train=0"], "n_train must be at least 1")],
)
def test_a_wrong_command_is_one_sentence(repo_root, tmp_path, flags, sentence):
    done = run(repo_root, str(repo_root / "launch" / "make_tiny_data.py"), *flags, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and sentence in line and not os.listdir(tmp_path)


def test_training_without_weights_and_data_says_both_and_writes_nothing(repo_root, tmp_path):
    done = run(repo_root, "launch/train.py", "--config=configs/qwen7b_h200.py", f"--config.workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "Qwen2.5-VL-7B: got none (config.weights); data.dir must be a directory with mat_coding/train.json" in line
    assert line.endswith("got none (config.data.dir)") and not (tmp_path / "run").exists()


@pytest.mark.slow  # one to two minutes: a whole run
def test_the_commands_of_the_readme_work_as_typed(repo_root, tmp_path):
    section = (repo_root / "README.md").read_text().split("## Bring your weights and data")[1].split("\n## ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).splitlines()
    assert len(commands) == 5
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(repo_root / name)
    for command in commands:
        python, *words = command.split()
        assert python == ".venv/bin/python"
        done = run(repo_root, *words, cwd=tmp_path, JAX_PLATFORMS="cpu")
        assert done.returncode == 0, done.stderr
    written = pathlib.Path(tmp_path / "runs" / "qwen7b_tpu_smoke")
    assert {"results.json", "report.html", "trajectories.html", "metrics.jsonl"} <= set(os.listdir(written))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(tmp_path / "runs/trained_weights"))
