"""The policy's model, from its config: family, tokenizer, sizes, image sizes, the module, first weights, slots."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import ml_collections
from flax import nnx

from arft_jax.config import TASK_NAMES, default_config
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import gguf_file
from arft_jax.io.import_path import load_object
from arft_jax.io.peft_adapters import check_adapter, load_adapter
from arft_jax.io.weights import CONFIG, check_weights, load_model_config, load_params
from arft_jax.models.cache import init_cache
from arft_jax.models.families import DEFAULT
from arft_jax.models.family import Family, Sizes
from arft_jax.models.lora import Lora, LoraParam, freeze, with_trained
from arft_jax.sharding import Placement
from arft_jax.steps import param_edits
from arft_jax.steps.init import abstract_params, init_params
from arft_jax.steps.state import SlotState, init_state
from arft_jax.trajectory import Task


def chosen_family(config) -> Family | None:
    """The family that the config names by its import path; None where it leaves the choice to the weights.

    Raises:
      ValueError: a path that does not import, or that is no family's.
    """
    path = config.model.family
    if not path:
        return None
    family = load_object(path, "config.model.family")
    if not isinstance(family, Family):
        raise ValueError(f"family must be a Family: got {path!r}, a {type(family).__name__} (config.model.family)")
    return family


def added_tokens(config) -> tuple[str, ...]:
    """Control tokens that the tokenizer is given where it lacks them: those of a fresh tower's images."""
    return tuple(DEFAULT.control_ids.values()) if config.model.vision == "new" else ()


def load_tokenizer(config) -> Tokenizer:
    """The config's tokenizer, else the weights', else the embedded tiny one; without image tokens for a text model."""
    source, added = config.tokenizer or config.weights, added_tokens(config)
    if gguf_file.is_gguf(source):
        tokenizer = Tokenizer(gguf_file.tokenizer_text(source), source, added)
    else:
        tokenizer = Tokenizer.load(source, added)
    takes_images = not config.weights or _takes_images(config)
    return tokenizer if takes_images else tokenizer.without_images()


def _takes_images(config) -> bool:
    return config.model.vision == "new" or load_model_config(config.weights, chosen_family(config)).vision is not None


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
        if config.model.vision == "new":
            sizes = _with_tower(config, sizes, tokenizer)
        _check_weights_fit(config, sizes, planned, tokenizer)
        return sizes
    return planned or _drawn(config, family or DEFAULT, tokenizer)


def _with_tower(config, sizes: Sizes, tokenizer: Tokenizer) -> Sizes:
    family = sizes.family
    if sizes.vision is not None or family.with_tower is None:
        raise ValueError(
            f"vision must be new for a text model alone: got {config.weights}, {family.title} "
            f"{'with' if sizes.vision is not None else 'without'} a tower (config.model.vision)"
        )
    vision, ids = config.model.to_dict()["vision_config"], control_ids(family, tokenizer)
    return family.with_tower(sizes, vision, ids, tokenizer.vocab_size)


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
    names = {name: tuple(a[name]) for name in ("targets", "vision_targets")}
    return Lora(rank=a.rank, alpha=a.alpha, vision=a.vision, rslora=a.rslora, **names)


def with_adapter(config, sizes: Sizes):
    """The config with rank, scale and targets of the adapter that it names; the same where it names none.

    Raises:
      ValueError: an adapter that cannot be read or that is not of these sizes; keys that say otherwise than it does.
    """
    mine = config.model.lora
    if not mine.adapter:
        return config
    theirs, fresh = dataclasses.asdict(check_adapter(mine.adapter, sizes)), default_config().model.lora

    def plain(value):
        return sorted(value) if isinstance(value, (tuple, list)) else value

    differ = [
        f"{key}={mine[key]} and {value} (config.model.lora.{key})"
        for key, value in theirs.items()
        if plain(mine[key]) not in (plain(fresh[key]), plain(value))
    ]
    if differ:
        raise ValueError(
            f"keys of lora must be left alone or be the adapter's: got {', '.join(differ)}; the adapter is "
            f"{mine.adapter} (config.model.lora.adapter)"
        )
    taken = ml_collections.ConfigDict(config.to_dict())
    taken.model.lora.update(theirs)
    return taken.lock()


