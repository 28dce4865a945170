"""What reaches a batch: the images that a trajectory shows, a process's own rows, recorded chains."""

import jax
import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.row import Row, image_spans
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.scripted import CACHE_SIZES, scripted
from arft_jax.train.batches import groups_of_updates, images_of, share
from arft_jax.trajectory import Observation, Status


def test_images_of_a_trajectory_are_those_it_shows():
    tokenizer = Tokenizer.tiny()
    graphdef, _ = scripted([[0]], [[0]], vocab_size=tokenizer.vocab_size, end=0, n=1, prompt_len=128, script_len=4)
    render = tiny.tiny_engine(graphdef, CACHE_SIZES, 1, tokenizer=tokenizer).renderer
    task, shown, unshown = tiny.tiny_task(1), tiny.tiny_image(8, 28, 56), tiny.tiny_image(9)
    row = Row(task, 0, 0, 0, 0)
    row.inject(render.injection(render.prompt(task)))
    row.sample(np.array(tokenizer.encode("<search>a</search>")), np.zeros(len(tokenizer.encode("<search>a</search>"))))
    row.read_turn(tokenizer, render.syntax)
    row.attach(Observation("", (shown,)))
    row.inject(render.injection(render.observation(Observation("", (shown,)))))
    row.sample(np.array(tokenizer.encode("<search>b</search>")), np.zeros(len(tokenizer.encode("<search>b</search>"))))
    row.read_turn(tokenizer, render.syntax)
    row.attach(Observation("", (unshown,)))  # it did not fit: attached, never fed
    images = images_of(row.trajectory(Status.TOKENS))
    assert [name for name, _ in sorted(images.items())] == sorted(i.sha256 for i in (task.images[0], shown))
    assert all(image.sha256 == name for name, image in images.items())
    assert len(image_spans(render.prompt(task))) == 1


@pytest.mark.parametrize("epochs", [1, 2])
def test_which_groups_an_update_takes_follows_from_seed_and_step_alone(epochs, monkeypatch):
    config = default_config()
    config.train.update(prompts=6, rows_per_update=16, epochs=epochs)
    updates = groups_of_updates(config, 1)
    assert [len(groups) for groups in updates] == [2] * 3 * epochs  # whole groups
    for epoch in range(epochs):  # each once an epoch
        assert sorted(g for groups in updates[3 * epoch :][:3] for g in groups) == list(range(6))
    assert updates[:3] != updates[3:6] and groups_of_updates(config, 2) != updates
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert groups_of_updates(config, 1) == updates
    config.seed = 1
    assert groups_of_updates(config, 1) != updates


def test_a_process_has_its_own_part_of_what_all_have_in_one_order(monkeypatch):
    assert share(6) == slice(0, 6)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert list(range(6))[share(6)] == [2, 3]
