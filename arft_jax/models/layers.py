"""Linear maps, RMS norm and the stacking of layers, with logical axis names on every parameter.

A parameter's ``axes`` metadata is plain: one word an axis, read by the sharding table and by nothing in
flax. :func:`stack_layers` prepends ``layers`` to the axes of each parameter that it stacks, so inside a
scanned body a parameter has one axis fewer than its ``axes``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.lora import Lora, LoraParam
from arft_jax.ops.attention import ATTENDED
from arft_jax.ops.linear import WeightGradient, affine, product, weight_gradient
from arft_jax.words import REMAT_POLICIES

Axes = tuple[str | None, ...]
_SAVED_DOTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # scores of attention have batch axes: never kept
    jax.checkpoint_policies.save_only_these_names(ATTENDED),
)


class Constrain(Protocol):
    """How a model lies on a mesh: ``sharding.Placement.constrain``."""

    def __call__(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """x, placed as its logical axes say."""

    def weight_gradient(self, x: jax.Array, g: jax.Array, n: int, axes: Axes) -> jax.Array:
        """``ops.linear.weight_gradient``, placed as the kernel's logical axes say."""


class _Unconstrained:
    def __call__(self, x: jax.Array, *axes: str | None) -> jax.Array:
        return x

    def weight_gradient(self, x: jax.Array, g: jax.Array, n: int, axes: Axes) -> jax.Array:
        return weight_gradient(x, g, n)


unconstrained: Constrain = _Unconstrained()  # the model on one device


def truncated_normal(rngs: nnx.Rngs, shape: Sequence[int], std: float, dtype: Any) -> jax.Array:
    """Normal cut at two deviations and rescaled, so that its deviation is ``std``."""
    values = jax.random.truncated_normal(rngs.params(), -2.0, 2.0, tuple(shape), jnp.float32)
    return (values * (std / 0.87962566)).astype(dtype)


class Linear(nnx.Module):
    """y = x W + b with several input or output axes, kernel float[*inputs, *outputs].

    Args:
      inputs, outputs: sizes of the contracted and of the new axes.
      axes: logical names of the kernel's axes, inputs first.
      bias: whether there is one, shaped as outputs.
      lora: the adapter beside the kernel, drawn from the stream ``lora``; None: none.
      constrain: sums the gradients of the kernels over a mesh.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        axes: Axes,
        *,
        bias: bool,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        lora: Lora | None = None,
        constrain: Constrain = unconstrained,
    ):
        self.n_inputs, self.dtype, self.constrain = len(inputs), dtype, constrain
        shape, std = (*inputs, *outputs), float(np.prod(inputs)) ** -0.5
        self.kernel = nnx.Param(truncated_normal(rngs, shape, std, param_dtype), axes=axes)
        self.bias = nnx.Param(jnp.zeros(tuple(outputs), param_dtype), axes=axes[len(inputs) :]) if bias else None
        self.lora_scale = None if lora is None else lora.scale
        if lora is not None:
            a = std * jax.random.normal(rngs.lora(), (*inputs, lora.rank), jnp.float32)
            b = jnp.zeros((lora.rank, *outputs), jnp.float32)
            self.lora_a = LoraParam(a, axes=(*axes[: len(inputs)], "lora_rank"))
            self.lora_b = LoraParam(b, axes=("lora_rank", *axes[len(inputs) :]))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[..., *inputs] -> float[..., *outputs] in the compute type."""
        x = x.astype(self.dtype)
        if self.bias is None:
            y = product(x, self.kernel[...], self.n_inputs, None, self._summed(self.kernel))
        else:
            y = affine(x, self.kernel[...], self.bias[...], self.n_inputs, self._summed(self.kernel))
        if self.lora_scale is None:
            return y
        # Behind a barrier: XLA makes one product of two that read the same x, and on a GPU writes the kernel and lora_a
        # side by side into a copy to do so, at every token.
        x, a, b = jax.lax.optimization_barrier(x), self.lora_a, self.lora_b
        inner = product(x, a[...], self.n_inputs, None, self._summed(a))
        return y + self.lora_scale * product(inner, b[...], 1, None, self._summed(b))

    def _summed(self, kernel: nnx.Param) -> WeightGradient:
        axes = kernel.get_metadata("axes")[-kernel[...].ndim :]  # without ``layers`` inside a scan
        return functools.partial(self.constrain.weight_gradient, axes=axes)


