"""The optimiser half of an update: clipped AdamW, how its moments are kept, and how new parameters are rounded.

AdamW is arXiv 1711.05101, algorithm 2; factored second moments are Adafactor's, arXiv 1804.04235, algorithm 4; rounding
at random is arXiv 1502.02551, section 3. All arithmetic is float32, whatever parameters and moments are kept in.
Departures:
  1. Weight decay leaves out biases and norm scales.
  2. A gradient that is not finite leaves parameters and moments as they were and is counted, where
     optax.apply_if_finite would in the end apply it.
  3. Factored moments take AdamW's learning rate, not one relative to a parameter's size; their decay is at most ``b2``,
     and the first moment is kept in bfloat16, as in arXiv 2106.04560, section 3.4.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from arft_jax.models.lora import split_trainable
from arft_jax.sharding import Placement
from arft_jax.words import MOMENTS, ROUNDINGS

UPDATE_RMS = 1.0  # Adafactor's d: largest root mean square of one parameter's update under factored moments


def make_optimizer(
    *, clip_norm: float, b1: float, b2: float, weight_decay: float, moments: str = "float32"
) -> optax.GradientTransformationExtraArgs:
    """Global-norm clipping and AdamW without the learning rate, which :func:`apply_gradients` takes as an argument.

    Args:
      clip_norm: largest global norm of the gradient.
      b1, b2: β₁ and β₂.
      weight_decay: decoupled; :func:`decay_mask` says of what.
      moments: ``float32``; ``bfloat16``, both moments rounded at random between steps; ``factored``, the mean square of
        each row and of each column in place of the second moment (of parameters with two axes of at least 128; that of
        others whole) and the first moment in bfloat16, or none where ``b1`` is 0.

    Returns:
      The transformation. Its ``update`` takes a keyword ``key``, which is needed where bfloat16 moments are kept.

    Raises:
      ValueError: another word for ``moments``.
    """
    if moments not in MOMENTS:
        raise ValueError(f"moments must be among {MOMENTS}: got {moments!r} (config.train.moments)")
    if moments == "factored":
        scaling = [_factored(b2), optax.clip_by_block_rms(UPDATE_RMS)]
        scaling += [_in_bfloat16(optax.ema(b1, debias=True))] if b1 else []
    else:
        adam = optax.scale_by_adam(b1=b1, b2=b2)
        scaling = [_in_bfloat16(adam) if moments == "bfloat16" else adam]
    inner = optax.chain(optax.clip_by_global_norm(clip_norm), *scaling, _decay(weight_decay))

    def init(params):
        return inner.init(_wide(params))

    def update(gradients, state, params=None, *, key=None, **_):
        return inner.update(_wide(gradients), state, _wide(params), key=key)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide(tree):
    """Floating-point arrays as float32, the others as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if _is_float(x) else x, tree)


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


# ----------------------------------------------------------------- weight decay


def decay_mask(params):
    """Which parameters decay: those with two axes and more, biases left out.

    Axes are counted without ``layers``, along which layers are stacked: norm scales, float[layers, D], have one. Biases
    may have several, float[layers, N, H], and go by their name.

    Returns:
      A tree of bools in the structure of ``params``.
    """

    def decays(path, node):
        axes = node.get_metadata().get("axes") if _is_variable(node) else None
        n_axes = np.ndim(jax.tree.leaves(node)[0]) if axes is None else sum(axis != "layers" for axis in axes)
        is_bias = jax.tree_util.keystr(path[-1:], simple=True) == "bias"
        return jax.tree.map(lambda _: n_axes > 1 and not is_bias, node)

    return jax.tree_util.tree_map_with_path(decays, params, is_leaf=_is_variable)


def _decay(weight_decay: float) -> optax.GradientTransformation:
    def add(updates, params):
        return jax.tree.map(lambda u, p, does: u + weight_decay * p if does else u, updates, params, decay_mask(params))

    return optax.stateless(add)


# ---------------------------------------------------------------------- moments


