"""Runs Python that a model wrote in separate, limited, short-lived processes.

Three kinds of process take part::

    trainer (broker.py)  --socket-->  worker (worker.py)  --fork-->  child (child.py)
    JAX, many threads                 numpy, PIL, cv2 loaded         one call, then gone

The broker starts each worker with ``Popen`` from an environment that is built, not filtered, and never
forks the JAX process. A worker serves one call at a time: it forks one child a call, ahead of it, so that
the call does not wait for the fork. The child takes its limits (limits.py, confine.py), runs the code in
a fresh scratch folder (scratch.py) and dies. What it was worth is told by ``wait4`` alone (verdict.py);
only after its death is the output image collected, and decoded defensively (decode.py).

The worker imports this package: nothing here, nor in ``arft_jax/__init__.py``, may import JAX.
"""

from arft_jax.tools.sandbox.broker import PythonSandbox

__all__ = ["PythonSandbox"]
