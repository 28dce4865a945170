"""Reading passages: layouts, malformed lines by file and number, progress."""

import io
import json

import pytest

from arft_jax.tools import passages
from arft_jax.tools.passages import PassageReader, build_index
from arft_jax.tools.search_index import Document, SearchIndex


def write(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return path


def test_the_published_layouts_give_the_same_passages(tmp_path):
    plain = write(
        tmp_path / "a.jsonl",
        json.dumps({"id": "0", "title": "Ada", "text": "Born\nin 1815."}),
        json.dumps({"id": 1, "title": 'The "Engine"', "text": "A\tmachine.", "corpus": "machines"}),
    )
    flash = write(
        tmp_path / "b.jsonl",
        json.dumps({"id": "0", "contents": '"Ada"\nBorn\nin 1815.'}),
        json.dumps({"id": "1", "contents": '"The "Engine""\nA\tmachine.', "corpus": "machines"}),
    )
    expected = [Document("Ada", "Born\nin 1815.", "", "0"), Document('The "Engine"', "A\tmachine.", "machines", "1")]
    assert list(PassageReader([plain])) == list(PassageReader([flash])) == expected
    table = write(tmp_path / "c.tsv", "id\ttext\ttitle", '0\t"Born ""in"" 1815."\tAda', "1\tplain 'text'\tÉ")
    assert list(PassageReader([table])) == [
        Document("Ada", 'Born "in" 1815.', "", "0"),
        Document("É", "plain 'text'", "", "1"),
    ]


def test_files_are_read_in_order_and_blank_lines_and_marks_passed_over(tmp_path):
    first = write(tmp_path / "a.tsv", b"\xef\xbb\xbfid\ttext\ttitle\r\n", b"1\tone\tA\r\n", "", "  ")
    second = write(tmp_path / "b.jsonl", '{"contents": "no title"}', b'{"text": "no newline at the end"}')
    reader = PassageReader([second, first, first], corpus="c")
    assert [(d.title, d.text, d.corpus) for d in reader] == [
        ("", "no title", "c"),
        ("", "no newline at the end", "c"),
        ("A", "one", "c"),
        ("A", "one", "c"),
    ]
    assert (reader.n_passages, reader.n_bad) == (4, 0) and reader.n_bytes == reader.total_bytes


BAD = {
    "a.jsonl": [
        (b"{not json}\n", "Expecting property name"),
        (b"[1]\n", "a line must be a JSON object: got list"),
        (b'{"id": "1", "title": "a"}\n', "an object must have 'text' or 'contents': got \\['id', 'title'\\]"),
        (b'{"text": 5}\n', "'text' must be a string: got int"),
        (b'{"text": "a", "id": true}\n', "'id' must be a string: got bool"),
        (b'{"text": "\xff"}\n', "codec can't decode byte 0xff"),
        (b'{"text": "cut', "Unterminated string"),
        (b"[" * 100_000 + b"\n", "recursion"),
    ],
    "a.tsv": [
        (b"1\ttwo fields\n", "a line must have 3 fields \\(id, text, title\\): got 2"),
        (b'1\t"open\ttitle\n', "unexpected end of data"),
    ],
}


@pytest.mark.parametrize(("name", "line", "message"), [(name, *case) for name, cases in BAD.items() for case in cases])
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, name, line, message):
    good = b'{"text": "good"}\n' if name.endswith("jsonl") else b"0\tgood\tA\n"
    path = write(tmp_path / name, good, good, line)
    with pytest.raises(ValueError, match=f"{name}:3: .*{message}"):
        list(PassageReader([path]))
    reader = PassageReader([path], max_bad_lines=1)
    assert [d.text for d in reader] == ["good", "good"] and reader.n_bad == 1
    with pytest.raises(ValueError, match=r":3: .*\(malformed line 2; --max_bad_lines=1\)"):
        list(PassageReader([path, path], max_bad_lines=1))


def test_wrong_inputs_are_named(tmp_path):
    other = write(tmp_path / "a.csv", "1,a,b")
    for paths, limit, message in (
        ([], 0, "at least one input file must be given"),
        ([tmp_path / "none.tsv"], 0, "an input file must exist: got .*none.tsv"),
        ([other], 0, "an input file must end in .jsonl or .tsv: got .*a.csv"),
        ([write(tmp_path / "a.tsv", "")], -1, "max_bad_lines must be at least 0: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            PassageReader(paths, limit)


def test_an_index_is_built_with_progress_and_not_at_all_from_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr(passages, "_REPORT_EVERY", 0.0)
    lines = [json.dumps({"id": f"p{i}", "contents": f'"T{i}"\nfox number{i}'}) for i in range(10)]
    path, said = write(tmp_path / "a.jsonl", *lines), io.StringIO()
    report = build_index([path], tmp_path / "i", progress=said)
    assert report["passages"] == 10 and report["bad_lines"] == 0 and report["bytes"] > 1000
    reports = said.getvalue().splitlines()
    assert len(reports) == 10 and "passages, " in reports[0] and reports[-1].endswith("100.0% of the input, 0 s left")
    with SearchIndex(tmp_path / "i") as index:
        assert [(hit.title, hit.source) for hit in index.search("number7", 5)] == [("T7", "p7")]
    bad = write(tmp_path / "b.jsonl", *lines, "{")
    with pytest.raises(ValueError, match="b.jsonl:11: "):
        build_index([bad], tmp_path / "j", progress=said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "i"]
