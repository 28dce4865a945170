"""Levels: which are tried, what is said and recorded of them, and that a host without any is refused or stamped."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.testing.toolboxes import make_toolbox, open_configured
from arft_jax.tools.sandbox import NoneHolds, PythonSandbox, levels, pool
from arft_jax.trajectory import Image, ToolStatus

IMAGE = Image(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def bare_host(monkeypatch):
    """Workers of a host that grants neither namespaces nor Landlock."""
    monkeypatch.setattr(pool, "_WORKER", __file__.replace("levels_test", "bare_host_worker"))


@pytest.mark.parametrize("level", ["auto", "L1", "L0", "outer:gvisor", "outer:vm-1.2"])
def test_what_the_config_accepts_the_sandbox_knows(level):
    config = default_config()
    config.tools.sandbox.level = level
    validate(config)
    levels.candidates(level)


@pytest.mark.parametrize("level", ["outer", "outer:", "outer:a b", "outer:a\n", "L2", "", "l1"])
def test_an_unknown_level_is_named_with_its_key(level):
    config = default_config()
    config.tools.sandbox.level = level
    with pytest.raises(ValueError, match=r"level must be auto, L1, L0 or outer:NAME.*config\.tools\.sandbox\.level"):
        validate(config)
    with pytest.raises(ValueError, match=r"level must be one of auto, .*config\.tools\.sandbox\.level"):
        levels.candidates(level)


def test_the_config_names_no_unsafe_level_and_a_known_wrapper():
    config = default_config()
    config.tools.sandbox.update(level="unsafe", wrapper="docker")
    with pytest.raises(
        ValueError, match=r"wrapper must be bwrap or empty: got 'docker'.*level must be auto.*override\)"
    ):
        validate(config)


def test_an_override_is_the_last_resort():
    assert levels.candidates("L0", override=True) == (("L0", "unsafe"), "")
    assert levels.candidates("outer:x", override=True) == (("outer",), "x")  # holds, it is said


@pytest.mark.parametrize(("level", "stamp"), [("L1", "L1"), ("L0", "L0"), ("outer:vm", "outer:vm")])
def test_a_toolbox_says_what_holds_the_code(level, stamp):
    config = default_config()
    config.tools.n_workers = 1
    config.tools.sandbox.update(level=level, override=True)  # not needed, so without effect
    with open_configured(config, ["coding"]) as box:
        assert box.stamp() == {"sandbox": stamp}
        assert box.line.startswith(f"sandbox: {level.partition(':')[0]} (")
        assert ("declared: vm" in box.line) is (stamp == "outer:vm")


def test_a_toolbox_without_code_says_so():
    with make_toolbox(None, None) as box:
        assert (box.stamp(), box.line) == ({"sandbox": "off"}, "sandbox: off (no code is run)")


def test_a_host_that_grants_nothing_is_refused_with_the_remedy(bare_host):
    config = default_config()
    config.tools.n_workers = 1
    with pytest.raises(NoneHolds) as caught, open_configured(config, ["coding"]):
        pass
    for word in ("L1: ", "L0: Landlock", "Remedy: ", "outer:gvisor", "config.tools.sandbox.override=True"):
        assert word in str(caught.value)


def test_an_override_on_such_a_host_runs_and_is_stamped(bare_host):
    config = default_config()
    config.tools.n_workers = 1
    config.tools.sandbox.override = True
    with open_configured(config, ["coding"]) as box:
        assert box.stamp() == {"sandbox": "none (override)"}
        assert box.line.startswith("sandbox: unsafe (no landlock, ")
        assert "; NOT HELD: " in box.line and box.line.endswith(", rename a file)") and ", read a file," in box.line


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("level", ["L0", "L1"])
def test_bubblewrap_goes_around_a_level(level):
    with PythonSandbox(n_workers=1, timeout_s=30.0, level=level, wrapper="bwrap") as box:
        assert box.stamp == f"{level} in bwrap" and "bwrap" in box.line
        seen = box.run("import os\nprint(os.path.exists('/etc/passwd'), len(os.listdir('/')) > 0)", IMAGE)
        assert seen.status in (ToolStatus.OK, ToolStatus.ERROR)
        assert box.run("print(6 * 7)", IMAGE).text == "42"


def test_a_wrapper_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="needs bubblewrap: install it"):
        PythonSandbox(n_workers=1, wrapper="bwrap")


def test_the_plan_of_this_host_is_whole():
    """Otherwise the tests above and the attacks would show less than they seem to."""
    code = "from arft_jax.tools.sandbox import confine; plan, faults = confine.survey(())\n"
    code += "print(plan.seccomp, plan.landlock >= 1, faults)"  # it forks, which a process of JAX must not
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split(maxsplit=2) == ["True", "True", "[]\n"]


@pytest.fixture
def refuses(monkeypatch):
    """Function of a step that the host refuses to every worker from now on."""
    built = pool._environment
    monkeypatch.setattr(pool, "_WORKER", __file__.replace("levels_test", "refusing_worker"))

    def refuse(step):
        monkeypatch.setattr(pool, "_environment", lambda root: built(root) | {"ARFT_REFUSES": step})

    return refuse


def test_a_host_that_refuses_the_fork_of_a_call_is_refused_with_its_reason(refuses):
    refuses("clone")
    with pytest.raises(levels.NoneHolds, match=r"L1: .*Invalid argument.*; L0: .*Invalid argument"):
        PythonSandbox(n_workers=1)


def test_a_call_that_cannot_be_set_up_says_why(refuses, monkeypatch):
    refuses("space")
    monkeypatch.setattr(pool.Pool, "attempt_canaries", lambda self, worker: [])
    with PythonSandbox(n_workers=1) as box:
        seen = box.run("print(1)", IMAGE)
    assert seen.status == ToolStatus.INFRA
    assert seen.text.startswith(
        "sandbox fault: a call could not be set up: OSError: [Errno 28] No space left on device"
    )
