"""Objectives against trl's own trainers: their advantages, sampling weights, losses and gradients, run as they stand.

A trainer is made without its constructor: what it would ask a model for, and what it would sample, stands ready. Its
``_generate_and_score_completions`` makes the advantages and the weights, its ``_compute_loss`` the loss.
"""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.objective_keys import NAMED
from arft_jax.rl import advantages, objectives

pytestmark = pytest.mark.torch

G, P, T = 4, 3, 7
B = G * P
FLOAT32 = 1e-6  # sums of some eighty terms near 1


def keys_of(name, **changes):
    return NAMED[name]._replace(**{"divisor_len": 11 * (NAMED[name].aggregation == "constant")} | changes)


GRPO = dict(loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2, beta=0.04)
GSPO = dict(loss_type="grpo", importance_sampling_level="sequence", epsilon_low=3e-4, epsilon_high=4e-4)
WIDE = dict(epsilon_low=0.05, epsilon_high=0.08)


def tis(mode, low, high):
    return dict(use_vllm=True, vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=low,
                vllm_importance_sampling_clip_max=high)  # fmt: skip


# Our keys, and trl's settings of the same objective.
CASES = {
    "grpo": (keys_of("grpo"), GRPO),
    "dr_grpo": (keys_of("dr_grpo"), dict(loss_type="dr_grpo", scale_rewards="none", max_completion_length=11)),
    "dapo": (keys_of("dapo"), dict(loss_type="dapo", epsilon_high=0.28)),
    "bnpo": (keys_of("dapo", epsilon_high=0.2), dict(loss_type="bnpo")),
    "dual_clip": (keys_of("dual_clip", dual_clip=1.3), GRPO | dict(delta=1.3)),
    "gspo": (keys_of("gspo"), GSPO),
    "gspo, wider, with a KL": (keys_of("gspo", beta=0.1, **WIDE), GSPO | dict(beta=0.1, **WIDE)),
    "cispo": (keys_of("cispo", epsilon_high=0.2), dict(loss_type="cispo", epsilon_high=1.2)),
    "entropy": (keys_of("grpo", entropy_bonus=0.3), GRPO | dict(entropy_coef=0.3, _entropy_bonus_enabled=True)),
    "token truncated": (
        keys_of("grpo", importance="token", importance_cap=1.1, importance_floor=0.9),
        GRPO | tis("token_truncate", 0.9, 1.1),
    ),
    "token masked": (
        keys_of("dapo", importance="token", importance_mode="mask", importance_cap=1.1, importance_floor=0.8),
        dict(loss_type="dapo", epsilon_high=0.28) | tis("token_mask", 0.8, 1.1),
    ),
    "sequence truncated": (
        keys_of("gspo", importance="sequence", importance_cap=1.05), GSPO | tis("sequence_truncate", None, 1.05)
    ),
    "sequence masked": (
        keys_of("grpo", importance="sequence", importance_mode="mask", importance_cap=1.2),
        GRPO | tis("sequence_mask", None, 1.2),
    ),
    "rloo": (keys_of("rloo"), dict(beta=0.05)),
    "rloo normalised": (keys_of("rloo", beta=0.0, scale_advantages="batch"), dict(normalize_advantages=True)),
}  # fmt: skip
# Where trl normalises it divides by n - 1 rows, we by n tokens: the advantages are then compared up to a line.
UP_TO_A_LINE = ("rloo normalised",)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, T + 1, B)
    lengths[0] = T
    old = -3 * rng.random((B, T))
    x = {
        "logps": old + rng.normal(0, 0.15, (B, T)),
        "old_logps": old,
        "ref_logps": old + rng.normal(0, 0.3, (B, T)),
        "sampler_logps": old + rng.normal(0, 0.12, (B, T)),
        "entropy": rng.random((B, T)),
    }
    x = {name: value.astype(np.float32) for name, value in x.items()}
    rewards = rng.choice([0.0, 0.5, 1.0, 1.7], B).astype(np.float32)
    rewards[:G] = 1.0  # a group of one mind
    mask = np.arange(T) < lengths[:, None]
    rewards[G : G + 2] = 0.0, 1.7
    x["logps"][G : G + 2, 0] = x["old_logps"][G : G + 2, 0] + 0.5  # a ratio of 1.65, on either side of the baseline
    return x | {"loss_mask": mask, "rewards": rewards, "lengths": lengths}


class FakeAccelerator:
    """One process, no model to unwrap."""

    num_processes, process_index, sync_gradients, device = 1, 0, True, "cpu"

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, reduction):
        return tensor


