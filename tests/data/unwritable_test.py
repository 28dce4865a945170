"""Half of a surrogate pair and NUL, which JSON can hold and nothing can write, are refused where data are read."""

import json

import numpy as np
import pytest

from arft_jax.commands import agent
from arft_jax.data import items, jsonl_tasks, mat, recorded_steps
from arft_jax.data.chat_chains import load_chains
from arft_jax.data.images import encode_png
from arft_jax.tools import image_index, passages
from arft_jax.tools.bundled import paper_syntax
from arft_jax.trajectory import Image

BAD = ("half \ud800", "\udc00 half", "nul \0 inside")
ASK = [{"role": "user", "content": "Whose?"}]
TASK = dict(id="a", question="What?", answers=["red"])
MAT_CODING = dict(
    id=1, question="What?", answers=["a"], ori_image_path="o.png", processed_image_path="o.png", type=["dark"],
    split="hard",
)  # fmt: skip
MAT_SEARCH = dict(id=3, question="Whose?", answer="Ann", image_path="o.png")
STEP = dict(image_path="o.png", problem="What?", context="so far", solution="<answer>a</answer>", type="pre_code")


def called(arguments):
    call = {"function": {"name": "python", "arguments": arguments}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "ok"}]
    return dict(messages=[*ASK, *turns, {"role": "assistant", "content": "a"}])


def of_tasks(folder, item):
    lines = [TASK | dict(id="first"), TASK | item, TASK | dict(id="t", split="test")]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    jsonl_tasks.load_file(folder / "x.jsonl")


def of_chains(folder, item):
    good = dict(messages=[*ASK, {"role": "assistant", "content": "a"}])
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, [good, item])))
    load_chains([f"jsonl:{folder / 'x.jsonl'}"], paper_syntax())


def of_coding(folder, item):
    (folder / "x.json").write_text(json.dumps([MAT_CODING | item]))
    mat.load_mat_coding(folder / "x.json", folder)


def of_search(folder, item):
    (folder / "x.json").write_text(json.dumps([MAT_SEARCH | item]))
    mat.load_mat_search(folder / "x.json", folder)


def of_steps(folder, item):
    name = "mat_training_coding"
    path = folder / "mat_training" / recorded_steps.FILES[name]
    path.parent.mkdir()
    (path.parent / "o.png").write_bytes((folder / "o.png").read_bytes())
    path.write_text(json.dumps([STEP | item]))
    recorded_steps.load_split(name, "train", folder)


def of_passages(folder, item):
    (folder / "x.jsonl").write_text(json.dumps({"text": "good"}) + "\n" + json.dumps(item))
    list(passages.PassageReader([folder / "x.jsonl"]))


def of_captions(folder, item):
    (folder / image_index.CAPTIONS).write_text(json.dumps({"image": "o.png", "caption": "c"} | item))
    image_index.read_captions(folder)


def user(content):
    return dict(messages=[{"role": "user", "content": content}])


LINE, CONTENT = r"line 2 of .*x\.jsonl: ", r"messages\[0\]\.content"
CALL = r"messages\[1\]\.tool_calls"
CODING, SEARCH, ROW = r"item 1 of .*x\.json: ", r"item 3 of .*x\.json: ", r"row 0 of .*: "
TASKS, CHAINS, DATA = (rf" must .*\(config\.{key}\)" for key in ("data.tasks", "warm_start.chains", "data.dir"))
# reader, an item with the text at one place, the message
PLACES = {
    "a question": (of_tasks, lambda t: dict(question=t), LINE + "question" + TASKS),
    "an id": (of_tasks, lambda t: dict(id=t), LINE + "id" + TASKS),
    "an answer": (of_tasks, lambda t: dict(answers=["b", t]), LINE + r"answers\[1\]" + TASKS),
    "a message": (of_tasks, lambda t: dict(question=None) | user(t), LINE + CONTENT + TASKS),
    "a part": (of_tasks, lambda t: user([{"text": t}]), LINE + CONTENT + r"\[0\]\.text" + TASKS),
    "a field of one's own": (of_tasks, lambda t: dict(box={"d": [[t]]}), LINE + r"box\.d\[0\]\[0\]" + TASKS),
    "a key": (of_tasks, lambda t: dict(box={t: 1}), LINE + "a key of box" + TASKS),
    "a chain's question": (of_chains, user, LINE + CONTENT + CHAINS),
    "a chain's code": (of_chains, lambda t: called({"code": t}), LINE + CALL + r"\[0\].*\.code" + CHAINS),
    "a chain's code in JSON": (of_chains, lambda t: called(json.dumps({"code": t})), LINE + CALL + ".*code" + CHAINS),
    "a MAT-Coding question": (of_coding, lambda t: dict(question=t), CODING + "question" + DATA),
    "a MAT-Coding answer": (of_coding, lambda t: dict(answers=[t]), CODING + r"answers\[0\]" + DATA),
    "a MAT-Search answer": (of_search, lambda t: dict(answer=t), SEARCH + "answer" + DATA),
    "a MAT-Search query": (of_search, lambda t: dict(query=t), SEARCH + "query" + DATA),
    "a recorded step": (of_steps, lambda t: dict(solution=f"<answer>{t}</answer>"), ROW + "solution" + DATA),
    "a recorded context": (of_steps, lambda t: dict(context=t), ROW + "context" + DATA),
    "a passage": (of_passages, lambda t: dict(text=t), r"x\.jsonl:2: 'text' must"),
    "a passage's title": (of_passages, lambda t: dict(title=t, text="a"), r"x\.jsonl:2: 'title' must"),
    "a caption": (of_captions, lambda t: dict(caption=t), r"captions\.jsonl:1: caption must .*\(--images\)"),
}


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("place", PLACES)
def test_the_item_its_field_and_the_key_are_named(tmp_path, place, bad):
    (tmp_path / "o.png").write_bytes(encode_png(Image(np.full((8, 9, 3), 7, np.uint8))))
    read, item, sentence = PLACES[place]
    with pytest.raises(ValueError, match=sentence) as raised:
        read(tmp_path, {key: value for key, value in item(bad).items() if value is not None})
    assert "hold no NUL and no lone surrogate: got" in str(raised.value)


def test_a_text_that_a_reader_does_not_read_stops_nothing(tmp_path):
    (tmp_path / "o.png").write_bytes(encode_png(Image(np.full((8, 9, 3), 7, np.uint8))))
    of_coding(tmp_path, dict(remark=BAD[0]))
    of_steps(tmp_path, dict(gt=BAD[0]))


def test_whole_pairs_and_every_other_character_pass(tmp_path):
    of_tasks(tmp_path, dict(question="🙂 \x01\x7f\u202e\uffff é", box=["\U0010ffff"]))
    items.check_texts(["a", {"b": ("c", 1, None, True, 1.5)}], "here", "config.x")


def test_bytes_of_a_shell_that_are_no_utf_8_are_refused_before_a_question_is_asked():
    with pytest.raises(ValueError, match=r"question must hold no NUL and no lone surrogate: got .*\(--question\)"):
        agent.ask(None, images=(), questions=("what?", b"\xff".decode("utf-8", "surrogateescape")))


def test_nesting_as_deep_as_json_takes_it_is_read():
    deep = "bad \0"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(ValueError, match="must hold no NUL"):
        items.check_texts(deep, "here", "config.x")
