"""The gradients of products are the plain expression's, float32 sums, and computed for trained kernels alone."""

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.ops.linear import affine, product, weight_gradient

RNG = np.random.default_rng(0)
X, G = (RNG.normal(size=shape).astype(np.float32) for shape in ((3, 7, 2, 4), (3, 7, 5)))
KERNEL, BIAS = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 4, 5), (5,)))


def _grads(function, *arguments):
    return jax.jit(jax.grad(lambda *a: jnp.sum(G * function(*a).astype(jnp.float32)), range(len(arguments))))(
        *arguments
    )


def test_in_float32_the_gradients_are_those_of_the_plain_expression():
    plain = _grads(lambda x, k, b: jnp.einsum("btij,ijo->bto", x, k) + b[None, None], X, KERNEL, BIAS)
    for got, want in zip(_grads(lambda x, k, b: affine(x, k, b, 2), X, KERNEL, BIAS), plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)  # float32 sums of 21 products
    for got, want in zip(_grads(lambda x, k: product(x, k, 2), X, KERNEL), plain, strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_float32_kernel_is_never_rounded_to_the_compute_type():
    """4096 rows of 1 in bfloat16, whose gradient is 4097/4096 of what bfloat16 can hold."""
    x, kernel = jnp.ones((4097, 1), jnp.bfloat16), jnp.ones((1, 1), jnp.float32)
    for function in (lambda k: product(x, k, 1), lambda k: affine(x, k, jnp.zeros((1,), jnp.float32), 1)):
        got = jax.grad(lambda k, f=function: f(k).astype(jnp.float32).sum())(kernel)
        assert got.dtype == jnp.float32 and got[0, 0] == 4097
    assert jax.grad(lambda b: affine(x, kernel, b, 1).astype(jnp.float32).sum())(jnp.zeros((1,)))[0] == 4097


def test_no_gradient_of_a_frozen_kernel_is_computed():
    asked = []

    def sum_up(x, g, n):
        asked.append(x.shape)
        return weight_gradient(x, g, n)

    def loss(x, kernel, bias):
        y = product(jax.nn.silu(affine(x, kernel, bias, 2, sum_up)), kernel.reshape(8, 5).T, 1, None, sum_up)
        return y.sum()

    def scanned(x, kernel, bias):  # as in a model: behind a scan and a checkpoint
        step = jax.checkpoint(lambda total, k: (total + loss(x, k, bias), None))
        return jax.lax.scan(step, 0.0, kernel[None])[0]

    for function in (loss, scanned):
        jax.make_jaxpr(jax.grad(function))(X, KERNEL, BIAS)
        assert not asked, function
        jax.make_jaxpr(jax.grad(function, 1))(X, KERNEL, BIAS)
        assert set(asked) == {X.shape, G.shape}, function
        asked.clear()
