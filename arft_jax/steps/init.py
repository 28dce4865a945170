"""The program that draws a model's first weights."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from arft_jax.sharding import Placement


def abstract_params(make_model: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) of a model whose parameters are shapes and types alone."""
    return nnx.split(nnx.eval_shape(lambda: make_model(_streams(jax.random.key(0)))))


def _streams(key: jax.Array) -> nnx.Rngs:
    return nnx.Rngs(params=key, lora=jax.random.fold_in(key, 1))


def init_params(
    make_model: Callable[[nnx.Rngs], nnx.Module], seed: int, placement: Placement | None = None, only: Any = nnx.Param
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) of a fresh model; one compiled call in place of one for each parameter.

    Args:
      make_model: builds the module from its random streams.
      seed: of the stream ``params``; the values do not depend on the placement.
      placement: where the parameters shall lie; each device draws its own share. None: on the default device.
      only: the kind of parameters wanted; those of other kinds are not even drawn.
    """

    def draw(key):
        return nnx.split_state(nnx.split(make_model(_streams(key)))[1], only, ...)[0]

    graphdef, abstract = abstract_params(make_model)
    abstract = nnx.split_state(abstract, only, ...)[0]
    places = None if placement is None else placement.params(abstract)
    return graphdef, jax.jit(draw, out_shardings=places)(jax.random.key(seed))
