"""The trainer's evaluations when the tools are down: during training they go on, before and after they are refused."""

import types

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.evaluate.evaluator import Evaluation
from arft_jax.io.trajectories import load_trajectories
from arft_jax.report.trajectories import trajectories_page
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import make_toolbox
from arft_jax.tools.call import Fault
from arft_jax.tools.runner import CallPolicy
from arft_jax.tools.search_backend import Hit
from arft_jax.train import evaluation
from arft_jax.train.run_dir import RunDir
from arft_jax.trajectory import Status

SEARCH, RIGHT = "<think>look</think><search>fox</search>", "<think>x</think><answer>7</answer>"


class Service:
    """A search that is down until it is mended."""

    def __init__(self):
        self.down = True

    def search(self, query, top_k, corpus):
        if self.down:
            raise Fault("no route to host")
        return [Hit("fox", "red", 1.0)]


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), n_slots=2, group_size=2, max_tokens=160, max_turn_tokens=32)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def run(stage, service, tmp_path):
    """Three test items of one set, the second of which needs the search."""
    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.train.steps, config.rollout.max_turns_eval = 4, 3
    config.eval.update(every=1, n_during=3, bootstrap=20)
    tasks = [tiny.tiny_task(i) for i in range(3)]
    params = stage.params(list(zip(tasks, [[RIGHT], [SEARCH, RIGHT], [RIGHT]], strict=True)))
    with make_toolbox(None, service, policies={"search": CallPolicy(n_tries=1)}) as toolbox:
        yield types.SimpleNamespace(
            config=config, directory=RunDir(config), given=(config, stage.engine, params), toolbox=toolbox,
            tasks={"mat_search": {"test": tasks}},
        )  # fmt: skip


def during(run):
    return evaluation.evaluate_during(*run.given, run.tasks, run.toolbox)


def whole_stage(run):
    evaluation.evaluate_stage(*run.given, run.tasks, run.toolbox, run.directory, "after")


def test_an_outage_during_training_leaves_its_items_out_and_counts_them(run, service, capsys):
    figures = during(run)
    assert figures == {"eval/mat_search/infra": 1.0, "eval/mat_search/f1": 100.0, "eval/mat_search/em": 100.0}
    assert "eval/mat_search/infra 1.0" in capsys.readouterr().out
    service.down = False
    assert during(run)["eval/mat_search/infra"] == 0.0
    service.down, run.config.eval.n_during = True, 1
    run.tasks["mat_search"]["test"] = run.tasks["mat_search"]["test"][1:2]
    assert during(run) == {"eval/mat_search/infra": 1.0}


def test_a_stage_that_an_outage_ended_writes_no_table_and_is_made_anew(run, service):
    with pytest.raises(ValueError, match="failed 1 of 3 items, among them t1; .* the same command goes on from here"):
        whole_stage(run)
    kept = run.directory.path / "trajectories" / "after_mat_search"
    assert run.directory.results() == {}  # and what happened can be read
    assert [t.status for t in load_trajectories(kept)] == [Status.ANSWERED, Status.INFRA, Status.ANSWERED]
    service.down = False
    whole_stage(run)
    assert run.directory.results()["after"]["mat_search"]["table"]["avg"]["em"] == 100.0
    assert [t.status for t in load_trajectories(kept)] == [Status.ANSWERED] * 3
    page = trajectories_page("run", load_trajectories(kept))
    assert "3 of 3 scored ones correct" in page and page.count("(correct)") == 3 and "unscored" not in page


@pytest.mark.parametrize("context", ["append", "rerender"])
def test_an_evaluation_has_the_context_of_the_config(monkeypatch, stage, context):
    config, asked = default_config(), {}
    config.rollout.update(context=context, max_turns_eval=7)

    def evaluate(engine, policy, tasks, toolbox, **options):
        asked.update(options)
        return Evaluation((), np.zeros(1), np.zeros(1), tuple(tasks))

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    evaluation.evaluate_items(config, stage.engine, None, [tiny.tiny_task(1)], None)
    assert (asked["context"], asked["max_turns"]) == (context, 7)
    np.testing.assert_array_equal(asked["rng"], [2, 0])


def test_an_evaluation_is_due_every_so_many_steps_but_behind_the_last_and_never_at_0():
    config = default_config()
    config.train.steps, config.eval.every = 6, 2
    assert [step for step in range(1, 7) if evaluation.is_due(config, step)] == [2, 4]
    config.eval.every = 0
    assert not any(evaluation.is_due(config, step) for step in range(1, 7))
