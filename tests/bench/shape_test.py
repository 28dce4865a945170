"""The benchmark's prompts, turns and observations are as long as the peers'."""

import numpy as np
import pytest

from arft_jax import config as config_lib
from arft_jax.bench import drill, measure, shape
from arft_jax.bench.shape import ScriptedTools
from arft_jax.testing.toolboxes import search_call
from arft_jax.tools.context import ToolContext
from arft_jax.trajectory import Status

pytestmark = pytest.mark.slow  # half a minute of compilation


def small_config():
    """The benchmark's lengths on the default model of 1M parameters."""
    config = config_lib.default_config()
    config.data.min_pixels = config.data.max_pixels = shape.IMAGE_PX**2
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=3, max_turn_tokens=64, max_tokens=672, decode_steps=16, extend_rows=4,
        extend_chunk=132, n_patches=1024, n_windows=16, n_features=1024, bucket_columns=336,
    )  # fmt: skip
    return config


@pytest.fixture(scope="module")
def ours():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "VOCAB", 2048)
        patch.setattr(measure, "GROUPS", 2)
        patch.setattr(measure, "GROUP_SIZE", 2)
        patch.setattr(drill, "N_SLOTS", 4)
        patch.setattr(drill, "GROUP_SIZE", 2)
        patch.setattr(drill, "N_TASKS", 3)
        yield measure.Ours(small_config())


def test_prompts_are_256_tokens_with_an_image_of_64(ours):
    engine = ours.roller()
    for number in (0, 7):
        segment = engine.renderer.prompt(ours.bench.task(engine, number))
        assert len(segment.tokens) == 256 and segment.is_image.sum() == 64


def test_a_trajectory_is_three_turns_of_64_with_128_tokens_and_an_image_between(ours):
    engine = ours.roller()
    _, groups = ours.play(engine, 2, 2, 64, 3)
    shown = [span.sha256 for group in groups for t in group for span in t.images[1:]]
    assert len(set(shown)) == 4  # no two rows are shown the same picture
    for t in (t for group in groups for t in group):
        a, b, c = t.turns
        assert [turn.end - turn.start for turn in t.turns] == [64] * 3
        assert (t.prompt_len, b.start - a.end) == (256, 128)
        assert [span.n for span in t.images] == [64, 64] and b.end < t.images[1].start < c.start
        assert t.status is Status.TURN_LIMIT
        assert np.all(t.sampler_logps[t.loss_mask] < 0)
    assert ours.measure("turns") > 0


def test_dead_tools_end_every_row_as_a_fault_of_ours_and_late_ones_change_no_token(ours):
    figures = drill.tool_drill(ours, latencies_s=(0.01, 0.05), repeats=1)
    assert figures["down"] == {"infra": 6} and figures["recompiled"] == 0
    assert len(figures["ratio"]) == len(figures["late_s"]) == 1


def test_tools_serve_first_turns_with_text_and_second_turns_with_images(ours):
    engine = ours.roller()
    requests = ours.bench.requests(engine, 2, 2)
    box = ScriptedTools(engine, requests)
    calls = [requests[i].task for i in (0, 0, 1, 0, 1, 0, 1, 1)]
    images = [len(box.submit(search_call("x"), ToolContext(task)).result().images) for task in calls]
    assert images == [0, 0, 0, 1, 0, 1, 1, 1]


def test_costs_and_timeline_are_of_one_rollout(ours):
    costs = ours.costs()
    assert costs["n_sampled"] == 4 * 3 * 64 and costs["n_recompiled"] == 0
    assert 0 < costs["host_s_a_call"] < costs["total_s"] and costs["device_s_a_call"] > 0
    assert costs["host_frac_of_a_call"] == costs["host_s_a_call"] / costs["device_s_a_call"]
    timeline = ours.timeline()
    assert {"paused", "decode", "extend"} <= {state for _, state, _, _ in timeline.spans}


@pytest.mark.parametrize("figure", ["decode", "prefill", "group_prefill", "train"])
def test_every_figure_is_a_rate(ours, figure):
    ours.measure(figure)  # compiles
    assert ours.measure(figure) > 0


def test_the_bound_is_a_rate(ours):
    assert ours.bound() > 0
