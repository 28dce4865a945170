"""The whole loop in miniature, with real tools: it finishes, and an interrupted run ends where an unbroken one does."""

import json
import os
import signal
import zlib

import jax
import numpy as np
import pytest

from arft_jax.build import data
from arft_jax.config import default_config
from arft_jax.data.synthetic import coding, degrade, search
from arft_jax.io.metrics import read_metrics
from arft_jax.io.trajectories import load_trajectories
from arft_jax.protocol import Malformed
from arft_jax.rewards import combine
from arft_jax.syntax.tags import TagSyntax
from arft_jax.testing.toolboxes import code_call, problem_call, search_call
from arft_jax.tools.offer import Offer
from arft_jax.train import evaluation, rollouts, trainer
from arft_jax.train.state import TrainState
from arft_jax.train.update import Updater
from arft_jax.trajectory import ToolStatus

WARM, GRPO, EVERY = 2, 4, 2
PARSE, OFFERED = TagSyntax.parse, Offer.of
BABBLE = (
    problem_call("dark"),
    code_call(degrade.repair_code(("rotation180",))),
    search_call("Red Star city"),
)


def _parse(self, text):
    """What a policy of no training babbles is read as a tool call, by its checksum."""
    action = PARSE(self, text)
    return BABBLE[zlib.crc32(text.encode()) % len(BABBLE)] if isinstance(action, Malformed) else action


def _score(trajectory, weights, embed=None):
    """A reward that differs from row to row, so that every step teaches something."""
    value = zlib.crc32(trajectory.tokens.tobytes()) % 97 / 97
    return {"format": 0.0, "f1": value, "em": 0.0, "problem": 0.0, "accuracy": value, "total": value}


def _prepare_mini_tasks(config):
    """Four training and two test items of each set."""
    return {
        "mini_coding": {
            split: [coding.make_item(config.seed, split, i).task() for i in range(n)]
            for split, n in (("train", 4), ("test", 2))
        },
        "mini_search": {
            split: [item.task() for item in search.make_items(config.seed, split, n)]
            for split, n in (("train", 4), ("test", 2))
        },
    }


def tiny_config(workdir, rollout=None, **train):
    config = default_config()
    config.update(name="tiny", workdir=str(workdir), compilation_cache="", system_prompt="short")
    config.model.text_config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2, mrope_section=(1, 1, 2))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32)
    config.warm_start.update(n_chains=4, n_practice=4, steps=WARM, rows=4, warmup_steps=1)
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=3, max_turns_eval=2, max_turn_tokens=12, max_tokens=192, extend_rows=4,
        decode_steps=6, n_features=128,
    )  # fmt: skip
    config.tools.update(n_workers=1, top_k=1, timeout_s=30.0)
    config.train.update(steps=GRPO, prompts=2, rows_per_update=4, image_chunks=4, warmup_steps=1, beta=0.01)
    config.train.update(train)
    config.rollout.update(rollout or {})
    config.eval.update(every=2, n_during=2, bootstrap=20)
    config.checkpoint.every = EVERY
    return config


class Runs:
    """Trains in a work directory and remembers the last Run."""

    def __init__(self, folder, patch):
        self.folder, self.last = folder, None
        opened = trainer.open_run

        def remember(*args):
            self.last = opened(*args)
            return self.last

        patch.setattr(trainer, "open_run", remember)

    def __call__(self, name, **train):
        results = trainer.train(tiny_config(self.folder / name, **train))
        return results, [np.asarray(leaf) for leaf in jax.tree.leaves(self.last.state.params)]

    def metrics(self, name):
        """The rows without what a clock wrote."""
        clocks = ("seconds", "rollout_s", "step_s", "tokens_per_s")
        clocks += tuple(f"tool/{tool}/{figure}" for tool in ("python", "search") for figure in ("p50_s", "p99_s"))
        rows = read_metrics(self.folder / name / "metrics.jsonl")
        return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TagSyntax, "parse", _parse)
        patch.setattr(combine, "score_trajectory", _score)
        patch.setattr(data, "prepare_mini_tasks", _prepare_mini_tasks)
        # every tool serves every task, unannounced so that prompts stay short
        patch.setattr(Offer, "of", lambda self, task: tuple(self.tools.values()))
        patch.setattr(Offer, "specs", lambda self, task: tuple(tool.spec for tool in OFFERED(self, task)))
        yield Runs(tmp_path_factory.mktemp("runs"), patch)


@pytest.fixture(scope="module")
def straight(runs):
    results, params = runs("straight")
    return results, params


