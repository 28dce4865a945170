import json

import pytest

from arft_jax.report import summary


def write_run(folder, before, after, **config):
    def stage(em):
        splits = ["simple", "hard"]
        return {"task": {"table": {}, "items": {"f1": em, "em": em, "splits": splits}}}

    folder.mkdir()
    results = {"before": stage(before), "after": stage(after), "no_tools": stage([0.0, 0.0])}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({"config": {"seed": 0, "name": "x", "train.steps": 3} | config}))
    return str(folder)


def test_figures_are_means_over_runs(tmp_path):
    runs = [write_run(tmp_path / "a", [0, 0], [1, 0]), write_run(tmp_path / "b", [0, 1], [1, 1])]
    found = summary.summarise_runs(runs)["task"]
    # before: 0 of 2 and 1 of 2, mean 25 %; after: 1 of 2 and 2 of 2, mean 75 %
    assert found["before"]["avg"]["em"] == 25.0 and found["after"]["avg"]["em"] == 75.0
    assert found["delta"]["avg"]["em"] == 50.0 and found["delta"]["simple"]["em"] == 100.0
    assert found["no_tools"]["avg"]["em"] == 0.0
    low, high = found["delta"]["avg"]["ci95"]["em"]
    assert low <= 50.0 <= high


def test_both_forms_show_the_gain(tmp_path):
    found = summary.summarise_runs([write_run(tmp_path / "a", [0, 0], [1, 0])])
    assert "+50.00" in summary.render(found, "text") and "| +50.00 |" in summary.render(found, "markdown")


def test_runs_of_different_configurations_are_not_averaged(tmp_path):
    runs = [write_run(tmp_path / "a", [0, 0], [1, 0], **{"older.key": 1})]
    runs.append(write_run(tmp_path / "b", [0, 0], [1, 0], seed=1, name="y"))
    assert summary.summarise_runs(runs)  # seeds of one configuration
    runs.append(write_run(tmp_path / "c", [0, 0], [1, 0], **{"train.steps": 4}))
    with pytest.raises(ValueError, match=r"but for seed and name: .*/a and .*/c differ in train.steps \(3 and 4\)"):
        summary.summarise_runs(runs)


def test_an_unfinished_run_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"before": {}}')
    with pytest.raises(ValueError, match=f"{tmp_path} lacks after"):
        summary.summarise_runs([str(tmp_path)])
    with pytest.raises(ValueError, match="a run must hold results.json: got nowhere"):
        summary.summarise_runs(["nowhere"])
