"""A worker that decodes slowly: black images wait, others take processor time; started as worker.py is."""

import dataclasses
import json
import sys
import time

sys.path.extend(path for path in json.loads(sys.argv[1])["paths"] if path not in sys.path)

from arft_jax.tools.sandbox import decode, decoder, limits, worker

WAIT_S, WORK_S = 1.5, 0.4  # of one image
CALL_S = 4.0  # for the images of one call
CPU_S = 2  # of one decoding process: RLIMIT_CPU

_decode, _apply = decode.decode_output, limits.apply


def _decode_slowly(*args):
    image = _decode(*args)
    if not image.pixels.any():
        time.sleep(WAIT_S)
        return image
    ends = time.process_time() + WORK_S
    while time.process_time() < ends:
        pass
    return image


if __name__ == "__main__":
    decode.decode_output, decoder._TIMEOUT_S = _decode_slowly, CALL_S
    limits.apply = lambda its, *rest, **more: _apply(dataclasses.replace(its, timeout_s=CPU_S - 1.0), *rest, **more)
    worker.main()
