"""What reaches a batch: the images that a trajectory shows, a process's own rows, recorded chains."""

import jax
import numpy as np

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.row import Row, image_spans
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.scripted import CACHE_SIZES, scripted
from arft_jax.train.batches import images_of, share
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
    images = images_of(render.patches, row.trajectory(Status.TOKENS))
    assert set(images) == {task.images[0].sha256, shown.sha256}
    assert images[shown.sha256][1] == (1, 2, 4) and len(image_spans(render.prompt(task))) == 1


def test_a_process_has_its_own_part_of_what_all_have_in_one_order(monkeypatch):
    assert share(6) == slice(0, 6)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert list(range(6))[share(6)] == [2, 3]
