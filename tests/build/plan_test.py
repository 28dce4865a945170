"""Planning: what is refused before anything is written, read once, and on devices that need not be there."""

import collections
import dataclasses
import json
import pathlib

import jax
import pytest

from arft_jax.build import data, model, search_indices
from arft_jax.build import plan as plans
from arft_jax.build.plan import check_inputs, plan, plan_policy, prepare_data
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.config import default_config
from arft_jax.data import mat
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.weights import load_model_config
from arft_jax.tools.search_index import SearchIndex
from arft_jax.tools.search_router import ALL


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.workdir = str(tmp_path / "run")
    return config


def test_a_plan_reads_the_users_data_once_and_writes_nothing(config, tmp_path, monkeypatch):
    make_tiny_data(tmp_path / "data", n_train=3, n_test=2)
    config.data.update(tasks=("mat_coding", "mat_search"), dir=str(tmp_path / "data"), n_train=2)
    config.warm_start.steps = 0
    with pytest.raises(ValueError, match=r"-train-0 of mat_coding/train: \d+ tokens .*config.rollout.max_tokens"):
        plan(config)  # the full system prompt alone fills the default's 256 tokens
    config.system_prompt = "short"
    reads, load = collections.Counter(), mat.load_split
    monkeypatch.setattr(mat, "load_split", lambda *args: reads.update([args[:2]]) or load(*args))
    written = sorted(tmp_path.rglob("*"))
    planned = plan(config)
    assert sorted(tmp_path.rglob("*")) == written
    tasks, paths = prepare_data(planned), planned.host.search_indices
    assert {name: (len(s["train"]), len(s["test"])) for name, s in tasks.items()} == dict.fromkeys(tasks, (2, 2))
    assert set(reads.values()) == {1} and len(reads) == 4 and tasks.keys() == planned.own_tasks.keys()
    with SearchIndex(paths[ALL]) as found:
        task = tasks["mat_search"]["train"][0]
        assert found.search(task.query, 1, task.corpus)[0].title == task.query
    config.data.tasks = ("mat_coding",)
    coding = plan(config)
    assert prepare_data(coding).keys() == {"mat_coding"} and coding.host.search_indices is None
    (tmp_path / "data" / "mat_coding" / "train.json").write_text("[{}]")
    with pytest.raises(ValueError, match="item at place 0 of .*train.json must have id, question"):
        plan(config)


def test_self_made_tasks_are_prepared_behind_the_plan_and_their_prompts_checked(config, monkeypatch):
    made = []
    monkeypatch.setattr(data, "prepare_mini_tasks", lambda config: made.append(config) or {})
    monkeypatch.setattr(search_indices, "make_indices", lambda config: None)
    planned = plan(config)
    assert planned.own_tasks == {} and not made and not pathlib.Path(config.workdir).exists()
    checked = []
    monkeypatch.setattr(plans, "check_prompts", lambda config, system, tasks, *_: checked.append(tasks))
    sets = {"mini_search": {"train": ["s"], "test": []}, "mini_coding": {"train": ["c"], "test": []}}
    monkeypatch.setattr(data, "prepare_mini_tasks", lambda config: sets)
    tasks = prepare_data(planned)
    assert list(tasks) == list(config.data.tasks) and tasks == sets == checked[0]


def test_a_plan_holds_the_values_that_it_was_made_from(config):
    planned = plan_policy(config)
    config.seed += 1
    assert planned.config.seed == config.seed - 1 and planned.config.to_dict().keys() == config.to_dict().keys()
    with pytest.raises(AttributeError):
        planned.config.seed = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        planned.sizes = None


def test_the_processes_of_a_run_meet_before_a_device_is_asked_for(config, monkeypatch):
    order = []
    monkeypatch.setattr(plans.hosts, "start", lambda *given: order.append(given))
    monkeypatch.setattr(plans, "plan_policy", lambda config, **_: order.append("devices") or plan_policy(config))
    config.distributed.update(enabled=True, coordinator="localhost:1", n_processes=1, process=0)
    plan(config)
    assert order == [("localhost:1", 1, 0), "devices"]
    config.weights = "gone"
    with pytest.raises(ValueError, match="config.weights"):  # nobody waits for others then
        plan(config)
    assert len(order) == 2


def test_a_policy_is_planned_on_devices_and_for_a_tokenizer_of_ones_own(config):
    config.mesh.data = 1
    planned = plan_policy(config, Tokenizer.tiny(), jax.devices()[:1])
    assert planned.placement.mesh.size == planned.local_placement.mesh.size == 1
    assert planned.sizes.text.vocab_size == planned.tokenizer.vocab_size == Tokenizer.tiny().vocab_size


