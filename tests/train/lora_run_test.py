"""Runs that train adapters: what their reference is, and how one goes on from another's adapters."""

import shutil

import pytest

from arft_jax.build import data
from arft_jax.commands import convert
from arft_jax.config import default_config
from arft_jax.data.synthetic import coding
from arft_jax.io.metrics import read_metrics
from arft_jax.train import trainer
from arft_jax.train.run_config import load_run_config

pytestmark = pytest.mark.slow
SAME = 1e-9  # nats² of float32 log-probs near -7 that two programs compute; k3 is half the square of their difference


def _config(workdir, warm_steps, **lora):
    config = default_config()
    config.update(name="lora", workdir=str(workdir), compilation_cache="", system_prompt="short")
    config.model.text_config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2, mrope_section=(1, 1, 2))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32)
    config.model.lora.update(lora)
    config.data.tasks = ("mini_coding",)
    config.warm_start.update(n_chains=4, n_practice=4, steps=warm_steps, rows=4, warmup_steps=1, learning_rate=0.1)
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=2, max_turn_tokens=12, max_tokens=192, extend_rows=4, decode_steps=6,
        n_features=128,
    )  # fmt: skip
    config.train.update(steps=1, prompts=2, rows_per_update=4, image_chunks=4, warmup_steps=1, beta=0.1)
    config.eval.every = 0
    return config


def _prepare_mini_tasks(config):
    items = {split: [coding.make_item(config.seed, split, i).task() for i in range(4)] for split in ("train", "test")}
    return {"mini_coding": items}


@pytest.fixture
def first_kl(monkeypatch):
    """Trains without evaluation and gives the KL to the reference of the first GRPO step, nats."""
    monkeypatch.setattr(data, "prepare_mini_tasks", _prepare_mini_tasks)
    monkeypatch.setattr(trainer, "evaluate_once", lambda *args: None)
    monkeypatch.setattr(trainer.run_report, "write_report", lambda *args: {})

    def run(config):
        trainer.train(config)
        rows = [row for row in read_metrics(f"{config.workdir}/metrics.jsonl") if row["phase"] == "grpo"]
        return rows[0]["kl_ref"]

    return run


def test_the_kl_begins_at_0_where_the_reference_is_the_warm_started_policy_and_above_it_where_it_is_the_base(
    first_kl, tmp_path
):
    kl = {}
    for reference in ("start", "base"):
        config = _config(tmp_path / reference, warm_steps=2, rank=2)
        config.train.reference = reference
        kl[reference] = first_kl(config)
    assert 0 <= kl["start"] < SAME < 1e-4 < kl["base"]


def test_a_run_goes_on_from_the_adapters_of_another_whose_base_is_then_another_policy(first_kl, tmp_path):
    """And its work directory holds all that an export needs, once the directory that it began from is gone."""
    first_kl(_config(tmp_path / "first", warm_steps=2, rank=2, alpha=6.0, targets=("q", "up"), vision=True))
    convert.export_weights(str(tmp_path / "first"), "", adapter=str(tmp_path / "adapter"))
    config = _config(tmp_path / "second", warm_steps=0, adapter=str(tmp_path / "adapter"))
    config.train.reference = "base"
    assert first_kl(config) > 1e-4
    shutil.rmtree(tmp_path / "adapter")
    lora = load_run_config(tmp_path / "second").model.lora
    assert (lora.adapter, lora.rank, lora.alpha, lora.targets, lora.vision) == ("", 2, 6.0, ("q", "up"), True)
    convert.export_weights(str(tmp_path / "second"), str(tmp_path / "out"), adapter=str(tmp_path / "again"))
    assert (tmp_path / "again" / "adapter_model.safetensors").is_file() and (tmp_path / "out").is_dir()
