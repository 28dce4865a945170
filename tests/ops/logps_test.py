"""Chunked log-probabilities of the scored positions against the whole [B, T, V] at once."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops.linear import product
from arft_jax.ops.logps import token_logps
from arft_jax.sampling import pick

TOLERANCE = 1e-5  # float32
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(3, 8, 5)).astype(np.float32)
KERNEL = RNG.normal(size=(5, 11)).astype(np.float32)
TOKENS = RNG.integers(0, 11, (3, 8)).astype(np.int32)
ALL = np.ones(11, bool)
BEFORE = np.broadcast_to(np.arange(-1, 7, dtype=np.int32), (3, 8))
SOURCE = np.array([[-1, 0, 0, 0, 3, -1, 5, 5], [-1] * 8, [7, 6, 5, 4, 3, 2, 1, 0]], np.int32)
MASK = np.array([[1, 1, 1, 0, 1, 1, 0, 1], [0] * 8, [0, 0, 1, 0, 0, 0, 0, 0]], bool)
CASES = {  # where each token's distribution comes from, which tokens are scored
    "all": (None, None),
    "masked": (None, MASK),
    "sources": (SOURCE, None),
    "both": (SOURCE, MASK),
    "none": (None, np.zeros_like(MASK)),
}


def _run(hidden, kernel, chunk, scores=lambda logits, allowed: logits, case="all", tokens=TOKENS, allowed=ALL):
    source, mask = (None if x is None else jnp.asarray(x) for x in CASES[case])
    return token_logps(
        jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(tokens), jnp.asarray(allowed),
        unembed=lambda h, k: h @ k, scores=scores, chunk=chunk, source=source, mask=mask,
    )  # fmt: skip


def _plain(hidden, kernel, case="all"):
    """(logps, entropy) from the table of every position at once, by JAX's own operations and derivatives."""
    source, mask = CASES[case]
    source = BEFORE if source is None else source
    scored = (source >= 0) & (True if mask is None else mask)
    table = jax.nn.log_softmax(jnp.asarray(hidden) @ jnp.asarray(kernel))
    table = jnp.take_along_axis(table, jnp.maximum(jnp.asarray(source), 0)[..., None], axis=1)
    picked = jnp.take_along_axis(table, jnp.asarray(TOKENS)[..., None], -1)[..., 0]
    return jnp.where(scored, picked, 0.0), jnp.where(scored, -(jnp.exp(table) * table).sum(-1), 0.0)


@pytest.mark.parametrize(("case", "chunk"), [("all", 1), ("all", 3), ("all", 100), ("both", 3), ("both", 8)])
def test_chunked_equals_the_numpy_oracle(case, chunk):
    logits = HIDDEN.astype(np.float64) @ KERNEL
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    source, mask = (BEFORE, MASK | True) if case == "all" else (SOURCE, MASK)
    logps, entropy = np.zeros((3, 8)), np.zeros((3, 8))
    for b, t in np.argwhere(mask & (source >= 0)):
        row = table[b, source[b, t]]
        logps[b, t], entropy[b, t] = row[TOKENS[b, t]], -(np.exp(row) * row).sum()
    ours = jax.jit(lambda h: _run(h, KERNEL, chunk, case=case))(HIDDEN)
    np.testing.assert_allclose(ours[0], logps, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1], entropy, atol=TOLERANCE)
    assert np.array_equal(ours[0] == 0, logps == 0)


@pytest.mark.parametrize("reads_entropy", [False, True], ids=["logps", "logps and entropy"])
@pytest.mark.parametrize(("case", "chunk"), [("all", 3), ("masked", 8), ("both", 2), ("none", 2)])
def test_value_and_gradient_equal_the_uncompacted_form_whatever_the_chunk(case, chunk, reads_entropy):
    weights = RNG.normal(size=(2, 3, 8)).astype(np.float32)

    def value_and_grad(function):
        def loss(hidden, kernel):
            logps, entropy = function(hidden, kernel)
            return jnp.sum(weights[0] * logps) + (jnp.sum(weights[1] * entropy) if reads_entropy else 0.0)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(HIDDEN, KERNEL)

    got, want = (
        value_and_grad(lambda h, k: _run(h, k, chunk, case=case)),
        value_and_grad(lambda h, k: _plain(h, k, case)),
    )
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-6)


def test_the_distribution_is_that_of_the_sampler():
    """Temperature, banned tokens, top-k and top-p: value and gradient as through the sampler's log-probabilities."""
    allowed = np.arange(11) < 9
    settings = {"temperature": 0.7, "top_k": 5, "top_p": 0.8}

    def ours(hidden):
        def scores(logits, allowed):
            return pick.scores(logits, allowed, **settings)

        return _run(hidden, KERNEL, 3, scores, allowed=allowed)[0][:, 1:]

    def theirs(hidden):
        table = pick.log_probs(hidden[:, :-1] @ KERNEL, jnp.asarray(allowed), **settings)
        return jnp.take_along_axis(table, jnp.asarray(TOKENS)[:, 1:, None], -1)[..., 0]

    drawn = np.asarray(theirs(HIDDEN)) > -1e20  # the others have no probability
    assert 3 < drawn.sum() < drawn.size
    np.testing.assert_allclose(ours(HIDDEN)[drawn], theirs(HIDDEN)[drawn], atol=TOLERANCE)
    grads = [jax.jit(jax.grad(lambda h, f=f: jnp.where(drawn, f(h), 0.0).sum()))(HIDDEN) for f in (ours, theirs)]
    np.testing.assert_allclose(*grads, atol=TOLERANCE)


