"""From a config to the parts of a run: tokenizer, tools, data, model, sampler. The only reader of most keys."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from arft_jax import protocol
from arft_jax.data import chat, source
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.patches import PatchStore
from arft_jax.data.synthetic.corpus import make_documents
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.models.cache import init_cache
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.rewards.combine import RewardWeights
from arft_jax.rollout import Engine, Limits
from arft_jax.sampling.stops import build_stop_table
from arft_jax.steps import learner
from arft_jax.steps.init import init_params
from arft_jax.steps.sampler import Rules, make_sampler
from arft_jax.steps.state import init_state
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.tools.search_index import Document, SearchIndex
from arft_jax.tools.toolbox import Toolbox


@dataclasses.dataclass
class Parts:
    """What the loops share. ``params`` is the freshly initialised policy."""

    tokenizer: Tokenizer
    patches: PatchStore
    bucket: VisionBucket
    graphdef: nnx.GraphDef
    params: nnx.State
    rules: Rules
    engine: Engine

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
    """The model's sizes with the tokenizer's vocabulary and token ids."""
    sizes = config.model.to_dict()
    text = dict(
        sizes["text_config"], vocab_size=tokenizer.vocab_size, max_position_embeddings=config.rollout.max_tokens
    )
    text["rope_scaling"] = {"type": "mrope", "mrope_section": list(text.pop("mrope_section"))}
    return ModelConfig.from_hf(
        dict(
            text_config=text,
            vision_config=dict(sizes["vision_config"], out_hidden_size=text["hidden_size"]),
            image_token_id=tokenizer.image_pad_id,
            video_token_id=tokenizer.video_pad_id,
            vision_start_token_id=tokenizer.vision_start_id,
            vision_end_token_id=tokenizer.vision_end_id,
        )
    )


def make_rules(tokenizer: Tokenizer) -> Rules:
    """Stop strings of the protocol, the end token, and which tokens may be sampled, on the device."""
    table = build_stop_table(tokenizer.token_bytes(), protocol.STOPS)
    allowed = np.array([len(b) > 0 for b in tokenizer.token_bytes()])
    allowed[sorted(tokenizer.control_ids)] = False
    allowed[tokenizer.eos_id] = True
    rules = Rules(table.next_state, np.asarray(table.hit_of, np.int32), allowed, np.asarray(tokenizer.eos_id, np.int32))
    return jax.device_put(rules)


def check(config) -> None:
    """Makes the small parts once, so that what they refuse is refused before anything is written.

    Raises:
      ValueError: a tokenizer that is not there, sizes that no model or image processor takes.
    """
    model_config(config, Tokenizer.load(config.tokenizer))
    vision = config.model.vision_config
    ImageProcessor(config.data.min_pixels, config.data.max_pixels, vision.patch_size, vision.spatial_merge_size)
    reward_weights(config)


def build(config) -> Parts:
    """Makes the parts. Reads the tokenizer's files; writes nothing."""
    tokenizer = Tokenizer.load(config.tokenizer)
    sizes = model_config(config, tokenizer)
    vision = config.model.vision_config
    patch, merge = vision.patch_size, vision.spatial_merge_size
    patches = PatchStore(ImageProcessor(config.data.min_pixels, config.data.max_pixels, patch, merge))
    bucket = VisionBucket(config.rollout.n_patches, config.rollout.n_windows, vision.window_size, patch, merge)
    dtype = jnp.dtype(config.model.dtype)
    graphdef, params = init_params(
        lambda rngs: Qwen2_5_VL(sizes, rngs=rngs, dtype=dtype, remat=config.model.remat), config.seed
    )
    r = config.rollout
    state = init_state(init_cache(sizes.text, r.n_slots, r.max_tokens, dtype), r.n_features, sizes.text.dim)
    # Committed to a device, as a restored checkpoint is: else a resumed run compiles every program anew.
    params, state, rules = jax.device_put((params, state, make_rules(tokenizer)), jax.devices()[0])
    engine = Engine(
        make_sampler(graphdef, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p),
        state,
        rules,
        Limits(
            n_slots=r.n_slots,
            group_size=r.group_size,
            max_turns=r.max_turns,
            max_turn_tokens=r.max_turn_tokens,
            max_tokens=r.max_tokens,
            extend_rows=r.extend_rows,
            extend_chunk=r.extend_chunk,
            n_features=r.n_features,
        ),
        tokenizer,
        patches,
        bucket,
        {kind: chat.SYSTEM[kind][config.system_prompt] for kind in chat.SYSTEM},
    )
    return Parts(tokenizer, patches, bucket, graphdef, params, rules, engine)


