"""The user's own JSONL files: what becomes of a line, and the one sentence for each that is not of the layout."""

import base64
import json
import warnings

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import jsonl_tasks, source
from arft_jax.data.images import Quarantine, encode_png
from arft_jax.trajectory import Image

PIXELS = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
PNG = encode_png(Image(PIXELS))
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
LINE = dict(id="a", question="What?", answers=["red"], images=["o.png"])
TEST = dict(id="t", question="Which?", answers="7", split="test")


def write(folder, *lines, name="photos.jsonl"):
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for path in (folder / "o.png", folder / "sub" / "p.png"):
        path.write_bytes(PNG)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder / name


def load(folder, *lines, **options):
    return jsonl_tasks.load_file(write(folder, *lines), name="photos", **options)


def test_a_line_becomes_a_task_and_the_test_split_is_what_says_so(tmp_path):
    more = dict(images=["o.png", "sub/p.png"], tools=["python"], level="hard", corpus="c", query="q", box=[1, {"k": 2}])
    splits = load(tmp_path, LINE | more | dict(id=7), "", TEST, dict(id="text", question="2+2?", answers=[4, "four"]))
    first, text = splits["train"]
    assert (first.id, first.kind, first.question, first.answers) == ("7", "general", "What?", ("red",))
    assert [image.name for image in first.images] == ["image_1", "image_2"]
    np.testing.assert_array_equal(first.images[1].pixels, PIXELS)
    assert (first.tools, first.split, first.corpus, first.query) == (("python",), "hard", "c", "q")
    assert first.extra == {"box": [1, {"k": 2}]} and first.task_set == "photos" and first.system == ""
    assert (text.images, text.answers, text.split, text.extra) == ((), ("4", "four"), "simple", {})
    [test] = splits["test"]
    assert (test.id, test.answers) == ("t", ("7",))


def user(*parts):
    return {"role": "user", "content": list(parts)}


def test_messages_in_openai_form_hold_texts_and_images_of_every_kind(tmp_path):
    parts = [
        {"type": "text", "text": "Compare"},
        {"type": "image_url", "image_url": {"url": "sub/p.png"}},
        {"type": "image_url", "image_url": URI},
        {"type": "image", "image": "o.png"},
        {"type": "image"},
        {"type": "text", "text": "these."},
    ]
    item = dict(
        id=1, messages=[{"role": "system", "content": "Be brief."}, user(*parts)], answers="x", images=["o.png"]
    )
    plain = dict(id=2, messages=[{"role": "user", "content": "Why?"}], answers="x", images=["o.png"])
    task, other = load(tmp_path, item, plain, TEST)["train"]
    assert (task.question, task.system) == ("Compare\nthese.", "Be brief.")
    assert [image.name for image in task.images] == [f"image_{n}" for n in range(1, 5)]
    for image in task.images:
        np.testing.assert_array_equal(image.pixels, PIXELS)
    assert (other.question, other.system, len(other.images)) == ("Why?", "", 1)


def test_where_no_line_says_test_every_tenth_is_by_its_id_and_stays_when_the_file_grows(tmp_path):
    lines = [dict(LINE, id=f"item {n}") for n in range(300)]
    small, large = (load(tmp_path, *lines[:n]) for n in (150, 300))
    assert 15 <= len(large["test"]) <= 45  # 30 of 300 to be expected, three deviations of 5.2
    ids = {task.id for task in large["test"]}
    assert {task.id for task in small["test"]} == {task.id for task in small["test"] + small["train"]} & ids
    three = load(tmp_path, *lines[:3])
    assert (len(three["train"]), len(three["test"])) == (2, 1)  # none of them is a tenth: one all the same


def test_the_training_items_are_capped_and_the_test_items_whole(tmp_path):
    lines = [dict(LINE, id=n) for n in range(5)] + [dict(TEST, id=f"t{n}") for n in range(3)]
    splits = load(tmp_path, *lines, n_train=2)
    assert [task.id for task in splits["train"]] == ["0", "1"] and len(splits["test"]) == 3


