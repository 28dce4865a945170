"""The parameters alone of a checkpoint, read without touching it: what a conversion needs of a run, finished or not.

Unlike :class:`checkpoints.Checkpoints`, which belongs to the run that writes, nothing is made, removed or moved aside.
"""

import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import nnx

from arft_jax.io import checkpoints, seal

_PARAMS = "['params']"  # how the path of each parameter begins on disk


def newest_good_step(directory: str | os.PathLike) -> int:
    """The newest step whose files are as they were written.

    Raises:
      ValueError: there is none.
    """
    steps = pathlib.Path(directory) / "steps"
    faults = []
    for step in reversed(checkpoints.step_numbers(steps)):
        fault = seal.fault_of(steps / str(step), step)
        if fault is None:
            return step
        logging.warning("checkpoint of step %d is not used: %s", step, fault)
        faults.append(f"step {step}: {fault}")
    newest = f" ({faults[0]})" if faults else ""
    raise ValueError(f"a checkpoint must hold a good step: {directory} holds none{newest}")


def _read(folder: pathlib.Path, handler: ocp.CheckpointHandler, args: ocp.args.CheckpointArgs) -> Any:
    with ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore(folder, args=args)


def _read_meta(directory: str | os.PathLike, step: int) -> dict[str, Any]:
    folder = pathlib.Path(directory).absolute() / "steps" / str(step) / "host"
    return _read(folder, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())


def read_host(directory: str | os.PathLike, step: int) -> dict[str, Any]:
    """What was saved beside the arrays of a good step."""
    return _read_meta(directory, step)["host"]


def read_params(directory: str | os.PathLike, step: int, params: nnx.State, *, part: bool = False) -> nnx.State:
    """The parameters of a good step, in the types in which they were saved.

    Args:
      directory: what :class:`checkpoints.Checkpoints` wrote.
      step: of :func:`newest_good_step`.
      params: ``nnx.state(model, nnx.Param)``, abstract: paths, shapes and, where they have any, shardings are read;
        without one a parameter comes to the first device.
      part: these are some of its parameters: the others are left unread.

    Raises:
      ValueError: a checkpoint of another model, every difference named.
    """
    named, structure = checkpoints.named_leaves({"params": params})
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = {name: getattr(leaf, "sharding", None) or first for name, leaf in named.items()}
    spec = _read_meta(directory, step)["spec"]
    spec = {name: leaf for name, leaf in spec.items() if name.startswith(_PARAMS) and (name in named or not part)}
    types = {name: np.dtype(spec[name][1] if name in spec else leaf.dtype) for name, leaf in named.items()}
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, types[name], sharding=places[name]) for name, leaf in named.items()
    }
    checkpoints.check_spec(checkpoints.spec_of(wanted), spec)
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    args = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
    folder = pathlib.Path(directory).absolute() / "steps" / str(step) / "state"
    restored = _read(folder, ocp.PyTreeCheckpointHandler(), args)
    return jax.tree.unflatten(structure, [restored[name] for name in named])["params"]
