"""The rules of the house, read from the source: floors, purity, one place of jax.jit, sizes."""

import ast
import pathlib
import textwrap

import pytest

PACKAGE = "arft_jax"

# A module or package of arft_jax stands on the floor of the first part of its name.
FLOORS = {
    "words": 0, "config": 0, "objective_keys": 0, "config_checks": 0, "train_checks": 0, "openai_checks": 0,
    "presets": 0, "protocol": 0,
    "syntax": 0, "trajectory": 0,
    "ops": 1, "rl": 1, "rewards": 1, "sampling": 1,
    "models": 2,
    "sharding": 3,
    "steps": 4,
    "io": 5, "data": 5, "tools": 5, "remote": 5,
    "rollout": 6,
    "build": 7, "evaluate": 7,
    "report": 8, "compile_check": 8,
    "train": 9, "bench": 9, "serve": 9,
    "commands": 10,
    "__main__": 11,
}  # fmt: skip
HIGHEST_PURE = 4
# Which rooms of one floor import one another, and why. No pair may stand here both ways round.
NEIGHBOURS = {
    ("config_checks", "config"): "checks the keys that config defines",
    ("config_checks", "objective_keys"): "checks the keys of the objective with the values that they resolve to",
    ("config_checks", "train_checks"): "the checks of training are a file of their own",
    ("config_checks", "openai_checks"): "the checks of config.openai are a file of their own",
    ("train_checks", "words"): "checks keys against the words that they may hold",
    ("config_checks", "words"): "checks keys against the words that they may hold",
    ("presets", "config"): "overrides the keys that config defines",
    ("trajectory", "protocol"): "a turn of a trajectory holds the action that was read in it",
    ("syntax", "protocol"): "a syntax reads and writes the actions of the protocol",
    ("tools", "data"): "tools take and return images through the one door for images, data/images.py",
    ("tools", "io"): "secrets are taken out of a tool's errors by io/redact.py",
    ("bench", "serve"): "the server is timed with the requests that it reads",
    ("remote", "io"): "secrets are taken out of what a server says by io/redact.py",
    ("io", "data"): "a tiny checkpoint and an export carry the tokenizer and the image sizes",
}
ANYTHING = "testing"  # imports what it likes; imported by tests alone

# What a pure floor may import; everything else may reach a file, a clock, the environment or a log.
PURE_MODULES = {
    "__future__", "abc", "ast", "bisect", "collections", "copy", "dataclasses", "difflib", "enum", "fractions",
    "functools", "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator", "re", "statistics", "string",
    "textwrap", "types", "typing", "unicodedata",
    "flax", "jax", "numpy", "optax",
}  # fmt: skip
PURE_EXTRA = {"config": {"ml_collections"}}  # the one module of a pure floor that builds a ConfigDict
IMPURE_CALLS = {
    "open", "print", "input", "exec", "eval", "breakpoint", "__import__",
    "numpy.load", "numpy.save", "numpy.savez", "numpy.savez_compressed", "numpy.loadtxt", "numpy.savetxt",
    "numpy.fromfile", "numpy.genfromtxt", "numpy.memmap", "numpy.show_config",
    "functools.cache", "functools.lru_cache",
    "jax.config.update", "jax.profiler", "jax.monitoring",
}  # fmt: skip
ATTRIBUTE_CALLS = {"setattr", "delattr", "__setattr__", "__delattr__"}
LOCAL_RANDOM = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox"}  # of numpy.random: no global state

JIT_NAMES = {"jit", "pjit", "pmap"}
JIT_ROOTS = ("jax", "flax")

FAMILY = "qwen2_5_vl"  # known to its folder, to the list of families and to tests alone
FAMILY_ROOMS = ("models", ANYTHING)
OWN_ATTRIBUTES = {"rollout"}  # rooms in which an object's attributes are assigned by itself alone

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def imports_of(tree, module, is_package):
    """(line, dotted target) of every import, relative ones resolved; ``from a import b`` gives ``a.b``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def names_used(tree):
    """(line, dotted name) of every name and attribute chain, aliases of imports resolved."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def dotted(node):
        if isinstance(node, ast.Name):
            return aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = dotted(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            base, name = dotted(node.args[0]), node.args[1]
            return base and isinstance(name, ast.Constant) and f"{base}.{name.value}"
        return None

    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute, ast.Call)) and (name := dotted(node)):
            found.append((node.lineno, name))
    return found


