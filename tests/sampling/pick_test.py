"""The sampled distribution, its log-probs, and the pick."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.sampling import pick

SETTINGS = [dict(), dict(temperature=0.7), dict(top_k=3), dict(top_p=0.8), dict(temperature=1.5, top_k=6, top_p=0.7)]
ALLOWED = jnp.asarray([True, True, False, True, True, True, True, False, True, True])
V = 10


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def oracle(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities float64[V] by the definitions."""
    scores = np.where(ALLOWED, np.asarray(logits, np.float64) / temperature, -np.inf)
    probs = np.exp(scores - scores.max())
    probs /= probs.sum()
    if top_k:
        probs[np.argsort(-probs)[top_k:]] = 0.0
        probs /= probs.sum()
    if top_p < 1:
        order = np.argsort(-probs)
        n_kept = 1 + int((np.cumsum(probs[order]) < top_p).sum())
        probs[order[n_kept:]] = 0.0
        probs /= probs.sum()
    return probs


@pytest.mark.parametrize("settings", SETTINGS)
def test_log_probs_equal_the_definitions(settings):
    logits = 2.0 * jax.random.normal(jax.random.key(0), (4, 5, V))
    logps = np.asarray(pick.log_probs(logits, ALLOWED, **settings))
    assert logps.dtype == np.float32
    for i in np.ndindex(4, 5):
        np.testing.assert_allclose(np.exp(logps[i]), oracle(logits[i], **settings), atol=2e-6)
    assert np.isfinite(logps).all()


def test_hand_value_of_a_ban():
    logps = pick.log_probs(jnp.asarray([0.0, np.log(3.0), 9.0], jnp.float32), jnp.asarray([True, True, False]))
    np.testing.assert_allclose(jnp.exp(logps), [0.25, 0.75, 0.0], rtol=1e-6)


def test_top_p_keeps_the_token_that_crosses_and_always_one():
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
    allowed = jnp.ones(3, bool)
    assert (np.asarray(pick.log_probs(logits, allowed, top_p=0.6)) > -100).tolist() == [True, True, False]
    assert (np.asarray(pick.log_probs(logits, allowed, top_p=1e-6)) > -100).tolist() == [True, False, False]


@pytest.mark.parametrize("settings", SETTINGS)
def test_picks_follow_the_distribution_that_is_reported(settings):
    logits = jax.random.normal(jax.random.key(1), (V,))
    n = 20_000
    keys = jax.random.split(jax.random.key(2), n)
    rows = jnp.broadcast_to(logits, (n, V))
    tokens, logps = jax.jit(lambda k, x: pick.pick(k, x, ALLOWED, **settings))(keys, rows)
    want = oracle(logits, **settings)
    freq = np.bincount(np.asarray(tokens), minlength=V) / n
    np.testing.assert_allclose(freq, want, atol=4.5 * np.sqrt(0.25 / n))  # 4.5 standard errors
    assert freq[want == 0].sum() == 0
    np.testing.assert_array_equal(logps, pick.log_probs(rows, ALLOWED, **settings)[np.arange(n), tokens])


