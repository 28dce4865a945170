"""The program that draws a model's first weights."""

from collections.abc import Callable

import jax
from flax import nnx


def init_params(make_model: Callable[[nnx.Rngs], nnx.Module], seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) of a fresh model; one compiled call in place of one for each parameter.

    Args:
      make_model: builds the module from its random streams.
      seed: of the stream ``params``.
    """

    def draw(key):
        return nnx.split(make_model(nnx.Rngs(params=key)))[1]

    key = jax.random.key(seed)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(params=key))))
    return graphdef, jax.jit(draw)(key)
