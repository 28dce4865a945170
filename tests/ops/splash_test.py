"""The TPU kernel, interpreted on the CPU, against the plain form: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops import splash
from arft_jax.ops.attention import Mask, attend
from arft_jax.ops.splash import attend_splash

TOLERANCE = 2e-5  # float32 sums of some hundred terms in another order


def _inputs(t, h, n_heads=4, n_kv=2):
    """Up to three segments a row, and a fifth of it padding."""
    rng = np.random.default_rng(t)
    q = rng.normal(size=(2, t, n_heads, h)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, t, n_kv, h)).astype(np.float32)
    ids = np.sort(rng.integers(0, 3, (2, t)), axis=1).astype(np.int32)
    ids[:, -t // 5 :] = -1
    return q, k, v, ids


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("t", "h"), [(40, 80), (150, 128)], ids=["one block, 80 wide", "padded to two tiles"])
def test_the_interpreted_kernel_equals_the_plain_form_with_its_gradients(t, h, causal):
    _assert_as_plain(*_inputs(t, h), causal)


@pytest.mark.parametrize("causal", [True, False])
def test_several_blocks_equal_the_plain_form_with_its_gradients(monkeypatch, causal):
    """Three blocks of 128, the last one padded; segments that end inside a block, at its edge and beyond the next."""
    monkeypatch.setattr(splash, "MAX_BLOCK", 128)
    q, k, v, _ = _inputs(300, 16, n_heads=2, n_kv=1)
    rows = [([0, 1, 2, -1], [40, 88, 150, 22]), ([0, 1, 2, 3], [10, 5, 270, 15])]
    ids = np.stack([np.repeat(np.array(names, np.int32), lens) for names, lens in rows])
    _assert_as_plain(q, k, v, ids, causal)


def _assert_as_plain(q, k, v, ids, causal):
    t = q.shape[1]
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
