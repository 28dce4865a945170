"""The configs of real models: every one is a valid run on the user's own data, and its smoke variant is a small one."""

import importlib.util

import pytest

from arft_jax.config import MAT_TASKS
from arft_jax.config_checks import validate
from arft_jax.data.batch import VisionBucket, pack_chunks
from arft_jax.data.images import ImageProcessor
from arft_jax.presets import qwen_config
from arft_jax.testing.tiny_model import TINY_PACKING
from arft_jax.train.run_dir import flatten

NAMES = ("qwen3b_tpu", "qwen7b_tpu", "qwen32b_tpu", "qwen72b_tpu", "qwen3b_gpu", "qwen7b_gpu", "qwen7b_h200")


def load(repo_root, name, variant=""):
    spec = importlib.util.spec_from_file_location(name, repo_root / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant), module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_config_needs_two_directories_and_names_them(repo_root, name):
    config, doc = load(repo_root, name)
    validate(config)
    assert config.data.tasks == MAT_TASKS and config.warm_start.steps == 0
    assert (config.weights, config.data.dir) == ("", "")
    assert f"--config=configs/{name}.py --config.weights=DIR --config.data.dir=DIR" in doc
    assert f"Qwen2.5-VL-{config.model.size.upper()}" in doc and "arft_jax/data/mat.py" in doc


@pytest.mark.parametrize("name", NAMES)
def test_the_images_of_a_trajectory_fit_a_micro_batch_at_worst(repo_root, name):
    config, _ = load(repo_root, name)
    r, t = config.rollout, config.train
    processor = ImageProcessor(config.data.min_pixels, config.data.max_pixels)
    bucket = VisionBucket(r.n_patches, r.n_windows, TINY_PACKING)
    shapes = ((1000, 1000), (900, 1600), (4000, 3000), (3000, 1000), (500, 2500), (2000, 3100))
    grids = [processor.grid_of(*shapes[i % len(shapes)]) for i in range(r.max_images)]
    assert len(pack_chunks(grids, bucket)) <= t.image_chunks
    r.max_images = 2 * t.image_chunks + 1
    with pytest.raises(ValueError, match=rf"got max_images={r.max_images} of .* and {t.image_chunks} chunks of 2 "):
        validate(config)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_update_and_a_lane_holds_a_whole_trajectory(repo_root, name):
    config, _ = load(repo_root, name)
    assert config.train.rows_per_update == config.train.prompts * config.rollout.group_size
    assert config.train.micro_tokens % config.rollout.max_tokens == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_variant_trains_on_the_same_kind_of_data_with_weights_of_any_size(repo_root, name):
    (full, _), (smoke, _) = load(repo_root, name), load(repo_root, name, "smoke")
    validate(smoke)
    a, b = flatten(full.to_dict()), flatten(smoke.to_dict())
    assert smoke.model.size == "" and smoke.workdir != full.workdir
    for key in (
        "data.tasks",
        "model.dtype",
        "model.lora.rank",
        "model.remat",
        "rollout.group_size",
        "warm_start.steps",
    ):
        assert a[key] == b[key], key
    assert smoke.train.steps == 2 and smoke.rollout.max_tokens < full.rollout.max_tokens


SIZES, RECIPES = ("3b_tpu", "7b_tpu", "3b_gpu", "7b_gpu"), ("", "_released")


@pytest.mark.parametrize("agent", ["coding", "search"])
@pytest.mark.parametrize("variant", [f"{size}{recipe}" for size in SIZES for recipe in RECIPES])
def test_an_agent_of_the_paper_fits_the_hardware_of_the_config_that_was_compiled(repo_root, agent, variant):
    config, doc = load(repo_root, f"visual_arft_{agent}", variant)
    validate(config)
    size, kind = variant.split("_")[:2]
    fitted, _ = load(repo_root, f"qwen{size}_{kind}")
    assert config.name == f"visual_arft_{agent}_{variant}" and config.hardware == fitted.hardware
    assert (config.model.size, config.distributed.enabled) == (size, kind == "tpu")
    for key in ("tensor", "n_slots", "extend_rows"):
        assert config.rollout[key] == fitted.rollout[key]
    r, t = config.rollout, config.train
    assert t.micro_tokens % r.max_tokens == 0 and t.rows_per_update == t.prompts * r.group_size == 128
    assert r.max_turns_eval == 5 and config.warm_start.steps == 0
    if variant.endswith("released"):
        parity, _ = load(repo_root, "paper_parity", "search" if agent == "search" else "")
        assert r.max_turns == 1 and r.context == "rerender"
        mine, theirs = flatten(config.to_dict()), flatten(parity.to_dict())
        differ = {key for key in mine if mine[key] != theirs[key]}
        assert differ <= {
            "name", "workdir", "hardware", "model.size", "model.attention", "distributed.enabled", "rollout.tensor",
            "rollout.n_slots", "rollout.extend_rows", "train.micro_tokens", "train.image_chunks",
        }  # fmt: skip
    else:
        assert r.max_turns == 5 and config.data.tasks == (f"mat_{agent}",) and config.train.objective == "dapo"
    assert f"configs/visual_arft_{agent}.py:7b_tpu --config.weights=DIR" in " ".join(doc.split())


@pytest.mark.parametrize("agent", ["coding", "search"])
def test_variants_of_an_agent_default_to_the_live_recipe_of_the_7b_on_gpus(repo_root, agent):
    name = f"visual_arft_{agent}"
    assert load(repo_root, name)[0].name == load(repo_root, name, "live_gpu_7b")[0].name == f"{name}_7b_gpu"
    smoke, released = load(repo_root, name, "smoke")[0], load(repo_root, name, "smoke_released")[0]
    assert smoke.model.size == released.model.size == "" and smoke.hardware == released.hardware == ""
    assert (smoke.rollout.max_turns, released.rollout.max_turns) == (5, 1)
    for config in (smoke, released):
        validate(config)
        assert config.tools.search.backend == "local" and config.train.steps == 2
    for wrong in ("huge", "3b_7b", "smoke_smoke", "3b__tpu", "live_released"):
        with pytest.raises(ValueError, match=rf"got '{wrong}' .configs/{name}.py:{wrong}"):
            load(repo_root, name, wrong)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"variant must be smoke: got 'huge' \(configs/x.py:huge\)"):
        qwen_config("x", "3b", "tpu v5e:4x4", "huge")