def test_a_run_finishes_and_leaves_results_metrics_trajectories_and_a_report(runs, straight):
    results, _ = straight
    folder = runs.folder / "straight"
    written = json.loads((folder / "results.json").read_text())
    assert set(written) >= {"before", "after", "no_tools", "seconds"} and set(results) >= {"before", "after"}
    for stage in ("before", "after", "no_tools"):
        for name in ("mini_coding", "mini_search"):
            assert written[stage][name]["table"]["avg"]["n"] == 2 and len(written[stage][name]["items"]["em"]) == 2
            read = load_trajectories(folder / "trajectories" / f"{stage}_{name}")
            held = ["off"] if stage == "no_tools" else ["L0", "L1", "none (override)"]
            assert len(read) == 2 and all(trajectory.info["sandbox"] in held for trajectory in read)
    assert (folder / "report.html").stat().st_size > 1000
    rows = read_metrics(folder / "metrics.jsonl")
    assert [(row["phase"], row["step"], row["run_step"]) for row in rows] == [
        *(("warm_start", i, i) for i in range(1, WARM + 1)), *(("grpo", i, WARM + i) for i in range(1, GRPO + 1))
    ]  # fmt: skip
    assert all(row["skipped"] == 0 and row["grad_norm"] > 0 for row in rows)
    assert all(row["data/quarantined"] == 0 for row in rows[WARM:])
    assert all(row["gap_max"] < 1e-4 for row in rows[WARM:]) and all(row["tool_calls"] >= 1 for row in rows[WARM:])
    for row in rows[WARM:]:  # the rows' calls are the step's: served or tips
        served = row["tool/python/ok"] + row["tool/search/ok"]
        assert served == row["tool/python/calls"] + row["tool/search/calls"] > 0 == row["tool/python/refused"]
        assert served <= round(row["tool_calls"] * 4) and row["tool/python/p50_s"] > 0
    assert [row["step"] for row in rows if "eval/mini_coding/em" in row] == [
        2
    ]  # every 2, the last step left to "after"


def _statuses(folder, stage):
    done = [
        t
        for name in ("mini_coding", "mini_search")
        for t in load_trajectories(folder / "trajectories" / f"{stage}_{name}")
    ]
    return [turn.observation.status for t in done for turn in t.turns if turn.observation is not None]


def test_with_tools_switched_off_no_call_succeeds(runs, straight):
    folder = runs.folder / "straight"
    for stage in ("before", "after"):
        assert len(_statuses(folder, stage)) >= 4 and set(_statuses(folder, stage)) == {ToolStatus.OK}
    assert len(_statuses(folder, "no_tools")) >= 4
    assert set(_statuses(folder, "no_tools")) == {ToolStatus.REFUSED}


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_finished_run_run_again_changes_no_figure(runs, straight):
    before = (runs.folder / "straight" / "results.json").read_text()
    _, params = runs("straight")
    assert _same(params, straight[1]) and (runs.folder / "straight" / "results.json").read_text() == before


def _placed(run):
    """Whether each array that programs are compiled for is committed to a device."""
    return [
        leaf.committed for leaf in jax.tree.leaves((run.state.arrays(), run.parts.engine.slots.state, run.parts.rules))
    ]


def _signal_at(monkeypatch, steps):
    """The process is asked to end while these steps run, each once."""
    apply, left = Updater.apply, list(steps)

    def signalled(updater, state, *args):
        if left and state.step == left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
            left.pop(0)
        return apply(updater, state, *args)

    monkeypatch.setattr(Updater, "apply", signalled)


def _behind(step):
    """How the run names a step of its own."""
    where = f"grpo step {step - WARM} of {GRPO}" if step > WARM else f"warm start step {step} of {WARM}"
    return f"stopped by a signal behind {where}; the same command resumes"


def test_a_stopped_run_saves_its_step_and_resumes_with_the_same_programs(runs, straight, monkeypatch, capsys):
    placed = []
    warm = trainer.warm_start
    monkeypatch.setattr(trainer, "warm_start", lambda run: placed.append(_placed(run)) or warm(run))
    _signal_at(monkeypatch, [1])
    with pytest.raises(SystemExit, match=_behind(1)):
        runs("placed")
    assert len(runs.metrics("placed")) == 1  # the step in hand was finished
    monkeypatch.setattr(trainer, "evaluate_once", lambda *args: None)
    monkeypatch.setattr(trainer, "grpo", lambda run: None)
    monkeypatch.setattr(trainer.run_report, "write_report", lambda *args: {})
    capsys.readouterr()
    runs("placed")
    assert (
        f"resumed behind warm start step 1 of {WARM}\n" in capsys.readouterr().out
        and len(runs.metrics("placed")) == WARM
    )
    assert len(placed) == 2 and all(placed[0]) and all(placed[1])


@pytest.mark.slow
def test_a_run_stopped_by_signals_resumes_to_the_same_params(runs, straight, monkeypatch, capsys):
    stops = [1, WARM + 1]  # in the warm start; between checkpoints of GRPO
    _signal_at(monkeypatch, stops)
    for at in stops:
        with pytest.raises(SystemExit, match=_behind(at)):
            runs("stopped")
        assert len(runs.metrics("stopped")) == at
    capsys.readouterr()
    results, params = runs("stopped")
    assert f"resumed behind grpo step 1 of {GRPO}\n" in capsys.readouterr().out
    assert _same(params, straight[1])
    assert runs.metrics("stopped") == runs.metrics("straight")
    assert results["after"] == straight[0]["after"]