def model_maker(config, sizes: Sizes, placement: Placement) -> Callable[[nnx.Rngs], nnx.Module]:
    """Makes the policy of these sizes from its random streams, its vision tower frozen where the config says so.

    Raises:
      ValueError: a tower to freeze where there is none.
    """
    m, make, tower = config.model, sizes.family.make, sizes.family.tower
    if m.freeze_vision and sizes.vision is None:
        raise ValueError(
            f"freeze_vision must be off where the model has no vision tower: got {config.weights or 'a model without'} "
            "(config.model.freeze_vision)"
        )
    kwargs = dict(dtype=jnp.dtype(m.dtype), param_dtype=jnp.dtype(m.param_dtype), remat=m.remat, lora=lora(config))
    kwargs["attend_causal"] = placement.attend_causal(m.attention)
    kwargs["attend_segments"] = placement.attend_segments(m.attention)

    def make_policy(rngs: nnx.Rngs) -> nnx.Module:
        policy = make(sizes, rngs=rngs, constrain=placement.constrain, **kwargs)
        if m.freeze_vision:
            freeze(getattr(policy, tower))
        return policy

    return make_policy


def state_maker(config, sizes: Sizes, placement: Placement) -> Callable[[], SlotState]:
    """Makes the sampler's empty slots, as the placement's devices read them."""
    r, dtype, text = config.rollout, jnp.dtype(config.model.dtype), sizes.text
    kept = jnp.dtype(r.cache_dtype or dtype)
    sizes_of = (text, r.n_slots, r.max_tokens, kept, placement.reads_unstacked_layers)
    return lambda: init_state(init_cache(*sizes_of), r.n_features, sizes.family.feature_dim(sizes), dtype)


def _base_of(config, sizes: Sizes, placement: Placement) -> nnx.State:
    """What the config's weights fill, as shapes: no adapters, and no tower where it is fresh."""
    if config.model.vision == "new":
        sizes = load_model_config(config.weights, chosen_family(config))
    return nnx.split_state(abstract_params(model_maker(config, sizes, placement))[1], LoraParam, ...)[1]


def check_first_params(config, sizes: Sizes, placement: Placement) -> None:
    """Raises where the config's weights do not fill the model; reads names, shapes and types alone."""
    if config.weights:
        check_weights(config.weights, _base_of(config, sizes, placement), sizes.family.weights)


def first_params(config, sizes: Sizes, placement: Placement) -> nnx.State:
    """The policy at step 0, in its place: the config's weights and adapter, or drawn from its seed.

    What they do not hold is drawn: adapters, and of a fresh tower its parameters and the rows of the new tokens.
    """
    make_model = model_maker(config, sizes, placement)
    adapters = nnx.split_state(abstract_params(make_model)[1], LoraParam, ...)[0]
    directory, places = config.model.lora.adapter, placement.params(adapters)
    read = load_adapter(directory, adapters, places, sizes.family.weights) if directory else None
    if not config.weights:
        drawn = init_params(make_model, config.seed, placement)[1]
        return drawn if read is None else with_trained(drawn, read)
    base = _base_of(config, sizes, placement)
    base = load_params(config.weights, base, placement.params(base), rules=sizes.family.weights)
    base = base if read is None else nnx.merge_state(base, read)
    have = {keys: leaf.shape for keys, leaf in nnx.to_flat_state(base)}
    want = nnx.to_flat_state(abstract_params(make_model)[1])
    lacking = {keys for keys, leaf in want if have.get(keys) != leaf.shape}
    if not lacking:
        return base
    drawn = init_params(make_model, config.seed, placement, lambda keys, _: keys in lacking)[1]
    grown = [
        (keys, leaf.replace(param_edits.put_corner(leaf[...], dict(nnx.to_flat_state(base))[keys][...])))
        for keys, leaf in nnx.to_flat_state(drawn)
        if keys in have
    ]
    return nnx.merge_state(base, drawn, nnx.from_flat_state(grown))


def check_tasks(config, sizes: Sizes, tasks: Mapping[str, Mapping[str, Sequence[Task]]]) -> None:
    """Raises where tasks show images to a policy without a vision tower.

    Args:
      config: names the tasks.
      sizes: of the policy.
      tasks: by name and split, as far as they are read already.
    """
    if sizes.vision is not None:
        return
    shown = [name for name in config.data.tasks if name in TASK_NAMES]  # every one of them is about a picture
    shown += [name for name, splits in tasks.items() if any(task.images for part in splits.values() for task in part)]
    if shown:
        raise ValueError(
            f"tasks that show images must have a policy with a vision tower: got {', '.join(sorted(set(shown)))}, and "
            f"{config.weights} has none (config.data.tasks; config.model.vision = 'new' adds a fresh one)"
        )
