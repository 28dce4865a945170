"""Tasks from one's own pictures: they load as task sets and chains, follow from the seed, and are whole or absent."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from arft_jax.commands.cli import make_data as cli
from arft_jax.data import jsonl_tasks
from arft_jax.data.chat_chains import load_chains
from arft_jax.protocol import Answer
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.tools.bundled import paper_syntax
from arft_jax.tools.search_corpus import read_corpus

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def write_input(folder, n=3, **changes):
    """``n`` pictures, each with a question to be asked by code and one by search."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i in range(n):
        pixels = np.full((64, 48 + 8 * i, 3), (40 * i, 90, 200), np.uint8)
        pixels[8:24, 8:40] = 250 - 30 * i
        PIL.Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")
        shown = dict(image=f"{i}.{'jpg' if i % 2 else 'png'}")
        lines.append(shown | dict(id=f"c{i}", question="Which colour?", answers=["blue", "Blue"], camera={"no": i}))
        lines.append(shown | dict(question="Who made it?", answer=f"Maker{i}", query=f"thing {i} maker", level="hard"))
        lines[-1]["documents"] = [dict(title=f"thing {i} maker", text=f"It was made by Maker{i}.")]
    lines[0]["box"] = [100, 100, 600, 500]
    lines[0] |= changes
    (folder / "in.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder / "in.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(input file, folder) of one item of each picture with every fault, its chains recorded in the real sandbox."""
    root = tmp_path_factory.mktemp("own")
    file = write_input(root / "photos")
    assert cli.main([f"--input={file}", f"--out={root / 'out'}", "--variants=20", "--seed=3"]) == 0
    return file, root / "out"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_coding_tasks_load_with_every_fault_and_no_picture_is_on_both_sides(made):
    _, out = made
    splits = jsonl_tasks.load_file(out / "coding.jsonl")
    tasks = [task for split in splits.values() for task in split]
    assert len(tasks) == 16 + 15 + 15  # one item has a box: a crop is possible
    assert {len({task.problems for task in tasks if task.extra["camera"]["no"] == i}) for i in range(3)} == {15, 16}
    sides = {split: {task.extra["camera"]["no"] for task in found} for split, found in splits.items()}
    assert not sides["train"] & sides["test"] and len(sides["train"] | sides["test"]) == 3
    for task in tasks:
        assert (task.kind, task.answers) == ("coding", ("blue", "Blue"))
        assert task.split == ("hard" if len(task.problems) > 1 or task.problems == ("crop",) else "simple")
        assert ("[100, 100, 600, 500]" in task.question) == (task.problems == ("crop",))
        if task.problems == ("rotation90",):
            [upright] = [other for other in tasks if other.id[:2] == task.id[:2] and other.problems == ("none",)]
            assert task.images[0].size == upright.images[0].size[::-1]


def test_search_tasks_load_with_their_corpus(made):
    _, out = made
    splits = jsonl_tasks.load_file(out / "search.jsonl")
    tasks = [task for split in splits.values() for task in split]
    assert {(task.query, task.answers[0]) for task in tasks} == {(f"thing {i} maker", f"Maker{i}") for i in range(3)}
    assert all(task.kind == "search" and task.split == "hard" for task in tasks)
    assert sorted(d.title for d in read_corpus(out / "search.corpus.jsonl")) == [f"thing {i} maker" for i in range(3)]


@pytest.mark.parametrize("name", ["coding", "search"])
@pytest.mark.parametrize("form", ["tags", "hermes"])
def test_reference_chains_are_what_a_warm_start_reads(made, name, form):
    _, out = made
    syntax = paper_syntax() if form == "tags" else HermesSyntax(paper_syntax().specs)
    chains = load_chains([f"jsonl:{out / name}.chains.jsonl"], syntax)
    train = {task.id: task for task in jsonl_tasks.load_file(out / f"{name}.jsonl")["train"]}
    assert sorted(chain.task.id for chain in chains) == sorted(train)
    for chain in chains:
        task = train[chain.task.id]
        assert chain.task.question == task.question and chain.task.images[0].sha256 == task.images[0].sha256
        actions = [syntax.parse(turn.text) for turn in chain.turns]
        assert actions[-1] == Answer(task.answers[0]) and all(turn.train for turn in chain.turns)
        if name == "search":
            assert actions[0].arguments == {"query": task.query} and task.answers[0] in chain.turns[0].observation.text
        else:
            assert sorted(actions[0].arguments["problems"]) == sorted(task.problems)
            assert len(actions) == (2 if task.problems == ("none",) else 3)
        if len(actions) == 3:
            [seen] = chain.turns[1].observation.images
            whole = task.images[0].size if "rotation90" not in task.problems else task.images[0].size[::-1]
            assert (seen.size == whole) == (task.problems != ("crop",))


def test_the_same_seed_is_the_same_folder_and_another_is_another(made, tmp_path):
    file, out = made
    asked = [f"--input={file}", "--variants=20"]
    assert cli.main([*asked, f"--out={tmp_path / 'a'}", "--seed=3"]) == 0
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()) == files
    assert all((out / path).read_bytes() == (tmp_path / "a" / path).read_bytes() for path in files)
    assert cli.main([*asked, f"--out={tmp_path / 'b'}", "--seed=4", "--chains=off"]) == 0
    assert (tmp_path / "b" / "coding.jsonl").read_bytes() != (out / "coding.jsonl").read_bytes()


def test_the_contact_sheet_shows_what_was_and_what_is(made):
    _, out = made
    page = (out / "contact_sheet.html").read_text()
    counts = [
        page.count(f'">{name}</bdi>') for name in ("as it was", "as it is shown", "as the reference code leaves it")
    ]
    assert page.count("<article>") == counts[0] == counts[1] == 40 and counts[2] > 15
    assert "thing 2 maker" in page and "http:" not in page
    record = json.loads((out / "made.json").read_text())
    assert record["seed"] == 3 and "coding.chains.jsonl: " in " ".join(record["made"])


def test_a_query_that_does_not_find_the_answer_teaches_nothing_and_is_named(tmp_path, capsys):
    file = write_input(tmp_path / "photos", n=4)
    lines = read(file)
    for line in lines[1::2]:
        line["split"] = "train" if line["image"] != "3.jpg" else "test"
    lines[1]["query"] = "something else"
    file.write_text("\n".join(json.dumps(line) for line in lines[1::2]))
    assert cli.main([f"--input={file}", f"--out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "search.chains.jsonl: 2 reference chains" in said
    assert "search: 1 chains are left out, among them 1: the query 'something else' does not find the answer" in said
    assert not (tmp_path / "out" / "coding.jsonl").exists()


BAD = {
    "no input": ({}, ["--input=nowhere.jsonl"], "data file must be a readable UTF-8 file: got nowhere.jsonl"),
    "a fault that there is not": ({}, ["--faults=tilted"], "faults must be among rotation90, .*: got 'tilted'"),
    "no variants": ({}, ["--variants=0"], "variants must be at least 1 and test_frac between 0 and 1: got 0 and 0.1"),
    "a crop without a box": ({}, ["--faults=crop"], r"line 3 of .*: a crop needs a box, and --faults has no other"),
    "a box out of the picture": (dict(box=[0, 0, 1200, 5]), [], "line 1 of .*: box must be .x0, y0, x1, y1."),
    "no picture": (dict(image="gone.png"), [], "line 1 of .*: image file must exist"),
    "a path out": (dict(image="../a.png"), [], "line 1 of .*: an image path must stay in its folder"),
    "no answer": (dict(answers=[]), [], "line 1 of .*: answers must hold an answer"),
    "a misspelt key": (dict(anwser="x"), [], "line 1 of .*: the key 'anwser' is unknown; did you mean 'answer'"),
    "a key that is made": (dict(problems=["dark"]), [], "line 1 of .*: problems is made from the line"),
    "no documents": (dict(query="x"), [], "search items must have documents to search"),
    "an out that is full": ({}, ["--out=photos"], "the output directory must be new or empty: got photos"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    changes, more, sentence = BAD[case]
    monkeypatch.chdir(tmp_path)
    file = write_input(tmp_path / "photos", **changes)
    if case == "no documents":
        file.write_text(json.dumps({k: v for k, v in read(file)[0].items() if k != "documents"}))
    assert cli.main([f"--input={file}", "--out=new", "--chains=off", *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(sentence, error), error
    assert os.listdir(tmp_path) == ["photos"]


def test_one_picture_is_too_few_and_a_picture_has_one_side(tmp_path, capsys):
    file = write_input(tmp_path / "photos", n=1)
    asked = [f"--input={file}", f"--out={tmp_path / 'out'}", "--chains=off"]
    assert cli.main(asked) == 2
    assert (
        "a set must have a picture to train on and one to test on: the coding items show 1" in capsys.readouterr().err
    )
    lines = read(file)
    lines[0]["split"], lines[1]["split"] = "train", "test"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert cli.main(asked) == 2
    assert "line 2 of" in (error := capsys.readouterr().err) and "split must be that of the picture's other" in error


@pytest.mark.slow  # a run of tiny_cpu:smoke
@pytest.mark.timeout(900)
def test_what_was_made_is_trained_on_behind_a_warm_start_on_its_chains(tmp_path):
    file = write_input(tmp_path / "in")
    flags = [f"--input={file}", f"--out={tmp_path / 'photos'}", "--variants=2", "--faults=dark,rotation90,none"]
    assert cli.main(flags) == 0
    sets = "('jsonl:photos/coding.jsonl', 'jsonl:photos/search.jsonl')"
    chains = "('jsonl:photos/coding.chains.jsonl', 'jsonl:photos/search.chains.jsonl')"
    flags = [f"--config.data.tasks={sets}", f"--config.warm_start.chains={chains}", "--config.workdir=run"]
    flags += ["--config.rollout.max_tokens=384", "--config.train.row_widths=(384,)", "--config.train.steps=1"]
    flags += ["--config.eval.without_tools=False", "--config.warm_start.steps=2"]
    command = [sys.executable, "-m", "arft_jax", "train", "--config=tiny_cpu:smoke", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["after"]) == {"coding", "search"}