def check_imports(unit, imports):
    """Upward edges, unknown rooms, and the testing package."""
    floor = FLOORS.get(unit)
    for line, target in imports:
        parts = target.split(".")
        if parts[0] != PACKAGE or len(parts) == 1:
            continue
        other = parts[1]
        if unit == ANYTHING or other == unit or other.startswith("__"):
            continue
        if other == ANYTHING:
            yield line, f"imports {target}: only tests import {PACKAGE}.{ANYTHING}"
        elif other not in FLOORS:
            yield line, f"imports {target}, which has no floor"
        elif floor is None:
            yield line, f"imports {target} from a module without a floor"
        elif FLOORS[other] > floor:
            yield line, f"imports {target}: floor {floor} may not import floor {FLOORS[other]}"
        elif FLOORS[other] == floor and (unit, other) not in NEIGHBOURS:
            yield line, f"imports {target}: rooms of floor {floor} may not import one another (NEIGHBOURS)"


def check_purity(unit, tree, imports):
    """Input, output, clocks, the environment, global state."""
    allowed = PURE_MODULES | PURE_EXTRA.get(unit, set()) | {PACKAGE}
    for line, target in imports:
        if target.split(".")[0] not in allowed:
            yield line, f"imports {target}: not on the list of pure modules (floor {FLOORS[unit]} is pure)"
    for line, name in names_used(tree):
        if name in IMPURE_CALLS or any(name.startswith(f"{call}.") for call in IMPURE_CALLS):
            yield line, f"uses {name}: floor {FLOORS[unit]} is pure"
        if name.startswith("numpy.random.") and name.split(".")[2] not in LOCAL_RANDOM:
            yield line, f"uses {name}: global random state"
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"writes the global {node.names[0]}: floor {FLOORS[unit]} is pure"


def check_jit(unit, tree, imports):
    """Compilation outside steps/."""
    if unit == "steps":
        return
    for line, name in [*imports, *names_used(tree)]:
        parts = name.split(".")
        if parts[0] in JIT_ROOTS and len(parts) > 1 and JIT_NAMES & set(parts[1:]):
            yield line, f"uses {name}: compiled functions are made in {PACKAGE}/steps/ alone"


def check_owners(unit, tree):
    """Attributes that another object than their owner assigns, deletes or sets by name."""
    if unit not in OWN_ATTRIBUTES:
        return
    for node in ast.walk(tree):
        owner, name = None, None
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            owner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".")[-1] in ATTRIBUTE_CALLS and node.args:
            owner, name = node.args[0], ast.unparse(node.func)
        if owner is not None and not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
            yield node.lineno, f"assigns {ast.unparse(owner)}'s attributes ({name}): only an object itself may"


def check_size(source, tree):
    """Files over 400 lines, functions over 60."""
    n_lines = source.count("\n")
    if n_lines > MAX_FILE_LINES:
        yield 1, f"has {n_lines} lines: at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines: at most {MAX_FUNCTION_LINES}"


def check_family(unit, source):
    """Names of a model family, in code or text, outside the rooms that know families by name."""
    if unit in FAMILY_ROOMS:
        return
    for line, text in enumerate(source.splitlines(), start=1):
        if FAMILY in text.lower():
            yield line, f"names the model family {FAMILY}: only {PACKAGE}/models/ does"


