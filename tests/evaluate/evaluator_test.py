"""The evaluator: greedy, scored by the reward's functions, never a table with holes."""

import jax
import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.evaluate.evaluator import evaluate
from arft_jax.rollout.engine import Engine
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import make_toolbox
from arft_jax.trajectory import Observation, Status, ToolStatus

SEARCH = "<think>look</think><search>fox</search>"


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), n_slots=2, group_size=2, max_tokens=160, max_turn_tokens=32)


def answer(text):
    return f"<think>x</think><answer>{text}</answer>"


def play(stage, turns, tools=None, tasks=None, **kwargs):
    tasks = tasks or [tiny.tiny_task(i, split="hard" if i % 2 else "simple") for i in range(len(turns))]
    tools = tools or tiny.InstantTools(lambda *_: Observation("seen"))
    options = dict(max_turns=3, rng=jax.random.key(0)) | kwargs
    params = stage.params(list(zip(tasks, turns, strict=True)))
    return evaluate(stage.engine, params, tasks, tools, **options)


def test_items_are_scored_in_order_and_split(stage):
    # gold "7": right; half of the words right: F1 = 2/3; wrong; no answer at all
    done = play(stage, [[answer("7")], [SEARCH, answer("7 cards")], [answer("8")], [[stage.tokenizer.eos_id]]])
    assert [t.task.id for t in done.trajectories] == ["t0", "t1", "t2", "t3"]
    np.testing.assert_allclose(done.f1, [1, 2 / 3, 0, 0])
    np.testing.assert_allclose(done.em, [1, 0, 0, 0])
    assert done.splits == ("simple", "hard", "simple", "hard")
    table = done.table(100)
    assert [table[split]["n"] for split in ("simple", "hard", "avg")] == [2, 2, 4]
    assert table["simple"]["em"] == 50.0 and abs(table["hard"]["f1"] - 100 / 3) < 1e-9 and table["avg"]["em"] == 25.0
    assert done.items() == {"f1": done.f1.tolist(), "em": done.em.tolist(), "splits": list(done.splits)}
    assert done.trajectories[3].status is Status.NO_ACTION
    rewards = [t.rewards for t in done.trajectories]  # what pages read
    assert rewards == [{"f1": f1, "em": em} for f1, em in zip(done.f1, done.em, strict=True)]


def test_rollouts_are_greedy_and_one_a_task(stage, monkeypatch):
    seen = {}
    run = Engine.run

    def spy(self, params, requests, toolbox, **kwargs):
        seen.update(kwargs, rows=[request.n_rows for request in requests], numbers=[r.number for r in requests])
        return run(self, params, requests, toolbox, **kwargs)

    monkeypatch.setattr(Engine, "run", spy)
    finished = []
    play(stage, [[answer("7")], [answer("7")]], max_turns=2, on_finish=finished.append)
    assert (
        seen["temperature"] == 0.0 and seen["max_turns"] == 2 and seen["rows"] == [1, 1] and seen["numbers"] == [0, 1]
    )
    assert len(finished) == 2


def test_long_answers_score_nothing_under_a_cap(stage):
    turns = [[answer("7 and four more words")], [answer("7")]]
    assert play(stage, turns).f1[0] > 0
    assert play(stage, turns, max_answer_words=3).f1.tolist() == [0.0, 1.0]


def test_max_turns_bounds_the_turns(stage):
    done = play(stage, [[SEARCH, SEARCH, answer("7")]], max_turns=2)
    assert done.trajectories[0].status is Status.TURN_LIMIT and done.em.tolist() == [0.0]


def test_with_tools_switched_off_every_call_is_refused(stage):
    with make_toolbox(None, None, enabled=False) as off:
        done = play(stage, [[SEARCH, answer("7")], [answer("7")]], off)
    statuses = [turn.observation.status for t in done.trajectories for turn in t.turns if turn.call]
    assert statuses == [ToolStatus.REFUSED] and done.em.tolist() == [1.0, 1.0]


def test_what_a_fault_of_the_tools_ended_is_left_out_of_the_figures_and_of_no_table(stage):
    turns = [[answer("7")], [SEARCH, answer("7")], [answer("8")]]
    done = play(stage, turns, tiny.InstantTools(tiny.failing))
    np.testing.assert_array_equal(done.em, [1, np.nan, 0])
    assert [sorted(t.rewards) for t in done.trajectories] == [["em", "f1"], [], ["em", "f1"]]
    assert done.figures() == {"infra": 1.0, "f1": 50.0, "em": 50.0}
    with pytest.raises(ValueError, match=r"without a fault of the tools: failed 1 of 3 items, among them t1; .* same"):
        done.table(100)
    assert play(stage, turns[1:2], tiny.InstantTools(tiny.failing)).figures() == {"infra": 1.0}


def test_no_items_give_empty_scores(stage):
    done = evaluate(stage.engine, None, [], None, max_turns=1, rng=jax.random.key(0))
    assert done.trajectories == () and done.f1.shape == done.em.shape == (0,)
