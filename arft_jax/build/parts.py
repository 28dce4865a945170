"""From a config to the parts of a run: tokenizer, tools, data, model, sampler. The only reader of most keys."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from arft_jax import protocol
from arft_jax.build import placement as layout
from arft_jax.build.prompts import check_prompts, system_texts
from arft_jax.build.rewards import make_scorer
from arft_jax.build.search_indices import data_dir, make_indices, route_tasks
from arft_jax.config import JSONL, MINI_TASKS
from arft_jax.data import chat_chains, jsonl_tasks, mat, recorded_steps, source
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor, Quarantine
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.weights import CONFIG, check_weights, load_model_config, load_params
from arft_jax.models.cache import init_cache
from arft_jax.models.lora import Lora, LoraParam
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.published import published
from arft_jax.rollout.engine import Engine, RolloutLimits
from arft_jax.sampling.stops import build_stop_table
from arft_jax.sharding import Placement
from arft_jax.steps import learner
from arft_jax.steps.init import abstract_params, init_params
from arft_jax.steps.sampler import Rules, make_sampler
from arft_jax.steps.state import SlotState, init_state, make_state


@dataclasses.dataclass
class Parts:
    """What the loops share. ``abstract`` is the policy's parameters as shapes; :meth:`first_params` makes them."""

    tokenizer: Tokenizer
    patches: PatchStore
    bucket: VisionBucket
    graphdef: nnx.GraphDef
    abstract: nnx.State
    rules: Rules
    engine: Engine
    placement: Placement
    first_params: Callable[[], nnx.State]  # the policy at step 0, in its place: published weights, or drawn
    for_rollout: Callable[[nnx.State], nnx.State]  # the policy as the engine reads it

    def placed_shapes(self) -> nnx.State:
        """The policy's parameters as shapes with shardings: what a checkpoint is read into."""
        return learner.placed_shapes(self.abstract, self.placement)

    def images_of(self, trajectory) -> dict:
        """{sha256: (patches, grid)} of every image that a trajectory shows."""
        images = list(trajectory.task.images)
        for turn in trajectory.turns:
            images += turn.observation.images if turn.observation else ()
        by_hash = {image.sha256: image for image in images}
        return {span.sha256: self.patches.get(by_hash[span.sha256]) for span in trajectory.images}


def set_up_jax(config) -> None:
    """Persistent compilation cache, before the first compilation."""
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


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


def load_tokenizer(config) -> Tokenizer:
    """The config's tokenizer, else the weights', else the embedded tiny one."""
    return Tokenizer.load(config.tokenizer or config.weights)


def make_rules(tokenizer: Tokenizer, vocab_size: int = 0) -> Rules:
    """Stop strings of the protocol, the end token, and which tokens may be sampled, on the device.

    Args:
      tokenizer: whose ids are sampled.
      vocab_size: the model's V; published ones are padded beyond the tokenizer's, and padding is never sampled.
    """
    table = build_stop_table(tokenizer.token_bytes(), protocol.STOPS)
    allowed = np.array([len(b) > 0 for b in tokenizer.token_bytes()])
    allowed[sorted(tokenizer.control_ids)] = False
    allowed[tokenizer.eos_id] = True
    rules = Rules(table.next_state, np.asarray(table.hit_of, np.int32), allowed, np.asarray(tokenizer.eos_id, np.int32))
    more = max(vocab_size - tokenizer.vocab_size, 0)
    return rules._replace(
        next_state=np.pad(rules.next_state, ((0, 0), (0, more))), allowed=np.pad(rules.allowed, (0, more))
    )


def check_inputs(config) -> None:
    """Raises one ValueError where weights or data that the config needs are not there; touches no device."""
    searches_here = config.tools.search.backend == "local"
    problems = mat.missing_files(config.data.tasks, config.data.dir, searches_here)
    problems += recorded_steps.missing_files(config.data.tasks, config.data.dir) + _missing_own_files(config)
    pictures = config.tools.search.image_index
    if pictures and not pathlib.Path(pictures).exists():
        problems.append(f"an image index must exist: got {pictures} (config.tools.search.image_index)")
    if config.model.size and not config.weights:
        name = f"Qwen2.5-VL-{config.model.size.upper()}"
        problems.insert(0, f"weights must be a Hugging Face directory of {name}: got none (config.weights)")
    elif config.weights and not (pathlib.Path(config.weights) / CONFIG).is_file():
        got = "which holds none" if pathlib.Path(config.weights).is_dir() else "which is no directory"
        problems.insert(
            0, f"weights must be a Hugging Face directory with {CONFIG}: got {config.weights}, {got} (config.weights)"
        )
    if problems:
        raise ValueError("; ".join(problems))


def _missing_own_files(config) -> list[str]:
    """A sentence for each file of the user's that a key names and that is not there."""
    named = [("data.tasks", entry) for entry in config.data.tasks if entry.startswith(JSONL)]
    named += [("warm_start.chains", entry) for entry in config.warm_start.chains]
    named += [("data.corpora", JSONL + path) for _, path in config.data.corpora]
    paths = [(key, jsonl_tasks.file_of(entry)) for key, entry in named]
    return [f"the file must exist: got {path} (config.{key})" for key, path in paths if not path.is_file()]


