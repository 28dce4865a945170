"""From weights to a policy: text models alone or behind a fresh tower, and what is refused before any compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.build import model, placement
from arft_jax.build.parts import make
from arft_jax.build.plan import plan, plan_policy
from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files
from arft_jax.io.export import save_params
from arft_jax.io.peft_adapters import save_adapter
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.weights import abstract_params, load_model_config, load_params
from arft_jax.models.lora import Lora, LoraParam
from arft_jax.rollout.request import Request
from arft_jax.steps import learner
from arft_jax.testing import decoders
from arft_jax.testing.rows import one_each, shown_by
from arft_jax.testing.tiny_rollout import InstantTools, tiny_image, tiny_task
from arft_jax.trajectory import Observation, Task

CLOSE = 1e-4  # nats; float32, cached against whole, kernels six times as large as is usual


def _config(folder, **model_changes):
    config = default_config()
    config.weights = str(folder)
    config.mesh.fsdp = 1
    config.model.update(model_changes)
    config.model.vision_config.update(hidden_size=32, intermediate_size=48)
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=2, max_turn_tokens=8, max_tokens=128, decode_steps=4, extend_rows=2,
        extend_chunk=32, n_patches=32, n_windows=2, n_features=16,
    )  # fmt: skip
    config.train.rows_per_update, config.system_prompt = 16, "short"
    config.data.update(min_pixels=28 * 28, max_pixels=56 * 56)
    return config


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A tiny Llama whose tokenizer has no image tokens and fills the vocabulary."""
    folder = tmp_path_factory.mktemp("text") / "llama"
    decoders.save_tiny(folder, "llama")
    tiny = Tokenizer.tiny()
    for name, contents in hf_files.tokenizer_files().items():
        if name == "tokenizer.json":
            for part in ("image_pad", "video_pad", "vision_start", "vision_end"):
                contents = contents.replace(f"<|{part}|>".encode(), f"<|other_{part}|>".encode())
        (folder / name).write_bytes(contents)
    assert Tokenizer.load(folder).image_pad_id == -1 and Tokenizer.load(folder).vocab_size == tiny.vocab_size
    return folder


def _score(parts, params, done):
    batch = one_each(done, shown_by(parts.patches), length=128, n_chunks=1, bucket=parts.plan.bucket)
    score = learner.make_score(parts.graphdef, learner.Objective())
    gap = np.asarray(score(params, jax.device_put(batch), parts.rules.allowed)) - batch.sampler_logps
    return np.abs(gap[batch.loss_mask]).max()


def test_a_text_model_is_a_policy_whose_scores_are_its_sampler_s(text_model):
    parts = make(plan_policy(_config(text_model)))
    params = parts.first_params()
    assert "vision" not in params
    tools = InstantTools(lambda task, action, image: Observation("look", (tiny_image(1),)))  # which it cannot be shown
    tasks = [Task(f"t{i}", "search", f"question {i}?", (), ("7",)) for i in range(2)]
    requests = [Request(task, i, 2) for i, task in enumerate(tasks)]
    groups = parts.engine.run(params, requests, tools, rng=jax.random.key(0), temperature=1.0)
    done = [trajectory for group in groups for trajectory in group]
    assert all((t.positions == np.arange(len(t.tokens))).all() and not t.images for t in done)
    assert _score(parts, params, done) < CLOSE


def test_a_fresh_tower_stands_before_the_same_decoder(text_model, tmp_path):
    config = _config(text_model, vision="new")
    parts = make(plan_policy(config))
    tokenizer, params = parts.plan.tokenizer, parts.first_params()
    ids = sorted({tokenizer.image_pad_id, tokenizer.video_pad_id, tokenizer.vision_start_id, tokenizer.vision_end_id})
    assert ids == [1024, 1025, 1026, 1027]  # behind the tokenizer's 1024
    own = load_params(text_model, abstract_params(load_model_config(text_model)))
    np.testing.assert_array_equal(params["text"]["embedding"][...], own["text"]["embedding"][...])  # 1088 hold them
    np.testing.assert_array_equal(params["text"]["norm"]["scale"][...], own["text"]["norm"]["scale"][...])
    assert float(np.abs(params["vision"]["merger"]["down"]["kernel"][...]).max()) > 0
    groups = parts.engine.run(
        params, [Request(tiny_task(0, sizes=((28, 56), (28, 28))), 0, 2)], InstantTools(lambda *_: Observation("a")),
        rng=jax.random.key(0), temperature=1.0,
    )  # fmt: skip
    assert len(groups[0][0].images) == 2 and _score(parts, params, groups[0]) < CLOSE
    # What a run keeps and what it writes is a model of its own: nothing is fresh in it any more.
    kept, out = tmp_path / "kept", tmp_path / "out"
    hf_files.keep_files(kept, weights=str(text_model), added=model.added_tokens(config))
    assert Tokenizer.load(kept).sha256 == tokenizer.sha256
    sizes = model.model_config(config, tokenizer)
    save_params(out, params, sizes, files={"tokenizer.json": tokenizer.text.encode()})
    again = _config(out)
    assert model.model_config(again, model.load_tokenizer(again)) == sizes
    back = make(plan_policy(again)).first_params()
    for (path, one), (_, other) in zip(nnx.to_flat_state(params), nnx.to_flat_state(back), strict=True):
        np.testing.assert_array_equal(one[...], other[...], err_msg=str(path))


