"""The processes of one run: how they find one another, what they tell one another, how host arrays reach all devices.

Plain ``jax.distributed``. In a run of one process these functions wait for nobody. All processes must call each of
them, in the same order, but for :func:`put`, :func:`print_once`, :func:`is_first` and :func:`deal`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from arft_jax.io import terminal

# XLA's CPU executor takes a loop for begun as soon as a piece of it runs on another thread, and may then begin a
# collective that stands behind the loop and does not need its result before the loop has begun its own. Which comes
# first differs from device to device, and Gloo, which pairs what it is sent by order alone, ends with "collective
# mismatch". With these flags every piece ends in the thread that began it.
_CPU_COLLECTIVES_IN_ORDER = "--xla_cpu_multi_thread_eigen=false --xla_cpu_experimental_ynn_fusion_type="


def start(coordinator: str, n_processes: int, process: int) -> None:
    """Joins the run's processes; before anything else asks for a device.

    Processes on CPUs (``JAX_PLATFORMS=cpu``) compute in one thread for each device: several threads mix up the order of
    XLA's collectives.

    Args:
      coordinator: ``host:port`` of process 0; empty: as the cluster says (Cloud TPU, Slurm, MPI).
      n_processes: of the run; 0: as the cluster says.
      process: this one's number; -1: as the cluster says.

    Raises:
      ValueError: no cluster is found and not all three are given.
    """
    if jax.distributed.is_initialized():
        return
    if jax.config.jax_platforms == "cpu":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CPU_COLLECTIVES_IN_ORDER}"
    try:
        jax.distributed.initialize(
            coordinator or None, n_processes or None, None if process < 0 else process, cluster_detection_method=None
        )
    except ValueError as error:
        raise ValueError(
            f"the run's processes must find one another: got coordinator={coordinator!r}, n_processes={n_processes}, "
            f"process={process} and no known cluster ({error}) (config.distributed)"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints once, not once a process."""
    if is_first():
        terminal.say(text)


def put(tree: Any, places: Any) -> Any:
    """Host arrays to devices.

    Args:
      tree: numpy arrays. Of an array that is split, each process gives its own part; of one that is whole on every
        device, all give the same.
      places: a sharding for all, or one for each array.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, places)
    if isinstance(places, jax.sharding.Sharding):
        places = jax.tree.map(lambda _: places, tree)
    with jax.transfer_guard("allow"):  # it asks device by device, which the guard takes for an oversight
        return jax.tree.map(lambda x, place: jax.make_array_from_process_local_data(place, np.asarray(x)), tree, places)


def _gather(values: np.ndarray) -> np.ndarray:
    with jax.transfer_guard("allow"):
        return np.asarray(multihost_utils.process_allgather(values))


_PIECE = 32 << 20  # bytes that a process sends at once: every device holds as many of each process for a moment


def gather_bytes(mine: bytes) -> list[bytes]:
    """What each process gives, in their order."""
    if jax.process_count() == 1:
        return [mine]
    lengths = _gather(np.array(len(mine))).tolist()
    found = [bytearray() for _ in lengths]
    for at in range(0, max(lengths), _PIECE):
        piece = np.zeros(min(_PIECE, max(lengths) - at), np.uint8)
        here = np.frombuffer(mine[at : at + len(piece)], np.uint8)
        piece[: len(here)] = here
        for whole, row in zip(found, _gather(piece), strict=True):
            whole += row.tobytes()
    return [bytes(whole[:n]) for whole, n in zip(found, lengths, strict=True)]


def mean_of(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over processes of each figure; a process without one (nan, or no such name) is left out of it."""
    if jax.process_count() == 1:
        return dict(values)
    names = sorted(all_of(sorted(values)))
    every = _gather(np.array([float(values.get(name, np.nan)) for name in names]))
    known = np.isfinite(every)
    sums, counts = np.where(known, every, 0.0).sum(axis=0), known.sum(axis=0)
    return {name: float(s / n) if n else float("nan") for name, s, n in zip(names, sums, counts, strict=True)}


def all_of(names: Sequence[str]) -> set[str]:
    """Every name that any process gives."""
    mine = "\n".join(names).encode()
    longest = int(_gather(np.array(len(mine))).max())
    every = _gather(np.frombuffer(mine.ljust(longest, b"\n"), np.uint8))
    return {name for row in every for name in row.tobytes().decode().split("\n") if name}


def any_of(flag: bool) -> bool:
    """Whether any process says so."""
    return flag if jax.process_count() == 1 else bool(_gather(np.array(flag)).any())


def deal(n_items: int) -> list[int]:
    """Which of ``n_items`` are this process's: on process 1 of 2, [1, 3, 5] of 6. Not a meeting."""
    return list(range(jax.process_index(), n_items, jax.process_count()))


def gather_dealt(rows: np.ndarray, n_items: int) -> np.ndarray:
    """All processes' rows in the items' order.

    Args:
      rows: float[n, ...], one for each item that :func:`deal` gave.
      n_items: of all processes.
    """
    if jax.process_count() == 1:
        return rows
    most = -(-n_items // jax.process_count())
    padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return np.stack(_gather(padded), axis=1).reshape(-1, *rows.shape[1:])[:n_items]


def in_turn(make: Callable[[], Any]) -> Any:
    """What ``make`` returns, the first process before the others: what it writes is there when they look."""
    if jax.process_count() == 1:
        return make()
    made = make() if is_first() else None
    multihost_utils.sync_global_devices("in_turn")
    return made if is_first() else make()
