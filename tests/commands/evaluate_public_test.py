"""The evaluate command on public benchmarks beside MAT, asked of a tiny policy with the real tools."""

import json

import pytest

from arft_jax.commands.cli import evaluate as cli

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
