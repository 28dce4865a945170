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


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"variant must be smoke: got 'huge' \(configs/x.py:huge\)"):
        qwen_config("x", "3b", "tpu v5e:4x4", "huge")
