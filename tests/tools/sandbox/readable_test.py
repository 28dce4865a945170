"""What a call may read is a list: worked out for layouts of an installation, and held by real calls on this one."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from arft_jax.tools.sandbox import NoneHolds, PythonSandbox, pool, readable
from arft_jax.trajectory import Image, ToolStatus

IMAGE = Image(np.zeros((8, 8, 3), np.uint8))
HIDDEN = ("site-packages", "dist-packages")
SITE = sysconfig.get_path("purelib")
# Not loaded by a worker: a module and a package of the standard library, modules of the three packages.
FRESH = (
    "wave", "tomllib", "xml.dom.minidom", "http.cookies", "numpy.lib.recfunctions", "numpy.testing", "numpy.f2py",
    "numpy.typing", "PIL.ImageGrab",
)  # fmt: skip


def lay_out(root, files, links=()):
    """Makes files, each with its path as content, and links (name, target); ``root`` stands for the file system's."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name, target in dict(links).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(root / target[1:] if target.startswith("/") else target)


BASE = ("os.py", "json/__init__.py", "json/tool.py", "__pycache__/os.pyc", "lib-dynload/math.so", "test/data/x.txt")
OTHERS = ("scipy/__init__.py", "six.py", "numpy-2.dist-info/METADATA", "numpy.libs/blas.so", "arft_jax/__init__.py")
THREE = ("numpy/__init__.py", "numpy/lib/io.py", "PIL/Image.py", "cv2/__init__.py")


def below(folder, names):
    return [f"{folder}/{name}" for name in names]