def violations(root: pathlib.Path) -> list[str]:
    """Every breach of the rules under ``root``, as ``path:line: sentence``."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        relative = path.relative_to(root)
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        is_package = path.name == "__init__.py"
        module = ".".join(relative.with_suffix("").parts[: -1 if is_package else None])
        unit = relative.with_suffix("").parts[1]
        imports = imports_of(tree, module, is_package)
        problems = [*check_size(source, tree), *check_jit(unit, tree, imports)]
        problems += [*check_owners(unit, tree), *check_family(unit, source)]
        if unit not in {*FLOORS, ANYTHING, "__init__"}:
            problems.append((1, "has no floor: give it one in tests/architecture_test.py"))
        problems += check_imports(unit, imports)
        if FLOORS.get(unit, HIGHEST_PURE + 1) <= HIGHEST_PURE:
            problems += check_purity(unit, tree, imports)
        found += [f"{relative}:{line}: {text}" for line, text in problems]
    for folder in ("configs", "launch"):
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root)
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
            problems = list(check_size(source, tree))
            for line, target in imports_of(tree, folder, False):
                if folder == "configs" and target.split(".")[0] != PACKAGE:
                    problems.append((line, f"imports {target}: configs import {PACKAGE} alone"))
                if target.startswith(f"{PACKAGE}.{ANYTHING}"):
                    problems.append((line, f"imports {target}: only tests import {PACKAGE}.{ANYTHING}"))
            problems += check_jit(folder, tree, imports_of(tree, folder, False))
            found += [f"{relative}:{line}: {text}" for line, text in problems]
    return sorted(set(found))


def test_the_repository_keeps_the_rules(repo_root):
    assert (repo_root / PACKAGE / "trajectory.py").is_file()
    found = violations(repo_root)
    assert not found, "\n".join(found)


def test_no_two_rooms_import_one_another():
    assert not [pair for pair in NEIGHBOURS if pair[::-1] in NEIGHBOURS]
    assert all(FLOORS[a] == FLOORS[b] and reason for (a, b), reason in NEIGHBOURS.items())


PLANTED = {
    "an upward edge": ("arft_jax/rl/x.py", "from arft_jax.tools import python", "floor 1 may not import floor 5"),
    "an upward edge by name": ("arft_jax/rl/x.py", "from arft_jax import train", "floor 1 may not import floor 9"),
    "a relative upward edge": ("arft_jax/rl/x.py", "from ..steps import decode", "floor 1 may not import floor 4"),
    "an edge inside a function": ("arft_jax/ops/x.py", "def f():\n    import arft_jax.io.metrics", "floor 1 may not"),
    "a sibling room": ("arft_jax/data/x.py", "from arft_jax.tools import bank", "rooms of floor 5 may not import"),
    "a sibling of arithmetic": ("arft_jax/rl/x.py", "from arft_jax.ops import a", "rooms of floor 1 may not import"),
    "a file of no floor": ("arft_jax/attic.py", "", "has no floor"),
    "an import of no floor": ("arft_jax/train/x.py", "import arft_jax.attic", "which has no floor"),
    "testing in the product": ("arft_jax/train/x.py", "from arft_jax.testing import tiny", "only tests import"),
    "testing in a launcher": ("launch/train.py", "from arft_jax.testing import tiny", "only tests import"),
    "a clock": ("arft_jax/rl/x.py", "import time", "imports time"),
    "a log": ("arft_jax/models/x.py", "from absl import logging", "imports absl.logging"),
    "the environment": ("arft_jax/steps/x.py", "import os.path", "imports os.path"),
    "a file": ("arft_jax/rewards/x.py", "def f(p):\n    return open(p)", "uses open"),
    "a file by numpy": ("arft_jax/rewards/x.py", "import numpy as np\nx = np.load('a')", "uses numpy.load"),
    "global random state": ("arft_jax/rl/x.py", "import numpy as np\nx = np.random.rand(3)", "global random state"),
    "a cache": ("arft_jax/ops/x.py", "from functools import cache\n@cache\ndef f(): ...", "uses functools.cache"),
    "a global": ("arft_jax/ops/x.py", "def f():\n    global n\n    n = 1", "writes the global n"),
    "jit": ("arft_jax/models/x.py", "import jax\nf = jax.jit(abs)", "uses jax.jit"),
    "jit by alias": ("arft_jax/train/x.py", "import jax as j\n@j.jit\ndef f(x): ...", "uses jax.jit"),
    "jit by name": ("arft_jax/train/x.py", "from jax import jit as fast\nf = fast(abs)", "uses jax.jit"),
    "jit by partial": (
        "arft_jax/ops/x.py",
        "import functools, jax\n@functools.partial(jax.jit, static_argnums=0)\ndef f(x): ...",
        "uses jax.jit",
    ),
    "jit by getattr": ("arft_jax/ops/x.py", "import jax\nf = getattr(jax, 'jit')(abs)", "uses jax.jit"),
    "pjit": ("arft_jax/train/x.py", "from jax.experimental.pjit import pjit", "uses jax.experimental.pjit"),
    "jit of flax": ("arft_jax/models/x.py", "from flax import nnx\n@nnx.jit\ndef f(x): ...", "uses flax.nnx.jit"),
    "jit in a launcher": ("launch/train.py", "import jax\nf = jax.jit(abs)", "uses jax.jit"),
    "another's attribute": ("arft_jax/rollout/x.py", "def f(engine):\n    engine.state = 1", "engine's attributes"),
    "another's attribute, augmented": (
        "arft_jax/rollout/x.py",
        "class A:\n    def f(self):\n        self.engine.n += 1",
        "self.engine's attributes",
    ),
    "another's attribute, annotated": ("arft_jax/rollout/x.py", "def f(row):\n    row.n: int = 1", "row's attributes"),
    "another's attribute in a tuple": (
        "arft_jax/rollout/x.py",
        "class A:\n    def f(self, rows):\n        self.n, (rows[0].limit, *_) = 1, (2,)",
        "rows[0]'s attributes",
    ),
    "another's attribute by a loop": (
        "arft_jax/rollout/x.py",
        "def f(row, log):\n    for row.n in range(3):\n        log(row.n)",
        "row's attributes",
    ),
    "another's attribute, deleted": ("arft_jax/rollout/x.py", "def f(row):\n    del row.n", "row's attributes"),
    "another's attribute by setattr": (
        "arft_jax/rollout/x.py",
        "def f(row):\n    object.__setattr__(row, 'n', 1)",
        "row's attributes",
    ),
    "a config that imports more": ("configs/x.py", "import ml_collections", "configs import arft_jax alone"),
    "a family by import": ("arft_jax/io/x.py", "from arft_jax.models.qwen2_5_vl import text", "names the model family"),
    "a family by text": ("arft_jax/io/x.py", "x = 'Qwen2_5_VLProcessor'", "names the model family"),
    "a long file": ("arft_jax/data/x.py", "x = 1\n" * 401, "has 401 lines"),
    "a long function": ("launch/x.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
}


def plant(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text) + "\n", encoding="utf-8")


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_breach_is_caught(tmp_path, case):
    path, text, message = PLANTED[case]
    plant(tmp_path, path, text.rstrip("\n"))
    found = violations(tmp_path)
    assert found and all(line.startswith(f"{path}:") for line in found)
    assert any(message in line for line in found), found


def test_what_the_rules_allow_is_not_reported(tmp_path):
    plant(tmp_path, "arft_jax/__init__.py", '__version__ = "1"')
    plant(tmp_path, "arft_jax/rl/a.py", "from arft_jax import protocol\nfrom . import b")
    plant(tmp_path, "arft_jax/steps/a.py", "import jax\nf = jax.jit(abs)\nfrom arft_jax.models import cache")
    plant(tmp_path, "arft_jax/io/a.py", "import os, time\nfrom arft_jax.data import images\nx = open('a')")
    plant(tmp_path, "arft_jax/testing/a.py", "import arft_jax.train.x\nfrom arft_jax.testing import b")
    plant(tmp_path, "arft_jax/sampling/a.py", "import numpy as np\nrng = np.random.default_rng(0)")
    plant(tmp_path, "configs/a.py", "from arft_jax import config")
    own = "class A:\n    def f(self, b):\n        self.n, self.m[0] = b.n, 1\n        b.m[0] = b._replace(n=1)\n"
    plant(tmp_path, "arft_jax/rollout/a.py", own + "        setattr(self, 'n', 1)")
    plant(tmp_path, "arft_jax/train/a.py", "def f(run):\n    run.step += 1")
    assert violations(tmp_path) == []
