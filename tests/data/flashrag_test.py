"""Multi-hop questions in FlashRAG's layout: what becomes of a line, and which lines are refused or left out by name."""

import json

import pytest

from arft_jax.data import flashrag

LINE = dict(
    id="dev_0", question="Whose drink is it?", golden_answers=["Ann", "ann"],
    metadata={"type": "bridge", "context": {"sentences": ["Ann drinks it."]}},
)  # fmt: skip


def write(folder, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dev.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_a_line_is_a_search_task_without_an_image_and_without_the_passages(tmp_path):
    write(tmp_path / "hotpotqa", LINE, LINE | dict(id=7, golden_answers="Bo", metadata="{}"))
    first, second = flashrag.load_split("hotpotqa", "dev", tmp_path)
    assert (first.id, first.kind, first.images, first.answers) == ("dev_0", "search", (), ("Ann", "ann"))
    assert (first.split, first.task_set, first.extra) == ("", "hotpotqa", {"type": "bridge"})
    assert (second.id, second.answers, second.extra) == ("7", ("Bo",), {})
    assert len(flashrag.load_split("hotpotqa", "dev", tmp_path, n_rows=1)) == 1


def test_the_folder_of_the_whole_download_is_found_too(tmp_path):
    assert flashrag.split_file("musique", "dev", tmp_path) == tmp_path / "musique" / "dev.jsonl"
    write(tmp_path / "FlashRAG_datasets" / "musique", LINE)
    assert flashrag.load_split("musique", "dev", tmp_path)[0].task_set == "musique"


BAD = {
    "no answers": (LINE | dict(golden_answers=[]), "golden_answers must hold an answer"),
    "no question": (LINE | dict(question=" "), "question must be text that is not blank"),
    "a misspelt key": (LINE | dict(golden_answer=["a"]), "did you mean 'golden_answers'"),
    "no JSON": ('{"id": ', "must be a JSON object"),
    "an id twice": (LINE, "id must differ from every other: got 'dev_0', as in line 1 of"),
    "a NaN": ('{"id": 3, "question": "q", "golden_answers": [NaN]}', "golden_answers must hold no NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_refused_by_its_number_or_left_out_and_told(tmp_path, case):
    bad, sentence = BAD[case]
    write(tmp_path / "hotpotqa", LINE, bad, LINE | dict(id="dev_2"))
    with pytest.raises(ValueError, match=f"line 2 of .*dev.jsonl.*{sentence}"):
        flashrag.load_split("hotpotqa", "dev", tmp_path)
    told = []
    tasks = flashrag.load_split("hotpotqa", "dev", tmp_path, on_bad=told.append)
    assert [task.id for task in tasks] == ["dev_0", "dev_2"]
    assert len(told) == 1 and told[0].startswith("line 2 of ") and sentence in told[0]
