"""The first weights: the module's parameters in one compiled call, from the seed alone."""

import jax
import numpy as np
from flax import nnx

from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.steps.init import init_params
from arft_jax.testing.tiny_model import tiny_config


def make(rngs):
    return Qwen2_5_VL(tiny_config(), rngs=rngs)


def test_params_are_the_modules_and_follow_from_the_seed():
    graphdef, params = init_params(make, 3)
    want = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
    shapes = [leaf.shape for leaf in jax.tree.leaves(want)]
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == shapes and len(shapes) > 20
    model = nnx.merge(graphdef, params)
    assert np.all(model.text.norm.scale[...] == 1) and np.asarray(model.text.embedding[...]).std() > 0.01
    again, other = init_params(make, 3)[1], init_params(make, 4)[1]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True))
    assert not np.array_equal(params["text"]["embedding"][...], other["text"]["embedding"][...])
