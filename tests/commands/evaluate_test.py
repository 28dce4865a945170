"""The evaluate command: a tiny policy asked with the real tools, its files, and what is refused at the door."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from flax import nnx

from arft_jax.commands import evaluate as command
from arft_jax.commands.cli import evaluate as cli
from arft_jax.commands.cli import score as score_cli
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.config import default_config
from arft_jax.evaluate import runner
from arft_jax.io.peft_adapters import save_adapter
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.trajectories import load_trajectories
from arft_jax.io.weights import load_model_config
from arft_jax.models.lora import Lora
from arft_jax.train.run_dir import RunDir

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def tiny_config(workdir, data=""):
    config = default_config()
    config.name, config.workdir, config.data.dir = "tiny", str(workdir), str(data)
    config.data.tasks, config.warm_start.steps = ("mat_coding", "mat_search"), 0
    config.model.text_config.update(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        mrope_section=(4, 6, 6),
    )  # fmt: skip
    config.model.vision_config.update(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=1, fullatt_block_indexes=(0,)
    )
    config.rollout.update(n_patches=64, n_windows=8, n_features=256, group_size=2, n_slots=2, max_turn_tokens=8)
    config.train.rows_per_update = 16
    config.system_prompt, config.compilation_cache, config.eval.bootstrap = "short", "", 50
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a run with a checkpoint of step 1, and small data in the layout of MAT."""
    from arft_jax.build import settings
    from arft_jax.build.parts import make
    from arft_jax.build.plan import plan_policy
    from arft_jax.io.checkpoints import Checkpoints
    from arft_jax.steps import learner

    root = tmp_path_factory.mktemp("evaluated")
    make_tiny_data(root / "data", n_train=1, n_test=6)
    config = tiny_config(root / "run", root / "data")
    parts = make(plan_policy(config))
    state = learner.train_state(settings.optimizer(config), parts.first_params(), False, parts.plan.placement)
    RunDir(config)
    with Checkpoints(root / "run" / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, state, {"tokenizer": parts.plan.tokenizer.sha256})
    return root


def flags(run, *more):
    return [f"--workdir={run / 'run'}", "--benchmark=mat_coding,mat_search", "--config.compilation_cache=", *more]


