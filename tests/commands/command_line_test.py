"""All commands in one process: flags that do not clash, help, the list of keys, and one sentence where one is wrong."""

import importlib
import subprocess
import sys

import pytest

from arft_jax import __main__ as arft
from arft_jax.commands import COMMANDS, command_line, module_name
from arft_jax.commands.cli import build_index, score, train

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_a_launcher(command, repo_root, capsys):
    module = importlib.import_module(module_name(command))
    assert module.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(module.__doc__.strip()) and f"arft-{command} " in out and "\n  --help " in out
    launcher = (repo_root / "launch" / f"{module_name(command).rpartition('.')[2]}.py").read_text(encoding="utf-8")
    assert f"from {module_name(command)} import main\n" in launcher


def test_the_commands_are_listed_and_run_by_name(capsys):
    assert arft.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"arft-{command} " in out for command in COMMANDS) and "Trains a visual agent" in out
    assert arft.main(["score", "--benchmark=qa"]) == 2
    assert capsys.readouterr().err == "error: --predictions must be given\n"
    assert arft.main(["compile_chek"]) == 2
    assert "there is no command 'compile_chek'; did you mean 'compile-check'?" in capsys.readouterr().err


def test_listing_commands_and_keys_imports_no_jax(tmp_path, repo_root):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')\n")
    for words in ((), ("train", "--list_keys", "--config=tiny_cpu:smoke")):
        command = [sys.executable, "-m", "arft_jax", *words]
        env = {"PYTHONPATH": f"{tmp_path}:{repo_root}", "PATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, "")
    assert "* train.steps = 2  (default: 100)  # GRPO steps\n" in done.stdout


def test_a_reader_of_the_list_may_leave_early(repo_root):
    command = [sys.executable, "-m", "arft_jax", "train", "--list_keys"]
    with subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 0 and process.stderr.read() == b""


def test_keys_are_listed_without_anything_else_being_given(capsys):
    assert build_index.main(["--list_keys", "--config=tiny_cpu", "--config.train.steps=7"]) == 0
    assert "* train.steps = 7  (default: 100)  # GRPO steps\n" in capsys.readouterr().out


REFUSALS = {
    "a misspelt flag": (
        score,
        ["--predictons=x"],
        "Unknown command line flag 'predictons'; did you mean --predictions?",
    ),
    "a flag like none": (score, ["--zzz=x"], "Unknown command line flag 'zzz'\n"),
    "a key without config.": (train, ["--train.steps=3"], "flag 'train.steps'; did you mean --config.train.steps?"),
    "a key by another name": (
        train,
        ["--lr=1"],
        "did you mean --config.train.learning_rate or --config.warm_start.lea",
    ),
    "a key without a config": (train, ["--config.seed=1"], "--config must be given where --config.seed is"),
    "a misspelt key": (train, ["--config=tiny_cpu", "--config.train.lr=1"], "did you mean 'train.learning_rate'?"),
    "a misspelt config": (train, ["--config", "tiny_gpu"], "got 'tiny_gpu'; did you mean 'tiny_cpu'? (--config)"),
    "a missing path": (train, ["--config=c/tiny_cpu.py"], "'c/tiny_cpu.py'; did you mean --config=tiny_cpu?"),
    "a loose word": (train, ["now"], "every argument must be a --flag=value: got 'now'"),
    "nothing": (train, [], "--config must be given"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_command_is_one_sentence_with_what_may_be_meant(case, capsys):
    module, arguments, words = REFUSALS[case]
    assert module.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_the_status_of_the_work_is_the_commands(capsys):
    def run(status):
        return command_line.run("About.", lambda values, argv: None, lambda f, words: status, [])

    assert (run(None), run(0), run(1)) == (0, 0, 1)
