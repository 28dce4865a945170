"""A worker that lacks one defence, or takes the kernel's Landlock for an older one; started as worker.py is."""

import json
import mmap
import os
import resource
import sys

sys.path.extend(path for path in json.loads(sys.argv[1])["paths"] if path not in sys.path)

from arft_jax.tools.sandbox import child, decoder, landlock, limits, namespaces, seccomp, worker


def _allow_calls(names):
    seccomp.FREE += names.split(",")


def _skip_limit(name):
    lower = limits._lower
    limits._lower = lambda kind, *rest: None if kind == getattr(resource, name) else lower(kind, *rest)


def _change_limit(name, value):
    """One number of the limits, in whatever way they are made."""
    make = limits.Limits
    limits.Limits = lambda *args, **fields: make(*args, **fields | {name: value})


def _keep_descriptors():
    os.closerange = lambda low, high: None


def _never_late():
    watch = worker._watch
    worker._watch = lambda waiting, sock, home, timeout_s, *rest: watch(waiting, sock, home, 1e6, *rest)


def _nothing(*_, **__):
    pass


def _bare():
    """As fast as it gets: a fork a call, no limits, no confinement, decoding in the worker."""
    landlock.restrict = seccomp.restrict = limits.apply = child.confine.Confinement.guard_calls = _nothing
    _decode_in_worker()


def _decode_in_worker():
    def decode_here(self, files):
        outbox, at, results = mmap.mmap(-1, self._sizes[1]), 0, []
        for content in files:
            results.append(decoder._decode_one(content, self._sizes[1] // 3, outbox, at))
            at += results[-1].n_bytes
        return results, memoryview(outbox)[:at]

    decoder.Decoder.decode = decode_here


def weaken(choice):
    """Patches the loaded modules; several defences are joined by ``+``."""
    if choice["abi"]:
        landlock.version = lambda: choice["abi"]
    for defence in choice["weak"].split("+"):
        _leave_out(defence)


def _leave_out(defence):
    kind, _, detail = defence.partition(":")
    if kind == "call":
        _allow_calls(detail)
    elif kind == "limit":
        _skip_limit(detail)
    elif kind == "number":
        name, _, value = detail.partition("=")
        _change_limit(name, int(value))
    elif kind == "landlock":
        landlock.restrict = _nothing
    elif kind == "seccomp":
        seccomp.restrict = _nothing
    elif kind == "descriptors":
        _keep_descriptors()
    elif kind == "time":
        _never_late()
    elif kind == "disk":
        worker._is_full = lambda *_: False
    elif kind == "root":
        namespaces.own_root = lambda *_: os.makedirs(namespaces.SCRATCH, exist_ok=True)
    elif kind == "decoder":
        _decode_in_worker()
    elif kind == "bare":
        _bare()
    elif kind not in ("", "environment", "readable"):
        raise ValueError(f"no such defence: {defence}")


if __name__ == "__main__":
    weaken(json.loads(os.environ.pop("ARFT_WEAK")))
    worker.main()
