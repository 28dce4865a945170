"""Groups and budgets: hand cases."""

import dataclasses

import numpy as np
import pytest

from arft_jax.data.chat import Segment
from arft_jax.rollout.request import Group, Request, check_prompt, check_rows
from arft_jax.rollout.row import Injection, Row
from arft_jax.testing.tiny_rollout import LIMITS, tiny_image, tiny_task
from arft_jax.trajectory import Status


def prompt(n_tokens, n_images=0):
    images = tuple(tiny_image(i) for i in range(n_images))
    return Segment(np.zeros(n_tokens, np.int32), images, (), (), np.zeros(n_tokens, bool))


@pytest.mark.parametrize(
    ("budget", "images", "allowed"),
    [
        ({}, (99, 10**9), True),  # 0: no limit
        (dict(max_images=2), (2, 10**9), True),
        (dict(max_images=2), (3, 1), False),
        (dict(max_image_pixels=784), (99, 784), True),
        (dict(max_image_pixels=784), (1, 785), False),
    ],
    ids=str,
)
def test_budgets_of_images_are_inclusive(budget, images, allowed):
    assert dataclasses.replace(LIMITS, **budget).allows_images(*images) is allowed


def test_a_prompt_leaves_room_for_one_token_at_least():
    task = tiny_task(3)
    check_prompt(task, prompt(LIMITS.max_tokens - 1), 0, LIMITS)
    with pytest.raises(ValueError, match=r"task 't3' must leave room for an answer: got 128 tokens, max_tokens=128 \("):
        check_prompt(task, prompt(LIMITS.max_tokens), 0, LIMITS)


def test_a_prompt_beyond_the_image_budget_is_named():
    limits = dataclasses.replace(LIMITS, max_images=1, max_image_pixels=5000)
    with pytest.raises(ValueError, match=r"task 't3' must fit .* got 2 images of 1568 px, at most 1 and 5000 px, 0 be"):
        check_prompt(tiny_task(3), prompt(9, n_images=2), 1568, limits)


@pytest.mark.parametrize(("n_rows", "n_slots"), [(0, 4), (3, 0)])
def test_a_request_needs_a_row_and_a_slot(n_rows, n_slots):
    request = Request(tiny_task(3), 0, n_rows)
    with pytest.raises(ValueError, match=rf"got {n_rows} rows, {n_slots} slots that are not held \(config.rollout.n_s"):
        check_rows(request, n_slots)


def test_a_group_numbers_its_rows_as_they_begin_and_keeps_its_first_version():
    task = tiny_task(1)
    group = Group(Request(task, 0, 3), prompt(2), np.zeros(2, np.uint32), [None] * 3, 3)
    assert group.version is None
    assert list(group.begin(2, version=5)) == [0, 1] and list(group.begin(1, version=6)) == [2]
    assert (group.n_begun, group.version, group.left) == (3, 5, 3)
    row = Row(task, 0, 1, 0, 0)
    row.inject(Injection(prompt(2), [], np.zeros((3, 2), np.int32), 2))
    ended = row.trajectory(Status.TOKENS)
    group.finish(ended)
    assert group.rows == [None, ended, None] and group.left == 2