def _in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``inner`` with its moments kept in bfloat16 from step to step.

    They are rounded at random: to the nearest, 0.999 of a number is the number itself, and with β₂ = 0.999 a second
    moment would never fall again.
    """

    def init(params):
        state = inner.init(params)
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if _is_float(x) else x, state)

    def update(updates, state, params=None, *, key=None, **_):
        updates, new = inner.update(updates, _wide(state), params)
        return updates, _stored(new, state, "stochastic", key)

    return optax.GradientTransformationExtraArgs(init, update)


def _factored(b2: float) -> optax.GradientTransformation:
    """``optax.scale_by_factored_rms`` with a state that names the axes of its arrays, by which they are placed."""

    def decay(step, power):
        return jnp.minimum(1.0 - (step + 1.0) ** -power, b2)

    inner = optax.scale_by_factored_rms(decay_rate_fn=decay)

    def named(state, params):
        nodes, structure = jax.tree.flatten(params, is_leaf=_is_variable)
        kept = map(_with_axes, nodes, state.v_row, state.v_col, state.v)
        rows, columns, wholes = (jax.tree.unflatten(structure, part) for part in zip(*kept, strict=True))
        return state._replace(v_row=rows, v_col=columns, v=wholes)

    def init(params):
        return named(inner.init(jax.tree.leaves(params)), params)

    def update(gradients, state, params=None):
        plain = state._replace(**{name: jax.tree.leaves(getattr(state, name)) for name in ("v_row", "v_col", "v")})
        updates, plain = inner.update(jax.tree.leaves(gradients), plain, jax.tree.leaves(params))
        return jax.tree.unflatten(jax.tree.structure(gradients), updates), named(plain, params)

    return optax.GradientTransformation(init, update)


def _with_axes(node, row: jax.Array, column: jax.Array, whole: jax.Array) -> tuple[Any, Any, Any]:
    """What is kept of a parameter, each array in the parameter's ``nnx.Variable`` with the axes that are left of its.

    Optax leaves the largest axis out of ``row`` and the second largest out of ``column``, of equal ones the last; what
    it does not use has shape (1,).
    """
    axes = node.get_metadata().get("axes") if _is_variable(node) else None
    if axes is None:
        return tuple(node.replace(value) if _is_variable(node) else value for value in (row, column, whole))
    shape, unused = tuple(node.shape), (None,)

    def without(at: int) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
        return shape[:at] + shape[at + 1 :], (*axes[:at], *axes[at + 1 :])

    kept = [unused, unused, axes]
    if whole.shape != shape:
        largest = max(at for at in range(len(shape)) if without(at)[0] == row.shape)
        second = max(at for at in range(len(shape)) if at != largest and without(at)[0] == column.shape)
        kept = [without(largest)[1], without(second)[1], unused]
    values = [node.replace(value) for value in (row, column, whole)]
    for value, names in zip(values, kept, strict=True):
        value.set_metadata("axes", names)
    return tuple(values)


# --------------------------------------------------------------------- rounding


def round_randomly(x: jax.Array, key: jax.Array) -> jax.Array:
    """bfloat16[...]: each number up or down at random, in proportion to the distance, so that the mean is the number.

    1 + 2⁻⁹ lies a quarter of the way from 1 to the next number, 1 + 2⁻⁷: three times out of four it becomes 1. A number
    that bfloat16 has, an infinity and a NaN stay what they are.

    Args:
      x: float32[...].
      key: of these draws.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = (bits + noise) & jnp.uint32(0xFFFF0000)  # bfloat16 is the upper half of float32
    rounded = jax.lax.bitcast_convert_type(rounded, jnp.float32).astype(jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _stored(new, old, rounding: str, key: jax.Array | None):
    """``new`` in the types of ``old``; what becomes bfloat16 is rounded as ``rounding`` says.

    Raises:
      ValueError: rounding at random without a key.
    """
    values, structure = jax.tree.flatten(new)
    types = [leaf.dtype for leaf in jax.tree.leaves(old)]
    at_random = [rounding == "stochastic" and value.dtype != kind for value, kind in zip(values, types, strict=True)]
    if any(at_random) and key is None:
        raise ValueError("an update that rounds at random must be given a key: got none")
    stored = [
        round_randomly(value, jax.random.fold_in(key, at)) if at_random[at] else value.astype(types[at])
        for at, value in enumerate(values)
    ]
    return jax.tree.unflatten(structure, stored)


# ----------------------------------------------------------------------- update


def apply_gradients(
    optimizer: optax.GradientTransformationExtraArgs,
    rounding: str,
    params,
    opt_state,
    gradients,
    learning_rate: jax.Array,
    key: jax.Array | None = None,
):
    """One optimiser step: θ ← θ - η u, with u what the optimiser makes of the gradient.

    Args:
      optimizer: of :func:`make_optimizer`.
      rounding: ``nearest`` or ``stochastic``: how a new parameter that is kept in bfloat16 is rounded.
      params: of the whole model; those that ``split_trainable`` calls frozen come back as they are.
      opt_state: of :func:`init_opt_state`.
      gradients: in the structure of the trained parameters.
      learning_rate: float32[], η.
      key: uint32[2], a threefry key of this step of the run. The optimiser's count is folded into it, so that several
        updates of one step draw differently. None where nothing is rounded at random.

    Returns:
      (params, opt_state, stats): ``grad_norm`` before clipping; ``skipped``, 1 where the gradient was not finite, and
      parameters and state came back as they were; ``update_norm`` of η u, 0 where it was skipped; ``param_norm`` of the
      new trained parameters.

    Raises:
      ValueError: another word for ``rounding``; rounding at random without a key.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be among {ROUNDINGS}: got {rounding!r} (config.train.param_rounding)")
    trained, frozen = split_trainable(params)
    of_moments, of_params = _keys(key, opt_state)
    norm = optax.tree.norm(_wide(gradients))
    finite = jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes types where the caller may forbid it
        updates, new_opt_state = optimizer.update(gradients, opt_state, trained, key=of_moments)
    changes = jax.tree.map(lambda u: learning_rate * u, updates)
    new = _stored(jax.tree.map(jnp.subtract, _wide(trained), changes), trained, rounding, of_params)

    def keep(new, old):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    new = keep(new, trained)
    stats = {
        "grad_norm": norm,
        "skipped": 1.0 - finite.astype(jnp.float32),
        "update_norm": jnp.where(finite, optax.tree.norm(changes), 0.0),
        "param_norm": optax.tree.norm(_wide(new)),
    }
    return nnx.merge_state(new, frozen), keep(new_opt_state, opt_state), stats


def _keys(key: jax.Array | None, opt_state) -> tuple[jax.Array | None, jax.Array | None]:
    """Keys of the moments and of the parameters in one update."""
    if key is None:
        return None, None
    # Steps that the optimiser has taken since its state was made, skipped ones left out.
    counts = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    of_update = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), counts[0][1])
    of_moments, of_params = jax.random.split(of_update)
    return of_moments, of_params


def places_of(tree):
    """The sharding of every array."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def make_apply(
    optimizer: optax.GradientTransformationExtraArgs, *, rounding: str, like: tuple | None = None
) -> Callable[..., tuple]:
    """apply(params, opt_state, gradients, learning_rate, key) -> (params, opt_state, stats): :func:`apply_gradients`.

    ``params`` and ``opt_state`` are donated. The gradients are not: no result could take their place.

    Args:
      optimizer: of :func:`make_optimizer`.
      rounding: ``nearest`` or ``stochastic``.
      like: (params, opt_state), arrays or shapes with shardings: where the new ones shall lie. None: wherever the
        compiler puts them.
    """
    places = None if like is None else (*places_of(like), None)
    return jax.jit(functools.partial(apply_gradients, optimizer, rounding), donate_argnums=(0, 1), out_shardings=places)


def init_opt_state(optimizer: optax.GradientTransformationExtraArgs, params, placement: Placement | None = None):
    """The optimiser's state for fresh moments, each placed as its parameter is (zeros follow from no input)."""
    params = split_trainable(params)[0]
    if placement is None:
        return jax.device_put(jax.jit(optimizer.init)(params), jax.tree.leaves(params)[0].sharding)
    places = placement.params(jax.eval_shape(optimizer.init, params))
    return jax.jit(optimizer.init, out_shardings=places)(params)
