"""A worker on a host that refuses a step, as ARFT_REFUSES names it; started as worker.py is."""

import errno
import json
import os
import sys

sys.path.extend(path for path in json.loads(sys.argv[1])["paths"] if path not in sys.path)

from arft_jax.tools.sandbox import child, kernel, worker


def _refuse(*_):
    raise OSError(errno.EINVAL, "Invalid argument", "clone")


def _be_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "image_1.png")


if __name__ == "__main__":
    match os.environ.pop("ARFT_REFUSES"):
        case "clone":
            kernel.clone_sibling = _refuse
        case "space":
            child.request_lib.receive = _be_full
    worker.main()