class RMSNorm(nnx.Module):
    """y = x / √(mean(x²) + ε) · g in float32 (arXiv 1910.07467, eq. 4), returned in x's type."""

    def __init__(self, dim: int, eps: float, axis: str, *, param_dtype: Any):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), param_dtype), axes=(axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[..., D] -> float[..., D]."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        return (y * jax.lax.expand_dims(scale, range(y.ndim - 1))).astype(x.dtype)


class GatedMLP(nnx.Module):
    """y = (silu(x Wg) · x Wu) Wd (SwiGLU, arXiv 2002.05202)."""

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        axes: tuple[str, str],
        *,
        bias: bool,
        constrain: Constrain,
        lora_of: Callable[[str], Lora | None],
        **kwargs: Any,
    ):
        into, out = axes, axes[::-1]
        self.constrain, self.hidden_axis = constrain, axes[1]
        kwargs["constrain"] = constrain
        self.gate = Linear((dim,), (mlp_dim,), into, bias=bias, lora=lora_of("gate"), **kwargs)
        self.up = Linear((dim,), (mlp_dim,), into, bias=bias, lora=lora_of("up"), **kwargs)
        self.down = Linear((mlp_dim,), (dim,), out, bias=bias, lora=lora_of("down"), **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B, T, D] -> float[B, T, D]."""
        hidden = jax.nn.silu(self.gate(x)) * self.up(x)
        return self.down(self.constrain(hidden, "rows", None, self.hidden_axis))


def stack_layers(make: Callable[[nnx.Rngs], nnx.Module], n_layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose parameters carry a leading axis ``layers``: n_layers layers, each its own draw."""

    @nnx.split_rngs(splits=n_layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(layer_rngs: nnx.Rngs) -> nnx.Module:
        return make(layer_rngs)

    layers = build(rngs)
    for _, node in nnx.iter_graph(layers):
        if isinstance(node, nnx.Param):
            node.set_metadata("axes", ("layers", *node.get_metadata("axes")))
    return layers


def unstack_layers(layers: nnx.Module, n_layers: int, states: Sequence[nnx.State] | None = None) -> list[nnx.Module]:
    """What :func:`stack_layers` made, layer by layer.

    Args:
      layers: the stack.
      n_layers: in it.
      states: the parameters of each layer, where they were taken out before; None: copied out of the stack here.
    """
    graphdef, stacked = nnx.split(layers)
    if states is None:
        states = [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(n_layers)]
    return [nnx.merge(graphdef, state) for state in states]


def scan_layers(
    body: Callable[[Any, nnx.Module, Any], Any], layers: nnx.Module, carry: Any, xs: Any = None, *, remat: str = "none"
) -> Any:
    """carry = body(carry, layer_l, xs_l) for l = 0 .. L-1, compiled once whatever L.

    Args:
      body: (carry, layer, x) -> carry; it must not change the layer.
      layers: what :func:`stack_layers` made.
      carry: any pytree of arrays.
      xs: pytree of arrays with a leading axis L, or None.
      remat: what the backward pass finds of a layer beside its carry: ``none`` all that it needs; ``dots`` the results
        of products with weights and of attention, the rest is computed again; ``full`` nothing, the whole layer is
        computed again.

    Raises:
      ValueError: another word.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}: got {remat!r} (config.model.remat)")
    graphdef, state = nnx.split(layers)

    def step(carry: Any, scanned: Any) -> tuple[Any, None]:
        layer_state, x = scanned
        return body(carry, nnx.merge(graphdef, layer_state), x), None

    if remat != "none":
        policy = _SAVED_DOTS if remat == "dots" else None
        step = jax.checkpoint(step, prevent_cse=False, policy=policy)
    return jax.lax.scan(step, carry, (state, xs))[0]
