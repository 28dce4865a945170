"""The TPU kernel, interpreted on the CPU, against the plain form: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops.attention import Mask, attend
from arft_jax.ops.splash import attend_splash

TOLERANCE = 2e-5  # float32 sums of some hundred terms in another order


def _inputs(t, h, n_heads=4, n_kv=2):
    rng = np.random.default_rng(t)
    q = rng.normal(size=(2, t, n_heads, h)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, t, n_kv, h)).astype(np.float32)
    ids = np.sort(rng.integers(0, 3, (2, t)), axis=1).astype(np.int32)
    ids[:, -t // 5 :] = -1
    return q, k, v, ids


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("t", "h"), [(40, 80), (150, 128)], ids=["one block, 80 wide", "padded to two tiles"])
def test_the_interpreted_kernel_equals_the_plain_form_with_its_gradients(t, h, causal):
    q, k, v, ids = _inputs(t, h)
    at = np.broadcast_to(np.arange(t, dtype=np.int32), ids.shape)
    mask = Mask(ids, ids, at, at) if causal else Mask(ids, ids)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def value_and_grads(function):
        out, pull = jax.vjp(function, q, k, v)
        return [out, *pull(weights)]

    got = value_and_grads(lambda *x: attend_splash(*x, jnp.asarray(ids), causal=causal, interpret=True))
    want = value_and_grads(lambda *x: attend(*x, mask, implementation="plain"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    assert not np.asarray(got[0])[ids < 0].any()