REFUSALS = {
    "no JSON": ("{", r"line 2 of .*photos.jsonl must be a JSON object: Expecting"),
    "no object": ("[1]", "line 2 of .* must be a JSON object: got list"),
    "no id": (dict(id=None), "line 2 of .*: id must be text or an integer: got None"),
    "an id that is true": (dict(id=True), "id must be text or an integer: got True"),
    "an id twice": (dict(id="t"), "line 2 of .*: id must differ from every other: got 't', as in line 1 of"),
    "no question": (dict(question=None), "line 2 of .*: question must be text that is not blank: got None"),
    "a blank question": (dict(question=" "), "question must be text that is not blank: got ' '"),
    "a question and messages": (dict(messages=[user()]), r"question or messages, one of them: got \['question', 'mess"),
    "no answers": (dict(answers=[]), r"line 2 of .*: answers must hold an answer: got \[\]"),
    "a blank answer": (dict(answers=["a", " "]), r"answers must hold no blank text and no NaN: got \['a', ' '\]"),
    "a NaN answer": ('{"id": "a", "question": "?", "answers": [NaN]}', "line 2 of .*: answers must hold no NaN or Inf"),
    "an answer that is an object": (dict(answers={"a": 1}), "a number or a list of them: got {'a': 1}"),
    "NaN in a key of its own": ('{"id": "a", "box": [[Infinity]]}', r"line 2 of .*: box must hold no NaN or Infinity"),
    "a misspelt key": (dict(anwsers=["a"]), "line 2 of .*: the key 'anwsers' is unknown; did you mean 'answers'?"),
    "a singular key": (dict(image="o.png"), "the key 'image' is unknown; did you mean 'images'?"),
    "a key in capitals": (dict(Question="?"), "the key 'Question' is unknown; did you mean 'question'?"),
    "images that are no list": (dict(images="o.png"), "line 2 of .*: images must be a list: got 'o.png'"),
    "an image that is a number": (dict(images=[3]), "images must be the path of an image file or a data: URI: got 3"),
    "an image of the network": (dict(images=["https://x/y.png"]), "nothing is downloaded: got 'https://x/y.png'"),
    "an image outside": (dict(images=["../o.png"]), "line 2 of .*: images: an image path must stay in its folder"),
    "no image file": (dict(images=["gone.png"]), "line 2 of .*: images: image file must exist: got .*gone.png"),
    "no image": (dict(images=["photos.jsonl"]), "line 2 of .*: images: image must be readable: got .*photos.jsonl"),
    "a URI of no image": (dict(images=["data:image/png;base64,AA"]), "line 2 of .*: images: image must be readable"),
    "an unknown split": (dict(split="tset"), "split must be one of train, test: got 'tset'; did you mean 'test'?"),
    "an unknown kind": (dict(kind="chess"), "line 2 of .*: kind must be one of general, coding, search: got 'chess'"),
    "an unknown fault": (
        dict(problems=["Dark"]),
        "problems must be one of .*: got 'Dark'; did you mean 'dark'",
    ),
    "tools that are no list": (dict(tools="python"), "line 2 of .*: tools must be a list of texts: got 'python'"),
    "a tool twice": (dict(tools=["a", "a"]), "tools must hold each text once"),
    "a corpus that is no text": (dict(corpus=3), "line 2 of .*: corpus must be text: got 3"),
    "an assistant": (
        dict(question=..., messages=[user(), {"role": "assistant"}]),
        r"messages must be one user message, perhaps behind a system message: got \['user', 'assistant'\]",
    ),
    "messages without role": (
        dict(question=..., messages=[{}]),
        r"messages\[0\] must be an object with a role: got",
    ),
    "no messages": (dict(question=..., messages=[]), r"messages must be a list of messages: got \[\]"),
    "a message without text": (
        dict(question=..., messages=[user()]),
        r"messages\[0\].content must hold text, not blank",
    ),
    "an unknown part": (
        dict(question=..., messages=[user({"type": "audio"})]),
        r"messages\[0\].content\[0\] must be a part of type text, image_url or image: got {'type': 'audio'}",
    ),
    "a placeholder too many": (
        dict(question=..., messages=[user({"type": "image"}, {"type": "image"})]),
        r"messages\[0\].content\[1\] must name an image, or images must hold one more",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_line_that_is_not_of_the_layout_is_one_sentence_with_line_and_key(tmp_path, case):
    change, sentence = REFUSALS[case]
    line = change if isinstance(change, str) else {k: v for k, v in (LINE | change).items() if v is not ...}
    with pytest.raises(ValueError, match=sentence) as error:
        load(tmp_path, TEST, line)
    assert "\n" not in str(error.value)


def test_files_without_items_or_without_a_split_are_refused(tmp_path):
    for lines, sentence in {
        ("",): "data file must hold items, one a line: got none",
        (json.dumps(TEST),): 'train and test items: got no item of "split": "train"',
        (json.dumps(LINE | dict(split="train")),): 'got no item of "split": "test"',
    }.items():
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path, *lines)
    (tmp_path / "photos.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be a readable UTF-8 file"):
        jsonl_tasks.load_file(tmp_path / "photos.jsonl")


def test_a_bad_training_image_is_quarantined_and_a_bad_test_image_refused(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    bad, quarantine = dict(LINE, images=["bad.png"]), Quarantine()
    [task, _] = load(tmp_path, bad, dict(LINE, id="b"), TEST, quarantine=quarantine)["train"]
    assert task.images[0].is_bad and quarantine.n_images == 1
    with pytest.raises(ValueError, match="line 2 of .*: images: image must be readable: got .*bad.png"):
        load(tmp_path, LINE, bad | dict(id="b", split="test"), quarantine=quarantine)
    with pytest.raises(ValueError, match="line 1 of .*: images: image must be readable: got .*bad.png"):
        load(tmp_path, bad, TEST)


def test_an_animation_is_said_once_for_a_file(tmp_path):
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.gif", "still.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:] if name != "still.gif" else [])
    lines = [dict(LINE, id=n, images=[name]) for n, name in enumerate(("a.gif", "b.gif", "still.gif", "a.gif"))]
    with pytest.warns(UserWarning, match=r"first frame alone is shown: .* names 2, among them .*a.gif") as said:
        splits = load(tmp_path, *lines, TEST)
    assert len(said) == 1
    assert (splits["train"][0].images[0].pixels == (255, 0, 0)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, lines[2], TEST)


