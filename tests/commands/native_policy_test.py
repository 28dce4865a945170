"""What tells one set of weights from another, and what is planned for them."""

import shutil

import pytest

from arft_jax.commands import native_policy as native
from arft_jax.config import default_config


@pytest.fixture
def weights(tmp_path):
    """A directory that stands for published weights, and an adapter."""
    for name, files in (("Qwen2.5-VL-3B", ("config.json", "model.safetensors")), ("arft", ("adapter_config.json",))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(f"{name}/{file}")
    return tmp_path


def found(**keys):
    config = default_config()
    config.name = "tiny"
    config.update_from_flattened_dict(keys)
    return native.find_weights(config, "none")


def test_weights_are_known_by_their_contents_wherever_they_lie(weights):
    here = found(weights=str(weights / "Qwen2.5-VL-3B"))
    assert here.system == "Qwen2.5-VL-3B" and here.step is None and here.identity.keys() == {"weights"}
    shutil.copytree(weights / "Qwen2.5-VL-3B", weights / "copy")
    assert found(weights=str(weights / "copy")).identity == here.identity
    (weights / "copy" / "model.safetensors").write_text("others")
    assert found(weights=str(weights / "copy")).identity != here.identity


def test_an_adapter_is_part_of_the_name_and_of_the_identity(weights):
    keys = {"weights": str(weights / "Qwen2.5-VL-3B"), "model.lora.adapter": str(weights / "arft")}
    both = found(**keys)
    assert both.system == "Qwen2.5-VL-3B + arft" and both.identity.keys() == {"weights", "adapter"}
    (weights / "arft" / "adapter_config.json").write_text("another")
    assert found(**keys).identity["adapter"] != both.identity["adapter"]
    assert found(**keys).identity["weights"] == both.identity["weights"]


def test_drawn_weights_are_known_by_their_seed():
    assert (found().system, found(seed=3).identity) == ("tiny, drawn", {"drawn": 3})


def test_a_work_directory_is_left_to_its_run_and_tools_stay_those_of_the_configuration(tmp_path):
    config = default_config()
    entries = {"mini_search": "mini_search", "mat_coding": "mat_coding"}
    taken = native.config_to_evaluate(config, entries, "run", tmp_path)
    assert taken.data.tasks == ("mini_coding", "mini_search", "mat_coding") and taken.workdir == config.workdir
    taken = native.config_to_evaluate(config, entries, "none", tmp_path)
    assert taken.workdir == str(tmp_path) and taken.data.n_train == 1
    assert config.data.tasks == ("mini_coding", "mini_search") and config.data.n_train == 2000


def test_weights_that_are_not_there_are_named(tmp_path):
    config = default_config()
    config.workdir, config.weights = str(tmp_path), str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a checkpoint: none in .*; --checkpoint=none evaluates config.weights"):
        native.check_weights_there(config, "run")
    with pytest.raises(ValueError, match=r"must be a Hugging Face directory .*is no directory \(config.weights\)"):
        native.check_weights_there(config, "none")
