"""The commands that a newcomer types are the ones that are run."""

import shutil
import socket
import subprocess

import pytest

import arft_jax

README = """# x

## Run

    ignored

```bash
echo ran-the-run-block
```

## Test

Words first.

```bash
echo first > made && cat made
{command}
```

```bash
echo not-this-one
```
"""


def ci(tmp_path, repo_root, command, *args):
    """Runs .ci/run in a small repository of its own, whose tree also holds a file that was not committed."""
    source = tmp_path / "source"
    (source / ".ci").mkdir(parents=True)
    shutil.copy(repo_root / ".ci" / "run", source / ".ci" / "run")
    (source / "README.md").write_text(README.format(command=command))
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *step], check=True, capture_output=True)
    (source / "loose").touch()
    return subprocess.run([source / ".ci" / "run", *args], capture_output=True, text=True, timeout=60)


def test_ci_runs_the_readmes_test_block_in_a_clean_clone(tmp_path, repo_root):
    done = ci(tmp_path, repo_root, "ls")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["first", "README.md", "made"]


def test_ci_fails_where_the_block_fails(tmp_path, repo_root):
    done = ci(tmp_path, repo_root, "false\necho behind")
    assert done.returncode != 0 and "behind" not in done.stdout


def test_ci_runs_another_heading_and_refuses_a_missing_one(tmp_path, repo_root):
    assert ci(tmp_path / "a", repo_root, "true", "Run").stdout.split() == ["ran-the-run-block"]
    done = ci(tmp_path / "b", repo_root, "true", "Nowhere")
    assert done.returncode == 2 and "'## Nowhere'" in done.stderr


def test_the_readme_has_the_two_blocks(repo_root):
    readme = repo_root / "README.md"
    if not readme.exists():
        pytest.fail("README.md is missing: setup.py and .ci/run read it")
    text = readme.read_text(encoding="utf-8")
    for heading, command in (("## Run", "launch/train.py --config=configs/tiny_cpu.py"), ("## Test", "-m pytest")):
        section = text.split(heading + "\n", 1)[1].split("\n## ", 1)[0]
        assert command in section.split("```")[1]


def test_the_package_and_setup_state_one_version(repo_root):
    assert f'version="{arft_jax.__version__}"' in (repo_root / "setup.py").read_text(encoding="utf-8")


def test_a_test_reaches_this_machine_and_no_other():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with socket.socket() as sock:
        for reach in (
            lambda: socket.create_connection(("192.0.2.1", 80), timeout=0.01),
            lambda: sock.connect(("192.0.2.1", 80)),
            lambda: sock.connect_ex(("192.0.2.1", 80)),
            lambda: socket.getaddrinfo("example.org", 80),
        ):
            with pytest.raises(RuntimeError, match="must not use the network"):
                reach()