def test_missing_weights_and_missing_data_are_one_error(config, tmp_path):
    config.data.tasks, config.warm_start.steps = ("mat_coding",), 0
    wanted = r"data.dir must be a directory with mat_coding/train.json, .*: got none \(config.data.dir\)$"
    with pytest.raises(ValueError, match="^" + wanted):
        plan(config)
    config.model.size = "7b"
    weights = r"^weights must be a Hugging Face directory of Qwen2.5-VL-7B: got none \(config.weights\)"
    with pytest.raises(ValueError, match=weights + "; " + wanted):
        plan(config)
    make_tiny_data(tmp_path / "data", n_train=1, n_test=2)
    config.data.dir = str(tmp_path / "data")
    with pytest.raises(ValueError, match=weights + "$"):
        plan(config)


def test_a_wrong_path_is_blamed_on_its_own_key(config, tmp_path):
    config.weights = str(tmp_path / "gone")
    config.data.update(tasks=("mat_coding",), dir=str(tmp_path / "lost"))
    weights = r"^weights must be .* with config.json: got .*gone, which is no directory \(config.weights\); "
    with pytest.raises(ValueError, match=weights + r".*: got .*lost, which is no directory \(config.data.dir\)$"):
        check_inputs(config)
    (tmp_path / "gone").mkdir()
    config.data.tasks = ("mini_coding",)
    with pytest.raises(ValueError, match=r"got .*gone, which holds none \(config.weights\)$"):
        check_inputs(config)


def test_what_validate_cannot_see_is_refused_by_the_plan(config, tmp_path):
    plan(config)
    config.tokenizer = str(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer must be a directory .*\(config.tokenizer\)"):
        plan(config)
    config.tokenizer = ""
    config.model.vision_config.fullatt_block_indexes = (2,)
    with pytest.raises(ValueError, match="fullatt_block_indexes"):
        plan(config)
    config.model.vision_config.fullatt_block_indexes = (1,)
    config.data.update(min_pixels=100, max_pixels=100)
    with pytest.raises(ValueError, match="max_pixels must hold one token"):
        plan(config)
    assert not pathlib.Path(config.workdir).exists()


def test_weights_of_another_size_or_with_other_control_tokens_are_refused(config, tmp_path):
    make_tiny_checkpoint(tmp_path / "hf", seed=3)
    config.weights = str(tmp_path / "hf")
    assert plan(config).sizes == load_model_config(config.weights)
    sizes, path = model.model_config(config, model.load_tokenizer(config)), tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace(f'"image_token_id": {sizes.image_token_id}', '"image_token_id": 7'))
    differ = rf"same ids in .* the tokenizer: got image_token_id 7 and {sizes.image_token_id} in .*hf \("
    with pytest.raises(ValueError, match=differ):
        plan(config)
    config.model.size = "3b"
    with pytest.raises(ValueError, match=r"must be of size 3b: .* \(config.weights, config.model.size\)"):
        plan(config)


def test_weights_that_do_not_fill_the_model_are_refused_before_any_compute(config, tmp_path):
    make_tiny_checkpoint(tmp_path / "hf")
    next((tmp_path / "hf").glob("*.safetensors")).unlink()
    config.weights = str(tmp_path / "hf")
    with pytest.raises(ValueError, match="safetensors"):
        plan(config)


def test_a_search_service_needs_no_corpus_of_its_own(config, tmp_path):
    config.data.update(tasks=("mat_search",), dir=str(tmp_path / "data"))
    config.update(system_prompt="short")
    config.warm_start.steps = 0
    make_tiny_data(tmp_path / "data", n_train=2, n_test=2)
    (tmp_path / "data" / mat.CORPUS).unlink()
    with pytest.raises(ValueError, match=r"has no mat_search/corpus.jsonl \(config.data.dir\)"):
        plan(config)
    config.tools.search.update(backend="http", url="http://localhost:1/retrieve")
    with pytest.raises(ValueError, match=r"has no collections: got corpus='mini_search-.*\(config.data.tasks\) and"):
        plan(config)
    for file in (tmp_path / "data" / "mat_search").rglob("*.json"):
        items = [item | {"corpus": ""} for item in json.loads(file.read_text(encoding="utf-8"))]
        file.write_text(json.dumps(items), encoding="utf-8")
    planned = plan(config)
    assert len(prepare_data(planned)["mat_search"]["test"]) > 0 and not planned.host.search_indices[ALL].exists()