# name: (folders of the standard library, packages, files, links)
SITES = {
    "venv": (
        ["base/lib/python3.11"],
        below("venv/lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("base/lib/python3.11", BASE) + below("base/lib/python3.11/site-packages", OTHERS)
        + below("venv/lib/python3.11/site-packages", THREE + OTHERS),
        {"venv/lib64": "lib"},
    ),
    "venv, packages found by lib64": (
        ["base/lib/python3.11"],
        below("venv/lib64/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("base/lib/python3.11", BASE) + below("venv/lib/python3.11/site-packages", THREE + OTHERS),
        {"venv/lib64": "lib"},
    ),
    "one prefix": (
        ["lib/python3.11"],
        below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("lib/python3.11", BASE) + below("lib/python3.11/site-packages", THREE + OTHERS),
        {},
    ),
    "Debian": (
        ["usr/lib/python3.11"],
        [*below("usr/lib/python3/dist-packages", ("numpy", "PIL")), "usr/lib/python3/dist-packages/cv2.abi3.so"],
        below("usr/lib/python3.11", BASE) + below("usr/lib/python3.11/dist-packages", OTHERS)
        + below("usr/lib/python3/dist-packages", ("cv2.abi3.so", *THREE[:-1], *OTHERS))
        + below("usr/local/lib/python3.11/dist-packages", OTHERS) + ["etc/python3.11/sitecustomize.py", "etc/passwd"],
        {"usr/lib/python3.11/sitecustomize.py": "../../../etc/python3.11/sitecustomize.py",
         "usr/lib/python3.11/_sysconfigdata.py": "os.py", "usr/lib/python3.11/linked": "../python3/dist-packages/scipy",
         "usr/lib/python3.11/six.py": "../python3/dist-packages/six.py"},
    ),
    "conda": (
        ["lib/python3.11"],
        below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("lib/python3.11", BASE) + below("lib/python3.11/site-packages", THREE + OTHERS)
        + ["lib/libpython3.11.so", "lib/tk8.6/tk.tcl", "lib/tk8.6/dist-packages/six.py", "lib/other/secret"],
        {"lib/python3.1": "python3.11", "lib/python3.11/config/libpython.so": "../../libpython3.11.so",
         "lib/python3.11/tk": "../tk8.6", "lib/python3.11/around": "..", "lib/python3.11/itself": ".",
         "lib/python3.11/other.py": "site-packages/six.py", "lib/python3.11/other": "site-packages/scipy",
         "lib/python3.11/gone": "nowhere"},
    ),
    "lib64": (
        ["usr/lib/python3.11", "usr/lib64/python3.11"],
        [*below("usr/lib64/python3.11/site-packages", ("numpy", "cv2")), "usr/lib/python3.11/site-packages/PIL"],
        below("usr/lib64/python3.11", BASE) + below("usr/lib64/python3.11/site-packages", THREE + OTHERS)
        + below("usr/lib/python3.11/site-packages", ("PIL/__init__.py", *OTHERS)),
        {},
    ),
    "prefix by a link": (
        ["python/lib/python3.11", "python-3.11.7/lib/python3.11"],
        below("python/lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("python-3.11.7/lib/python3.11", BASE)
        + below("python-3.11.7/lib/python3.11/site-packages", THREE + OTHERS),
        {"python": "python-3.11.7"},
    ),
    "site-packages by a link": (
        ["lib/python3.11"],
        below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("lib/python3.11", BASE) + below("lib/python3.11/all", THREE + OTHERS),
        {"lib/python3.11/site-packages": "/lib/python3.11/all", "lib/python3.11/six.py": "all/six.py"},
    ),
    "site-packages by a link, numpy too": (
        ["lib/python3.11"],
        below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("lib/python3.11", BASE) + below("lib/python3.11/all", THREE[2:] + OTHERS)
        + below("store/numpy", ("__init__.py", "lib/io.py")),
        {"lib/python3.11/site-packages": "all", "lib/python3.11/all/numpy": "../../../store/numpy"},
    ),
    "editable numpy": (
        ["lib/python3.11"],
        ["src/numpy/numpy", *below("lib/python3.11/site-packages", ("PIL", "cv2"))],
        below("lib/python3.11", BASE) + below("lib/python3.11/site-packages", THREE[2:] + OTHERS)
        + below("src/numpy", ("setup.py", "numpy/__init__.py", "numpy/lib/io.py")),
        {},
    ),
    "packages by links": (
        ["lib/python3.11"],
        below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
        below("lib/python3.11", BASE) + below("lib/python3.11/site-packages", OTHERS) + below("store", THREE + OTHERS),
        dict(zip(below("lib/python3.11/site-packages", ("numpy", "PIL", "cv2")),
                 below("../../../store", ("numpy", "PIL", "cv2")), strict=True)),
    ),
}  # fmt: skip


def survey(root, name, extra=()):
    stdlib, packages, files, links = SITES[name]
    lay_out(root, files, links)
    full = [[str(root / path) for path in paths] for paths in (stdlib, packages, extra)]
    return readable.survey(full[0], full[1], (), full[2])


def is_in(path, folders):
    return any(pathlib.Path(path).is_relative_to(folder) for folder in folders)


def may_read(found, path):
    """By the rules, which hold for what a path leads to."""
    return is_in(os.path.realpath(path), [os.path.realpath(rule) for rule in found.rules])


def is_seen(found, path):
    """In the root of level L1: the innermost folder around it is shown, not covered."""
    around = [p for p in (*found.shown, *found.hidden) if is_in(path, [p])]
    return bool(around) and max(around, key=len) in found.shown


def promised(root, name):
    """Files of a layout, by their real paths: (the standard library's and the packages', all others)."""
    stdlib, packages, files, links = SITES[name]
    roots = [os.path.realpath(root / path) for path in stdlib]
    hidden = {os.path.realpath(path) for path in root.rglob("*") if path.name in HIDDEN}
    wanted = [os.path.realpath(root / path) for path in packages]
    everything = {os.path.realpath(root / path) for path in files}
    of_links = {os.path.realpath(root / link) for link in links if is_in(root / link, [root / s for s in stdlib])}
    of_links |= {os.path.realpath(path) for path in root.glob("lib/tk8.6/*")} if name == "conda" else set()
    library = {path for path in everything if is_in(path, roots) or path in of_links}
    library = {path for path in library if not is_in(path, hidden)}
    mine = library | {path for path in everything if is_in(path, wanted)}
    return mine, everything - mine


@pytest.mark.parametrize("name", SITES)
def test_a_layouts_rules_hold_its_library_and_packages_and_nothing_else(tmp_path, name):
    found = survey(tmp_path, name)
    mine, others = promised(tmp_path, name)
    assert len(mine) >= 8 and len(others) >= 4
    assert {path for path in mine if not may_read(found, path)} == set()
    assert {path for path in others if may_read(found, path)} == set()
    assert {path for path in mine if not is_seen(found, path)} == set()
    assert {path for path in others if is_seen(found, path)} == set()


@pytest.mark.parametrize("name", SITES)
def test_no_rule_stands_on_or_above_a_folder_of_packages(tmp_path, name):
    found = survey(tmp_path, name)
    packages = {os.path.realpath(tmp_path / path) for path in SITES[name][1]}
    hidden = [path.resolve() for path in tmp_path.rglob("*") if path.name in HIDDEN]
    assert hidden
    for rule in set(found.rules) - packages:
        assert not any(is_in(path, [rule]) or is_in(rule, [path]) for path in hidden), rule


@pytest.mark.parametrize("name", SITES)
def test_packages_are_seen_under_the_names_by_which_they_are_imported(tmp_path, name):
    """In a root of what is shown; a link is followed there if the folder that holds it is shown and not covered."""
    found = survey(tmp_path, name)
    for path in (tmp_path / package for package in SITES[name][1]):
        links = [part for part in path.parents if part.is_symlink() and is_seen(found, part)]
        at_its_end = [str(part.resolve() / path.relative_to(part)) for part in links]
        assert any(is_seen(found, end) for end in (at_its_end or [str(path)])), path


@pytest.mark.parametrize("name", SITES)
def test_every_place_of_other_packages_has_a_bait(tmp_path, name):
    found = survey(tmp_path, name)
    assert found.unpromised
    assert not any(may_read(found, path) for path in found.unpromised)
    stdlib, packages, _, _ = SITES[name]
    places = {os.path.realpath((tmp_path / package).parent) for package in packages}
    below_library = [path for folder in stdlib for path in (tmp_path / folder).rglob("*") if path.name in HIDDEN]
    for place in places | set(map(os.path.realpath, below_library)):
        assert any(is_in(os.path.realpath(bait), [place]) for bait in found.unpromised), place


def test_what_the_user_adds_is_read_and_shown_though_it_lies_among_packages(tmp_path):
    site = tmp_path / "lib/python3.11/site-packages"
    found = survey(tmp_path, "one prefix", ["lib/python3.11/site-packages/scipy"])
    assert may_read(found, site / "scipy/__init__.py") and is_seen(found, site / "scipy/__init__.py")
    assert not may_read(found, site / "six.py") and not is_seen(found, site / "six.py")
    assert not any(is_in(path, [site / "scipy"]) for path in found.unpromised)


def test_a_folder_of_packages_that_the_user_adds_is_not_hidden(tmp_path):
    found = survey(tmp_path, "one prefix", ["lib/python3.11/site-packages"])
    assert found.hidden == ()
    assert is_seen(found, tmp_path / "lib/python3.11/site-packages/six.py")
    assert found.unpromised == ()


def test_a_forbidden_file_is_a_bait_unless_the_user_lets_it_be_read(tmp_path):
    lay_out(tmp_path, ["lib/os.py", "repository/arft_jax/__init__.py"])
    lib, own = str(tmp_path / "lib"), str(tmp_path / "repository/arft_jax/__init__.py")
    assert readable.survey([lib], [], (), (), [own]).unpromised == (own,)
    assert readable.survey([lib], [], (), [str(tmp_path / "repository")], [own]).unpromised == ()


def test_a_library_that_is_linked_file_by_file_is_read_where_its_files_are(tmp_path, monkeypatch):
    lay_out(tmp_path, below("pkgs/python-3.11/lib/python3.11", BASE))
    lay_out(tmp_path, below("pkgs/python-3.11/lib/python3.11/site-packages", OTHERS))
    stdlib, linked = tmp_path / "env/lib/python3.11", tmp_path / "pkgs/python-3.11/lib/python3.11"
    lay_out(tmp_path, [], {f"env/lib/python3.11/{name}": f"/{linked.relative_to(tmp_path)}/{name}" for name in BASE})
    monkeypatch.setattr(sysconfig, "get_path", lambda *_, **__: str(stdlib))
    found = readable.survey(readable.stdlib_folders(), [], ())
    assert all(may_read(found, stdlib / name) and is_seen(found, str(linked / name)) for name in BASE)
    assert not any(may_read(found, linked / "site-packages" / name) for name in OTHERS)
    assert set(found.shown) == {str(stdlib), str(linked)}  # not a mount for each file


def test_a_virtual_environment_has_no_standard_library_of_its_own(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    code = (
        "import importlib.util, sys, json\nspec = importlib.util.spec_from_file_location('r', sys.argv[1])\n"
        "r = sys.modules['r'] = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(r)\n"
        "found = r.survey(r.stdlib_folders(), [], ())\nprint(json.dumps([r.stdlib_folders(), found.rules]))"
    )
    command = [tmp_path / "venv/bin/python", "-c", code, readable.__file__]
    folders, rules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert folders and not is_in(tmp_path / "venv", folders) and not any(is_in(p, [tmp_path]) for p in folders)
    assert not any(set(HIDDEN) & set(rule.split("/")) for rule in rules)
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    files = [os.path.join(library, name) for name in ("os.py", "json/tool.py", "xml/dom/minidom.py")]
    assert all(is_in(path, rules) for path in files)


def test_a_package_that_is_missing_is_named():
    with pytest.raises(ValueError, match="needs the package no_such_package: not found"):
        readable.locations("no_such_package")


def test_a_package_of_one_file_is_that_file(tmp_path, monkeypatch):
    lay_out(tmp_path, ["single_module.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert readable.locations("single_module") == [str(tmp_path / "single_module.py")]
    assert readable.locations("json") == [os.path.dirname(json.__file__)]


# The root of level L1 alone, without the rules of Landlock.
ENTER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from arft_jax.tools.sandbox import namespaces
shown, hidden, paths, marked = json.loads(sys.argv[2])
namespaces.enter([*shown, os.devnull], hidden)
opened = []
for path in paths:
    try:
        opened.append(open(path).read())
    except OSError:
        opened.append(None)
wrote = []
for folder in [*hidden, *shown]:
    try:
        open(folder + '/new', 'w')
        wrote.append(folder)
    except OSError:
        pass
print(json.dumps([opened, wrote, [os.listdir(path) for path in hidden], os.stat(marked).st_atime]))
"""


@pytest.mark.parametrize("name", ["one prefix", "site-packages by a link", "site-packages by a link, numpy too"])
def test_the_root_of_level_one_hides_other_packages_by_itself(tmp_path, name):
    found = survey(tmp_path, name)
    mine, others = map(sorted, promised(tmp_path, name))
    mine += [str(path) for package in SITES[name][1] for path in (tmp_path / package).glob("*.py")]  # as imported
    old = 10**9
    for path in mine:
        os.utime(path, (old, old + 1))  # a reading would be marked: access before change
    root = str(pathlib.Path(readable.__file__).parents[3])
    request = json.dumps([found.shown, found.hidden, mine + others, mine[0]])
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # one thread: namespaces are a thread's
    command = [sys.executable, "-c", ENTER, root, request]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    opened, wrote, names, mark = json.loads(done.stdout)
    assert opened == [pathlib.Path(path).read_text() for path in mine] + [None] * len(others)
    assert wrote == [] and mark == old
    assert set().union(*names) <= {"numpy", "PIL", "cv2"}


@pytest.fixture(scope="module", params=["L1", "L0"])
def sandbox(request):
    with PythonSandbox(n_workers=1, timeout_s=10.0, level=request.param) as box:
        yield box


def one_file_of_each(site):
    """A file of each name in a folder of packages, the three aside."""
    found = []
    for path in sorted(pathlib.Path(site).iterdir()):
        if path.name not in readable.PACKAGES:
            files = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
            found += [str(path)] if path.is_file() else list(itertools.islice(files, 1))
    return found


OPEN = "import os\nfor path in {paths}:\n    try: print(open(path, 'rb').name)\n    except OSError: pass\nprint('done')"


def test_no_other_package_of_this_installation_can_be_opened(sandbox):
    paths = one_file_of_each(SITE)
    paths += [str(path) for path in pathlib.Path(readable.__file__).parent.glob("*.py")]
    for folder in readable.stdlib_folders():
        paths += [path for name in HIDDEN if os.path.isdir(f"{folder}/{name}")
                  for path in one_file_of_each(f"{folder}/{name}")]  # fmt: skip
    assert len(paths) > 30
    assert all(os.access(path, os.R_OK) for path in paths)
    assert sandbox.run(OPEN.format(paths=paths), IMAGE).text == "done"


def test_the_standard_library_and_the_three_packages_can_be_opened(sandbox):
    library = pathlib.Path(os.path.realpath(sysconfig.get_path("stdlib")))
    files = [str(path) for path in library.rglob("*.py") if not set(HIDDEN) & set(path.parts)][::20]
    files += [str(path) for name in readable.PACKAGES for path in pathlib.Path(SITE, name).rglob("*.py")][::20]
    code = "n = 0\nfor path in {paths}:\n    with open(path, 'rb') as f: n += len(f.read()) >= 0\nprint(n)"
    assert sandbox.run(code.format(paths=files), IMAGE).text == str(len(files))


@pytest.mark.parametrize("name", FRESH)
def test_modules_that_no_worker_has_loaded_are_imported(sandbox, name):
    seen = sandbox.run(f"import sys\nprint({name!r} in sys.modules)\nimport {name}\nprint('ok')", IMAGE)
    assert (seen.status, seen.text) == (ToolStatus.OK, "False\nok")


def test_a_call_may_forget_what_the_import_system_has_listed(sandbox):
    code = "import importlib, sys\nopen('own.py', 'w').write('x = 7')\nsys.path.append('.')\n"
    code += "importlib.invalidate_caches()\nimport own, wave, xml.dom.pulldom\nprint(own.x)"
    assert sandbox.run(code, IMAGE).text == "7"


@pytest.mark.parametrize("name", ["scipy", "jax", "pip"])
def test_a_package_that_is_not_promised_is_not_found_in_plain_words(sandbox, name):
    assert sandbox.run(f"import {name}", IMAGE).text == f"ModuleNotFoundError: No module named '{name}' (line 1)"


def test_the_import_system_does_not_tell_which_packages_are_installed(sandbox):
    code = "import os, sys\nprint([p for p in sys.path if os.path.basename(p).endswith('-packages')])\n"
    code += f"print({SITE!r} in sys.path_importer_cache)"
    assert sandbox.run(code, IMAGE).text == "[]\nFalse"
    folder = os.path.dirname(SITE if sandbox.level == "L0" else sysconfig.get_path("stdlib"))
    assert "Error: [Errno " in sandbox.run(f"import os\nos.listdir({folder!r})", IMAGE).text


def test_the_system_python_as_the_trainer_lets_no_more_be_read():
    """The base interpreter, with the packages found through PYTHONPATH."""
    program = (
        "import json, sys\nimport numpy as np\nfrom arft_jax.tools.sandbox import PythonSandbox\n"
        "from arft_jax.trajectory import Image\nimage = Image(np.zeros((8, 8, 3), np.uint8))\n"
        "with PythonSandbox(1, 10.0) as box:\n"
        "    print(json.dumps([sys.prefix, *(box.run(code, image).text for code in json.loads(sys.argv[1]))]))"
    )
    paths = one_file_of_each(SITE)
    codes = [OPEN.format(paths=paths), "import scipy", "import wave, numpy.testing\nprint('ok')"]
    root = str(pathlib.Path(readable.__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": f"{root}:{SITE}"}
    command = [sys._base_executable, "-c", program, json.dumps(codes)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    assert json.loads(done.stdout) == [
        sys.base_prefix, "done", "ModuleNotFoundError: No module named 'scipy' (line 1)", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["L1", "L0"])
def test_a_list_that_lets_a_package_be_read_does_not_hold_against_the_canaries(monkeypatch, level):
    right = readable.of_this_interpreter()
    wide = dataclasses.replace(right, shown=(*right.shown, SITE), rules=(*right.rules, SITE))
    monkeypatch.setattr(pool.readable_lib, "of_this_interpreter", lambda extra: wide)
    with pytest.raises(NoneHolds, match="not refused: read a package that is not promised"):
        PythonSandbox(n_workers=1, level=level)
