"""What the compiler says of a run's programs, and what is said where one does not fit."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import jax
import pytest
from flax import nnx

from arft_jax.build.model import load_tokenizer
from arft_jax.build.plan import check_inputs, plan_policy
from arft_jax.compile_check import check as compile_check
from arft_jax.compile_check import programs as compile_programs
from arft_jax.compile_check import report as compile_report
from arft_jax.config import default_config
from arft_jax.models.lora import LoraParam

PROGRAMS = ["encode", "extend", "fork", "decode", "score", "accumulate", "apply"]  # of every run on one device


def _lowered(config) -> dict:
    """Every program of the config's run on this machine's devices, by name."""
    return dict(compile_check.lowered(plan_policy(config)))


@pytest.fixture
def config():
    config = default_config()
    config.model.text_config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2, mrope_section=(1, 1, 2))
    config.rollout.update(n_slots=16, max_tokens=128, extend_rows=4)
    config.train.update(prompts=2, rows_per_update=16, micro_tokens=2048, row_widths=(128,), beta=0.01)
    config.warm_start.steps = 0
    config.model.remat = "full"
    return config


def test_every_program_of_a_run_is_compiled_and_measured(config, capsys):
    result = compile_check.check(config, on_program=compile_report.row_printer())
    assert [row["program"] for row in result["programs"]] == PROGRAMS
    assert result["devices"] == 1 and result["memory_gib"] is None and not result["problems"]
    rows = {row["program"]: row for row in result["programs"]}
    cache_gib = 2 * 4 * 2 * 16 * 128 * 2 * 8 / compile_check.GIB  # k and v, float32, 2 layers, 16 slots, K=2, H=8
    for name in ("encode", "extend", "fork", "decode"):
        assert rows[name]["argument_gib"] > cache_gib
    n_params = rows["score"]["argument_gib"]
    assert rows["accumulate"]["argument_gib"] > rows["score"]["argument_gib"] > 0 and n_params > 0
    # what is not given waits beside: in decode two moments of every parameter, the reference, and the stack of the
    # decoder's layers, which are given one by one; beside gradients the reference and the slots; in fork all but these
    params = rows["fork"]["beside_gib"] - rows["decode"]["beside_gib"]
    layer = (32 * 32 + 32) + 2 * (32 * 16 + 16) + 32 * 32 + 3 * 32 * 64 + 2 * 32  # q, k and v, o, mlp, norms
    stack = 2 * 4 * layer / compile_check.GIB
    assert params > 0 and rows["decode"]["beside_gib"] == pytest.approx(3 * params + stack, rel=1e-3)
    assert rows["apply"]["beside_gib"] > params + cache_gib
    assert rows["accumulate"]["beside_gib"] == pytest.approx(rows["apply"]["beside_gib"] + 2 * params, rel=1e-3)
    # parameters and two moments, of which there are new ones in their place, and gradients
    assert rows["apply"]["argument_gib"] == pytest.approx(4 * params, rel=1e-3)
    assert rows["score"]["beside_gib"] > 3 * params + cache_gib
    # decode: products of a token with the weights of 2 layers (D=32, 4 heads and 2 kv heads of 8, F=64) and with the
    # vocabulary, and of 32 numbers with 128 columns of keys and of values; 16 slots in each step
    layer = 2 * 32 * (32 + 2 * 16 + 32 + 3 * 64) + 4 * 32 * 128
    vocab = load_tokenizer(config).vocab_size
    assert rows["decode"]["flops"] == config.rollout.decode_steps * 16 * (2 * layer + 2 * 32 * vocab)
    assert rows["accumulate"]["flops"] > 2 * rows["score"]["flops"] > 0
    assert all(row["sent_bytes"] == {} and row["unseen"] == [] for row in result["programs"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(PROGRAMS) and lines[0].startswith("program")
    assert json.dumps(result)


def test_a_program_is_compiled_for_each_number_of_columns_that_a_rollout_reads(config, monkeypatch):
    config.rollout.bucket_columns = 48
    programs = [(name, program) for name, program in _lowered(config).items() if name[:6] in ("extend", "decode")]
    sizes = ["_48", "_96", ""]
    assert [name for name, _ in programs] == [f"{kind}{size}" for kind in ("extend", "decode") for size in sizes]
    monkeypatch.setattr(compile_check, "lowered", lambda *_: iter(programs))
    rows = {row["program"]: row for row in compile_check.check(config)["programs"]}
    # queries in each of 2 layers; of the last one extend needs only the keys and values
    for kind, queries in (
        ("extend", 4 * config.rollout.extend_chunk),
        ("decode", 2 * 16 * config.rollout.decode_steps),
    ):
        # 32 numbers of a query with a column's key and with its value
        few, more, every = (rows[f"{kind}{size}"]["flops"] for size in sizes)
        assert (more - few, every - more) == (4 * 32 * 48 * queries, 4 * 32 * 32 * queries)
    # the columns are cut out for a segment: keys and values in float32, 2 layers, 16 slots, K=2, H=8
    cut_gib = 2 * 4 * 2 * 16 * 96 * 2 * 8 / compile_check.GIB
    assert rows["decode_96"]["temporary_gib"] > rows["decode"]["temporary_gib"] + 0.9 * cut_gib
    assert compile_report.remedies("decode_96", plan_policy(config))[0] == "rollout.bucket_columns"


def test_what_stays_on_the_devices_counts_each_kind_of_moments_and_no_frozen_tower(config):
    def kept(**changes):
        config.train.update(changes)
        return compile_check.resident_gib(plan_policy(config))["moments"]

    config.model.text_config.update(hidden_size=128, mrope_section=(4, 6, 6))  # factored from 128 on
    whole, half = kept(), kept(moments="bfloat16")
    assert half == pytest.approx(whole / 2, rel=1e-3)  # but for the count of steps
    second = kept(moments="factored") - half / 2
    assert 0 < second < 0.6 * whole / 2
    assert kept(adam_b1=0.0) == pytest.approx(second, rel=1e-3)  # no first moment
    config.train.moments, config.model.freeze_vision = "float32", True
    assert kept(moments="float32", adam_b1=0.9) < 0.9 * whole


@pytest.fixture
def no_rollout(monkeypatch):
    monkeypatch.setattr(compile_programs, "lowered_rollout", lambda *_: iter(()))


def test_a_warm_start_has_rows_of_a_whole_trajectory_and_its_own_loss(config, no_rollout):
    config.warm_start.update(steps=3, rows=8)
    config.train.row_widths = (128, 512)
    programs = _lowered(config)
    assert list(programs) == ["warm_start", "score", "accumulate", "apply"]
    batch = {name: programs[name].args_info[0][2] for name in ("warm_start", "accumulate")}
    assert (batch["warm_start"].tokens.shape, batch["accumulate"].tokens.shape) == ((16, 128), (4, 512))


def test_the_base_of_adapters_is_scored_as_the_reference(config, no_rollout):
    config.model.lora.rank = 2
    assert list(_lowered(config)) == ["score_base", "accumulate", "apply"]
    config.train.rows_per_update = 8  # several updates a rollout: the policy is scored too
    programs = _lowered(config)
    assert list(programs) == ["score", "score_base", "accumulate", "apply"]
    n_read = {
        name: program.as_text().split("@main(")[1].split(") ->")[0].count("%arg") for name, program in programs.items()
    }
    adapters = jax.tree.leaves(nnx.split_state(programs["score"].args_info[0][0], LoraParam, ...)[0])
    assert n_read["score"] - n_read["score_base"] == len(adapters) / 2 > 0  # zeros stand for each pair's second factor
    config.train.beta = 0.0
    assert list(_lowered(config)) == ["score", "accumulate", "apply"]


def test_of_a_reference_behind_a_warm_start_the_adapters_are_kept_and_it_is_scored_as_the_policy_is(config, no_rollout):
    config.model.lora.rank = 2
    assert compile_check.resident_gib(plan_policy(config))["reference"] == 0.0
    config.warm_start.update(steps=3, rows=8)
    assert list(_lowered(config)) == ["warm_start", "score", "accumulate", "apply"]
    kept = compile_check.resident_gib(plan_policy(config))
    assert 0 < 2 * kept["reference"] == pytest.approx(kept["moments"], rel=1e-3)  # two moments of each adapter, a count


def test_the_tower_of_image_search_is_a_program_and_stays_on_the_device(config, no_rollout):
    config.tools.search.image_index = "pictures.index"
    programs = _lowered(config)
    assert list(programs) == ["embed", "score", "accumulate", "apply"]
    plan = plan_policy(config)
    kept = compile_check.resident_gib(plan)
    figures = compile_check.figures_of(plan, "embed", programs["embed"], 0.0)
    patches_gib = 4 * config.rollout.n_patches * 3 * 2 * 14 * 14 / compile_check.GIB
    assert kept["tower"] + patches_gib < figures.argument_gib < kept["tower"] + 1.1 * patches_gib


def test_what_is_done_already_is_not_advised(config):
    advised = compile_report.remedies("accumulate", plan_policy(config))
    assert advised == ["train.micro_tokens", "train.logps_chunk", "rollout.max_tokens"]
    assert compile_report.remedies("apply", plan_policy(config)) == ["model.lora"]
    config.model.remat = "none"
    assert "model.remat" in compile_report.remedies("accumulate", plan_policy(config))
    config.train.update(micro_tokens=128, row_widths=())
    assert "train.micro_tokens" not in compile_report.remedies("accumulate", plan_policy(config))
    assert "rollout.tensor" not in compile_report.remedies("decode", plan_policy(config))


def test_every_program_has_its_keys_and_what_it_is_given():
    assert compile_report.REMEDIES.keys() == compile_check.GIVEN.keys()
    known = default_config()
    for key in {key for keys in compile_report.REMEDIES.values() for key in keys}:
        section, name = key.split(".")
        assert name in known[section], key


def test_a_program_that_does_not_fit_is_told_with_the_keys_that_help(config, monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(compile_check, "devices_of", lambda *_: (devices, 1e-3))
    result = compile_check.check(config)
    assert any(
        p.startswith("accumulate needs") and "config.train.micro_tokens" in p and "of 0.0: change" in p
        for p in result["problems"]
    )
    assert not {row["program"]: row["fits"] for row in result["programs"]}["accumulate"]
    assert json.loads(json.dumps(result)) == result


TOO_LARGE = {
    # of libtpu 0.0.52, and of older ones
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (52.75G) exceeds available HBM (15.75G). HLO module: jit__update.": 52.75,
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 16640.00M of "
    "15.75G hbm. Exceeded hbm capacity by 516.00M.": 16.25,
    "RESOURCE_EXHAUSTED: Attempting to allocate more HBM than there is.": None,
}


class _Uncompilable:
    """A program that the compiler refuses with this message."""

    def __init__(self, message: str):
        self._message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self._message)


@pytest.mark.parametrize(("message", "told"), TOO_LARGE.items())
def test_a_program_too_large_to_be_made_is_told_and_the_others_are_compiled(config, monkeypatch, capsys, message, told):
    devices, real = jax.devices(), compile_check.lowered
    monkeypatch.setattr(compile_check, "devices_of", lambda *_: (devices, 15.75))

    def lowered(*args):
        yield "accumulate", _Uncompilable(message)
        yield next(real(*args))

    monkeypatch.setattr(compile_check, "lowered", lowered)
    result = compile_check.check(config, on_program=compile_report.row_printer())
    update, other = result["programs"]
    assert (update["program"], update["fits"], update["peak_gib"]) == ("accumulate", False, told)
    assert (other["program"], other["fits"]) == ("encode", True)
    need = "more memory than there is" if told is None else f"at least {told + update['beside_gib']:.1f} GiB of 15.8"
    assert [p.partition(": change config.")[0] for p in result["problems"]] == [f"accumulate needs {need}"]
    assert capsys.readouterr().out.splitlines()[1].endswith("DOES NOT FIT") and json.dumps(result)


@pytest.mark.parametrize(
    "message",
    ["INTERNAL: Mosaic failed to compile", "RESOURCE_EXHAUSTED: E1001: Ran out of memory in memory space vmem."],
)
def test_what_no_key_would_help_is_not_taken_for_a_lack_of_memory(config, monkeypatch, message):
    monkeypatch.setattr(compile_check, "lowered", lambda *_: [("accumulate", _Uncompilable(message))])
    with pytest.raises(jax.errors.JaxRuntimeError, match=message[:9]):
        compile_check.check(config)


@pytest.mark.parametrize("hardware", ["tpu", "tpu v9:2x2", "v5e:2x2", "gpu h100"])
def test_hardware_of_another_form_is_refused(config, hardware):
    with pytest.raises(ValueError, match=rf"hardware must be like .*got '{hardware}' \(config.hardware\)"):
        compile_check.check(config, hardware)


def test_a_published_size_is_checked_without_weights(config):
    config.model.size = "3b"
    sizes = plan_policy(config).sizes
    assert (sizes.text.dim, sizes.text.n_layers, sizes.text.tied) == (2048, 36, True)
    with pytest.raises(ValueError, match=r"weights must be a Hugging Face directory of Qwen2.5-VL-3B.*config.weights"):
        check_inputs(config)


def test_on_eight_devices_moving_the_policy_to_the_rollouts_layout_is_a_program(repo_root):
    script = """
        import dataclasses, json, jax
        from arft_jax.compile_check import check as compile_check
        from arft_jax.build.plan import plan_policy
        from arft_jax.config import default_config

        config = default_config()
        config.rollout.update(n_slots=16, max_tokens=128)
        config.warm_start.steps = 0
        plan = plan_policy(config)
        name, program = next(compile_check.lowered(plan))
        print(json.dumps(dataclasses.asdict(compile_check.figures_of(plan, name, program, 0.0))))
    """
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["program"] == "reshard"
    # every device is given an eighth of each split parameter and sends it to the seven others
    share = result["argument_gib"] * compile_check.GIB
    assert result["sent_bytes"]["all-gather"] == pytest.approx(7 * share, rel=0.1)
    assert result["peak_gib"] > 8 * result["argument_gib"]


def _command_line(repo_root, topology: str) -> dict:
    """What the command prints of tiny_cpu's small variant for that hardware."""
    command = [
        sys.executable, "launch/compile_check.py", "--config=configs/tiny_cpu.py:smoke", f"--topology={topology}",
        "--format=json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=600, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the package libtpu")