def test_the_tables_grow_where_the_vocabulary_does_not_hold_the_new_tokens(text_model, monkeypatch):
    config = _config(text_model, vision="new")
    tokenizer = model.load_tokenizer(config)
    sizes = load_model_config(text_model)
    grown = sizes.family.with_tower(
        sizes, config.model.to_dict()["vision_config"], model.control_ids(sizes.family, tokenizer), 1090
    )
    assert grown.text.vocab_size == 1152
    params = model.first_params(config, grown, placement.make_placement(config))
    table, own = params["text"]["embedding"][...], load_params(text_model, abstract_params(sizes))["text"]["embedding"]
    assert table.shape == (1152, 64)
    np.testing.assert_array_equal(table[:1088], own[...])
    assert float(np.abs(np.asarray(table[1088:])).min(axis=1).max()) > 0


def test_a_policy_without_a_tower_is_given_no_pictures(text_model, tmp_path):
    config = _config(text_model)
    with pytest.raises(
        ValueError, match=r"got mini_coding, mini_search, and .*llama has none \(config.data.tasks; conf"
    ):
        plan(config)
    mine = {"mine": {"train": [Task("a", "search", "?", (), ("7",))], "test": [tiny_task(1)]}}
    sizes = model.model_config(config, model.load_tokenizer(config))
    config.data.tasks = ()
    with pytest.raises(ValueError, match=r"tasks that show images must have a policy with a vision tower: got mine"):
        model.check_tasks(config, sizes, mine)
    model.check_tasks(config, sizes, {"mine": {"train": mine["mine"]["train"]}})


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(vision="old"), r"vision must be new or empty: got 'old' \(config.model.vision\)"),
        (dict(vision="new"), r"weights must be a text model's where vision is new: got none \(config.weights\)"),
    ],
)
def test_a_tower_that_cannot_be_is_refused_at_the_door(changes, sentence):
    config = default_config()
    config.model.update(changes)
    with pytest.raises(ValueError, match=sentence):
        validate(config)


def test_weights_that_cannot_be_are_refused(tmp_path):
    make_tiny_checkpoint(tmp_path / "seeing")
    config = _config(tmp_path / "seeing", vision="new")
    with pytest.raises(ValueError, match=r"vision must be new for a text model alone: got .*config.model.vision"):
        model.model_config(config, Tokenizer.tiny())
    config = _config(tmp_path / "gone.gguf")
    with pytest.raises(ValueError, match=r"weights must be a file: got .*gone.gguf, which is none \(config.weights\)"):
        plan(config)
    config = default_config()
    config.model.update(size="8b")
    with pytest.raises(ValueError, match=r"size must be one of 3b, 7b, .* for Qwen2.5-VL: got '8b' .config.model.size"):
        model.model_config(config, Tokenizer.tiny())


def test_the_models_vocabulary_and_control_ids_are_the_tokenizers():
    config, tokenizer = default_config(), Tokenizer.tiny()
    sizes = model.model_config(config, tokenizer)
    assert sizes.text.vocab_size == tokenizer.vocab_size and sizes.image_token_id == tokenizer.image_pad_id
    assert (sizes.video_token_id, sizes.vision_start_token_id, sizes.vision_end_token_id) == (
        tokenizer.video_pad_id, tokenizer.vision_start_id, tokenizer.vision_end_id
    )  # fmt: skip
    text = config.model.text_config
    assert (sizes.text.dim, sizes.text.n_layers, sizes.text.n_heads) == (
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads
    )  # fmt: skip
    assert sizes.text.mrope_section == tuple(text.mrope_section) and sizes.text.tied
    assert sizes.vision.out_dim == sizes.text.dim and sizes.text.max_positions == config.rollout.max_tokens


@pytest.fixture(scope="module")
def published_adapter(tmp_path_factory):
    """(weights, adapter directory, the adapters): of a tiny Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("published")
    sizes = make_tiny_checkpoint(folder / "hf", dtype="float32")
    lora, rng = Lora(rank=3, alpha=9.0, targets=("k", "up"), rslora=True), np.random.default_rng(0)
    adapters = nnx.split_state(abstract_params(sizes, lora=lora), LoraParam, ...)[0]
    adapters = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), adapters)
    save_adapter(folder / "adapter", adapters, sizes, lora)
    return folder / "hf", folder / "adapter", adapters


def test_a_policy_begins_from_the_adapter_that_the_config_names(published_adapter):
    weights, folder, adapters = published_adapter
    config = _config(weights)
    config.model.lora.update(adapter=str(folder), rank=3)  # its own rank, which may be said
    planned = plan_policy(config)
    found = planned.config.model.lora
    assert (found.rank, found.alpha, found.targets, found.rslora) == (3, 9.0, ("k", "up"), True)
    assert planned.lora == Lora(rank=3, alpha=9.0, targets=("k", "up"), rslora=True)
    assert plan_policy(planned.config).config == planned.config
    assert config.model.lora.alpha == 16.0  # the caller's config is left as it is
    params = model.first_params(planned.config, planned.sizes, planned.placement)
    read, base = nnx.split_state(params, LoraParam, ...)
    own = load_params(weights, abstract_params(planned.sizes))
    for got, want in ((read, adapters), (base, own)):
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(one, other)
    made = nnx.merge(
        nnx.split(
            nnx.eval_shape(lambda: model.model_maker(planned.config, planned.sizes, planned.placement)(nnx.Rngs(0)))
        )[0],
        params,
    )
    assert made.text.layers.k.lora_scale == 9.0 / 3**0.5


def test_keys_that_say_otherwise_than_the_adapter_are_refused(published_adapter):
    weights, folder, _ = published_adapter
    config = _config(weights)
    config.model.lora.update(adapter=str(folder), rank=8, targets=("q",), alpha=9.0)
    with pytest.raises(ValueError) as caught:
        plan_policy(config)
    told = str(caught.value)
    assert "rank=8 and 3 (config.model.lora.rank)" in told and "(config.model.lora.targets)" in told
    assert "alpha" not in told and told.endswith(f"the adapter is {folder} (config.model.lora.adapter)")