def predictions(out, name):
    return {r["id"]: r for r in map(json.loads, (out / name / "predictions.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def evaluated(run):
    """(folder, what was printed, exit status) of an evaluation of both benchmarks with the real tools."""
    out = run / "out"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "arft_jax", "evaluate", *flags(run, f"--out={out}", "--limit=4")],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_both_benchmarks_end_with_the_papers_table(evaluated):
    out, printed = evaluated
    assert "mat_coding: 0 of 4 items are answered, 4 are asked" in printed and "sandbox: " in printed
    assert "mat_search 4/4  F1" in printed and "ETA 0:00" in printed
    assert "mat_coding (a part: 4 of 6 items)" in printed and printed.count("Qwen2.5-VL-7B + Visual-ARFT") == 2
    results = json.loads((out / "results.json").read_text())
    assert results["system"] == "tiny, step 1" and results["tools"] == "on" and results["image"] == "shown"
    assert [results["benchmarks"][name]["n_answered"] for name in ("mat_coding", "mat_search")] == [4, 4]
    assert (out / "table.md").read_text().count("\n") == 2 + 12 + 12 + 3  # two notes: these are no 200 and 150 items
    assert "mat_search: the published rows are of the 150 items of MAT, and the data directory has 6" in printed
    record = json.loads((out / "run.json").read_text())
    assert record["policy"]["step"] == 1 and record["config"]["data.n_train"] == 2000
    assert record["benchmarks"]["mat_search"]["halves"] == {"simple": 3, "hard": 3}


def test_every_trajectory_is_there_with_its_scores_and_what_held_its_code(evaluated):
    out, _ = evaluated
    for name in ("mat_coding", "mat_search"):
        played = load_trajectories(out / name / "trajectories")
        assert len(played) == 4 and all({"f1", "em"} <= t.rewards.keys() for t in played)
        assert all(t.info["benchmark"] == name and "sandbox" in t.info for t in played)
        assert sorted(t.info["item"] + 1 for t in played) == sorted(predictions(out, name)) == [1, 2, 4, 6]


def test_the_score_command_gives_the_figures_of_the_results(evaluated, capsys):
    out, _ = evaluated
    results = json.loads((out / "results.json").read_text())
    for name in ("mat_coding", "mat_search"):
        for file in ("predictions", "trajectories"):
            asked = [f"--benchmark={name}", f"--predictions={out / name / file}.jsonl", "--format=json"]
            assert score_cli.main(asked) == 0
            scores = json.loads(capsys.readouterr().out)
            assert (scores["n"], scores["n_items"], scores["absent"]) == (4, 6, 2)
            for split in ("simple", "hard", "avg"):
                for measure in ("f1", "em"):
                    want = results["benchmarks"][name]["table"][split][measure]
                    assert scores[split][measure] == pytest.approx(want, abs=0.01)


def test_the_same_command_asks_nothing_again_and_builds_nothing(run, evaluated, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is left to ask")

    out, _ = evaluated
    before = {path: path.read_bytes() for path in out.glob("*/*.jsonl")}
    monkeypatch.setattr(command.native, "open_native", refuse)
    of_others = "--config.openai.model=gpt-4o"  # which this policy does not read
    assert cli.main(flags(run, f"--out={out}", "--limit=4", of_others)) == 0
    assert "mat_search: 4 of 4 items are answered, 0 are asked" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.glob("*/*.jsonl")} == before


@pytest.mark.parametrize(
    "more, difference",
    [
        (["--tools=off"], "tools='on' there and 'off' here"),
        (["--image=blank"], "image='shown' there and 'blank' here"),
        (["--config.rollout.max_turns_eval=2"], "config.rollout.max_turns_eval=5 there and 2 here"),
        (["--checkpoint=none"], "policy.checkpoint="),
    ],
)
def test_another_way_of_asking_is_refused_in_the_same_folder(run, evaluated, capsys, more, difference):
    out, _ = evaluated
    assert cli.main(flags(run, f"--out={out}", *more)) == 2
    err = capsys.readouterr().err
    assert difference in err and "choose another folder (--out)" in err and err.count("\n") == 1


def test_blank_images_go_to_the_policy_grey_and_are_compared_with_the_others(run, evaluated, capsys):
    shown, _ = evaluated
    out = run / "blank"
    asked = [f"--workdir={run / 'run'}", "--benchmark=mat_coding", "--config.compilation_cache=", f"--out={out}"]
    assert cli.main([*asked, "--image=blank", "--tools=off", f"--compare={shown}"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, step 1, blank images" in printed and "difference to tiny, step 1, 4 items" in printed
    played = load_trajectories(out / "mat_coding" / "trajectories")
    seen = {t.task.id: t.task.images[0] for t in load_trajectories(shown / "mat_coding" / "trajectories")}
    assert len(played) == 6
    for trajectory in played:
        [image] = trajectory.task.images
        assert set(image.pixels.flat) == {128} and trajectory.images[0].sha256 == image.sha256
        if trajectory.task.id in seen:
            assert image.size == seen[trajectory.task.id].size
    assert json.loads((out / "results.json").read_text())["compare"]["benchmarks"].keys() == {"mat_coding"}


def test_a_signal_ends_it_behind_an_item_and_the_same_command_gives_the_same_answers(run, capsys, monkeypatch):
    asked = [f"--workdir={run / 'run'}", "--benchmark=mat_coding", "--config.compilation_cache=", "--tools=off"]
    n_ended = []
    write = runner.prediction_of

    def then_a_signal(trajectory):
        n_ended.append(trajectory.task.id)
        if len(n_ended) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(trajectory)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "prediction_of", then_a_signal)
        assert cli.main([*asked, f"--out={run / 'stopped'}"]) == 128 + signal.SIGTERM
    assert "stopped by a signal in mat_coding; the same command goes on" in capsys.readouterr().err
    assert len(n_ended) == 3 == len(predictions(run / "stopped", "mat_coding"))
    with open(run / "stopped" / "mat_coding" / "predictions.jsonl", "a") as file:
        file.write('{"id": 6, "pred')  # as a kill in the middle of a line leaves it
    assert cli.main([*asked, f"--out={run / 'stopped'}"]) == 0
    assert "mat_coding: 3 of 6 items are answered, 3 are asked" in capsys.readouterr().out
    assert cli.main([*asked, f"--out={run / 'straight'}"]) == 0
    both = [predictions(run / name, "mat_coding") for name in ("stopped", "straight")]
    for found in both:
        assert sorted(found) == [1, 2, 3, 4, 5, 6]
    without_time = [{i: r | {"seconds": 0, "tool_seconds": 0} for i, r in found.items()} for found in both]
    assert without_time[0] == without_time[1]
    tokens = [
        {t.task.id: t.tokens.tolist() for t in load_trajectories(run / name / "mat_coding" / "trajectories")}
        for name in ("stopped", "straight")
    ]
    assert tokens[0] == tokens[1]


def test_items_that_fail_each_time_are_named_and_the_exit_status_says_so(run, capsys, monkeypatch):
    from arft_jax.testing.ended import FAULT, TablePolicy

    table = TablePolicy({2: [FAULT]})

    def opened(*args, **kwargs):
        class Open:
            def __enter__(self):
                return table.policy

            def __exit__(self, *exc_info):
                pass

        return Open()

    monkeypatch.setattr(command.native, "open_native", opened)
    asked = flags(run, f"--out={run / 'faulty'}", "--config.eval.attempts=2")
    assert cli.main(asked) == 1
    printed = capsys.readouterr().out
    assert [len(numbers) for numbers in table.asked] == [6, 1, 6, 1]  # both benchmarks
    assert "mat_coding: 1 of 6 items were not answered, the same command tries them again: " in printed
    assert "python: tool fault: no route" in printed and "mat_search (a part: 5 of 6 items, 1 not answered)" in printed
    table.asked.clear()
    monkeypatch.setattr(table, "_answers", {})
    assert cli.main(asked) == 0 and table.asked == [[2], [2]]


def test_published_weights_under_an_adapter_are_evaluated_as_they_are(run, tmp_path, capsys):
    make_tiny_checkpoint(tmp_path / "base", dtype="float32")
    sizes = load_model_config(str(tmp_path / "base"))
    fresh = Lora(rank=2, alpha=4.0, targets=("q", "up"))
    params = nnx.state(sizes.family.make(sizes, rngs=nnx.Rngs(0), lora=fresh), nnx.Param)
    save_adapter(tmp_path / "adapter", params, sizes, fresh)
    asked = [f"--workdir={run / 'run'}", "--benchmark=mat_coding", "--config.compilation_cache=", "--limit=2"]
    asked += ["--checkpoint=none", f"--config.weights={tmp_path / 'base'}", "--tools=off", f"--out={tmp_path / 'out'}"]
    adapted = [*asked, f"--config.model.lora.adapter={tmp_path / 'adapter'}"]
    assert cli.main(adapted) == 0
    assert "  base + adapter  " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tools"] == "off"
    assert sorted(predictions(tmp_path / "out", "mat_coding")) == [1, 6]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["policy"].keys() == {"weights", "adapter", "tokenizer"}
    (tmp_path / "base").rename(tmp_path / "moved")  # the same weights at another place
    moved = [flag.replace(str(tmp_path / "base"), str(tmp_path / "moved")) for flag in adapted]
    assert cli.main(moved) == 0 and "0 are asked" in capsys.readouterr().out
    assert cli.main([flag.replace(str(tmp_path / "base"), str(tmp_path / "moved")) for flag in asked]) == 2
    assert "policy.adapter=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--benchmark=mat_chess"], "benchmark must be among mat_coding, mat_search, mini_coding, mini_search, "),
        (["--benchmark="], "--benchmark must be given"),
        (["--policy=other"], "policy must be native or openai: got 'other' (--policy)"),
        (["--config.data.dir="], "https://huggingface.co/datasets/laolao77/MAT has them: got none (config.data.dir)"),
        (["--checkpoint=none"], "a folder must be given where no run is evaluated: got none (--out)"),
        (["--compare=/nowhere"], "the folder must hold an evaluation: /nowhere/run.json is not its record"),
        (["--config.eval.attempts=0"], "attempts must be at least 1: got 0 (config.eval.attempts)"),
        (["--checkpoint=best"], "--checkpoint"),
        (["--limit=-1"], "--limit"),
        (["--checkpoint=none", "--out=x", "--config.weights=/nowhere"], "which is no directory (config.weights)"),
    ],
)
def test_bad_input_is_one_sentence_before_any_item_is_asked(run, capsys, monkeypatch, more, sentence):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing may be planned")

    monkeypatch.setattr(command.native, "plan_native", refuse)
    assert cli.main(flags(run, *more)) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_a_work_directory_without_a_checkpoint_says_what_else_there_is(tmp_path, capsys):
    asked = ["--config=tiny_cpu:smoke", "--benchmark=mini_coding", f"--config.workdir={tmp_path}"]
    assert cli.main(asked) == 2
    err = capsys.readouterr().err
    assert f"must hold a checkpoint: none in {tmp_path} (config.workdir); --checkpoint=none evaluates" in err
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["--benchmark=mini_coding"]) == 2
    assert "--config must be given, or --workdir" in capsys.readouterr().err