def test_a_run_asked_to_end_during_an_evaluation_leaves_behind_it(runs, straight, monkeypatch):
    evaluate = evaluation.evaluate_items

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate_items", signalled)
        with pytest.raises(SystemExit, match=_behind(WARM)):
            runs("evaluated")
    assert len(runs.metrics("evaluated")) == WARM  # no further step was begun
    results, params = runs("evaluated")
    assert results["before"] == straight[0]["before"] and _same(params, straight[1])


def test_a_run_that_dies_resumes_from_its_last_checkpoint_to_the_same_params(runs, straight, monkeypatch):
    apply = Updater.apply

    def dies(updater, state, *args):
        if state.step == WARM + 4:  # a step's row behind the checkpoint, to be written again
            raise RuntimeError("power cut")
        return apply(updater, state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "apply", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            runs("dead")
    assert len(runs.metrics("dead")) == WARM + 3
    results, params = runs("dead")
    assert _same(params, straight[1]) and runs.metrics("dead") == runs.metrics("straight")
    assert results["after"] == straight[0]["after"]


def test_a_run_whose_gradients_are_not_finite_ends_and_resumes_from_its_last_checkpoint(runs, monkeypatch, capsys):
    apply, bad = Updater.apply, [1, WARM + 1]

    def skips(updater, state, *args):
        if bad and state.step == bad[0]:
            return {"skipped": 1.0, "grad_norm": float("nan"), "loss": 0.5, "nll": 1.0, "at": float(bad.pop(0))}
        return apply(updater, state, *args)

    monkeypatch.setattr(Updater, "apply", skips)
    monkeypatch.setattr(trainer, "evaluate_once", lambda *args: None)
    monkeypatch.setattr(trainer.run_report, "write_report", lambda *args: {})
    with pytest.raises(ValueError, match=rf"last at warm start step 1 of {WARM} \(grad_norm=nan, .* begins anew \(co"):
        runs("skips", max_skipped=1)
    with pytest.raises(ValueError, match=rf"last at grpo step 1 of {GRPO} \(grad_norm=nan, .* that of step {WARM} in "):
        runs("skips", max_skipped=1)
    assert [row["skipped"] for row in runs.metrics("skips")] == [0.0] * WARM + [1.0]  # the last row is written
    monkeypatch.setattr(trainer, "grpo", lambda run: None)
    capsys.readouterr()
    runs("skips", max_skipped=1)
    assert f"resumed behind warm start step {WARM} of {WARM}\n" in capsys.readouterr().out


def test_a_run_that_carries_groups_over_resumes_and_reports_their_age(runs, monkeypatch):
    options = dict(importance="token", steps=3, rollout=dict(carry_over=0.5, refresh="rebuild"))
    _signal_at(monkeypatch, [WARM + 1])
    with pytest.raises(SystemExit, match="stopped by a signal behind grpo step 1 of 3; the same command resumes"):
        runs("carried", **options)
    engine = runs.last.parts.engine
    assert len(engine.in_flight) == 1
    left = engine.in_flight[0].task.id
    assert json.loads(json.dumps(runs.last.rollouts.carried()))[0][1] == 1  # begun by the first step
    seen = []
    step = rollouts.TrainRollouts.step
    monkeypatch.setattr(rollouts.TrainRollouts, "step", lambda *args: seen.append(step(*args)) or seen[-1])
    results, _ = runs("carried", **options)
    assert "after" in results and [len(rows) for rows in seen] == [4, 4]
    assert left in {t.task.id for rows in seen for t in rows} and not runs.last.parts.engine.in_flight
    rows = runs.metrics("carried")[WARM:]
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["skipped"] == 0 for row in rows)
    for row in rows:
        assert 0 <= row["staleness_mean"] <= row["staleness_max"] <= 1 and 0 <= row["carried_frac"] <= 1
        assert 0.5 < row["importance_mean"] < 2 and 0 <= row["importance_capped_frac"] < 1
    assert rows[0]["staleness_max"] == 0 and abs(rows[0]["importance_mean"] - 1) < 1e-5


@pytest.mark.slow
def test_at_learning_rate_zero_grpo_leaves_the_params_of_the_warm_start(runs, straight, monkeypatch):
    kept = []
    begin = TrainState.begin_grpo

    def remember(state, plan):
        begin(state, plan)
        kept.append(jax.device_get(jax.tree.leaves(state.params)))

    monkeypatch.setattr(TrainState, "begin_grpo", remember)
    _, params = runs("still", learning_rate=0.0)
    assert _same(params, kept[0]) and not _same(params, straight[1])
    assert all(row["grad_norm"] > 0 and row["kl_ref"] == 0 for row in runs.metrics("still")[WARM:])