def test_files_go_through_the_door_of_all_task_sets_under_the_name_of_their_stem(tmp_path):
    path = write(tmp_path, LINE, TEST)
    splits = source.load_splits([f"jsonl:{path}"], tmp_path, seed=0, n_train=9)
    assert list(splits) == ["photos"] and [task.task_set for task in splits["photos"]["train"]] == ["photos"]
    assert [task.id for task in source.load_tasks(f"jsonl:{path}", "test", tmp_path)] == ["t"]
    (tmp_path / "o.png").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"some image of jsonl:.* must be readable: .*o.png"):
        source.load_splits([f"jsonl:{path}"], tmp_path, seed=0, n_train=9, quarantine=Quarantine())


def test_a_damaged_image_is_found_by_decoding_all(tmp_path):
    tasks = load(tmp_path, LINE, TEST)["train"]
    (tmp_path / "o.png").write_bytes(PNG[:-30])  # the header that was read is whole
    with pytest.raises(ValueError, match=r"line 1 of .*o.png.*\(config.data.strict\)"):
        source.decode_images(tasks)
    (tmp_path / "o.png").write_bytes(PNG)
    source.decode_images(tasks)


def test_the_keys_of_the_docstring_are_those_that_are_read():
    assert all(f"\n    {key} " in jsonl_tasks.__doc__ for key in jsonl_tasks.KEYS if key != "messages")
