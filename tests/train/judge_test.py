"""The judge in the rollouts of training: asked while rows are decoded, a part of the reward, its faults masked."""

import contextlib
import re

import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.build.rewards import make_scorer
from arft_jax.config import default_config
from arft_jax.data.images import Quarantine
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rewards.combine import REWARD_FAILED, Graded, Scorer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.chat_server import ChatServer, openai_error, question_of
from arft_jax.train import rollouts
from arft_jax.train.metrics import rollout_metrics
from arft_jax.trajectory import Observation, Status

SEARCH, ANSWER = "<think>x</think><search>where</search>", "<think>x</think><answer>six</answer>"


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(
        Tokenizer.tiny(), n_slots=4, group_size=2, max_turn_tokens=64, max_tokens=256, max_turns=2, extend_chunk=32
    )


@pytest.fixture
def server():
    with ChatServer(lambda body: "score: 0.25", models=("judge",), slow_s=5.0) as server:
        yield server


@pytest.fixture
def step(stage, server, tmp_path):
    """Plays a step of two tasks, one of which the policy answers at once, the other behind a search."""

    def play(scorer=None):
        config = default_config()
        config.workdir = str(tmp_path / "run")
        config.rollout.update(group_size=2, n_slots=4, max_turns=2)
        config.train.prompts = 2
        config.rewards.judge.update(weight=2.0, model="judge", base_url=server.url, n_tries=1)
        first, second = tiny.tiny_task(1, "search"), tiny.tiny_task(2, "search")
        tasks = {config.data.tasks[0]: {"train": [first, second], "test": [first]}}
        config.data.tasks = config.data.tasks[:1]
        toolbox = tiny.InstantTools(lambda task, action, image: Observation("go on"))
        policy = stage.params([(first, [ANSWER]), (second, [SEARCH, ANSWER])])
        with contextlib.closing(scorer or make_scorer(config)) as used:
            found = rollouts.TrainRollouts(
                config, stage.engine, tasks, toolbox, quarantine=Quarantine(), scorer=used
            ).step(policy, 1)
        return sorted(found, key=lambda row: row.task.id)

    return play


def test_every_answer_is_graded_once_and_weighed(server, step):
    rows = step()
    answers = [row for row in rows if row.answer is not None]
    assert answers and len(rows) == 4
    for row in rows:
        want = 0.25 if row.answer is not None else 0.0
        plain = row.rewards["format"] + row.rewards["accuracy"]
        assert row.rewards["judge"] == want and row.rewards["total"] == pytest.approx(plain + 2.0 * want)
    assert len(server.asked) == len({(row.task.question, row.answer) for row in answers})
    assert rollout_metrics(rows)["reward/judge"] == pytest.approx(0.25 * len(answers) / 4)


def test_what_the_judge_does_not_grade_is_masked_and_its_group_goes_on(server, step, tmp_path):
    hard = tiny.tiny_task(2, "search").question

    def answer(body):
        if hard in question_of(body):
            raise openai_error(400, "declined", "content_filter")
        return "score: 1"

    server.answer = answer
    rows = step()
    failed = [row for row in rows if row.status is Status.INFRA]
    assert failed and all(row.task.question == hard and not row.rewards for row in failed)
    assert all(re.search("the judge gave no score: .*declined", row.info[REWARD_FAILED]) for row in failed)
    assert not rollouts.valid_rows(default_config(), failed).any()
    assert rollout_metrics(rows)["reward_failed"] == len(failed)
    n = len(server.asked)
    server.answer = lambda body: "score: 1"
    assert all(row.status is not Status.INFRA for row in step())
    assert len(server.asked) > n  # a failure is asked about again, what was graded is in the run's folder
    assert (tmp_path / "run" / "judge" / "scores.jsonl").is_file()


class Listed:
    """A judge in this process that notes when it is asked, and when it is waited for."""

    def __init__(self):
        self.told = []

    def begin(self, prompt):
        self.told.append("begin")

    def close(self):
        """Nothing is held."""

    def score(self, prompt):
        self.told.append("score")
        return 1.0


def test_answers_are_asked_about_before_the_rollout_has_ended(step):
    judge = Listed()
    n = sum(row.answer is not None for row in step(Scorer(graded=Graded(judge, "{answer}", 1.0))))
    assert n and judge.told == ["begin"] * n + ["score"] * n
