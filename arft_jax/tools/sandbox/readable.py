"""Which files a call may read: the standard library, the three packages, fonts, time zones; as a list of its own.

A folder of the standard library usually holds ``site-packages`` or ``dist-packages``, and with it whatever else is
installed. None of that may be read, and what guards files cannot say "this folder but not that one in it": rules of
Landlock hold for all that lies below a folder. So a folder with such a one in it gets no rule, each of its other
entries gets one. The root of level L1 shows the whole folder and covers the hidden one with an empty mount.

A module that is not loaded yet is still found: the import system listed the folder before the rules came, and asks
only whether the folder has changed since.
"""

import contextlib
import dataclasses
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence

PACKAGES = ("numpy", "PIL", "cv2")
SHARED = ("/usr/share/zoneinfo", "/usr/share/fonts", "/dev/null", "/dev/zero", "/dev/urandom")
_HIDDEN = frozenset({"site-packages", "dist-packages"})
_LANDMARK = "os.py"  # of the standard library
_NO_MODULE = "no_module_of_this_name"
_MAX_TRIED = 200  # entries that are looked at for one file of a folder


@dataclasses.dataclass(frozen=True)
class Readable:
    """What a call may read.

    Args:
      shown: files and folders that are in the root of level L1.
      hidden: folders below shown ones that are covered there; shown ones below them lie on top of the cover.
      rules: files and folders, with all below them, that Landlock lets be read.
      unpromised: files that must not open, one for each place where other packages lie: baits for the canaries.
    """

    shown: tuple[str, ...]
    hidden: tuple[str, ...]
    rules: tuple[str, ...]
    unpromised: tuple[str, ...]


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it, by their names.

    >>> is_below("/a/b", "/a"), is_below("/a", "/a"), is_below("/ab", "/a"), is_below("/a", "/")
    (True, True, False, True)
    """
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths in order, without those below another of them.

    >>> outermost(["/b/c", "/a", "/b"])
    ['/a', '/b']
    """
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(is_below(path, other) for other in kept):
            kept.append(path)
    return kept


