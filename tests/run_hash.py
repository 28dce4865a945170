"""Prints hashes of what a finished run made: two commits that agree in them computed the same bits.

    python tests/run_hash.py WORKDIR

tokens and log-probs are those of every evaluation trajectory in the work directory; the parameters are those of its
last checkpoint, which depend on every token, log-prob, reward and gradient of training.
"""

import hashlib
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from arft_jax.io.trajectories import load_trajectories


def run_hashes(workdir: str | pathlib.Path) -> dict[str, str]:
    """{"tokens", "logps", "params": sha256} of a work directory.

    Raises:
      ValueError: the directory holds no trajectories, or no checkpoint.
    """
    root = pathlib.Path(workdir).absolute()
    files = sorted((root / "trajectories").glob("*.jsonl"))
    steps = sorted((path for path in (root / "checkpoints" / "steps").glob("*")), key=lambda path: int(path.name))
    if not files or not steps:
        raise ValueError(f"a work directory must hold trajectories and a checkpoint: got {root}")
    hashes = {name: hashlib.sha256() for name in ("tokens", "logps", "params")}
    for trajectory in (t for file in files for t in load_trajectories(file)):
        hashes["tokens"].update(trajectory.tokens.tobytes())
        hashes["logps"].update(trajectory.sampler_logps.tobytes())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        state = checkpointer.restore(steps[-1] / "state")
    params = {name: leaf for name, leaf in _leaves(state) if "['params']" in name}
    for name in sorted(params):
        hashes["params"].update(np.asarray(params[name]).tobytes())
    return {name: value.hexdigest() for name, value in hashes.items()}


def _leaves(state) -> list[tuple[str, object]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


if __name__ == "__main__":
    for name, value in run_hashes(sys.argv[1]).items():
        print(f"{name} {value}")
