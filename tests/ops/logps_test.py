"""Chunked log-probabilities against the whole [B, T, V] at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops.logps import token_logps

TOLERANCE = 1e-5  # float32
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(3, 8, 5)).astype(np.float32)
KERNEL = RNG.normal(size=(5, 11)).astype(np.float32)
TOKENS = RNG.integers(0, 11, (3, 8)).astype(np.int32)


def _run(hidden, kernel, chunk, log_probs=jax.nn.log_softmax):
    return token_logps(hidden, lambda h: h @ kernel, jnp.asarray(TOKENS), log_probs, chunk)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 100])
def test_chunked_equals_the_numpy_oracle(chunk):
    logits = HIDDEN.astype(np.float64) @ KERNEL
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    logps, entropy = np.zeros((3, 8)), np.zeros((3, 8))
    for b, t in np.ndindex(3, 8):
        if t:
            logps[b, t] = table[b, t - 1, TOKENS[b, t]]
            entropy[b, t] = -(np.exp(table[b, t - 1]) * table[b, t - 1]).sum()
    ours = _run(HIDDEN, KERNEL, chunk)
    np.testing.assert_allclose(ours[0], logps, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1], entropy, atol=TOLERANCE)


@pytest.mark.parametrize("output", [0, 1], ids=["logps", "entropy"])
def test_gradient_does_not_depend_on_the_chunk(output):
    weights = RNG.normal(size=(3, 8)).astype(np.float32)

    def plain(hidden, kernel):
        table = jax.nn.log_softmax(hidden[:, :-1] @ kernel)
        picked = jnp.take_along_axis(table, jnp.asarray(TOKENS)[:, 1:, None], -1)[..., 0]
        return jnp.sum(weights[:, 1:] * (picked, -(jnp.exp(table) * table).sum(-1))[output])

    want = jax.grad(plain, argnums=(0, 1))(HIDDEN, KERNEL)
    for chunk in (2, 7):
        got = jax.grad(lambda h, k, c=chunk: jnp.sum(weights * _run(h, k, c)[output]), argnums=(0, 1))(HIDDEN, KERNEL)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_banned_tokens_leave_entropy_and_gradient_finite():
    banned = np.arange(11) >= 9

    def log_probs(logits):
        return jax.nn.log_softmax(jnp.where(banned[None, None], -jnp.inf, logits))

    logps, entropy = _run(HIDDEN, KERNEL, 3, log_probs)
    hit = np.concatenate([np.zeros((3, 1), bool), banned[TOKENS[:, 1:]]], axis=1)
    assert hit.any() and np.isneginf(logps[hit]).all() and np.isfinite(logps[~hit]).all()
    assert (np.asarray(entropy) <= np.log(9) + TOLERANCE).all() and (np.asarray(entropy)[:, 1:] > 0).all()
    grad = jax.grad(lambda h: jnp.sum(jnp.where(hit, 0.0, sum(_run(h, KERNEL, 3, log_probs)))))(HIDDEN)
    assert np.isfinite(grad).all()


def test_the_whole_table_of_logits_is_never_made():
    text = str(jax.make_jaxpr(lambda h: _run(h, KERNEL, 2))(HIDDEN))
    assert "f32[3,2,11]" in text and "f32[3,7,11]" not in text and "f32[3,8,11]" not in text
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        _run(HIDDEN, KERNEL, 0)


def test_one_token_has_nothing_to_score():
    logps, entropy = token_logps(HIDDEN[:, :1], lambda h: h, jnp.asarray(TOKENS[:, :1]), jax.nn.log_softmax, 4)
    assert not np.any(logps) and not np.any(entropy) and logps.shape == (3, 1)
