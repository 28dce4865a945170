"""Checkpoints that are either whole or not used: orbax, sealed by a manifest of hashes.

A step is written by orbax into ``steps/<step>``; then a manifest with its number and the size and sha256 of each of its
files is written last, by rename (``seal.py``). Only then are older steps deleted: a process that is killed, or a disk
that is full, at any moment of a save leaves the step before it. A step without a manifest, with a malformed one, with
that of another step, or whose files differ from it, is moved to ``quarantine/`` and the newest good step is restored in
its stead.

Manifests of earlier versions of this package do not name their step. Beside steps that do, such a one is a fault as any
other. Where there are no others, moving them all aside would begin a resumed run anew, and taking them would let a
copied step pass for another; the run stops, nothing is moved, and the message says what to write into which manifest.
"""

import concurrent.futures
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
from arft_jax.io.seal import MANIFEST, NO_STEP, fault_of, is_sealed, seal


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


def step_numbers(steps: pathlib.Path) -> list[int]:
    """The steps of a folder, sealed or not, in rising order; orbax's unfinished ones have other names."""
    names = [path.name for path in steps.iterdir()] if steps.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)


class Checkpoints:
    """The checkpoints of one run.

    :meth:`save` returns once the arrays are copied to the host; the files are written and sealed behind it, and
    :meth:`wait` (which every other method begins with) returns when they are, raising what went wrong. What an
    interrupted save left behind is removed when the object is made.

    Args:
      directory: made where it does not exist.
      keep: how many of the newest completed steps stay; older ones are deleted when a new one is completed.

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
        self._keep = keep
        # Orbax would delete older steps when it commits a new one, which is before the new one's seal.
        options = ocp.CheckpointManagerOptions(max_to_keep=None, enable_async_checkpointing=True)
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
            seal(self._steps / str(step), step)
            self._drop_older()

    def _drop_older(self) -> None:
        """Deletes what is older than the newest ``keep`` sealed steps; a step without a seal stands for none."""
        steps = step_numbers(self._steps)
        kept = [step for step in steps if is_sealed(self._steps / str(step))][-self._keep :]
        for step in steps:
            if step < kept[0]:
                shutil.rmtree(self._steps / str(step))

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
          ValueError: a good checkpoint of another config, every difference named; steps of an earlier version alone,
            which do not name their number.
        """
        self.wait()
        hosts.any_of(False)  # older steps are gone
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for at, step in enumerate(steps):
            fault = fault_of(self._steps / str(step), step) if self._is_primary else None
            if not hosts.any_of(fault is not None):
                return self._restore(step, abstract_state)
            self._check_any_named(fault, step, steps[at + 1 :])
            if fault is not None:
                logging.warning("checkpoint of step %d is not used: %s; trying an older one", step, fault)
            self._quarantine(step)
        return None

    def _check_any_named(self, fault: str | None, step: int, older: list[int]) -> None:
        """Raises where a step does not name its number and no older one could be used in its stead."""
        unnamed = fault == NO_STEP and all(fault_of(self._steps / str(other), other) is not None for other in older)
        if hosts.any_of(unnamed):
            raise ValueError(
                f"a checkpoint's manifest must name its step: {self._steps / str(step) / MANIFEST} names none, as those"
                " of earlier versions of this package; if the folder has the number that it was saved with, add "
                f'"step": {step} to the manifest\'s outermost object and start again (config.workdir)'
            )

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
