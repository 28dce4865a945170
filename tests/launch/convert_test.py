"""The convert and make_tiny_checkpoint commands as typed: one line of output, or one sentence and status 2."""

import json
import os
import subprocess
import sys

import pytest

from arft_jax.commands import convert
from arft_jax.commands.cli import convert as cli
from arft_jax.testing.tiny_model import tiny_config


def run(root, script, *flags, **env):
    return subprocess.run(
        [sys.executable, str(root / "launch" / script), *flags],
        capture_output=True, text=True, cwd=root, timeout=120, env={**os.environ, "PYTHONPATH": str(root), **env},
    )  # fmt: skip


@pytest.mark.slow  # three processes, each of which compiles again
def test_a_tiny_checkpoint_goes_in_and_out(repo_root, tmp_path):
    hf, ckpt, out = (f"{tmp_path}/{name}" for name in ("hf", "ckpt", "out"))
    for script, *flags in (
        ("make_tiny_checkpoint.py", f"--out={hf}", "--dtype=float32", "--tied"),
        ("convert.py", "import", f"--weights={hf}", f"--checkpoint={ckpt}"),
        ("convert.py", "export", f"--checkpoint={ckpt}", f"--out={out}", "--dtype=bfloat16"),
    ):
        done = run(repo_root, script, *flags)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert len(done.stdout.splitlines()) == 1
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(os.listdir(out))


REFUSALS = {
    "no command": (["convert.py"], "must be import or export, and then flags: got none"),
    "another command": (["convert.py", "inport"], "got inport"),
    "two commands": (["convert.py", "import", "export"], "got import export"),
    "no weights": (["convert.py", "import"], "--weights must be given"),
    "no output": (["convert.py", "export", "--checkpoint=x"], "--out must be given"),
    "adapters of an import": (["convert.py", "import", "--weights=x", "--adapter=y"], "--adapter is no flag of import"),
    "a flag of the other": (["convert.py", "import", "--weights=x", "--out=y"], "--out is no flag of import"),
    "an unknown flag": (["convert.py", "import", "--wheights=x"], "wheights"),
    "tiny without a place": (["make_tiny_checkpoint.py"], "--out must be given"),
    "tiny with an argument": (["make_tiny_checkpoint.py", "here"], "must be a --flag=value: got 'here'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_command_is_one_sentence_before_jax_is_imported(repo_root, tmp_path, case):
    flags, sentence = REFUSALS[case]
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')\n")
    done = run(repo_root, *flags, PYTHONPATH=f"{tmp_path}:{repo_root}")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and sentence in line


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def import_weights(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "import_weights", import_weights)
    assert cli.main(["import", "--weights=x"]) == 2
    assert capsys.readouterr() == ("", "error: [Errno 28] No space left on device\n")


def test_a_pickle_is_refused_in_one_sentence(repo_root, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_hf()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    done = run(repo_root, "convert.py", "import", f"--weights={tmp_path}")
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: weights must be safetensors files") and "pytorch_model.bin, a pickle" in line
