"""The GPU kernel's wrapper: its handling of segments on JAX's own form, its lowering, and the kernel where one is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.ops import cudnn
from arft_jax.ops.attention import attend_causal, attend_segments
from arft_jax.ops.cudnn import attend_cudnn

TOLERANCE = 2e-5  # float32 sums of some hundred terms in another order
BF16_TOLERANCE = 2e-2  # several roundings to 8 bits, of the largest entry

# One row each: packed with the padding behind; padding before, ids out of order; full; empty; as GRPO has it.
ROWS = [[(0, 30), (1, 1), (2, 20)], [(-1, 7), (5, 40), (3, 23)], [(0, 70)], [], [(0, 45)]]


def _inputs(n_heads=4, n_kv=2, h=16, dtype=jnp.float32, rows=ROWS):
    rng = np.random.default_rng(0)
    q, k, v, weights = (
        jnp.asarray(rng.normal(size=(len(rows), 70, n, h)), dtype) for n in (n_heads, n_kv, n_kv, n_heads)
    )
    ids = np.full((len(rows), 70), -1, np.int32)
    for row, runs in zip(ids, rows, strict=True):
        written = np.concatenate([np.full(n, i) for i, n in [*runs, (-1, 0)]])
        row[: len(written)] = written
    return q, k, v, jnp.asarray(ids), weights


def _value_and_grads(function, q, k, v, weights):
    out, pull = jax.vjp(function, q, k, v)
    return [out, *pull(weights)]


def _reference(causal):
    return attend_causal if causal else attend_segments


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_kv", [2, 4])
def test_packed_rows_equal_the_plain_form_with_its_gradients(causal, n_kv):
    q, k, v, ids, weights = _inputs(n_kv=n_kv)
    run = jax.jit(lambda *x: attend_cudnn(*x, ids, causal=causal, implementation="xla"))
    got = _value_and_grads(run, q, k, v, weights)
    want = _value_and_grads(lambda *x: _reference(causal)(*x, ids, implementation="plain"), q, k, v, weights)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    assert not np.asarray(got[0])[np.asarray(ids) < 0].any()


def test_the_kernel_is_asked_for_no_empty_row_and_what_it_leaves_beyond_a_segment_is_never_read(monkeypatch):
    """cuDNN promises nothing beyond a length, in values or in gradients; a gradient that enters there is zero."""
    q, k, v, ids, weights = _inputs()
    exact = jax.nn.dot_product_attention

    def beyond(x, n, fill):
        return jnp.where((jnp.arange(x.shape[1])[None] < n[:, None])[:, :, None, None], x, fill)

    dirty_out = jax.custom_vjp(lambda x, n: beyond(x, n, jnp.nan))
    dirty_out.defvjp(
        lambda x, n: (dirty_out(x, n), n), lambda n, g: (jnp.where(g == beyond(g, n, 0.0), g, jnp.nan), None)
    )
    dirty_grad = jax.custom_vjp(lambda x, n: x)
    dirty_grad.defvjp(lambda x, n: (x, n), lambda n, g: (beyond(g, n, jnp.nan), None))

    def kernel(q, k, v, *, query_seq_lengths, **kwargs):
        n = query_seq_lengths
        q, k, v = (dirty_grad(x, n) for x in (q, k, v))
        out = exact(q, k, v, query_seq_lengths=n, **kwargs)
        return dirty_out(jnp.where(jnp.all(n > 0), out, jnp.nan), n)

    want = _value_and_grads(lambda *x: attend_causal(*x, ids), q, k, v, weights)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    got = _value_and_grads(lambda *x: attend_cudnn(*x, ids, causal=True, implementation="xla"), q, k, v, weights)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_runs_are_counted_row_by_row():
    order, n = cudnn.segment_runs(jnp.asarray([[4, 4, 7, -1], [-1, 2, -1, 2], [-1, -1, -1, -1]], jnp.int32))
    np.testing.assert_array_equal(order, [[0, 0, 1, -1], [-1, 0, -1, 1], [-1, -1, -1, -1]])
    assert n == 2


def _shapes(n, h, dtype=jnp.bfloat16):
    x = jax.ShapeDtypeStruct((2, n, 4, h), dtype)
    return x, x, x, jax.ShapeDtypeStruct((2, n), jnp.int32)


@pytest.mark.parametrize(("causal", "h", "mask"), [(True, 128, "PADDING_CAUSAL"), (False, 80, "PADDING")])
def test_value_and_gradient_lower_to_the_kernel_for_a_gpu(causal, h, mask, monkeypatch):
    # The version is asked of the library itself, which only the [cuda] extra brings.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 92000)

    def loss(q, k, v, ids):
        return attend_cudnn(q, k, v, ids, causal=causal).astype(jnp.float32).sum()

    traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).trace(*_shapes(200, h))
    text = traced.lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
    calls = [line for line in text.splitlines() if "custom_call @__cudnn" in line]
    kinds = [line.split("@__cudnn$")[1].split("(")[0] for line in calls]
    assert kinds == ["fmhaSoftmax", "fmhaSoftmax", "fmhaSoftmaxBackward"]  # the backward pass attends again
    assert all(f'"mask_type": "{mask}"' in line for line in calls)
    assert "256x256" not in text  # no scores [B, N, T, S], T padded to 256


@pytest.mark.parametrize(("dtype", "h"), [(jnp.float32, 128), (jnp.bfloat16, 100), (jnp.bfloat16, 136)])
def test_what_the_kernel_does_not_take_is_refused(dtype, h):
    name = jnp.dtype(dtype).name
    with pytest.raises(ValueError, match=rf"got {name}\[\.\.\., {h}\] \(config.model.attention, config.model.dtype\)"):
        jax.eval_shape(lambda *x: attend_cudnn(*x, causal=True), *_shapes(64, h, dtype))


def test_float32_is_refused_by_the_config_already():
    config = default_config()
    config.model.attention = "cudnn"
    with pytest.raises(ValueError, match=r"dtype must be bfloat16 where attention is cudnn: got 'float32'"):
        validate(config)
    config.model.dtype = "bfloat16"
    validate(config)


def test_a_missing_library_is_named(monkeypatch):
    def missing():
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", missing)
    with pytest.raises(ValueError, match=r"nvidia-cudnn-cu12\): cuDNN is not detected. \(config.model.attention\)"):
        jax.eval_shape(lambda *x: attend_cudnn(*x, causal=True), *_shapes(64, 64))


@pytest.mark.gpu
@pytest.mark.parametrize(("causal", "h"), [(True, 128), (False, 80)])
def test_the_kernel_equals_the_plain_form_on_a_gpu(causal, h):
    q, k, v, ids, weights = _inputs(n_kv=2 if causal else 4, h=h, dtype=jnp.bfloat16)
    got = _value_and_grads(jax.jit(lambda *x: attend_cudnn(*x, ids, causal=causal)), q, k, v, weights)
    wide = [x.astype(jnp.float32) for x in (q, k, v, weights)]
    want = _value_and_grads(lambda *x: _reference(causal)(*x, ids, implementation="plain"), *wide)
    for a, b in zip(got, want, strict=True):
        error = np.abs(np.asarray(a, np.float32) - b).max() / np.abs(b).max()
        assert error < BF16_TOLERANCE, error
    assert not np.asarray(got[0], np.float32)[np.asarray(ids) < 0].any()
