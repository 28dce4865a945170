"""From a config to the model: its family, tokenizer, sizes and first weights."""

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.weights import CONFIG, check_weights, load_model_config, load_params
from arft_jax.models.families import DEFAULT
from arft_jax.models.family import Family, Sizes
from arft_jax.models.lora import Lora, LoraParam
from arft_jax.sharding import Placement
from arft_jax.steps.init import abstract_params, init_params


def chosen_family(config) -> Family | None:
    """The family that the config names by its import path; None where it leaves the choice to the weights.

    Raises:
      ValueError: a path that does not import, or that is no family's.
    """
    path = config.model.family
    if not path:
        return None
    module, _, name = path.partition(":")
    try:
        family = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"family must be an import path, my_package.my_module:MY_FAMILY: got {path!r}, {error} "
            "(config.model.family)"
        ) from error
    if not isinstance(family, Family):
        raise ValueError(f"family must be a Family: got {path!r}, a {type(family).__name__} (config.model.family)")
    return family


def load_tokenizer(config) -> Tokenizer:
    """The config's tokenizer, else the weights', else the embedded tiny one."""
    return Tokenizer.load(config.tokenizer or config.weights)


def model_config(config, tokenizer: Tokenizer) -> Sizes:
    """The model's sizes: those of its weights, of a published size, or the config's with the tokenizer's vocabulary.

    Raises:
      ValueError: weights of another size than the config plans with, with fewer ids than the tokenizer has, or with
        other ids of the control tokens.
    """
    family = chosen_family(config)
    planned = _published(config.model.size, family or DEFAULT) if config.model.size else None
    if config.weights:
        sizes = load_model_config(config.weights, family)
        _check_weights_fit(config, sizes, planned, tokenizer)
        return sizes
    return planned or _drawn(config, family or DEFAULT, tokenizer)


def _published(size: str, family: Family) -> Sizes:
    if size not in family.sizes:
        known = ", ".join(family.sizes) or "empty"
        raise ValueError(f"size must be one of {known} for {family.title}: got {size!r} (config.model.size)")
    return family.published(size)


def _drawn(config, family: Family, tokenizer: Tokenizer) -> Sizes:
    sizes = config.model.to_dict()
    text = dict(
        sizes["text_config"], vocab_size=tokenizer.vocab_size, max_position_embeddings=config.rollout.max_tokens
    )
    vision = dict(sizes["vision_config"], out_hidden_size=text["hidden_size"])
    return family.config_from_hf(dict(text_config=text, vision_config=vision, **control_ids(family, tokenizer)))


def control_ids(family: Family, tokenizer: Tokenizer) -> dict[str, int]:
    """Fields of a family's sizes -> ids of its control tokens in a tokenizer."""
    return {name: tokenizer.control_id(content) for name, content in family.control_ids.items()}


def _check_weights_fit(config, sizes: Sizes, planned: Sizes | None, tokenizer: Tokenizer) -> None:
    if planned is not None and (sizes.text.dim, sizes.text.n_layers) != (planned.text.dim, planned.text.n_layers):
        raise ValueError(
            f"the weights must be of size {config.model.size}: {config.weights} has D={sizes.text.dim}, "
            f"{sizes.text.n_layers} layers (config.weights, config.model.size)"
        )
    if tokenizer.vocab_size > sizes.text.vocab_size:
        raise ValueError(
            f"the model's vocabulary must hold the tokenizer's: got {sizes.text.vocab_size} < "
            f"{tokenizer.vocab_size} (config.tokenizer)"
        )
    ours = control_ids(sizes.family, tokenizer) if sizes.vision is not None else {}
    theirs = {name: getattr(sizes, name) for name in ours}
    differ = [f"{name} {theirs[name]} and {token}" for name, token in ours.items() if theirs[name] != token]
    if differ:
        raise ValueError(
            f"control tokens must have the same ids in {CONFIG} and in the tokenizer: got {', '.join(differ)} in "
            f"{config.weights} (config.weights, config.tokenizer)"
        )


def image_processor(config, sizes: Sizes) -> ImageProcessor:
    """Images to patches, within the config's bounds."""
    packing = sizes.family.packing(sizes)
    return ImageProcessor(config.data.min_pixels, config.data.max_pixels, packing.patch, packing.merge)


def vision_bucket(config, sizes: Sizes) -> VisionBucket:
    """Sizes of one encode call."""
    return VisionBucket(config.rollout.n_patches, config.rollout.n_windows, sizes.family.packing(sizes))


def lora(config) -> Lora:
    """The adapters that are trained in place of all parameters; rank 0: none."""
    a = config.model.lora
    return Lora(rank=a.rank, alpha=a.alpha, targets=tuple(a.targets), vision=a.vision)


def model_maker(config, sizes: Sizes, placement: Placement) -> Callable[[nnx.Rngs], nnx.Module]:
    """Makes the policy of these sizes from its random streams."""
    m, make = config.model, sizes.family.make
    kwargs = dict(dtype=jnp.dtype(m.dtype), param_dtype=jnp.dtype(m.param_dtype), remat=m.remat, lora=lora(config))
    kwargs["attend_causal"] = placement.attend_causal(m.attention)
    kwargs["attend_segments"] = placement.attend_segments(m.attention)
    return lambda rngs: make(sizes, rngs=rngs, constrain=placement.constrain, **kwargs)


def check_first_params(config, sizes: Sizes, placement: Placement) -> None:
    """Raises where the config's weights do not fill the model; reads names, shapes and types alone."""
    if config.weights:
        _, params = abstract_params(model_maker(config, sizes, placement))
        check_weights(config.weights, nnx.split_state(params, LoraParam, ...)[1], sizes.family.weights)


def first_params(config, sizes: Sizes, placement: Placement) -> nnx.State:
    """The policy at step 0, in its place: the config's weights, or drawn from its seed."""
    make_model = model_maker(config, sizes, placement)
    if not config.weights:
        return init_params(make_model, config.seed, placement)[1]
    adapters, base = nnx.split_state(abstract_params(make_model)[1], LoraParam, ...)
    base = load_params(config.weights, base, placement.params(base), rules=sizes.family.weights)
    if not jax.tree.leaves(adapters):
        return base
    return nnx.merge_state(base, init_params(make_model, config.seed, placement, LoraParam)[1])
