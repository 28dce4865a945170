"""Trajectories come back bit for bit; an image is stored once."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from arft_jax.io import trajectories
from arft_jax.testing.toolboxes import turn_of
from arft_jax.trajectory import Image, ImageSpan, Observation, Status, Task, ToolCall, ToolStatus, Trajectory


def make_image(seed, height=5, width=7, name="image_1"):
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), name)


def make_trajectory(row=0, image=None):
    image = image or make_image(0)
    task = Task(
        "t1",
        "coding",
        "里面写着什么? <b>",
        (image,),
        ("42", "four two"),
        ("dark", "noise"),
        "hard",
        "c",
        "a query",
        "<search>a step</search>",
        ("search", "python"),
        "Be brief.",
        "photos",
        {"level": 2, "boxes": [[0, 1], {"a": None}]},
    )
    texts = [
        "<think>dim</think><problem>{'dark', 'noise'}</problem>",
        "<code>```python\nx\n```</code>",
        "<search>q</search>",
        "junk",
        "<answer>42</answer>",
    ]
    seen = [
        Observation("noted"),
        Observation("", (make_image(1, 9, 4, "image_2"),), ToolStatus.OK, 0.25),
        Observation("switched off", (), ToolStatus.REFUSED),
        None,
        None,
    ]
    turns = [
        turn_of(text, 4 * i, 4 * i + 3, observation)
        for i, (text, observation) in enumerate(zip(texts, seen, strict=True))
    ]
    n = 20
    rng = np.random.default_rng(row)
    return Trajectory(
        task=task,
        row=row,
        tokens=np.arange(n, dtype=np.int32),
        sampler_logps=rng.normal(size=n).astype(np.float32),
        completion_mask=np.arange(n) >= 4,
        observation_mask=np.arange(n) % 5 == 0,
        positions=np.arange(3 * n, dtype=np.int32).reshape(3, n),
        prompt_len=4,
        images=(ImageSpan(image.sha256, 1, 2, (1, 2, 4)),),
        turns=tuple(turns),
        status=Status.ANSWERED,
        rewards={"total": 1.5, "format": 0.5, "accuracy": 1.0},
        info={"seed": 3},
    )


def plain(value):
    """Nested plain values, arrays with dtype and shape, for one comparison with ==."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value).__name__, fields
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


def test_everything_comes_back_as_it_was(tmp_path):
    saved = [make_trajectory(0), make_trajectory(1)]
    saved[1].versions[:] = np.where(saved[1].loss_mask, 3, -1)
    trajectories.save_trajectories(tmp_path / "run" / "t.jsonl", saved)
    loaded = trajectories.load_trajectories(tmp_path / "run" / "t.jsonl")
    assert [plain(t) for t in loaded] == [plain(t) for t in saved]
    assert loaded[0].answer == "42" and loaded[0].task.images[0].sha256 == saved[0].task.images[0].sha256


def test_a_file_without_versions_is_read_as_version_0(tmp_path):
    path = tmp_path / "t.jsonl"
    trajectories.save_trajectories(path, [make_trajectory()])
    record = json.loads(path.read_text())
    del record["versions"]
    path.write_text(json.dumps(record) + "\n")
    [loaded] = trajectories.load_trajectories(path)
    np.testing.assert_array_equal(loaded.versions, np.where(loaded.loss_mask, 0, -1))


OLDER = [
    dict(type="Problem", kinds=["dark", "noise"]),
    dict(type="Code", source="x\n"),
    dict(type="Search", query="q"),
    dict(type="Malformed", reason="no action tag"),
    dict(type="Answer", text="42"),
]


def test_files_that_name_calls_by_the_papers_actions_are_read(tmp_path):
    path = tmp_path / "t.jsonl"
    saved = make_trajectory()
    trajectories.save_trajectories(path, [saved])
    record = json.loads(path.read_text())
    for turn, action in zip(record["turns"], OLDER, strict=True):
        turn["action"] = action
        turn["call"] = {"tool": "diagnose", "request": "x"} if action["type"] == "Problem" else None
        del turn["in_form"]
    path.write_text(json.dumps(record) + "\n")
    [loaded] = trajectories.load_trajectories(path)
    assert [turn.action for turn in loaded.turns] == [turn.action for turn in saved.turns]
    assert [turn.call and turn.call.tool for turn in loaded.turns] == ["diagnose", "python", "search", None, None]
    assert loaded.turns[0].call == ToolCall("diagnose", {"problems": ["dark", "noise"]})
    assert [turn.in_form for turn in saved.turns] == [True, False, False, False, False]


def test_a_file_of_tasks_without_later_fields_is_read(tmp_path):
    path = tmp_path / "t.jsonl"
    trajectories.save_trajectories(path, [make_trajectory()])
    record = json.loads(path.read_text())
    for key in ("tools", "system", "task_set", "extra"):
        del record["task"][key]
    path.write_text(json.dumps(record) + "\n")
    [loaded] = trajectories.load_trajectories(path)
    assert (loaded.task.tools, loaded.task.system, loaded.task.task_set, loaded.task.extra) == ((), "", "", {})


def test_an_image_is_stored_once_for_all_files_of_a_folder(tmp_path):
    for name in ("before", "after"):
        trajectories.save_trajectories(tmp_path / f"{name}.jsonl", [make_trajectory(row) for row in range(4)])
    assert len(list((tmp_path / "images").iterdir())) == 2  # the task's and the tool's
    assert "base64" not in make_trajectory().task.question
    loaded = trajectories.load_trajectories(tmp_path / "after.jsonl")
    assert loaded[0].task.images[0].pixels is loaded[3].task.images[0].pixels


def test_a_changed_image_file_is_noticed(tmp_path):
    trajectory = make_trajectory()
    trajectories.save_trajectories(tmp_path / "t.jsonl", [trajectory])
    path = tmp_path / "images" / f"{trajectory.task.images[0].sha256}.png"
    PIL.Image.new("RGB", (7, 5)).save(path)
    with pytest.raises(ValueError, match="its pixels have another hash"):
        trajectories.load_trajectories(tmp_path / "t.jsonl")


def test_an_info_that_is_no_json_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "t.jsonl"
    trajectories.save_trajectories(path, [make_trajectory()])
    bad = dataclasses.replace(make_trajectory(), info={"x": object()})
    with pytest.raises(ValueError, match="info and its task's extra must be JSON"):
        trajectories.save_trajectories(path, [bad])
    assert len(trajectories.load_trajectories(path)) == 1


def test_a_writer_appends_lines_that_are_there_at_once_and_that_load_as_saved_ones_do(tmp_path):
    first, second = make_trajectory(0), make_trajectory(1)
    trajectories.save_trajectories(tmp_path / "saved", [first, second])
    writer = trajectories.TrajectoryWriter(tmp_path / "written")
    writer.write(first)
    [seen] = trajectories.load_trajectories(tmp_path / "written")  # before it is closed
    assert seen.task.id == first.task.id
    writer.close()
    writer = trajectories.TrajectoryWriter(tmp_path / "written.jsonl")
    writer.write(second)
    writer.close()
    assert (tmp_path / "written.jsonl").read_bytes() == (tmp_path / "saved.jsonl").read_bytes()