def test_the_command_line_compiles_for_tpus_that_are_not_here(repo_root):
    result = _command_line(repo_root, "tpu v5e:2x2")
    assert result["devices"] == 4 and result["memory_gib"] == 15.75 and result["problems"] == []
    assert [row["program"] for row in result["programs"]] == ["warm_start", "reshard", *PROGRAMS]
    rows = {row["program"]: row for row in result["programs"]}
    assert all(row["flops"] is not None and row["unseen"] == [] and row["fits"] for row in rows.values())
    assert rows["accumulate"]["flops"] > rows["score"]["flops"] > 0
    # each device sends at least its quarter of the gradient
    assert sum(rows["accumulate"]["sent_bytes"].values()) > rows["score"]["argument_gib"] * compile_check.GIB / 4


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs the package jax-cuda12-plugin")
def test_the_command_line_compiles_for_gpus_that_are_not_here(repo_root):
    result = _command_line(repo_root, "gpu h100:4")
    assert result["devices"] == 4 and result["memory_gib"] == 78.0 and result["problems"] == []
    assert [row["program"] for row in result["programs"]] == ["warm_start", "reshard", *PROGRAMS]
    rows = {row["program"]: row for row in result["programs"]}
    assert all(row["flops"] is not None and row["unseen"] == [] and row["fits"] for row in rows.values())
    assert rows["accumulate"]["flops"] > rows["score"]["flops"] > 0
    assert sum(rows["accumulate"]["sent_bytes"].values()) > rows["score"]["argument_gib"] * compile_check.GIB / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "program", "package"),
    [("qwen3b_tpu", "extend", "libtpu"), ("qwen7b_gpu", "decode", "jax_cuda12_plugin"),
     ("qwen7b_h200", "decode", "jax_cuda12_plugin")],
)  # fmt: skip
def test_a_rollout_copies_neither_its_cache_nor_its_weights(repo_root, name, program, package):
    """A copy of either, at each token or each chunk, would show as temporary memory of its size."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    script = f"""
        from arft_jax.compile_check import check as compile_check
        from configs import {name}

        config = {name}.get_config()
        plan = compile_check.plan_on(config, compile_check.devices_of(config.hardware)[0])
        lowered = next(p for name, p in compile_check.lowered(plan) if name == "{program}")
        print("GIB", compile_check.figures_of(plan, "{program}", lowered, 0.0).temporary_gib)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split("GIB ")[1]) < 0.5  # weights and cache of one layer of 7B on one device: 0.4 and 1.0
