"""The order of training: an endless, resumable stream of task indices (Grain)."""

import grain


def task_stream(n_tasks: int, seed: int) -> grain.DatasetIterator:
    """Iterates over 0 .. n_tasks-1 for ever, each epoch in another order that follows from the seed.

    ``get_state()`` gives a small JSON-able dict, ``set_state(state)`` goes on exactly where it was taken.

    Raises:
      ValueError: no tasks.
    """
    if n_tasks < 1:
        raise ValueError(f"n_tasks must be positive: got {n_tasks}")
    order = grain.MapDataset.range(n_tasks).shuffle(seed=seed).repeat()
    # Integers need no read-ahead, and a thread-free iterator has nothing to lose when it is stopped.
    return iter(order.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
