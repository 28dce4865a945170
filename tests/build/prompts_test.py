"""Prompts are checked at the start: exactly those that a rollout would refuse, without decoding an image."""

import dataclasses
import re

import jax
import pytest

from arft_jax.build.prompts import check_prompts, system_texts
from arft_jax.config import default_config
from arft_jax.data import image_files
from arft_jax.data.batch import VisionBucket
from arft_jax.data.image_files import FileImage, ImageFiles
from arft_jax.data.images import encode_png
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import Request
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.tiny_model import TINY_PACKING
from arft_jax.tools.bundled import BUNDLED, paper_syntax
from arft_jax.tools.offer import Offer

SIZES = ((28, 28), (28, 56), (56, 56))


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), n_slots=2, group_size=2)


@pytest.fixture
def config(stage):
    """The limits of the stage's engine."""
    config = default_config()
    config.system_prompt = "short"
    limits = dataclasses.asdict(stage.engine.limits)
    config.rollout.update({key: limits[key] for key in ("max_tokens", "max_images", "max_image_pixels", "n_features")})
    config.rollout.update(n_patches=64, n_windows=8)
    return config


def paper_offer():
    return Offer({name: BUNDLED[name] for name in ("diagnose", "python", "search")}, (), paper_syntax())


def check(stage, config, tasks):
    engine, r = stage.engine, config.rollout
    bucket = VisionBucket(r.n_patches, r.n_windows, TINY_PACKING)
    render, splits = engine.renderer, {"train": tasks[::2], "test": tasks[1::2]}
    check_prompts(
        config, system_texts(config, paper_offer()), {"a": splits}, render.tokenizer, render.patches.processor, bucket
    )


def refused(stage, config, task):
    try:
        check(stage, config, [task])
    except ValueError:
        return True
    return False


def refused_by_the_rollout(stage, config, task):
    engine, r = stage.engine, config.rollout
    limits = dict(max_tokens=r.max_tokens, max_images=r.max_images, max_image_pixels=r.max_image_pixels)
    limits = dataclasses.replace(engine.limits, **limits)
    system = system_texts(config, paper_offer())
    made = engine.renderer
    renderer = Renderer(made.tokenizer, made.patches, made.bucket, system, made.syntax)
    scheduler = Scheduler(engine.slots, renderer, limits, tiny.InstantTools(tiny.failing), 0.0)
    try:
        scheduler.begin([Request(task, 0, 1)], jax.random.key(0))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("limit", ["max_tokens", "max_images", "max_image_pixels"])
def test_what_a_rollout_would_refuse_is_refused_and_nothing_else(stage, config, limit):
    tasks = [tiny.tiny_task(i, kind, sizes=SIZES[: i % 4]) for i, kind in enumerate(["search", "coding"] * 4)]
    at = {"max_tokens": range(16, 64), "max_images": (1, 2, 3), "max_image_pixels": (783, 784, 2352, 5487, 5488)}[limit]
    seen = []
    for value in at:
        config.rollout[limit] = value
        for task in tasks:
            seen.append(refused(stage, config, task))
            assert seen[-1] is refused_by_the_rollout(stage, config, task), (value, task.id)
    assert True in seen and False in seen


LIMITS = {
    "n_features": (3, "4 image tokens, n_features=3"),
    "n_patches": (15, "16 patches of one image, n_patches=15"),
    "n_windows": (0, "1 windows of one image, n_windows=0"),
    "max_images": (1, "2 images, max_images=1"),
    "max_image_pixels": (3919, "3920 px of images, max_image_pixels=3919"),  # 56 * 56 + 28 * 28
}


@pytest.mark.parametrize("key", LIMITS)
def test_images_beyond_a_limit_are_named_with_the_key(stage, config, key):
    sizes = [(56, 56), (28, 28)] if key.startswith("max") else [(56, 56)]
    config.rollout[key], wrong = LIMITS[key]
    with pytest.raises(ValueError, match=re.escape(f"got t3 of a/train: {wrong} (config.rollout.{key})")):
        check(stage, config, [tiny.tiny_task(3, sizes=sizes)])


def test_all_are_in_one_error_ten_by_name(stage, config):
    config.rollout.max_tokens = 40
    tasks = [dataclasses.replace(tiny.tiny_task(i), question="long " * 40 if i > 1 else "?") for i in range(16)]
    with pytest.raises(ValueError, match=r"got t2 of a/train: \d+ tokens .* and 4 more$") as refusal:
        check(stage, config, tasks)
    assert str(refusal.value).count(" of a/train: ") == 7 and str(refusal.value).count(" of a/test: ") == 3


def test_no_image_is_decoded(stage, config, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encode_png(tiny.tiny_image(1, 56, 56)))
    image = FileImage(ImageFiles(), tmp_path / "a.png", "image_1", "item 1")
    monkeypatch.setattr(image_files, "decode_image", None)
    task = dataclasses.replace(tiny.tiny_task(1), images=(image,))
    check(stage, config, [task])
    config.rollout.n_features = 3
    assert refused(stage, config, task)


def test_a_system_prompt_is_the_tasks_own_else_its_sets_else_that_of_its_kind(config, tmp_path):
    (tmp_path / "prompt.txt").write_text("\ufeffFrom a file.\n", encoding="utf-8")
    config.system_prompts = {"photos": "Look.", "cards": f"file:{tmp_path}/prompt.txt"}
    text, task = system_texts(config, paper_offer()), tiny.tiny_task(1)
    assert (
        text(task) == "Search, then answer." and text(dataclasses.replace(task, kind="coding")) == "Fix, then answer."
    )
    photo = dataclasses.replace(task, task_set="photos")
    own = [text(t).split("\n")[0] for t in (photo, dataclasses.replace(photo, system="Mine."))]
    assert own == ["Look.", "Mine."] and "<search>" in text(photo)
    assert text(dataclasses.replace(task, task_set="cards")).startswith("From a file.\n")
    config.system_prompt = "full"
    full = system_texts(config, paper_offer())
    assert all(len(full(tiny.tiny_task(1, kind))) > 100 for kind in ("coding", "search", "general"))
    (tmp_path / "prompt.txt").write_text(" ")
    with pytest.raises(ValueError, match=r"must hold text: got an empty .*prompt.txt \(config.system_prompts\)"):
        system_texts(config, paper_offer())
    config.system_prompts = {"photos": "file:gone.txt"}
    with pytest.raises(ValueError, match=r"must be a readable file: got gone.txt .* \(config.system_prompts\)"):
        system_texts(config, paper_offer())


def test_a_long_prompt_of_one_set_is_counted_for_its_tasks_alone(stage, config):
    config.system_prompts = {"photos": "long " * 200}
    task = tiny.tiny_task(1)
    check(stage, config, [task])
    with pytest.raises(ValueError, match=r"got t1 of a/train: \d+ tokens with one of an answer"):
        check(stage, config, [dataclasses.replace(task, task_set="photos")])
