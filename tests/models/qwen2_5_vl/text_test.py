"""The decoder: cached == whole, padded == unpadded, packed segments == separate rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.models.cache import init_cache
from arft_jax.models.qwen2_5_vl.positions import mrope_positions
from arft_jax.ops.attention import attend_causal
from arft_jax.testing.tiny_model import tiny_config, tiny_model
from arft_jax.words import REMAT_POLICIES

TOLERANCE = 2e-5  # float32, hidden states of order 1
N_ROWS, LENGTH, GRID = 3, 17, (1, 4, 6)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    """Embeddings and M-RoPE positions of three rows, each with an image at another place."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 100, (N_ROWS, LENGTH)).astype(np.int32)
    for row in range(N_ROWS):
        tokens[row, 2 + row : 8 + row] = model.config.image_token_id
    index = np.where(tokens == model.config.image_token_id, 0, -1).astype(np.int32)
    index[index == 0] = np.tile(np.arange(6), N_ROWS)
    features = jnp.asarray(rng.normal(size=(6, 48)), jnp.float32)
    positions = np.stack([mrope_positions(row, [GRID], model.config.image_token_id, 2)[0] for row in tokens])
    return model.embed(jnp.asarray(tokens), features, jnp.asarray(index)), jnp.asarray(positions)


@pytest.fixture(scope="module")
def whole(model, inputs):
    return np.asarray(model.hidden(*inputs, jnp.zeros((N_ROWS, LENGTH), jnp.int32)))


def test_features_stand_where_their_index_says(model):
    features = jnp.arange(96.0).reshape(2, 48)
    out = model.embed(jnp.asarray([[5, 6, 7]]), features, jnp.asarray([[-1, 1, -1]]))
    plain = model.embed(jnp.asarray([[5, 6, 7]]), jnp.zeros((0, 48)), jnp.full((1, 3), -1))
    np.testing.assert_array_equal(out[0, 1], features[1])
    np.testing.assert_array_equal(out[0, ::2], plain[0, ::2])


def test_cached_equals_whole_in_uneven_chunks_then_single_steps(model, inputs, whole):
    embeds, positions = inputs
    rows = jnp.asarray([4, 0, 2])  # five slots, three rows, permuted
    cache, got = init_cache(model.config.text, 5, LENGTH + 3), []
    step = jax.jit(model.hidden_cached)
    for start, stop in [(0, 5), (5, 7), (7, 12), *((t, t + 1) for t in range(12, LENGTH))]:
        cols = jnp.broadcast_to(jnp.arange(start, stop)[None], (3, stop - start))
        out, cache = step(embeds[:, start:stop], positions[:, :, start:stop], cache, rows, cols)
        got.append(out)
    np.testing.assert_allclose(np.concatenate(got, axis=1), whole, atol=TOLERANCE)
    for slot in (1, 3):
        assert not np.any(cache.k[:, slot]) and not np.any(cache.v[:, slot])
    assert not np.any(cache.k[:, :, :, LENGTH:])


def test_rows_at_their_own_lengths_decode_without_rows_as_with_them(model, inputs, whole):
    embeds, positions = inputs
    lengths = np.array([9, 13, 10])
    cols = jnp.asarray(np.where(np.arange(13) < lengths[:, None], np.arange(13), 99))
    identity, cache = jnp.arange(3), init_cache(model.config.text, 3, LENGTH)
    _, cache = model.hidden_cached(embeds[:, :13], positions[:, :, :13], cache, identity, cols)
    for _ in range(3):
        at = jnp.asarray(lengths)[:, None]
        now = (
            jnp.take_along_axis(embeds, at[:, :, None], axis=1),
            jnp.take_along_axis(positions, at[:, None, :], axis=2),
        )
        (one, next_cache), (two, _) = (model.hidden_cached(*now, cache, rows, at) for rows in (None, identity))
        np.testing.assert_allclose(one, two, atol=TOLERANCE)
        np.testing.assert_allclose(one[:, 0], whole[np.arange(3), lengths], atol=TOLERANCE)
        cache, lengths = next_cache, lengths + 1


def test_padding_rows_and_padding_tokens_write_nothing(model, inputs):
    embeds, positions = inputs
    cache = init_cache(model.config.text, 3, 8)
    cache = jax.tree.map(lambda x: x + 7.0, cache)
    cols = jnp.asarray([[0, 8], [0, 1], [8, 9]])
    _, after = model.hidden_cached(embeds[:, :2], positions[:, :, :2], cache, jnp.asarray([1, 3, 0]), cols)
    changed = np.asarray((after.k != cache.k).any(axis=(0, 2, 4)))
    assert np.argwhere(changed).tolist() == [[1, 0]]


def test_stale_columns_beyond_a_token_are_not_seen(model, inputs, whole):
    embeds, positions = inputs
    cache = jax.tree.map(lambda x: x + 1e3, init_cache(model.config.text, 3, LENGTH))
    cols = jnp.broadcast_to(jnp.arange(6)[None], (3, 6))
    out, _ = model.hidden_cached(embeds[:, :6], positions[:, :, :6], cache, None, cols)
    np.testing.assert_allclose(out, whole[:, :6], atol=TOLERANCE)


def test_a_cut_cache_gives_what_the_whole_one_gives(model, inputs, whole):
    embeds, positions = inputs
    cols = jnp.broadcast_to(jnp.arange(6)[None], (3, 6))
    for rows in (None, jnp.arange(3)):
        cache = jax.tree.map(lambda x: x + 1e3, init_cache(model.config.text, 3, LENGTH))
        out, after = model.hidden_cached(embeds[:, :6], positions[:, :, :6], cache, rows, cols, 6)
        np.testing.assert_allclose(out, whole[:, :6], atol=TOLERANCE)
        _, all_of_it = model.hidden_cached(embeds[:, :6], positions[:, :, :6], cache, rows, cols)
        np.testing.assert_allclose(after.k, all_of_it.k, atol=TOLERANCE)
    for columns in (0, LENGTH + 1):
        with pytest.raises(ValueError, match=f"between 1 and S={LENGTH}: got {columns}"):
            model.hidden_cached(embeds[:, :6], positions[:, :, :6], cache, None, cols, columns)


