"""The train command's refusals: one sentence, exit status 2, at once and without a trace on disk."""

import os
import subprocess
import sys
import time

import pytest

LONGEST_S = 5.0


def run(root, *flags, **env):
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(root / "launch" / "train.py"), *flags],
        capture_output=True, text=True, cwd=root, timeout=60, env={**os.environ, "PYTHONPATH": str(root), **env},
    )  # fmt: skip
    return done, time.monotonic() - begin


def refused(done, *parts):
    """Status 2 and one line on standard error that says all of it."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and "Traceback" not in line
    for part in parts:
        assert part in line


TINY = "--config=configs/tiny_cpu.py:smoke"
REFUSALS = {
    "no config": ([], ["--config"]),
    "a missing file": (["--config=configs/nope.py"], ["configs/nope.py", "No such file"]),
    "a folder": (["--config=configs"], ["configuration file must be readable", "Is a directory"]),
    "an unknown variant": (["--config=configs/tiny_cpu.py:huge"], ["variant must be", "got 'huge'"]),
    "an unknown key": ([TINY, "--config.train.stepz=3"], ["no key 'train.stepz'; did you mean 'train.steps'?"]),
    "an unknown part": ([TINY, "--config.trane.steps=3"], ["no key 'trane.steps'; did you mean 'train.steps'?"]),
    "a word for a number": ([TINY, "--config.train.steps=many"], ["--config.train.steps=many", "'many'"]),
    "a fraction for a count": ([TINY, "--config.train.steps=2.5"], ["--config.train.steps=2.5"]),
    "a word for a switch": ([TINY, "--config.tools.enabled=perhaps"], ["--config.tools.enabled=perhaps"]),
    "an unknown flag": ([TINY, "--speed=9"], ["speed"]),
    "an argument": ([TINY, "now"], ["every argument must be a --flag=value: got 'now'"]),
    "values that do not fit": (
        [TINY, "--config.rollout.group_size=1", "--config.train.aggregation=row"],
        ["(config.rollout.group_size)", "(config.train.aggregation)", "got 'row'"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_command_is_one_sentence_before_jax_is_imported(repo_root, tmp_path, case):
    flags, parts = REFUSALS[case]
    # a jax that cannot be imported: whoever touches it fails
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')\n")
    if flags and flags[0] == TINY:
        flags = [*flags, f"--config.workdir={tmp_path / 'run'}"]
    done, seconds = run(repo_root, *flags, PYTHONPATH=f"{tmp_path}:{repo_root}")
    refused(done, *parts)
    assert seconds < LONGEST_S and not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_file_is_refused(repo_root, tmp_path):
    file = tmp_path / "mine.py"
    body = "from arft_jax import config\n\ndef get_config():\n    c = config.default_config()\n    {}\n    return c\n"
    file.write_text(body.format("c.rollout.max_turnz = 3"))
    done, seconds = run(repo_root, f"--config={file}")
    refused(done, "no key 'max_turnz'; did you mean 'max_turns'?")
    assert seconds < LONGEST_S
    file.write_text(body.format("c.train.steps = 'many'"))
    done, _ = run(repo_root, f"--config={file}")
    refused(done, "many")


def test_a_work_directory_of_another_config_is_refused_and_left_alone(repo_root, tmp_path):
    from arft_jax.config import default_config
    from arft_jax.train.run_dir import RunDir

    config = default_config()
    config.workdir = str(tmp_path / "run")
    RunDir(config)
    before = (tmp_path / "run" / "config.json").read_text()
    done, _ = run(repo_root, TINY, f"--config.workdir={config.workdir}")
    refused(done, "must hold a run of this config", "data.n_train=2000 there and 64 here", "(config.workdir)")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_tokenizer_that_is_not_there_leaves_no_work_directory(repo_root, tmp_path):
    done, _ = run(repo_root, TINY, f"--config.workdir={tmp_path / 'run'}", f"--config.tokenizer={tmp_path / 'none'}")
    refused(done, "tokenizer must be a directory", "(config.tokenizer)")
    assert not (tmp_path / "run").exists()