def check(config) -> None:
    """Makes the small parts once, so that what they refuse is refused before anything is written.

    Raises:
      ValueError: inputs or a tokenizer that are not there, sizes that no model or image processor takes, a data file
        that is not of the layout, prompts that no rollout could begin.
    """
    check_inputs(config)
    tokenizer = load_tokenizer(config)
    sizes = model_config(config, tokenizer)
    processor = image_processor(config, sizes)
    make_scorer(config)
    lora(config)
    placement = layout.make_placement(config)
    layout.rollout_placements(config, placement, jax.process_index())
    if config.weights:
        _, params = abstract_params(model_maker(config, sizes, placement))
        check_weights(config.weights, nnx.split_state(params, LoraParam, ...)[1])
    mine = [name for name in config.data.tasks if name not in MINI_TASKS]
    quarantine = None if config.data.strict else Quarantine()
    tasks = source.load_splits(
        mine, data_dir(config), seed=config.seed, n_train=config.data.n_train, quarantine=quarantine
    )
    if config.data.strict:
        source.decode_images(task for splits in tasks.values() for split in splits.values() for task in split)
    check_prompts(config, tasks, tokenizer, processor, vision_bucket(config, sizes))
    chat_chains.load_chains(config.warm_start.chains)


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


def build(config) -> Parts:
    """Makes the parts, placed on the mesh. Reads the tokenizer's files; writes nothing."""
    placement = layout.make_placement(config)
    tokenizer = load_tokenizer(config)
    sizes = model_config(config, tokenizer)
    patches, bucket = PatchStore(image_processor(config, sizes)), vision_bucket(config, sizes)
    make_model, r = model_maker(config, sizes, placement), config.rollout
    graphdef, abstract = abstract_params(make_model)

    def first_params() -> nnx.State:
        if not config.weights:
            return init_params(make_model, config.seed, placement)[1]
        adapters, base = nnx.split_state(abstract, LoraParam, ...)
        base = load_params(config.weights, base, placement.params(base))
        if not jax.tree.leaves(adapters):
            return base
        return nnx.merge_state(base, init_params(make_model, config.seed, placement, LoraParam)[1])

    every, own = layout.rollout_placements(config, placement, jax.process_index())
    state = make_state(state_maker(config, sizes, own), own)
    rules = jax.device_put(make_rules(tokenizer, sizes.text.vocab_size), own.whole)
    reads = abstract_params(model_maker(config, sizes, own))[0]
    engine = Engine(
        make_sampler(reads, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p, state=state, placement=own),
        state,
        rules,
        RolloutLimits(
            n_slots=r.n_slots,
            group_size=r.group_size,
            max_turns=r.max_turns,
            max_turn_tokens=r.max_turn_tokens,
            max_tokens=r.max_tokens,
            extend_rows=r.extend_rows,
            extend_chunk=r.extend_chunk,
            n_features=r.n_features,
            max_images=r.max_images,
            max_image_pixels=r.max_image_pixels,
        ),
        tokenizer,
        patches,
        bucket,
        system_texts(config),
        own,
        bucket_columns=r.bucket_columns,
    )
    move = layout.policy_mover(config, abstract, placement, every, own)
    return Parts(tokenizer, patches, bucket, graphdef, abstract, rules, engine, placement, first_params, move)


def check_trained_with(
    tokenizer: Tokenizer, host: Mapping[str, Any], where: str, key: str = "config.tokenizer"
) -> None:
    """Raises a ValueError where a checkpoint was written with other token ids.

    Args:
      tokenizer: the one at hand.
      host: what was saved beside the arrays.
      where: the checkpoint, for the message.
      key: what to change.
    """
    theirs = host.get("tokenizer", "none recorded")
    if theirs != tokenizer.sha256:
        raise ValueError(
            f"the tokenizer must be the one that the checkpoint was trained with: {where} was written with sha256 "
            f"{theirs[:12]}, this one has {tokenizer.sha256[:12]} ({key})"
        )


def keeps_reference(config) -> bool:
    """Whether a copy of the policy is kept as reference; where only adapters are trained the base is one already."""
    return config.train.beta > 0 and not config.model.lora.rank


def optimizer(config) -> optax.GradientTransformation:
    """Clipping and AdamW, from the config."""
    t = config.train
    return learner.make_optimizer(clip_norm=t.clip_norm, b1=t.adam_b1, b2=t.adam_b2, weight_decay=t.weight_decay)


def objective(config, kind: str) -> learner.Objective:
    """The static settings of the loss, from the config."""
    t, r = config.train, config.rollout
    rows = t.prompts * r.group_size
    return learner.Objective(
        kind=kind,
        temperature=r.temperature,
        top_k=r.top_k,
        top_p=r.top_p,
        epsilon_low=t.epsilon_low,
        epsilon_high=t.epsilon_high,
        beta=t.beta if kind == "policy" else 0.0,
        aggregation=t.aggregation,
        on_policy=rows == t.rows_per_update,
        logps_chunk=t.logps_chunk,
        importance=t.importance if kind == "policy" else "none",
        importance_cap=t.importance_cap,
    )


def load_data(config, quarantine: Quarantine) -> tuple[dict[str, dict[str, list]], dict[str, pathlib.Path] | None]:
    """Tasks by name and split and the search indices that they are asked over; what is made is made on first use.

    Args:
      quarantine: counts the training images that a stand-in replaces; unused where ``config.data.strict`` refuses them.

    Returns:
      ``{name: {"train": [...], "test": [...]}}`` and the paths of the indices (search_indices.py), which exist where
      searching is local; None where nothing searches.
    """
    options = dict(seed=config.seed, n_train=config.data.n_train, quarantine=None if config.data.strict else quarantine)
    tasks = source.load_splits(config.data.tasks, data_dir(config), **options)
    return route_tasks(config, tasks), make_indices(config)


def describe(parts: Parts) -> str:
    """One line about the model for people."""
    n = sum(leaf.size for leaf in jax.tree.leaves(parts.abstract))
    mesh = parts.placement.mesh
    sizes = "x".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    place = f"{mesh.size} {mesh.devices.flat[0].platform} device(s)" + (f", {sizes}" if sizes else "")
    return f"{n / 1e6:.2f}M parameters, vocabulary {parts.rules.allowed.size}, {place}"