def trainer_of(name, x, options):
    """A trainer of trl that reads arrays in place of a model."""
    torch = pytest.importorskip("torch")
    trl = pytest.importorskip("trl")
    kind = trl.RLOOTrainer if name.startswith("rloo") else trl.GRPOTrainer
    arrays = {key: torch.tensor(value) for key, value in x.items() if value.dtype == np.float32}
    rows, model, reference = range(B), types.SimpleNamespace(training=True), types.SimpleNamespace()
    model.is_gradient_checkpointing = False

    class Ready(kind):
        def __init__(self):
            pass

        def _generate(self, prompts):
            completions = [[5] * int(x["lengths"][i]) for i in rows]
            found = [[1, 2]] * B, completions, completions
            if kind is trl.RLOOTrainer:
                return found
            sampler = [x["sampler_logps"][i, : x["lengths"][i]].tolist() for i in rows]
            return found[0], completions, None, completions, sampler, {}, None, None

        def _calculate_rewards(self, *args):
            return arrays["rewards"][:, None].clone()

        def _get_per_token_logps_and_entropies(self, model, *args, compute_entropy=False, **kwargs):
            if compute_entropy:  # of the loss: the policy in training
                return self.logps, arrays["entropy"], None
            return arrays["ref_logps" if model is reference else "old_logps"], None, None

    settings = dict(
        accelerator=FakeAccelerator(), model=model, ref_model=reference, environment_factories=None, tools=None,
        environments=None, pad_to_multiple_of=None, mask_truncated_completions=False, beta=0.0, num_generations=G,
        _tokenizer=types.SimpleNamespace(pad_token_id=0), use_vllm=False, vllm_importance_sampling_correction=True,
        reward_weights=torch.ones(1), reward_func_names=["r"], multi_objective_aggregation="sum_then_normalize",
        scale_rewards="group", num_iterations=1, reward_clip_range=None, normalize_advantages=False,
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, epsilon_low=0.2,
        epsilon_high=0.2, importance_sampling_level="token", loss_type="grpo", _entropy_bonus_enabled=False,
        entropy_coef=0.0, use_adaptive_entropy=False, current_gradient_accumulation_steps=1, log_multimodal=False,
        max_completion_length=T, _pending_extra_logs=collections.defaultdict(list), _pending_metrics={},
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _logs=collections.defaultdict(list, rewards=collections.defaultdict(list)),
        logps=arrays["logps"].requires_grad_(True),
        args=types.SimpleNamespace(
            per_device_train_batch_size=B, gradient_checkpointing_kwargs=None, delta=options.get("delta"),
            use_bias_correction_kl=False,
            # three updates a step of two: the old log-probs are those of the batch
            gradient_accumulation_steps=3, steps_per_generation=2,
        ),
    )  # fmt: skip
    trainer = Ready()
    trainer.__dict__.update(settings | {key: value for key, value in options.items() if key != "delta"})
    return trainer


def theirs(name, x, options):
    """(advantages, loss, gradient by logps) of trl."""
    trainer = trainer_of(name, x, options)
    inputs = trainer._generate_and_score_completions([{"prompt": "p"}] * B)
    trainer.args.steps_per_generation = 1  # the loss is that of the whole batch
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return inputs["advantages"].numpy(), loss.item(), trainer.logps.grad.numpy()


def ours(keys, x, gains=None):
    """The same of this package, from the keys of a configuration."""
    policy = objectives.PolicySettings(**{name: getattr(keys, name) for name in objectives.PolicySettings._fields})
    mask, changes, change = jnp.asarray(x["loss_mask"]), jnp.zeros((B, T)), None
    arrays = {name: jnp.asarray(x[f"{name}_logps"]) for name in ("old", "ref", "sampler")}
    if keys.kl_in == "reward":
        kl = objectives.kl_to_reference(arrays["old"], arrays["ref"], mask, keys.kl)
        changes, change = advantages.reward_change(kl, mask, keys.beta)
    found, _ = advantages.step_advantages(
        jnp.asarray(x["rewards"]), jnp.ones(B, bool), group_size=G, change=change,
        settings=advantages.AdvantageSettings(keys.baseline, keys.scale_advantages), n_tokens=mask.sum(axis=1),
    )  # fmt: skip
    rows = found.rows if gains is None else jnp.asarray(gains)
    by_token = advantages.by_token(found._replace(rows=rows), changes, mask)

    def loss(logps):
        return objectives.policy_loss(
            logps, by_token, mask, settings=policy, old_logps=arrays["old"], ref_logps=arrays["ref"],
            sampler_logps=arrays["sampler"], entropy=jnp.asarray(x["entropy"]),
        )[0]  # fmt: skip

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(x["logps"]))
    return np.asarray(found.rows), float(value), np.asarray(gradient)


@pytest.mark.parametrize("name", CASES)
def test_advantages_loss_and_gradient_are_trls(name, batch):
    keys, options = CASES[name]
    want_gains, want, want_gradient = theirs(name, batch, options)
    gains, loss, gradient = ours(keys, batch, want_gains if name in UP_TO_A_LINE else None)
    if name in UP_TO_A_LINE:
        fit = np.polyfit(gains, want_gains, 1)
        np.testing.assert_allclose(np.polyval(fit, gains), want_gains, atol=1e-5)
    else:
        np.testing.assert_allclose(gains, want_gains, rtol=FLOAT32, atol=FLOAT32)
    np.testing.assert_allclose(loss, want, rtol=FLOAT32, atol=FLOAT32)
    np.testing.assert_allclose(gradient, want_gradient, rtol=FLOAT32, atol=FLOAT32)
    assert np.abs(want_gradient).max() > 1e-3 and (gradient[~batch["loss_mask"]] == 0).all()


def test_the_cases_differ_from_one_another(batch):
    """A setting of trl that its trainer ignored would make a case another's twin."""
    losses = [theirs(name, batch, options)[1] for name, (_, options) in CASES.items()]
    assert len({f"{loss:.6f}" for loss in losses}) == len(CASES)