def locations(package: str) -> list[str]:
    """Where a package lies: its folders, or its one file; an editable install is followed.

    Raises:
      ValueError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    found = [] if spec is None else list(spec.submodule_search_locations or filter(None, [spec.origin]))
    if not found:
        raise ValueError(f"the Python sandbox needs the package {package}: not found")
    return [os.path.abspath(path) for path in found]


def stdlib_folders() -> list[str]:
    """Folders of the base interpreter's standard library, by every name that they have.

    A virtual environment has none of its own: its ``platstdlib`` holds ``site-packages`` alone.
    """
    base = {"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
    named = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=base)]
    folders = [os.path.abspath(path) for path in named]
    # Where a package manager links file by file, the files lie in a folder of the same layout.
    landmarks = [os.path.join(path, _LANDMARK) for path in folders]
    real = [os.path.dirname(os.path.realpath(path)) for path in landmarks if os.path.isfile(path)]
    return list(dict.fromkeys([*folders, *map(os.path.realpath, folders), *real]))


class _Library:
    """The standard library as it lies on the disk, all paths real: where it hides packages, what its links lead to."""

    def __init__(self, folders: Sequence[str]):
        first = outermost(os.path.realpath(path) for path in folders)
        self.roots = list(first)
        self.hidden: set[str] = set()
        self.files: set[str] = set()  # at the end of links
        waiting = list(first)
        while waiting:
            links = [link for root in waiting for link in self._walk(root)]
            waiting = self._follow(links)
        # A hidden folder may have been found behind the links into it.
        self.files = {path for path in self.files if not self._is_hidden(path)}
        self.roots = [root for root in self.roots if root in first or not self._is_hidden(root)]

    def _walk(self, folder: str) -> Iterator[str]:
        """Notes the hidden folders below a folder; yields its links."""
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in _HIDDEN and entry.is_dir():
                    self.hidden.add(os.path.realpath(entry.path))
                elif entry.is_symlink():
                    yield entry.path
                elif entry.is_dir():
                    yield from self._walk(entry.path)

    def _follow(self, links: Sequence[str]) -> list[str]:
        """Notes the files that links lead to; returns the folders, which become roots."""
        new: list[str] = []
        for target in dict.fromkeys(map(os.path.realpath, links)):
            if self._is_hidden(target) or any(is_below(root, target) for root in self.roots):
                continue  # a folder above a root would let in what lies beside it
            if any(is_below(target, root) for root in (*self.roots, *new)):
                continue  # counts there
            if os.path.isfile(target):
                self.files.add(target)
            elif os.path.isdir(target):
                new.append(target)
        self.roots += new
        return new

    def _is_hidden(self, path: str) -> bool:
        if any(is_below(path, folder) for folder in self.hidden):
            return True
        around = next((root for root in self.roots if is_below(path, root)), "/")
        return not _HIDDEN.isdisjoint(os.path.relpath(path, around).split("/"))

    def _entries(self, folder: str) -> Iterator[str]:
        """The folder, or in its place the entries that hide nothing."""
        if folder in self.hidden:
            return
        if not any(is_below(path, folder) for path in self.hidden):
            yield folder
            return
        with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _HIDDEN:
                        yield from self._entries(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path

    def rules(self) -> list[str]:
        """Files and folders in which all is standard library."""
        return outermost([*(entry for root in self.roots for entry in self._entries(root)), *self.files])

    def covers(self, named: Sequence[str]) -> list[str]:
        """The hidden folders, by every name that they have below the folders as they were named."""
        return sorted(
            root + path[len(os.path.realpath(root)) :]
            for root in {*named, *self.roots}
            for path in self.hidden
            if is_below(path, os.path.realpath(root))
        )


def _names_of(package: str) -> list[str]:
    """Paths under which level L1 shows a package: its real one and those by which it is imported."""
    parent, name = os.path.split(package)
    return [os.path.realpath(package), os.path.join(os.path.realpath(parent), name), package]


def _some_file(place: str, is_allowed: Sequence[str]) -> str:
    """A file in a folder, or the one that is named, that its mode lets be read but no allowed path holds; or ''."""
    waiting, tried = [place], 0
    while waiting and tried < _MAX_TRIED:
        path, tried = waiting.pop(0), tried + 1
        real = os.path.realpath(path)
        if any(is_below(real, other) for other in is_allowed):
            continue
        if os.path.isfile(real) and os.access(real, os.R_OK):
            return path
        with contextlib.suppress(OSError):
            waiting += [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return ""


def survey(
    stdlib: Sequence[str],
    packages: Sequence[str],
    shared: Sequence[str] = SHARED,
    extra: Sequence[str] = (),
    forbidden: Sequence[str] = (),
) -> Readable:
    """Lists what may be read; reads folders, changes nothing.

    Args:
      stdlib: folders of the standard library.
      packages: folders, or single files, of the packages that calls may use.
      shared: further files and folders of the system; missing ones do no harm.
      extra: the user's; what lies in them is not hidden.
      forbidden: files that must not open, and folders of which none but what is listed may; what the user lets be
        read is passed over.
    """
    library = _Library(stdlib)
    extra = [os.path.abspath(path) for path in extra]
    rules = [*library.rules(), *map(os.path.realpath, packages), *shared, *extra]
    names = [name for path in packages for name in _names_of(path)]
    shown = [*stdlib, *library.roots, *sorted(library.files), *names, *shared, *extra]
    hidden = [path for path in library.covers(stdlib) if not any(is_below(path, other) for other in extra)]
    allowed = [os.path.realpath(path) for path in rules]
    baits = [_some_file(path, allowed) for path in (*library.hidden, *map(os.path.dirname, packages), *forbidden)]
    return Readable(
        shown=tuple(dict.fromkeys(shown)),
        hidden=tuple(hidden),
        rules=tuple(dict.fromkeys(rules)),
        unpromised=tuple(sorted(set(filter(None, baits)))),
    )


def of_this_interpreter(extra: Sequence[str] = ()) -> Readable:
    """What calls of this interpreter may read, beside the user's files and folders ``extra``.

    Raises:
      ValueError: one of the three packages is not installed.
    """
    packages = [path for name in PACKAGES for path in locations(name)]
    elsewhere = [path for path in sys.path if not _HIDDEN.isdisjoint(path.split("/"))]
    own = [os.path.join(path, "__init__.py") for path in locations("arft_jax")]
    return survey(stdlib_folders(), packages, SHARED, extra, [*elsewhere, *own])


def narrow_imports() -> None:
    """Leaves the standard library alone on the import path of this process, and keeps the listing of its folders.

    A package that is not promised is then not found, in plain words: ``No module named 'scipy'``. Modules of the
    loaded packages that are not loaded yet are still found, by the package's own path.
    """
    folders = stdlib_folders()
    for path in list(sys.path):
        within = [os.path.relpath(path, root).split("/") for root in folders if is_below(path, root)]
        if all(_HIDDEN.intersection(names) for names in within):
            sys.path.remove(path)
            sys.path_importer_cache.pop(path, None)
    importlib.util.find_spec(_NO_MODULE)  # looks into every folder of the path, and so lists it
    for path in sys.path:
        # A call may not list these folders: a listing that it gave up (importlib.invalidate_caches) would be lost.
        finder = sys.path_importer_cache.get(path)
        if finder is not None:  # a folder that is not there has none
            finder.invalidate_caches = lambda: None
