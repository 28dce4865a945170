"""The released training as a config: its loss against numpy, no tool in training, live tools in evaluation."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.build import settings
from arft_jax.build.rewards import make_scorer
from arft_jax.commands import tiny_data, tiny_steps
from arft_jax.config import STEP_TASKS
from arft_jax.config_checks import validate
from arft_jax.data.images import Quarantine
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.metrics import read_metrics
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.trajectories import load_trajectories
from arft_jax.rl import objectives
from arft_jax.steps import learner
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import problem_call
from arft_jax.train import evaluation, rollouts, trainer
from arft_jax.train.run_dir import flatten
from arft_jax.train.schedule import learning_rate
from arft_jax.trajectory import Observation, Status

THINK = "<think>x</think>"
PROBLEM, ANSWER = f"{THINK}<problem>{{'dark'}}</problem>", f"{THINK}<answer>7</answer>"


def load(repo_root, variant=""):
    spec = importlib.util.spec_from_file_location("paper_parity", repo_root / "configs" / "paper_parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.mark.parametrize("variant", ["", "search", "smoke", "search_smoke"])
def test_every_variant_is_valid_and_trains_on_one_turn(repo_root, variant):
    config = load(repo_root, variant)
    validate(config)
    assert (config.rollout.max_turns, config.rollout.max_turns_eval, config.warm_start.steps) == (1, 5, 0)
    assert config.data.tasks == (STEP_TASKS[variant.startswith("search")],)
    assert (config.data.max_pixels == 401408) == (not variant.endswith("smoke"))
    t = config.train  # one update a step: the ratio is exp(logp - stop_gradient(logp))
    assert t.rows_per_update == t.prompts * config.rollout.group_size and t.epochs == 1
    assert settings.keeps_reference(config)


def test_the_settings_are_the_released_ones(repo_root):
    config, search = load(repo_root), load(repo_root, "search")
    r, t, w = config.rollout, config.train, config.rewards
    assert (r.group_size, r.temperature, r.top_k, r.top_p, r.max_turn_tokens) == (8, 1.0, 0, 1.0, 1024)
    assert (t.beta, t.learning_rate, t.aggregation, t.scale_advantages, t.prompts) == (
        0.04,
        1e-6,
        "sequence",
        "std",
        16,
    )
    assert (w.format, w.accuracy, w.step, w.max_answer_words) == (1.0, 1.0, 0.0, 0)
    a, b = flatten(config.to_dict()), flatten(search.to_dict())
    assert {key for key in a if a[key] != b[key]} == {
        "name", "workdir", "data.tasks", "train.steps", "train.decay_to", "rollout.max_turn_tokens",
        "rollout.max_tokens", "tools.search.backend", "rewards.query",
    }  # fmt: skip
    for used, whole_plan in ((config, 2120), (search, 1600)):  # the linear schedule, at its first and last used step
        t = used.train
        rates = [
            learning_rate(i, t.steps, peak=t.learning_rate, warmup_steps=t.warmup_steps, decay_to=t.decay_to)
            for i in range(1, t.steps + 1)
        ]
        linear = [1e-6 * (1 - i / whole_plan) for i in range(t.steps)]
        for ours, theirs in zip(
            (rates[0], rates[-1], np.mean(rates)), (linear[0], linear[-1], np.mean(linear)), strict=True
        ):
            assert ours == pytest.approx(theirs, rel=2e-3)


def test_an_unknown_variant_and_more_turns_are_refused(repo_root):
    with pytest.raises(ValueError, match="search, smoke, search_smoke: got 'huge' .configs/paper_parity.py:huge"):
        load(repo_root, "huge")
    config = load(repo_root)
    config.rollout.max_turns = 2
    with pytest.raises(
        ValueError, match="max_turns must be 1 where mat_training_coding .*: got 2 .config.rollout.max_t"
    ):
        validate(config)
    config.rollout.max_turns, config.data.tasks = 1, ("mat_training_search", "mat_search")
    validate(config)  # both over one corpus


def released_loss(rewards, logps, ref_logps, mask, group_size, beta, n_per_device):
    """(loss, d loss / d logps) as the released trainer has them, a row and a token at a time, in float64."""
    advantages = np.zeros(len(rewards))
    for start in range(0, len(rewards), group_size):
        group = np.asarray(rewards[start : start + group_size], np.float64)
        advantages[start : start + group_size] = (group - group.mean()) / (group.std(ddof=1) + 1e-4)
    device_losses, grad = [], np.zeros(logps.shape)
    for start in range(0, len(rewards), n_per_device):  # the mean over devices and accumulation steps of row means
        row_losses = []
        for b in range(start, start + n_per_device):
            token_losses = []
            for t in np.flatnonzero(mask[b]):
                d = float(ref_logps[b, t]) - float(logps[b, t])
                token_losses.append(-(1.0 * advantages[b] - beta * (np.exp(d) - d - 1)))
                grad[b, t] = -(advantages[b] - beta * (1 - np.exp(d))) / mask[b].sum() / len(rewards)
            row_losses.append(np.mean(token_losses))
        device_losses.append(np.mean(row_losses))
    return np.mean(device_losses), grad


def test_the_loss_and_its_gradient_are_the_released_ones(repo_root):
    config = load(repo_root)
    policy, g = settings.objective(config, "policy").policy, config.rollout.group_size
    rng = np.random.default_rng(0)
    rewards = rng.choice([0.0, 0.5, 0.9, 1.5, 2.0], 4 * g).astype(np.float32)
    rewards[:g] = 1.9  # a group of one mind: no advantage, and yet its distance to the reference counts
    logps = -3 * rng.random((4 * g, 12)).astype(np.float32)
    ref_logps = logps + rng.normal(0, 0.5, logps.shape).astype(np.float32)
    mask = np.arange(12) < rng.integers(1, 13, (4 * g, 1))
    want, want_grad = released_loss(rewards, logps, ref_logps, mask, g, 0.04, n_per_device=g)

    compute = learner.make_advantages(g, settings.advantage_settings(config), policy)
    advantages = compute(rewards, np.ones(4 * g, bool), mask)[0]

    def loss(x):
        return objectives.policy_loss(
            x, advantages, jnp.asarray(mask), settings=policy, ref_logps=jnp.asarray(ref_logps)
        )

    (got, stats), grad = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logps))
    np.testing.assert_allclose(got, want, rtol=1e-5)  # float32 sums
    np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-8)
    assert stats["clip_frac"] == 0 and stats["ratio_max"] == 1 and np.abs(want_grad[:g]).max() > 0


# ------------------------------------------------------------------ tools


class Script:
    """A run whose policy says what a test wants, with tools that count their calls."""

    def __init__(self, config):
        self.config = config
        self.task = tiny.tiny_task(1, "coding", target="<problem>{'dark'}</problem>")
        stage = tiny.Stage(
            Tokenizer.tiny(), n_slots=4, group_size=2, max_turn_tokens=64, max_tokens=256,
            max_turns=config.rollout.max_turns, extend_chunk=32,
        )  # fmt: skip
        config.rollout.group_size, config.train.prompts = 2, 1
        tasks = {config.data.tasks[0]: {"train": [self.task], "test": [self.task]}}
        self.engine = stage.engine
        self.toolbox = tiny.InstantTools(lambda task, action, image: Observation("go on"))
        told = dataclasses.replace(self.task, question=f"{self.task.question}\n{PROBLEM}\ngo on")  # a prompt of its own
        self.policy = stage.params([(self.task, [PROBLEM]), (told, [ANSWER])])
        self.rollouts = rollouts.TrainRollouts(
            config, self.engine, tasks, self.toolbox, quarantine=Quarantine(),
            scorer=make_scorer(config),
        )  # fmt: skip


@pytest.fixture(scope="module")
def script(repo_root):
    return Script(load(repo_root, "smoke"))


def test_training_ends_a_row_at_its_first_turn_and_calls_no_tool(script):
    rows = script.rollouts.step(script.policy, 1)
    assert script.toolbox.calls == [] and len(rows) == 2
    for row in rows:
        assert (row.status, [turn.text for turn in row.turns]) == (Status.TURN_LIMIT, [PROBLEM])
        assert row.turns[0].observation is None and not row.observation_mask.any()
        assert row.rewards["total"] == 2.0  # scored though the row ended with a call that nobody served
    assert rollouts.valid_rows(script.config, rows).all()


def test_evaluation_of_the_same_policy_has_its_own_turn_limit_and_live_tools(script):
    done = evaluation.evaluate_items(script.config, script.engine, script.policy, [script.task], script.toolbox)
    [row] = done.trajectories
    assert (row.status, [turn.text for turn in row.turns]) == (Status.ANSWERED, [PROBLEM, ANSWER])
    assert [call for _, call, _ in script.toolbox.calls] == [problem_call("dark")]
    assert row.turns[0].observation.text == "go on" and (done.f1[0], done.em[0]) == (1.0, 1.0)


# ------------------------------------------------------------------ a whole run


@pytest.mark.slow  # a minute or two: a whole run
def test_the_smoke_variant_runs_to_its_report(repo_root, tmp_path):
    make_tiny_checkpoint(tmp_path / "weights")
    tiny_data.make_tiny_data(tmp_path / "data", n_train=1, n_test=2)
    tiny_steps.write_tiny_steps(tmp_path / "data", n_items=4)
    config = load(repo_root, "smoke")
    config.update(weights=str(tmp_path / "weights"), workdir=str(tmp_path / "run"), compilation_cache="")
    config.data.dir = str(tmp_path / "data")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = trainer.train(config)
    assert {"before", "after", "no_tools"} <= set(results)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert (row["tool_calls"], row["turns"], row["ratio_max"], row["clip_frac"]) == (0, 1, 1, 0)
    assert rows[0]["kl_ref"] < 1e-6  # the reference is what training starts from
    name = config.data.tasks[0]
    assert len(load_trajectories(tmp_path / "run" / "trajectories" / f"after_{name}")) == 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