def test_banned_tokens_leave_entropy_and_gradient_finite():
    banned = np.arange(11) >= 9

    def scores(logits, allowed):
        return jnp.where(allowed, logits, -jnp.inf)

    logps, entropy = _run(HIDDEN, KERNEL, 3, scores, allowed=~banned)
    hit = np.concatenate([np.zeros((3, 1), bool), banned[TOKENS[:, 1:]]], axis=1)
    assert hit.any() and np.isneginf(logps[hit]).all() and np.isfinite(logps[~hit]).all()
    assert (np.asarray(entropy) <= np.log(9) + TOLERANCE).all() and (np.asarray(entropy)[:, 1:] > 0).all()
    grad = jax.grad(lambda h: jnp.sum(jnp.where(hit, 0.0, sum(_run(h, KERNEL, 3, scores, allowed=~banned)))))(HIDDEN)
    assert np.isfinite(grad).all() and np.any(grad)


def test_the_whole_table_of_logits_is_never_made():
    def gradient(hidden):
        return jax.grad(lambda h: _run(h, KERNEL, 2)[0].sum())(hidden)

    text = str(jax.make_jaxpr(gradient)(HIDDEN))
    sizes = {math.prod(map(int, lead.split(","))) for lead in re.findall(r"f32\[([\d,]+),11\]", text)}
    assert 2 in sizes and sizes <= {2, KERNEL.shape[0]}  # two positions' logits, and the kernel
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        _run(HIDDEN, KERNEL, 0)


@pytest.mark.parametrize("wants", ["value", "gradient"])
def test_a_chunk_without_a_scored_position_is_not_computed(wants):
    """Of 21 positions 6 are scored: one chunk of four."""
    seen = []

    def scores(logits, allowed):
        jax.debug.callback(lambda x: seen.append(x.shape), logits)
        return logits

    def total(hidden):
        return _run(hidden, KERNEL, 6, scores, case="masked")[0].sum()

    assert MASK[:, 1:].sum() == 6
    jax.block_until_ready(jax.jit(total if wants == "value" else jax.grad(total))(HIDDEN))
    jax.effects_barrier()
    assert seen == [(6, 11)] * (1 if wants == "value" else 2)


def test_a_frozen_unembedding_has_no_gradient_computed():
    """Only the products for the hidden states stand in the program: two, and one more where the kernel learns."""

    def products(argnums):
        function = jax.grad(lambda h, k: _run(h, k, 2)[0].sum(), argnums)
        return str(jax.make_jaxpr(function)(HIDDEN, KERNEL)).count("dot_general")

    assert (products(0), products((0, 1))) == (3, 4)


def test_the_gradient_of_the_kernel_is_summed_in_float32():
    """A bfloat16 model, 64 chunks: rounding each sum to bfloat16 would lose the later ones."""
    rng = np.random.default_rng(3)
    hidden = (np.abs(rng.normal(size=(1, 65, 4))) + 0.5).astype(jnp.bfloat16)
    kernel, tokens = np.zeros((4, 8), np.float32), np.zeros((1, 65), np.int32)

    def loss(kernel):
        return token_logps(
            jnp.asarray(hidden), kernel, jnp.asarray(tokens), jnp.ones(8, bool),
            unembed=lambda h, k: product(h, k, 1, jnp.float32), scores=lambda logits, _: logits, chunk=1,
        )[0].sum()  # fmt: skip

    got = jax.jit(jax.grad(loss))(jnp.asarray(kernel))
    want = hidden[0, :64].astype(np.float64).sum(0)[:, None] * (np.eye(8)[0] - 1 / 8)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_one_token_has_nothing_to_score_but_by_a_source_of_its_own():
    one = {"unembed": lambda h, k: h @ k, "scores": lambda logits, _: logits, "chunk": 4}
    arguments = (HIDDEN[:, :1], jnp.asarray(KERNEL), jnp.asarray(TOKENS[:, :1]), jnp.asarray(ALL))
    logps, entropy = token_logps(*arguments, **one)
    assert not np.any(logps) and not np.any(entropy) and logps.shape == (3, 1)
    logps, _ = token_logps(*arguments, **one, source=jnp.zeros((3, 1), jnp.int32))
    want = jax.nn.log_softmax(HIDDEN[:, 0] @ KERNEL)[np.arange(3), TOKENS[:, 0]]
    np.testing.assert_allclose(logps[:, 0], want, atol=TOLERANCE)


def test_a_mask_or_source_of_another_shape_is_refused():
    for name in ("mask", "source"):
        with pytest.raises(ValueError, match=name):
            token_logps(
                HIDDEN, KERNEL, TOKENS, ALL, unembed=lambda h, k: h @ k, scores=lambda logits, _: logits, chunk=2,
                **{name: np.zeros((3, 7), np.int32)},
            )  # fmt: skip
