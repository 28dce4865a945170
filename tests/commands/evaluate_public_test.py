"""The evaluate command on public benchmarks beside MAT, asked of a tiny policy with the real tools."""

import base64
import contextlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arft_jax.commands import evaluate as command
from arft_jax.commands.cli import evaluate as cli
from arft_jax.commands.cli import score as score_cli
from arft_jax.commands.cli import summary as summary_cli
from arft_jax.data.images import encode_png
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.trajectory import Image

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def ask(folder, out, name, *more):
    """The exit status of the command on a drawn policy, and the results that it wrote."""
    asked = ["--config=tiny_cpu:smoke", "--checkpoint=none", f"--benchmark={name}", f"--out={out}"]
    status = cli.main([*asked, f"--config.data.dir={folder}", "--config.compilation_cache=", *more])
    return status, json.loads((out / "results.json").read_text())


def test_questions_of_text_alone_run_through_the_search_agent(tmp_path, capsys):
    folder = tmp_path / "data" / "bamboogle"
    folder.mkdir(parents=True)
    lines = [dict(id=f"test_{i}", question=f"What is {i}?", golden_answers=[str(i)], metadata={}) for i in range(3)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"contents": f"fact {i}\nIt is {i}."}) for i in range(3)))
    status, results = ask(tmp_path / "data", tmp_path / "out", "bamboogle")
    figures = results["benchmarks"]["bamboogle"]
    assert (status, figures["n_items"], figures["n_answered"], figures["missing"]) == (0, 3, 3, [])
    assert figures["table"]["simple"]["n"] == 0 and figures["table"]["avg"]["n"] == 3
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bamboogle  ")]
    assert row.split()[3:8] == ["yes", "-", "-", "-", "-"]  # no halves
    first = json.loads((tmp_path / "out" / "bamboogle" / "trajectories.jsonl").read_text().splitlines()[0])
    assert first["task"]["kind"] == "search" and first["task"]["images"] == [] and first["images"] == []


def write_choices(folder):
    """A table of two questions of HR-Bench, each asked four times."""
    rows = []
    for number in range(2):
        pixels = np.full((56, 56, 3), 90 * number, np.uint8)
        picture = base64.b64encode(encode_png(Image(pixels))).decode()
        for turn in range(4):
            options = (["red", "blue", "green", "grey"] * 2)[turn : turn + 4]
            row = dict(index=4 * number + turn, question=f"Colour {number}?", answer="ABCD"[options.index("red")])
            row |= dict(zip("ABCD", options, strict=True), category=("single", "cross")[number], image=picture)
            rows.append(row)
    (folder / "HR-Bench").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "HR-Bench" / "hr_bench_8k.parquet")


class Says:
    """A policy that answers every item at once with a text of its own."""

    def __init__(self, said):
        self.said = said

    @contextlib.contextmanager
    def open(self, planned, weights, tasks, enabled):
        stage = tiny.Stage(Tokenizer.tiny(), n_slots=1, group_size=1, max_turn_tokens=64)

        def play(items, on_end):
            for item in items:
                answer = f"<think>a</think><answer>{self.said(item)}</answer>"
                [[played]] = stage.play([(item.task, (answer,))], tiny.InstantTools(None))
                on_end(item.number, played)

        yield play


def test_a_multiple_choice_is_scored_by_its_letter_question_by_question_beside_its_controls(
    tmp_path, monkeypatch, capsys
):
    write_choices(tmp_path / "data")
    policy = Says(
        lambda item: f"Option {item.task.answers[0]}" if item.number < 4 else "(A) it is"
    )  # the second question by position
    monkeypatch.setattr(command.native, "open_native", policy.open)
    status, results = ask(tmp_path / "data", tmp_path / "out", "hrbench_8k")
    figures = results["benchmarks"]["hrbench_8k"]
    assert (status, figures["n_items"], figures["n_answered"]) == (0, 8, 8)
    assert (figures["table"]["avg"]["n"], figures["table"]["avg"]["em"]) == (2, (100 + 25) / 2)
    of = {name: (entry["avg"]["n"], entry["avg"]["em"]) for name, entry in figures["categories"].items()}
    assert of == {"single": (1, 100.0), "cross": (1, 25.0)}
    capsys.readouterr()
    for file in ("predictions", "trajectories"):
        path = tmp_path / "out" / "hrbench_8k" / f"{file}.jsonl"
        assert score_cli.main(["--benchmark=hrbench_8k", f"--predictions={path}", "--format=json"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert (scores["n"], scores["avg"]["n"], scores["avg"]["em"], scores["absent"]) == (8, 2, 62.5, 0)
    policy.said = lambda item: "A"
    assert ask(tmp_path / "data", tmp_path / "off", "hrbench_8k", "--tools=off")[0] == 0
    more = ["--image=blank", f"--compare={tmp_path / 'out'}"]
    results = ask(tmp_path / "data", tmp_path / "blank", "hrbench_8k", *more)[1]
    assert results["compare"]["benchmarks"]["hrbench_8k"]["delta"]["avg"]["em"] == 25 - 62.5
    capsys.readouterr()
    folders = ",".join(str(tmp_path / name) for name in ("out", "off", "blank"))
    assert summary_cli.main([f"--evaluations={folders}"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    titles = [" ".join(line[: line.index("-")]) for line in printed if line]
    assert titles == [
        "hrbench_8k smoke, drawn yes", "of cross yes", "of single yes",
        "smoke, drawn no", "of cross no", "of single no",
        "smoke, drawn, blank images yes", "of cross yes", "of single yes",
    ]  # fmt: skip


@pytest.mark.slow  # compiles the programs of tiny_cpu:smoke
def test_pictures_of_a_choice_go_through_the_native_policy(tmp_path):
    write_choices(tmp_path / "data")
    status, results = ask(tmp_path / "data", tmp_path / "out", "hrbench_8k", "--limit=2")
    assert status == 0 and results["benchmarks"]["hrbench_8k"]["n_answered"] == 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())["benchmarks"]["hrbench_8k"]
    assert record["n_items"] == 8


def test_a_file_of_another_layout_is_one_sentence_before_any_item_is_asked(tmp_path, capsys):
    (tmp_path / "vstar_bench").mkdir()
    (tmp_path / "vstar_bench" / "test_questions.jsonl").write_text('{"question": "?"}')
    with pytest.raises(FileNotFoundError):
        ask(tmp_path, tmp_path / "out", "vstar")
    error = capsys.readouterr().err
    assert "line 1 of" in error and "must have image, text, category, label, question_id: missing" in error
    assert error.count("\n") == 1
