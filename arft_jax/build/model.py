"""The policy's model, from its config: tokenizer, sizes, image sizes, the module, the sampler's slots."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.weights import CONFIG, load_model_config
from arft_jax.models.cache import init_cache
from arft_jax.models.lora import Lora
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.published import published
from arft_jax.sharding import Placement
from arft_jax.steps.state import SlotState, init_state


def load_tokenizer(config) -> Tokenizer:
    """The config's tokenizer, else the weights', else the embedded tiny one."""
    return Tokenizer.load(config.tokenizer or config.weights)


def model_config(config, tokenizer: Tokenizer) -> ModelConfig:
    """The model's sizes: those of its weights, of a published size, or the config's with the tokenizer's vocabulary.

    Raises:
      ValueError: weights of another size than the config plans with, with fewer ids than the tokenizer has, or with
        other ids of the control tokens.
    """
    if config.weights or config.model.size:
        planned = published(config.model.size) if config.model.size else None
        sizes = load_model_config(config.weights) if config.weights else planned
        if planned is not None and (sizes.text.dim, sizes.text.n_layers) != (planned.text.dim, planned.text.n_layers):
            raise ValueError(
                f"the weights must be of size {config.model.size}: {config.weights} has D={sizes.text.dim}, "
                f"{sizes.text.n_layers} layers (config.weights, config.model.size)"
            )
        if config.weights and tokenizer.vocab_size > sizes.text.vocab_size:
            raise ValueError(
                f"the model's vocabulary must hold the tokenizer's: got {sizes.text.vocab_size} < "
                f"{tokenizer.vocab_size} (config.tokenizer)"
            )
        if config.weights:
            _check_control_ids(config.weights, sizes, tokenizer)
        return sizes
    sizes = config.model.to_dict()
    text = dict(
        sizes["text_config"], vocab_size=tokenizer.vocab_size, max_position_embeddings=config.rollout.max_tokens
    )
    text["rope_scaling"] = {"type": "mrope", "mrope_section": list(text.pop("mrope_section"))}
    return ModelConfig.from_hf(
        dict(
            text_config=text,
            vision_config=dict(sizes["vision_config"], out_hidden_size=text["hidden_size"]),
            **_control_ids(tokenizer),
        )
    )


def _control_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.image_pad_id,
        "video_token_id": tokenizer.video_pad_id,
        "vision_start_token_id": tokenizer.vision_start_id,
        "vision_end_token_id": tokenizer.vision_end_id,
    }


def _check_control_ids(weights: str, sizes: ModelConfig, tokenizer: Tokenizer) -> None:
    theirs, ours = dataclasses.asdict(sizes), _control_ids(tokenizer)
    differ = [f"{name} {theirs[name]} and {token}" for name, token in ours.items() if theirs[name] != token]
    if differ:
        raise ValueError(
            f"control tokens must have the same ids in {CONFIG} and in the tokenizer: got {', '.join(differ)} in "
            f"{weights} (config.weights, config.tokenizer)"
        )


def image_processor(config, sizes: ModelConfig) -> ImageProcessor:
    """Images to patches, within the config's bounds."""
    return ImageProcessor(config.data.min_pixels, config.data.max_pixels, sizes.vision.patch_px, sizes.vision.merge)


def vision_bucket(config, sizes: ModelConfig) -> VisionBucket:
    """Sizes of one encode call."""
    r, v = config.rollout, sizes.vision
    return VisionBucket(r.n_patches, r.n_windows, v.window_px, v.patch_px, v.merge)


def lora(config) -> Lora:
    """The adapters that are trained in place of all parameters; rank 0: none."""
    a = config.model.lora
    return Lora(rank=a.rank, alpha=a.alpha, targets=tuple(a.targets), vision=a.vision)


def model_maker(config, sizes: ModelConfig, placement: Placement) -> Callable[[nnx.Rngs], Qwen2_5_VL]:
    """Makes the policy of these sizes from its random streams."""
    m = config.model
    kwargs = dict(dtype=jnp.dtype(m.dtype), param_dtype=jnp.dtype(m.param_dtype), remat=m.remat, lora=lora(config))
    kwargs["attend_causal"] = placement.attend_causal(m.attention)
    kwargs["attend_segments"] = placement.attend_segments(m.attention)
    return lambda rngs: Qwen2_5_VL(sizes, rngs=rngs, constrain=placement.constrain, **kwargs)


def state_maker(config, sizes: ModelConfig, placement: Placement) -> Callable[[], SlotState]:
    """Makes the sampler's empty slots, as the placement's devices read them."""
    r, dtype, text = config.rollout, jnp.dtype(config.model.dtype), sizes.text
    kept = jnp.dtype(r.cache_dtype or dtype)
    sizes_of = (text, r.n_slots, r.max_tokens, kept, placement.reads_unstacked_layers)
    return lambda: init_state(init_cache(*sizes_of), r.n_features, text.dim, dtype)
