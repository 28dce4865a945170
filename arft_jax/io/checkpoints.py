"""Checkpoints that are either whole or not used: orbax, sealed by a manifest of hashes.

A step is written by orbax into ``steps/<step>``; then a manifest with the size and sha256 of each of its files is
written last, by rename. A step without a manifest, or whose files differ from it, is moved to ``quarantine/`` and the
newest good step is restored in its stead.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from arft_jax.io import hosts

MANIFEST = "manifest.json"


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named_leaves(state: Any) -> tuple[dict[str, Any], Any]:
    """Leaves by path, and the structure: a flat dict is stored, so that any pytree can be."""
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    if len(named) != len(paths):
        raise ValueError("every leaf of a checkpoint must have a path of its own")
    bad = [name for name, leaf in named.items() if not hasattr(leaf, "dtype")]
    if bad:
        raise ValueError(f"leaves of a checkpoint must be arrays: got {type(named[bad[0]]).__name__} at {bad[0]}")
    return named, structure


def spec_of(named: dict[str, Any]) -> dict[str, list]:
    """Shape and type of every leaf, as written beside the arrays."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in named.items()}


def check_spec(want: dict[str, list], got: dict[str, list]) -> None:
    """Raises one ValueError with every difference between the state asked for and the state on disk."""
    problems = [f"{name} is not in the checkpoint" for name in sorted(want.keys() - got.keys())]
    problems += [f"{name} is only in the checkpoint" for name in sorted(got.keys() - want.keys())]
    for name in sorted(want.keys() & got.keys()):
        if want[name] != got[name]:
            problems.append(f"{name} is {got[name][1]}{got[name][0]} on disk, {want[name][1]}{want[name][0]} here")
    if problems:
        raise ValueError("the checkpoint must fit the state of this config: " + "; ".join(problems))


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, MANIFEST + ".tmp")
    }


def seal(folder: pathlib.Path) -> None:
    """Writes the manifest; its rename is what makes the step count."""
    files = {name: [path.stat().st_size, _sha256(path)] for name, path in _files(folder).items()}
    temporary = folder / (MANIFEST + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST)


def fault_of(folder: pathlib.Path) -> str | None:
    """What is wrong with a step's files, or None."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "it was never completed (no manifest)"
    except (ValueError, KeyError, TypeError):
        return "its manifest is unreadable"
    found = _files(folder)
    if differing := sorted(wanted.keys() ^ found.keys()):
        return f"{differing[0]} is {'missing' if differing[0] in wanted else 'not in the manifest'}"
    for name, (size, digest) in wanted.items():
        if found[name].stat().st_size != size:
            return f"{name} has {found[name].stat().st_size} bytes instead of {size}"
        if _sha256(found[name]) != digest:
            return f"{name} has other contents than were written"
    return None


class Checkpoints:
    """The checkpoints of one run.

    :meth:`save` returns once the arrays are copied to the host; the files are written and sealed behind it, and
    :meth:`wait` (which every other method begins with) returns when they are, raising what went wrong. What an
    interrupted save left behind is removed when the object is made.

    Args:
      directory: made where it does not exist.
      keep: how many of the newest steps stay.

    Raises:
      ValueError: keep below 1.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1: got {keep} (config.checkpoint.keep)")
        self.directory = pathlib.Path(directory).absolute()
        self._steps = self.directory / "steps"
        self._steps.mkdir(parents=True, exist_ok=True)
        self._is_primary = jax.process_index() == 0
        if self._is_primary:
            for left in self._steps.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._steps, options=options)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        """Starts writing a step; any earlier one is finished first.

        Args:
          step: above every step that is there.
          state: pytree of arrays, PRNG keys among them.
          host: what else a resumed run needs, JSON-able.

        Raises:
          ValueError: a step that is not new, a leaf that is no array, a host value that is no JSON.
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"a checkpoint's step must be new: got {step}, newest is {latest}")
        named, _ = named_leaves(state)
        try:
            host = json.loads(json.dumps(host, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the host part of a checkpoint must be JSON: {error}") from error
        impls = {name: str(jax.random.key_impl(leaf)) for name, leaf in named.items() if _is_key(leaf)}
        with jax.transfer_guard("allow"):
            arrays = {name: jax.random.key_data(leaf) if name in impls else leaf for name, leaf in named.items()}
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                host=ocp.args.JsonSave({"host": host, "spec": spec_of(named), "key_impls": impls}),
            )
            self._manager.save(step, args=args)
        self._pending = self._thread.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if self._is_primary:
            seal(self._steps / str(step))

    def wait(self) -> None:
        """Returns when the last save is on disk and sealed; raises the error that stopped it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def latest_step(self) -> int | None:
        """The newest step on disk, verified or not."""
        self.wait()
        return max(self._manager.all_steps(), default=None)

    def restore_latest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest step whose files are as they were written.

        Args:
          abstract_state: the state's structure, arrays or ``ShapeDtypeStruct`` leaves; a leaf's sharding is honoured,
            a numpy leaf comes back as numpy.

        Returns:
          (step, state, host), or None where there is no good step.

        Raises:
          ValueError: a good checkpoint of another config, every difference named.
        """
        self.wait()
        for step in sorted(self._manager.all_steps(), reverse=True):
            fault = fault_of(self._steps / str(step)) if self._is_primary else None
            if not hosts.any_of(fault is not None):
                return self._restore(step, abstract_state)
            if fault is not None:
                logging.warning("checkpoint of step %d is not used: %s; trying an older one", step, fault)
            self._quarantine(step)
        return None

    def _quarantine(self, step: int) -> None:
        if self._is_primary:
            folder = self.directory / "quarantine"
            folder.mkdir(exist_ok=True)
            n = sum(path.name.split(".")[0] == str(step) for path in folder.iterdir())
            (self._steps / str(step)).rename(folder / f"{step}.{n}")
        hosts.any_of(False)  # nobody looks again before it is gone
        self._manager.reload()

    def _restore(self, step: int, abstract_state: Any) -> tuple[int, Any, dict[str, Any]]:
        named, structure = named_leaves(abstract_state)
        meta = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))["host"]
        check_spec(spec_of(named), meta["spec"])
        places = {name: getattr(leaf, "sharding", None) for name, leaf in named.items()}
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def abstract(name, leaf):
            if isinstance(leaf, np.ndarray):
                return leaf
            if _is_key(leaf):  # keys are small: read to one device, then placed as keys
                data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
                return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=default)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name] or default)

        wanted = {name: abstract(name, leaf) for name, leaf in named.items()}
        with jax.transfer_guard("allow"):
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))
            arrays = dict(restored["state"])
            for name, impl in meta["key_impls"].items():
                arrays[name] = jax.random.wrap_key_data(arrays[name], impl=impl)
                if places[name] is not None:
                    arrays[name] = jax.device_put(arrays[name], places[name])
        return step, jax.tree.unflatten(structure, [arrays[name] for name in named]), meta["host"]

    def close(self) -> None:
        """Finishes the last save and lets go of threads and files."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