def test_right_padded_equals_unpadded(model, inputs, whole):
    embeds, positions = inputs
    padded = jnp.pad(embeds, ((0, 0), (0, 6), (0, 0)), constant_values=9.0)
    segments = jnp.pad(jnp.zeros((N_ROWS, LENGTH), jnp.int32), ((0, 0), (0, 6)), constant_values=-1)
    out = model.hidden(padded, jnp.pad(positions, ((0, 0), (0, 0), (0, 6))), segments)
    np.testing.assert_allclose(out[:, :LENGTH], whole, atol=TOLERANCE)
    assert np.isfinite(out).all()


def test_segments_packed_in_one_row_equal_separate_rows(model, inputs, whole):
    embeds, positions = inputs
    segments = jnp.repeat(jnp.arange(3, dtype=jnp.int32), LENGTH)[None]
    packed = model.hidden(embeds.reshape(1, -1, 48), jnp.moveaxis(positions, 0, 1).reshape(1, 3, -1), segments)
    np.testing.assert_allclose(packed.reshape(whole.shape), whole, atol=TOLERANCE)


def test_a_beginning_that_rows_share_stands_once_in_front_of_them(model, inputs):
    """Three rows that begin alike in one: the beginning as segment 0, which what follows it sees, and nobody else."""
    embeds, positions = inputs
    n = 7
    alike = jnp.concatenate([jnp.broadcast_to(embeds[:1, :n], (3, n, 48)), embeds[:, n:]], axis=1)
    places = jnp.concatenate([jnp.broadcast_to(positions[:1, :, :n], (3, 3, n)), positions[:, :, n:]], axis=2)
    want = model.hidden(alike, places, jnp.zeros((N_ROWS, LENGTH), jnp.int32))
    once = jnp.concatenate([alike[0, :n], *alike[:, n:]])[None]
    at = jnp.concatenate([places[0, :, :n], *places[:, :, n:]], axis=1)[None]
    segments = jnp.concatenate([jnp.zeros(n, jnp.int32), jnp.repeat(jnp.arange(1, 4, dtype=jnp.int32), LENGTH - n)])
    prefixes = jnp.where(segments > 0, 0, -1)
    got = model.hidden(once, at, segments[None], prefixes[None])[0]
    np.testing.assert_allclose(got[:n], want[0, :n], atol=TOLERANCE)
    np.testing.assert_allclose(got[n:].reshape(3, LENGTH - n, -1), want[:, n:], atol=TOLERANCE)
    alone = model.hidden(once, at, segments[None])[0]
    assert np.abs(alone[n:] - got[n:]).max() > 0.01


def test_later_tokens_do_not_change_earlier_ones(model, inputs, whole):
    embeds, positions = inputs
    out = model.hidden(embeds.at[:, 10:].add(5.0), positions, jnp.zeros((N_ROWS, LENGTH), jnp.int32))
    np.testing.assert_array_equal(out[:, :10], whole[:, :10])
    assert np.abs(np.asarray(out)[:, 10:] - whole[:, 10:]).max() > 0.1


def test_rematerialised_gradient_equals_the_plain_one(inputs):
    embeds, positions = inputs
    segments = jnp.zeros((N_ROWS, LENGTH), jnp.int32)
    grads = []
    for remat in REMAT_POLICIES:
        model = tiny_model(remat=remat)
        grads.append(jax.grad(lambda e, m=model: jnp.sum(jnp.sin(m.hidden(e, positions, segments))))(embeds))
    for grad in grads[1:]:
        np.testing.assert_allclose(grad, grads[0], atol=1e-4 * float(np.abs(grads[0]).max()))


@pytest.mark.parametrize("attention", ["plain", "chunked"])
def test_each_policy_of_rematerialisation_holds_less_than_the_one_before(attention):
    embeds, segments = jnp.zeros((4, 512, tiny_config().text.dim)), jnp.zeros((4, 512), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(512, dtype=jnp.int32), (4, 3, 512))

    def temporaries(remat):
        model = tiny_model(remat=remat, attend_causal=functools.partial(attend_causal, implementation=attention))
        grad = jax.jit(jax.grad(lambda e: model.hidden(e, positions, segments).sum()))
        return grad.lower(embeds).compile().memory_analysis().temp_size_in_bytes

    held = {remat: temporaries(remat) for remat in REMAT_POLICIES}
    assert held["none"] > held["dots"] > held["full"]


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_compute_gives_float32_logits_near_the_exact_ones(inputs, tied):
    embeds, positions = inputs
    segments = jnp.zeros((N_ROWS, LENGTH), jnp.int32)
    config = tiny_config(tied=tied)
    exact = tiny_model(config)
    half = tiny_model(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    hidden = half.hidden(embeds, positions, segments)
    logits = half.logits(hidden)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    gap = np.abs(logits - exact.logits(exact.hidden(embeds, positions, segments))).mean()
    assert gap < 0.05  # 8-bit mantissas, three layers, logits of order 1


def test_without_rows_every_slot_needs_a_row(model, inputs):
    embeds, positions = inputs
    cache = init_cache(model.config.text, 4, 8)
    with pytest.raises(ValueError, match="got R=3, n_slots=4"):
        model.hidden_cached(embeds[:, :1], positions[:, :, :1], cache, None, jnp.zeros((3, 1), jnp.int32))
