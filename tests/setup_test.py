"""The commands that a newcomer types are the ones that are run."""

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata

import pytest

import arft_jax
from arft_jax.commands import COMMANDS, module_name

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


def test_every_folder_of_the_package_is_a_package(repo_root):
    folders = {path.parent for path in (repo_root / "arft_jax").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    tracked = subprocess.run(["git", "-C", str(repo_root), "ls-files", "arft_jax"], capture_output=True, text=True)
    if tracked.returncode == 0:  # an ignored file is there and yet in nobody's clone
        names = set(tracked.stdout.splitlines())
        assert all(str((folder / "__init__.py").relative_to(repo_root)) in names for folder in folders)


def test_setup_installs_every_command(repo_root):
    text = (repo_root / "setup.py").read_text(encoding="utf-8")
    installed = re.findall(r'"(arft-[\w-]+) = ([\w.]+):main"', text)
    assert installed == [(f"arft-{name}", module_name(name)) for name in COMMANDS]


def _can_build_wheels():
    try:
        return tuple(map(int, metadata.version("setuptools").split(".")[:2])) >= (70, 1)
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not _can_build_wheels(), reason="needs setuptools 70.1 or newer, of the [test] extra")
def test_a_wheel_outside_the_checkout_has_commands_and_configurations(tmp_path, repo_root):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(repo_root / name, source)
    for name in ("arft_jax", "configs"):
        shutil.copytree(repo_root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", f"--target={tmp_path / 'site'}"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    shutil.rmtree(source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words):
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=elsewhere, env=env)

    train = str(tmp_path / "site" / "bin" / "arft-train")
    listed = run(train, "--config=tiny_cpu:smoke", "--list_keys")
    assert listed.returncode == 0 and "* train.steps = 2  (default: 100)  # GRPO steps\n" in listed.stdout
    refused = run(train, "--config=tiny_cpu:smoke", "--config.tools.n_workers=0")  # read and checked by the package
    assert (
        refused.returncode == 2
        and refused.stderr.startswith("error: ")
        and "(config.tools.n_workers)" in refused.stderr
    )
    commands = run("-m", "arft_jax")
    assert commands.returncode == 0 and all(f"arft-{name} " in commands.stdout for name in COMMANDS)
    shipped = run("-c", "from arft_jax.commands import shipped; print(*shipped.shipped_configs().values())").stdout
    assert len(shipped.split()) == len(list((repo_root / "configs").glob("*.py"))) and str(tmp_path / "site") in shipped
    imported = run("-c", "import arft_jax, arft_jax.build.parts, arft_jax.train.trainer; print(arft_jax.__file__)")
    assert imported.returncode == 0 and imported.stdout.startswith(str(tmp_path / "site"))
