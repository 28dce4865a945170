"""Figures of a step: hand values."""

import dataclasses

import numpy as np

from arft_jax.protocol import Answer
from arft_jax.rewards.combine import REWARD_FAILED
from arft_jax.testing.toolboxes import search_call
from arft_jax.train.metrics import rollout_metrics, tool_metrics
from arft_jax.trajectory import Observation, Status, Task, ToolStatus, Trajectory, Turn


def trajectory(status, calls, rewards, n=10, prompt_len=4, kind="coding", n_sampled=3):
    completion = np.arange(n) >= prompt_len
    sampled = completion & (np.arange(n) < prompt_len + n_sampled)
    turns = [Turn("", search_call("q"), 0, 1, Observation("", status=s)) for s in calls]
    turns.append(Turn("", Answer("7"), 0, 1))
    return Trajectory(
        Task("t", kind, "?", (), ()), 0, np.zeros(n, np.int32), np.zeros(n, np.float32), completion,
        completion & ~sampled,
        np.zeros((3, n), np.int32), prompt_len, (), tuple(turns), status, rewards,
    )  # fmt: skip


def test_hand_values():
    def reward(total):
        return {"format": total / 2, "f1": 0.5, "total": total}

    ok, error = ToolStatus.OK, ToolStatus.ERROR
    rows = [
        trajectory(Status.ANSWERED, [ok, error], reward(2.0)),
        trajectory(Status.ANSWERED, [], reward(0.0), n=12, kind="search"),
        trajectory(Status.MALFORMED, [ToolStatus.REFUSED], reward(1.0)),
        trajectory(Status.INFRA, [ToolStatus.INFRA], {}),
    ]
    m = rollout_metrics(rows)
    assert m["reward"] == 1.0 and m["format_frac"] == 0.5 and m["reward/f1"] == 0.5  # over the three scored
    assert "reward/total" not in m
    assert (m["reward_coding/total"], m["reward_search/total"]) == (1.5, 0.0)
    # 4 calls of 4 trajectories, each with another outcome
    assert m["tool_calls"] == 1.0
    assert {key: value for key, value in m.items() if key.startswith("tool_ended/")} == {
        "tool_ended/ok": 0.25, "tool_ended/error": 0.25, "tool_ended/limit": 0.0, "tool_ended/infra": 0.25,
        "tool_ended/refused": 0.25,
    }  # fmt: skip
    assert m["infra_frac"] == 0.25 and m["turns"] == 2.0
    assert m["completion_len"] == (6 + 8 + 6 + 6) / 4 and m["sampled_len"] == 3.0
    assert (m["ended/answered"], m["ended/malformed"], m["ended/infra"], m["ended/turn_limit"]) == (
        0.5,
        0.25,
        0.25,
        0.0,
    )
    assert sum(value for key, value in m.items() if key.startswith("ended/")) == 1.0
    assert m["unfinished_frac"] == 0.0
    assert rollout_metrics([*rows, trajectory(Status.TOKENS, [], {})])["unfinished_frac"] == 0.2


def test_the_age_of_what_was_sampled():
    rows = [trajectory(Status.ANSWERED, [], {}) for _ in range(2)]  # three sampled tokens each
    rows[1].versions[4:7] = [3, 4, 5]
    rows[0].versions[4:7] = 5
    m = rollout_metrics(rows, version=5)
    assert (m["staleness_mean"], m["staleness_max"], m["carried_frac"]) == ((2 + 1) / 6, 2.0, 0.5)
    assert "staleness_max" not in rollout_metrics(rows)


def test_a_step_of_faults_alone_has_no_reward():
    m = rollout_metrics([trajectory(Status.INFRA, [ToolStatus.INFRA], {})])
    assert m["infra_frac"] == 1.0 and not any(key.startswith("reward/") or key == "reward" for key in m)


def test_every_figure_is_a_finite_float():
    m = rollout_metrics([trajectory(Status.ANSWERED, [], {"format": 1.0, "total": 1.0})])
    assert all(np.isfinite(value) for value in m.values()) and m["tool_ended/error"] == 0.0


def test_a_steps_tool_figures_are_its_own_counts_and_the_state_at_its_end():
    before = {"tool/a/calls": 7.0, "tool/a/refused": 1.0, "tool/a/breaker": 1.0, "tool/a/p50_s": 0.2, "tool/a/p99_s": 9}
    now = {"tool/a/calls": 9.0, "tool/a/refused": 1.0, "tool/a/breaker": 0.5, "tool/a/p50_s": 0.3, "tool/a/p99_s": 8}
    assert tool_metrics(before, now) == {
        "tool/a/calls": 2.0, "tool/a/refused": 0.0, "tool/a/breaker": 0.5, "tool/a/p50_s": 0.3, "tool/a/p99_s": 8
    }  # fmt: skip


def test_rows_that_an_own_reward_could_not_score_are_counted_and_parts_need_not_be_in_every_row():
    rows = [
        trajectory(Status.ANSWERED, [], {"total": 1.0, "mine/a": 0.5}),
        trajectory(Status.ANSWERED, [], {"total": 2.0, "mine/b": 0.25}),
        dataclasses.replace(trajectory(Status.INFRA, [], {}), info={REWARD_FAILED: "x"}),
        trajectory(Status.INFRA, [], {}),
    ]
    m = rollout_metrics(rows)
    assert (m["reward_failed"], m["infra_frac"], m["reward"]) == (1.0, 0.5, 1.5)
    assert (m["reward/mine/a"], m["reward/mine/b"]) == (0.5, 0.25) and "format_frac" not in m  # of those that have them
    assert "reward" not in rollout_metrics(rows[2:])  # nothing was scored