def test_hand_values_of_the_first_sum_above():
    weights = jnp.asarray([[1.0, 0.0, 3.0], [1.0, 0.0, 3.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    uniform = jnp.asarray([0.2499, 0.25, 0.0, 1 - 2**-23])
    assert pick.first_above(weights, uniform).tolist() == [0, 2, 1, 1]


def test_a_token_without_weight_is_not_drawn_though_sums_are_rounded(monkeypatch):
    # a parallel sum may rise where nothing is added, or end below its own share
    monkeypatch.setattr(pick.jnp, "cumsum", lambda x, axis: jnp.asarray([[1.0, 1.1, 1.1], [1.0, 0.9, 0.9]]))
    weights = jnp.asarray([[1.0, 0.0, 0.1], [1.0, 0.0, 0.0]])
    assert pick.first_above(weights, jnp.asarray([0.95, 0.99999])).tolist() == [2, 0]


def test_rare_tokens_in_their_own_block_are_drawn_as_often_as_they_should_be():
    # 2^-12 of the mass lies in the second block of 128, half of it on its last token; V fills neither 128 nor 256
    logits = np.full(250, -1e9, np.float32)
    logits[3], logits[200], logits[249] = np.log(1 - 2**-12), np.log(2**-13), np.log(2**-13)
    n = 400_000
    draw = jax.jit(lambda keys: pick.pick(keys, jnp.broadcast_to(logits, (n, 250)), jnp.ones(250, bool))[0])
    counts = np.bincount(np.asarray(draw(jax.random.split(jax.random.key(5), n))), minlength=250)
    want = n * 2**-13  # 49, deviation 7
    assert abs(counts[200] - want) < 4.5 * 7 and abs(counts[249] - want) < 4.5 * 7
    assert counts[3] == n - counts[200] - counts[249]


def test_banned_tokens_are_never_picked_however_likely():
    logits = jnp.where(ALLOWED, 0.0, 1e4).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(0), 500)
    tokens, _ = pick.pick(keys, jnp.broadcast_to(logits, (500, V)), ALLOWED)
    assert np.asarray(ALLOWED)[np.asarray(tokens)].all()
    greedy, _ = pick.pick(keys, jnp.broadcast_to(logits, (500, V)), ALLOWED, temperature=0.0)
    assert np.asarray(ALLOWED)[np.asarray(greedy)].all()


def test_temperature_0_is_greedy_and_its_log_prob_that_of_temperature_1():
    logits = jax.random.normal(jax.random.key(3), (7, V))
    keys = jax.random.split(jax.random.key(0), 7)
    tokens, logps = pick.pick(keys, logits, ALLOWED, temperature=0.0)
    want = pick.log_probs(logits, ALLOWED)
    np.testing.assert_array_equal(tokens, np.argmax(want, axis=-1))
    np.testing.assert_array_equal(logps, np.max(want, axis=-1))
    assert tokens.dtype == jnp.int32


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradient_is_finite_and_zero_on_what_is_cut(settings):
    logits = jax.random.normal(jax.random.key(4), (3, V))
    kept = np.asarray(pick.log_probs(logits, ALLOWED, **settings)) > -100
    token = jnp.argmax(jnp.where(jnp.asarray(kept), logits, -jnp.inf), axis=-1)

    def picked(logits):
        return jnp.take_along_axis(pick.log_probs(logits, ALLOWED, **settings), token[:, None], axis=-1).sum()

    grad = np.asarray(jax.grad(picked)(logits))
    assert np.isfinite(grad).all() and (grad[~kept] == 0).all() and (grad != 0).any()


def test_a_row_does_not_depend_on_who_shares_its_batch():
    rng = jax.random.key(7)
    task, row, position = jnp.arange(64) // 8, jnp.arange(64) % 8, 3 * jnp.arange(64)
    logits = jax.random.normal(jax.random.key(8), (64, 1024))
    allowed = jnp.ones(1024, bool)

    def draw(index):
        keys = pick.row_keys(rng, task[index], row[index], position[index])
        return pick.pick(keys, logits[index], allowed)

    tokens, logps = draw(jnp.arange(64))
    for i in (0, 1, 17, 63):
        alone = draw(jnp.asarray([i]))
        assert int(alone[0][0]) == int(tokens[i])
        # the CPU back-end may sum a row in another order at another batch size: 1 ulp of 7 nats
        np.testing.assert_allclose(alone[1][0], logps[i], rtol=3e-7)


def test_keys_differ_in_task_row_and_position():
    def key_data(task, row, position):
        keys = pick.row_keys(jax.random.key(0), jnp.asarray([task]), jnp.asarray([row]), jnp.asarray([position]))
        return tuple(np.asarray(jax.random.key_data(keys))[0].tolist())

    seen = {key_data(t, r, p) for t in range(3) for r in range(3) for p in range(3)}
    assert len(seen) == 27
    assert key_data(1, 2, 0) == key_data(1, 2, 0)


def test_old_style_keys_give_the_same_draws():
    arguments = (jnp.arange(4), jnp.arange(4), jnp.arange(4))
    new = pick.row_keys(jax.random.key(5), *arguments)
    old = pick.row_keys(jax.random.PRNGKey(5), *arguments)
    np.testing.assert_array_equal(jax.random.key_data(new), old)


def test_bad_settings_are_errors():
    logits = jnp.zeros((2, V))
    for settings, sentence in [
        (dict(temperature=-1.0), "temperature must be at least 0: got -1.0"),
        (dict(top_k=-1), "top_k must be at least 0"),
        (dict(top_p=0.0), r"top_p must be in \(0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            pick.log_probs(logits, ALLOWED, **settings)
    with pytest.raises(ValueError, match=r"allowed must be bool\[V\] for V=10"):
        pick.log_probs(logits, jnp.ones(V + 1, bool))
    with pytest.raises(ValueError, match="task_ids, rows and positions"):
        pick.row_keys(jax.random.key(0), jnp.zeros(2, jnp.int32), jnp.zeros(3, jnp.int32), jnp.zeros(2, jnp.int32))
