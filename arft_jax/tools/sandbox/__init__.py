"""Runs Python that a model wrote in separate, confined, short-lived processes.

Four kinds of process take part::

    trainer (broker.py, pool.py)  --socket-->  worker (worker.py)  --socket-->  forker (forker.py)
    JAX, many threads                          numpy, PIL, cv2 loaded           sees no call, forks for the worker
                                               |
                                               +-- child (child.py): one call, then gone
                                               +-- decoder (decoder.py): a few images, then gone

The pool starts each worker with ``Popen`` from an environment that is built, not filtered, and never forks the JAX
process. A worker serves one call at a time, each in a child of its own, which is forked ahead of the call
(spare.py) by a process that knows of no earlier one. The child confines itself (confine.py: landlock.py,
seccomp.py; limits.py; readable.py), takes code and images straight from the trainer (request.py), runs the code in
a fresh scratch folder (scratch.py) and dies. At level L1 the worker lives in namespaces of its own (namespaces.py).
What a call was worth is told by ``wait4`` alone (verdict.py); only after its death are the output images collected,
and decoded in a second confined child: raw pixels alone reach the trainer. At the start a dozen attacks are
attempted (probe.py) and the level that held is named (levels.py). See docs/sandbox.md.

The worker imports this package: nothing here, nor in ``arft_jax/__init__.py``, may import JAX.
"""

from arft_jax.tools.sandbox.broker import PythonSandbox
from arft_jax.tools.sandbox.levels import NoneHolds
from arft_jax.tools.sandbox.session import CodeSession

__all__ = ["NoneHolds", "PythonSandbox", "CodeSession"]