def start(out, *more):
    """200 items of mini_coding, asked of a policy of the shape of tiny_cpu that has learnt nothing."""
    asked = ["--config=tiny_cpu", "--checkpoint=none", "--benchmark=mini_coding", f"--out={out}", *more]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "arft_jax", "evaluate", *asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process):
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_items_killed_at_half_are_answered_as_in_one_go(tmp_path):
    begin = time.perf_counter()
    finish(start(tmp_path / "straight"))
    took_s = time.perf_counter() - begin
    killed = tmp_path / "killed"
    file = killed / "mini_coding" / "predictions.jsonl"
    process = start(killed)
    try:
        while not file.exists() or file.read_bytes().count(b"\n") < 100:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
    finally:
        process.kill()  # SIGKILL
        process.communicate()
    whole = file.read_bytes().rpartition(b"\n")[0].splitlines()
    n_before = len(whole)
    assert 100 <= n_before < 200
    printed = finish(start(killed))
    assert f"mini_coding: {n_before} of 200 items are answered, {200 - n_before} are asked" in printed
    assert file.read_bytes().splitlines()[:n_before] == whole  # and none of them was asked again
    both = [predictions(folder, "mini_coding") for folder in (tmp_path / "straight", killed)]
    assert all(sorted(found) == list(range(1, 201)) for found in both)
    for a, b in zip(*(sorted(found.values(), key=lambda record: record["id"]) for found in both), strict=True):
        assert a | {"seconds": 0, "tool_seconds": 0} == b | {"seconds": 0, "tool_seconds": 0}
    played = [
        {t.task.id: t.tokens.tobytes() for t in load_trajectories(folder / "mini_coding" / "trajectories")}
        for folder in (tmp_path / "straight", killed)
    ]
    assert played[0] == played[1]
    print(f"200 items in {took_s:.0f} s, killed behind {n_before}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_answer_as_one_does(run, evaluated):
    """Each has its share and its files, which are one file at the end; the second one prints nothing."""
    out, port = run / "two", free_port()
    ways = [f"--config.distributed.{key}" for key in ("enabled=True", f"coordinator=localhost:{port}", "n_processes=2")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "arft_jax", "evaluate", *flags(run, f"--out={out}", "--limit=4"), *ways,
             f"--config.distributed.process={k}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for k in range(2)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "Qwen2.5-VL-7B" in printed[0] and "Qwen2.5-VL-7B" not in printed[1]
    assert "mat_coding 2/2  F1" in printed[0]  # of its share
    for name in ("mat_coding", "mat_search"):
        files = sorted(path.name for path in (out / name).glob("*.jsonl"))
        assert files == ["faults.jsonl", "predictions.jsonl", "trajectories.jsonl"]
        both = [
            {i: r | {"seconds": 0, "tool_seconds": 0} for i, r in predictions(folder, name).items()}
            for folder in (evaluated[0], out)
        ]
        assert both[0] == both[1]


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