def restore(checkpoints: Checkpoints, abstract_state, tokenizer: Tokenizer):
    """The newest good checkpoint as (step, state, host), None where there is none.

    Raises:
      ValueError: it was written with another model's sizes or another tokenizer.
    """
    found = checkpoints.restore_latest(abstract_state)
    theirs = tokenizer.sha256 if found is None else found[2].get("tokenizer", "none recorded")
    if theirs != tokenizer.sha256:
        raise ValueError(
            f"the tokenizer must be the one that the checkpoint was trained with: {checkpoints.directory} was written "
            f"with sha256 {theirs[:12]}, this one has {tokenizer.sha256[:12]} (config.tokenizer)"
        )
    return found


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
    )


def reward_weights(config) -> RewardWeights:
    """R_total's weights, from the config."""
    w = config.rewards
    return RewardWeights(format=w.format, accuracy=w.accuracy, step=w.step, max_answer_words=w.max_answer_words)


def data_dir(config) -> pathlib.Path:
    """Where prepared data sets and the search index are kept."""
    return pathlib.Path(config.data.dir or pathlib.Path(config.workdir) / "data")


def index_path(config) -> pathlib.Path:
    """The search index of this seed's corpora."""
    return data_dir(config) / f"mini_search-{config.seed}.sqlite"


def load_data(config) -> tuple[dict[str, dict[str, list]], pathlib.Path | None]:
    """Tasks by name and split, prepared on first use, and the search index that they are asked over.

    Returns:
      ``{name: {"train": [...], "test": [...]}}`` and the path of the index, None where nothing searches.
    """
    folder = data_dir(config)
    tasks = {
        name: {
            split: source.load_tasks(name, split, folder, seed=config.seed, n_train=config.data.n_train)
            for split in source.SPLITS
        }
        for name in config.data.tasks
    }
    if "mini_search" not in tasks:
        return tasks, None
    path = index_path(config)
    if not path.exists():
        SearchIndex.build(path, (Document(d.title, d.text, d.corpus) for d in make_documents(config.seed)))
    return tasks, path


@contextlib.contextmanager
def open_toolbox(config, index_path: pathlib.Path | None, enabled: bool | None = None) -> Iterator[Toolbox]:
    """Sandbox processes and the search index behind one door; all of them are closed on leaving.

    Args:
      index_path: None where nothing searches.
      enabled: False refuses every call; None follows ``config.tools.enabled``.
    """
    t = config.tools
    enabled = t.enabled if enabled is None else enabled
    with contextlib.ExitStack() as stack:
        python = index = None
        if enabled:
            python = stack.enter_context(
                PythonSandbox(
                    n_workers=t.n_workers,
                    timeout_s=t.timeout_s,
                    memory_mb=t.memory_mb,
                    max_output_bytes=t.max_output_bytes,
                )
            )
            index = stack.enter_context(SearchIndex(index_path)) if index_path is not None else None
        yield stack.enter_context(Toolbox(python, index, top_k=t.top_k, n_threads=t.n_threads, enabled=enabled))


def describe(parts: Parts) -> str:
    """One line about the model for people."""
    n = sum(leaf.size for leaf in jax.tree.leaves(parts.params))
    devices = jax.devices()
    place = f"{len(devices)} {devices[0].platform} device(s)"
    return f"{n / 1e6:.2f}M parameters, vocabulary {parts.tokenizer.vocab_size}, {place}"
