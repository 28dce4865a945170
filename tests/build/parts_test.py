"""From a config to parts: what each setting becomes."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from arft_jax import protocol
from arft_jax.build import parts as build
from arft_jax.build import placement as layout
from arft_jax.build import rewards
from arft_jax.build.search_indices import index_paths
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.config import default_config
from arft_jax.data import mat
from arft_jax.data.images import Quarantine
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.weights import load_model_config, load_params
from arft_jax.rollout.row import Row, image_spans
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.scripted import CACHE_SIZES, scripted
from arft_jax.tools.search_index import SearchIndex
from arft_jax.tools.search_router import ALL
from arft_jax.trajectory import Observation, Status


@pytest.fixture
def config():
    return default_config()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.tiny()


def test_the_models_vocabulary_and_control_ids_are_the_tokenizers(config, tokenizer):
    sizes = build.model_config(config, tokenizer)
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


def test_the_rules_allow_what_can_be_written_and_the_end_token(tokenizer):
    rules = build.make_rules(tokenizer)
    allowed = np.asarray(rules.allowed)
    written = np.array([len(piece) > 0 for piece in tokenizer.token_bytes()])
    assert set(np.flatnonzero(allowed)) == set(np.flatnonzero(written)) | {tokenizer.eos_id}
    assert set(tokenizer.control_ids) & set(np.flatnonzero(allowed)) == {tokenizer.eos_id}
    assert int(rules.eos) == tokenizer.eos_id
    # each stop of the protocol leads from the start to its own hit
    for index, stop in enumerate(protocol.STOPS):
        state = 0
        for token in tokenizer.encode(stop):
            state = int(rules.next_state[state, token])
        assert int(rules.hit_of[state]) == index


def test_objectives_follow_the_config(config):
    policy, imitation = build.objective(config, "policy"), build.objective(config, "imitation")
    assert policy.on_policy and policy.beta == 0.0 and policy.temperature == config.rollout.temperature
    config.train.update(beta=0.1, rows_per_update=32, epsilon_low=0.1, epsilon_high=0.3, aggregation="sequence")
    policy = build.objective(config, "policy")
    assert not policy.on_policy  # two updates a step: the second is off policy
    assert (policy.beta, policy.epsilon_low, policy.epsilon_high, policy.aggregation) == (0.1, 0.1, 0.3, "sequence")
    assert build.objective(config, "imitation").beta == 0.0 and imitation.kind == "imitation"


def test_reward_weights_follow_the_config(config):
    config.rewards.update(format=0.5, accuracy=2.0, step=0.25, max_answer_words=9)
    assert dataclasses.asdict(rewards.reward_weights(config)) | {"query": "f1", "extra": ()} == config.rewards.to_dict()


def test_data_lies_in_the_work_directory_or_where_the_config_says(config, tmp_path):
    config.update(workdir=str(tmp_path / "run"), seed=4)
    assert build.data_dir(config) == tmp_path / "run" / "data"
    config.data.dir = str(tmp_path / "shared")
    assert index_paths(config) == {ALL: tmp_path / "shared" / "mini_search-4.index"}
    config.data.tasks = ("mat_search",)
    (tmp_path / "shared" / "mat_search").mkdir(parents=True)
    assert index_paths(config) == {ALL: tmp_path / "shared" / "mat_search" / "corpus.index"}


def test_own_data_gives_tasks_and_the_index_that_answers_them(config, tmp_path):
    make_tiny_data(tmp_path / "data", n_train=3, n_test=2)
    config.data.update(tasks=("mat_coding", "mat_search"), dir=str(tmp_path / "data"), n_train=2)
    config.warm_start.steps = 0
    with pytest.raises(ValueError, match=r"-train-0 of mat_coding/train: \d+ tokens .*config.rollout.max_tokens"):
        build.check(config)  # the full system prompt alone fills the default's 256 tokens
    config.system_prompt = "short"
    build.check(config)
    assert not index_paths(config)[ALL].exists()  # a check writes nothing
    tasks, paths = build.load_data(config, Quarantine())
    assert {name: (len(s["train"]), len(s["test"])) for name, s in tasks.items()} == dict.fromkeys(tasks, (2, 2))
    with SearchIndex(paths[ALL]) as found:
        task = tasks["mat_search"]["train"][0]
        assert found.search(task.query, 1, task.corpus)[0].title == task.query
    config.data.tasks = ("mat_coding",)
    assert build.load_data(config, Quarantine())[1] is None
    (tmp_path / "data" / "mat_coding" / "train.json").write_text("[{}]")
    with pytest.raises(ValueError, match="item at place 0 of .*train.json must have id, question"):
        build.check(config)


def test_missing_weights_and_missing_data_are_one_error(config, tmp_path):
    config.data.tasks = ("mat_coding",)
    data = r"data.dir must be a directory with mat_coding/train.json, .*: got none \(config.data.dir\)$"
    with pytest.raises(ValueError, match="^" + data):
        build.check(config)
    config.model.size = "7b"
    weights = r"^weights must be a Hugging Face directory of Qwen2.5-VL-7B: got none \(config.weights\)"
    with pytest.raises(ValueError, match=weights + "; " + data):
        build.check(config)
    make_tiny_data(tmp_path / "data", n_train=1, n_test=2)
    config.data.dir = str(tmp_path / "data")
    with pytest.raises(ValueError, match=weights + "$"):
        build.check(config)


def test_a_wrong_path_is_blamed_on_its_own_key(config, tmp_path):
    config.weights = str(tmp_path / "gone")
    config.data.update(tasks=("mat_coding",), dir=str(tmp_path / "lost"))
    weights = r"^weights must be .* with config.json: got .*gone, which is no directory \(config.weights\); "
    with pytest.raises(ValueError, match=weights + r".*: got .*lost, which is no directory \(config.data.dir\)$"):
        build.check_inputs(config)
    (tmp_path / "gone").mkdir()
    config.data.tasks = ("mini_coding",)
    with pytest.raises(ValueError, match=r"got .*gone, which holds none \(config.weights\)$"):
        build.check_inputs(config)


def test_images_of_a_trajectory_are_those_it_shows(tokenizer):
    graphdef, params = scripted([[0]], [[0]], vocab_size=tokenizer.vocab_size, end=0, n=1, prompt_len=128, script_len=4)
    engine = tiny.tiny_engine(graphdef, CACHE_SIZES, 1, tokenizer=tokenizer)
    parts = build.Parts(
        tokenizer, engine.patches, engine.bucket, graphdef, params, engine.rules, engine, None, None, None
    )
    task, shown, unshown = tiny.tiny_task(1), tiny.tiny_image(8, 28, 56), tiny.tiny_image(9)
    row = Row(task, 0, 0, 0, 0)
    engine.inject(row, engine.prompt(task))
    row.sample(np.array(tokenizer.encode("<search>a</search>")), np.zeros(len(tokenizer.encode("<search>a</search>"))))
    row.read_turn(tokenizer, tokenizer.eos_id)
    row.attach(Observation("", (shown,)))
    engine.inject(row, engine.observation(Observation("", (shown,))))
    row.sample(np.array(tokenizer.encode("<search>b</search>")), np.zeros(len(tokenizer.encode("<search>b</search>"))))
    row.read_turn(tokenizer, tokenizer.eos_id)
    row.attach(Observation("", (unshown,)))  # it did not fit: attached, never fed
    images = parts.images_of(row.trajectory(Status.TOKENS))
    assert set(images) == {task.images[0].sha256, shown.sha256}
    assert images[shown.sha256][1] == (1, 2, 4) and len(image_spans(engine.prompt(task))) == 1


def test_what_validate_cannot_see_is_refused_by_check(config, tmp_path):
    build.check(config)
    config.tokenizer = str(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer must be a directory .*\(config.tokenizer\)"):
        build.check(config)
    config.tokenizer = ""
    config.model.vision_config.fullatt_block_indexes = (2,)
    with pytest.raises(ValueError, match="fullatt_block_indexes"):
        build.check(config)
    config.model.vision_config.fullatt_block_indexes = (1,)
    config.data.update(min_pixels=100, max_pixels=100)
    with pytest.raises(ValueError, match="max_pixels must hold one token"):
        build.check(config)


def test_weights_give_the_model_its_sizes_its_tokenizer_and_its_values(config, tmp_path):
    make_tiny_checkpoint(tmp_path / "hf", seed=3)
    config.weights = str(tmp_path / "hf")
    build.check(config)
    parts = build.build(config)
    sizes = load_model_config(config.weights)
    assert sizes.text.vocab_size > parts.tokenizer.vocab_size  # padded, as the published ones are
    assert parts.rules.allowed.shape == (sizes.text.vocab_size,) == parts.rules.next_state.shape[1:]
    assert not np.asarray(parts.rules.allowed)[parts.tokenizer.vocab_size :].any()
    assert f"vocabulary {sizes.text.vocab_size}, " in build.describe(parts)
    got, want = parts.first_params(), load_params(config.weights, parts.abstract)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == jax.sharding.NamedSharding(parts.placement.mesh, a.sharding.spec)
    path = tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace(f'"image_token_id": {sizes.image_token_id}', '"image_token_id": 7'))
    differ = rf"same ids in .* the tokenizer: got image_token_id 7 and {sizes.image_token_id} in .*hf \("
    with pytest.raises(ValueError, match=differ):
        build.check(config)
    config.model.size = "3b"
    with pytest.raises(ValueError, match=r"must be of size 3b: .* \(config.weights, config.model.size\)"):
        build.check(config)


def test_weights_that_do_not_fill_the_model_are_refused_before_any_compute(config, tmp_path):
    make_tiny_checkpoint(tmp_path / "hf")
    next((tmp_path / "hf").glob("*.safetensors")).unlink()
    config.weights = str(tmp_path / "hf")
    with pytest.raises(ValueError, match="safetensors"):
        build.check(config)


def test_rows_of_a_warm_start_that_is_not_made_need_not_divide(config, monkeypatch):
    two = types.SimpleNamespace(shape=dict(data=2, fsdp=1, tensor=1), devices=np.array(jax.devices()))
    monkeypatch.setattr(layout, "make_mesh", lambda sizes, devices: two)
    config.warm_start.rows = 63
    with pytest.raises(ValueError, match=r"got warm_start.rows=63 \(config.warm_start.rows\)"):
        layout.make_placement(config)
    config.warm_start.steps = 0
    assert layout.make_placement(config).n_lanes == 2


def test_a_search_service_needs_no_corpus_of_its_own(config, tmp_path):
    config.data.update(tasks=("mat_search",), dir=str(tmp_path / "data"))
    make_tiny_data(tmp_path / "data", n_train=2, n_test=2)
    (tmp_path / "data" / mat.CORPUS).unlink()
    with pytest.raises(ValueError, match=r"has no mat_search/corpus.jsonl \(config.data.dir\)"):
        build.check_inputs(config)
    config.tools.search.update(backend="http", url="http://localhost:1/retrieve")
    build.check_inputs(config)
    tasks, paths = build.load_data(config, Quarantine())
    assert len(tasks["mat_search"]["test"]) > 0 and not paths[ALL].exists()
