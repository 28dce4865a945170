"""A file that cannot be written is one sentence; every other error passes."""

import contextlib
import errno
import os
import resource

import jax
import numpy as np
import pytest

from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.disk import naming_write_faults


@contextlib.contextmanager
def files_no_longer_than(n_bytes):
    """Longer ones fail as on a full disk, with an error of their own."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def naming(folder):
    return naming_write_faults("the work directory", folder, "config.workdir")


def test_a_file_that_does_not_fit_is_one_sentence_with_path_and_key(tmp_path):
    sentence = r"^the work directory must be writable: got .* \(File too large\) \(config.workdir\)$"
    with pytest.raises(ValueError, match=sentence), naming(tmp_path), files_no_longer_than(100):
        (tmp_path / "x").write_bytes(bytes(200))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ValueError, match=r"got .* \(No space left on device\) \(config.workdir\)$"), naming(tmp_path):
        try:
            raise full
        except OSError as error:
            raise RuntimeError("the writer's own") from error


def test_a_checkpoint_that_does_not_fit_is_the_same_sentence(tmp_path):
    # Nothing is compiled under the limit: the compilation cache's entry would be cut short.
    values = jax.device_put(np.random.default_rng(0).normal(size=20000).astype(np.float32))
    with pytest.raises(ValueError, match=r"^the work .* \(File too large\S*\) \(config.workdir\)$"), naming(tmp_path):
        with Checkpoints(tmp_path / "c", keep=1) as checkpoints, files_no_longer_than(2000):
            checkpoints.save(1, {"a": values}, {})
            checkpoints.wait()


def test_a_missing_permission_counts_below_the_directory_alone(tmp_path):
    def refused(path):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with pytest.raises(ValueError, match=r"Permission denied: .*results.json\) \(config.workdir\)"), naming(tmp_path):
        raise refused(tmp_path / "results.json")
    with pytest.raises(PermissionError), naming(tmp_path):
        raise refused("/elsewhere/photo.png")
    with pytest.raises(KeyError), naming(tmp_path):
        raise KeyError("a fault of the program")
