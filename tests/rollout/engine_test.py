"""The slot scheduler with a scripted policy: how every kind of trajectory ends, and what the tools are asked."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.resources
import json
import threading

import jax
import numpy as np
import pytest

from arft_jax.data.synthetic import coding, degrade, search
from arft_jax.data.synthetic.corpus import make_worlds, query_of
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Malformed
from arft_jax.rewards.combine import score_trajectory
from arft_jax.rollout.request import Request
from arft_jax.steps.state import FREE
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import code_call, make_toolbox
from arft_jax.tools import diagnose, toolbox
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.tools.search_index import Document, SearchIndex
from arft_jax.trajectory import Image, Observation, Status, Task, ToolStatus

MAX_TURN, MAX_TOKENS = 96, 320
ANSWER = "<think>seen</think><answer>7</answer>"
SEARCH = "<think>look</think><search>red fox</search>"
TAIL = "swer>\n42"  # one token: the end of a tag, and more


def _tokenizer_with(piece):
    """The tiny tokenizer and one more id, whose bytes are ``piece``."""
    asset = importlib.resources.files("arft_jax.data") / "assets" / "tiny_tokenizer" / "tokenizer.json"
    layout = json.loads(asset.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    new = max(entry["id"] for entry in layout["added_tokens"]) + 1
    layout["added_tokens"].append({"id": new, "content": piece, **flags})
    return Tokenizer(json.dumps(layout)), new


@pytest.fixture(scope="module")
def stage():
    tokenizer, tail = _tokenizer_with(TAIL)
    stage = tiny.Stage(
        tokenizer, n_slots=4, group_size=2, max_turns=4, max_turn_tokens=MAX_TURN, max_tokens=MAX_TOKENS,
        extend_chunk=32, max_pixels=84 * 84,
    )  # fmt: skip
    stage.tail = tail
    return stage


def say(text="seen"):
    """A tool that always says the same."""
    return tiny.InstantTools(lambda task, action, image: Observation(text))


def only(groups):
    [[trajectory]] = groups
    return trajectory


# ------------------------------------------------------------------ endings


def test_an_answer_ends_a_trajectory(stage):
    task = tiny.tiny_task(1)
    t = only(stage.play([(task, [ANSWER])], say()))
    assert (t.status, t.answer, len(t.turns)) == (Status.ANSWERED, "7", 1)
    prompt = stage.engine.renderer.prompt(task).tokens
    np.testing.assert_array_equal(t.tokens, [*prompt, *stage.ids(ANSWER)])
    np.testing.assert_array_equal(t.loss_mask, np.arange(len(t.tokens)) >= len(prompt))
    assert (t.prompt_len, t.turns[0].start, t.turns[0].end) == (len(prompt), len(prompt), len(t.tokens))
    np.testing.assert_allclose(t.sampler_logps, 0, atol=1e-6)  # a script is sure of itself


def test_a_stop_tag_ends_a_turn_though_its_token_says_more(stage):
    head = "<think>x</think><answer>7</an"
    t = only(stage.play([(tiny.tiny_task(1), [[*stage.ids(head), stage.tail, *stage.ids("never said")]])], say()))
    assert t.turns[0].text == head + TAIL and t.status is Status.ANSWERED and t.answer == "7"
    assert t.tokens[-1] == stage.tail and t.loss_mask[-1]


def test_the_end_token_ends_a_turn_and_is_in_the_loss_but_not_in_the_text(stage):
    eos = stage.tokenizer.eos_id
    t = only(stage.play([(tiny.tiny_task(1), [[*stage.ids("I give up"), eos, *stage.ids(ANSWER)]])], say()))
    assert (t.status, t.turns[0].text, t.tokens[-1]) == (Status.NO_ACTION, "I give up", eos)
    assert t.loss_mask[-1] and t.answer is None


@pytest.mark.parametrize(
    "turn",
    [
        "<think>x</think><problem>{'tired'}</problem>",
        "<think>x</think><code>print(1)</code>",
        "<answer></answer>",
        "no tag opened</answer>",
        "<search>a<answer>b</answer>",
    ],
)
def test_a_turn_that_is_no_action_ends_as_malformed(stage, turn):
    tools = say()
    t = only(stage.play([(tiny.tiny_task(1, "coding"), [turn, ANSWER])], tools))
    assert t.status is Status.MALFORMED and t.turns[0].text == turn and not tools.calls
    assert isinstance(t.turns[0].action, Malformed) and t.turns[0].call is None


def test_a_tool_that_raises_or_is_cancelled_ends_its_own_row_alone_as_a_fault_of_ours(stage):
    class Faulty(tiny.InstantTools):
        def submit(self, call, context):
            future = super().submit(call, context)
            if call.request == "red fox":
                return future
            broken = concurrent.futures.Future()
            if call.request == "raise":
                broken.set_exception(RuntimeError("no such tool"))
            else:
                broken.cancel()
                broken.set_running_or_notify_cancel()  # as an executor does
            return broken

    scripts = [[SEARCH, ANSWER], *([SEARCH.replace("red fox", word), ANSWER] for word in ("raise", "cancel"))]
    rows = stage.play([(tiny.tiny_task(i), turns) for i, turns in enumerate(scripts)], Faulty(say().answer))
    ended = [t.status for group in rows for t in group]
    assert ended == [Status.ANSWERED, Status.INFRA, Status.INFRA]


def test_a_run_that_breaks_off_tells_why_and_the_next_finds_every_slot_free(stage):
    scripts = [(tiny.tiny_task(i), [SEARCH, ANSWER]) for i in range(6)]
    requests = [Request(task, number, 1) for number, (task, _) in enumerate(scripts)]
    params, rng = stage.params(scripts), jax.random.key(0)

    def stop(trajectory):
        guard.enter_context(jax.transfer_guard("disallow"))  # as in a training step
        raise LookupError("stopped by the caller")

    with pytest.raises(LookupError, match="stopped by the caller"), contextlib.ExitStack() as guard:
        stage.engine.run(params, requests, say(), rng=rng, temperature=1.0, on_finish=stop)
    assert set(np.asarray(stage.engine.slots.state.status)) == {FREE}
    assert [only([group]).status for group in stage.play(scripts, say())] == [Status.ANSWERED] * 6


def test_the_turn_limit_ends_before_the_last_call_is_made(stage):
    tools = say()
    t = only(stage.play([(tiny.tiny_task(1), [SEARCH] * 6)], tools))
    assert t.status is Status.TURN_LIMIT and len(t.turns) == 4 and len(tools.calls) == 3
    assert t.turns[-1].observation is None and t.turns[-1].call.request == "red fox"
    assert all(turn.observation.text == "seen" for turn in t.turns[:-1])
    assert len(t.tokens) == t.turns[-1].end


def test_max_turns_of_a_run_goes_before_the_limits(stage):
    turns = [SEARCH, SEARCH, SEARCH, SEARCH, ANSWER]
    assert only(stage.play([(tiny.tiny_task(1), turns)], say(), max_turns=5)).status is Status.ANSWERED
    t = only(stage.play([(tiny.tiny_task(1), turns)], say(), max_turns=1))
    assert t.status is Status.TURN_LIMIT and len(t.turns) == 1


def test_a_turn_without_a_stop_ends_at_its_token_budget(stage):
    word = stage.ids("a")
    t = only(stage.play([(tiny.tiny_task(1), [word * 200])], say()))
    assert t.status is Status.TURN_TOKENS and int(t.loss_mask.sum()) == MAX_TURN
    # the budget is a turn's, not the trajectory's
    t = only(stage.play([(tiny.tiny_task(1), [SEARCH, word * 200])], say()))
    assert [turn.end - turn.start for turn in t.turns] == [len(stage.ids(SEARCH)), MAX_TURN]


def test_a_stop_with_the_last_token_of_the_budget_still_counts(stage):
    filler = stage.ids("a") * (MAX_TURN - len(stage.ids("<answer>7</answer>")))
    t = only(stage.play([(tiny.tiny_task(1), [[*filler, *stage.ids("<answer>7</answer>")]])], say()))
    assert t.status is Status.ANSWERED and int(t.loss_mask.sum()) == MAX_TURN
    t = only(stage.play([(tiny.tiny_task(1), [[*filler, *stage.ids("a<answer>7</answer>")]])], say()))
    assert t.status is Status.TURN_TOKENS and int(t.loss_mask.sum()) == MAX_TURN
    unopened = [*stage.ids("a") * (MAX_TURN - len(stage.ids("</answer>"))), *stage.ids("</answer>")]
    t = only(stage.play([(tiny.tiny_task(1), [unopened])], say()))
    assert t.status is Status.MALFORMED and int(t.loss_mask.sum()) == MAX_TURN


def _room_after_a_search(stage, task):
    """Tokens that an observation may take behind one search, the one token to sample not counted."""
    frame = len(stage.engine.renderer.observation(Observation("")).tokens)
    return MAX_TOKENS - len(stage.engine.renderer.prompt(task).tokens) - len(stage.ids(SEARCH)) - frame - 1


def test_an_observation_is_fed_whole_or_not_at_all(stage):
    task = tiny.tiny_task(1)
    room = _room_after_a_search(stage, task)
    fits = " a" * room
    assert len(stage.ids(fits)) == room
    t = only(stage.play([(task, [SEARCH, ANSWER])], say(fits)))
    assert t.status is Status.TOKENS and len(t.tokens) == MAX_TOKENS  # one token was sampled behind it
    assert t.loss_mask[-1] and not t.loss_mask[-2] and len(t.turns) == 2
    t = only(stage.play([(task, [SEARCH, ANSWER])], say(fits + " a")))
    assert t.status is Status.TOKENS and len(t.tokens) == t.turns[0].end and len(t.turns) == 1
    assert t.turns[0].observation.text == fits + " a" and not t.observation_mask.any()


SHOW = "<think>fix</think><code>```python\nx = 1\n```</code>"


@pytest.mark.parametrize(
    "limits, n_shown",
    [
        (dict(max_images=3), 2),
        (dict(max_images=2), 1),
        (dict(max_images=1), 0),
        (dict(max_image_pixels=28 * 28 * 4), 2),  # the prompt's image and one of each turn, the second twice as large
        (dict(max_image_pixels=28 * 28 * 4 - 1), 1),
    ],
    ids=str,
)
def test_images_beyond_the_budget_end_the_row_and_are_not_fed(stage, monkeypatch, limits, n_shown):
    monkeypatch.setattr(stage.engine, "limits", dataclasses.replace(stage.engine.limits, **limits))
    replies = [Observation("", (tiny.tiny_image(4),)), Observation("", (tiny.tiny_image(5, 28, 56),))]
    tools = tiny.InstantTools(lambda *_: replies[len(tools.calls) - 1])
    t = only(stage.play([(tiny.tiny_task(1, "coding"), [SHOW, SHOW, ANSWER])], tools))
    assert len(t.images) == 1 + n_shown and len(t.turns) == min(n_shown + 1, 3)
    assert t.status is (Status.ANSWERED if n_shown == 2 else Status.IMAGES)
    if n_shown < 2:
        last, reply = t.turns[-1].observation, replies[n_shown]
        assert [x.sha256 for x in last.images] == [x.sha256 for x in reply.images] and len(t.tokens) == t.turns[-1].end


def test_text_may_still_come_when_the_image_budget_is_spent(stage, monkeypatch):
    monkeypatch.setattr(stage.engine, "limits", dataclasses.replace(stage.engine.limits, max_images=1))
    assert only(stage.play([(tiny.tiny_task(1), [SEARCH, ANSWER])], say())).status is Status.ANSWERED


@pytest.mark.parametrize("limits", [dict(max_images=1), dict(max_image_pixels=28 * 28 * 2 - 1)], ids=str)
def test_a_prompt_beyond_the_image_budget_is_refused(stage, monkeypatch, limits):
    monkeypatch.setattr(stage.engine, "limits", dataclasses.replace(stage.engine.limits, **limits))
    task = tiny.tiny_task(1, sizes=[(28, 28), (28, 28)])
    with pytest.raises(ValueError, match=r"got 2 images of 1568 px, .* \(config.rollout.max_images, "):
        stage.play([(task, [ANSWER])], say())


def test_a_fault_of_ours_ends_its_row_alone(stage):
    a, b = tiny.tiny_task(1), tiny.tiny_task(2)

    def fails_for_a(task, action, image):
        return tiny.failing(task, action, image) if task is a else Observation("fine")

    [[x], [y]] = stage.play([(a, [SEARCH, ANSWER]), (b, [SEARCH, ANSWER])], tiny.InstantTools(fails_for_a))
    assert (x.status, y.status) == (Status.INFRA, Status.ANSWERED)
    assert x.turns[0].observation.status is ToolStatus.INFRA and len(x.tokens) == x.turns[0].end


# ---------------------------------------------------------------- scheduling


def test_results_stand_by_request_and_row_and_each_is_reported_once(stage):
    tasks = [tiny.tiny_task(i) for i in range(5)]
    scripts = [(task, [*[SEARCH] * (i % 3), ANSWER]) for i, task in enumerate(tasks)]
    finished = []
    groups = stage.play(scripts, say(), n_rows=2, on_finish=finished.append)
    assert [[(t.task.id, t.row) for t in group] for group in groups] == [[(f"t{i}", 0), (f"t{i}", 1)] for i in range(5)]
    assert sorted(map(id, finished)) == sorted(id(t) for group in groups for t in group)
    assert [len(group[1].turns) for group in groups] == [1, 2, 3, 1, 2]


def test_no_request_gives_no_result(stage):
    assert stage.engine.run(None, [], say(), rng=None, temperature=1.0) == []


def test_rows_go_on_and_slots_are_refilled_while_a_tool_runs(stage):
    slow, finished = tiny.tiny_task(0), threading.Event()
    others = [tiny.tiny_task(i) for i in range(1, 7)]
    count = []

    def on_finish(t):
        count.append(t)
        if len(count) == len(others):
            finished.set()

    def wait_for_the_others(task, action, image):
        if task is slow:
            return Observation("in time" if finished.wait(20) else "too late")
        return Observation("seen")

    tools = tiny.LateTools(wait_for_the_others, longest_s=0.0)
    try:
        scripts = [(slow, [SEARCH, ANSWER])] + [(task, [SEARCH, SEARCH, ANSWER]) for task in others]
        groups = stage.play(scripts, tools, on_finish=on_finish)
    finally:
        tools.close()
    assert groups[0][0].turns[0].observation.text == "in time" and count[-1] is groups[0][0]


def test_code_runs_on_the_newest_image(stage):
    code = "<think>fix</think><code>```python\nx = 1\n```</code>"
    new, shown = tiny.tiny_image(5, 28, 56, "image_2"), tiny.tiny_image(6, 56, 28, "image_3")
    replies = iter([Observation("", (tiny.tiny_image(4), new)), Observation("no image"), Observation("", (shown,))])
    tools = tiny.InstantTools(lambda *_: next(replies))
    task = tiny.tiny_task(1, "coding")
    t = only(stage.play([(task, [code, code, code, ANSWER])], tools))
    assert [image.sha256 for _, _, image in tools.calls] == [image.sha256 for image in (task.images[0], new, new)]
    names = [[image.name for image in images] for images in tools.banks]  # and every image by its name
    assert names == [["image_1"], ["image_1", "image_2", "image_3"], ["image_1", "image_2", "image_3"]]
    assert all(action == code_call("x = 1\n") for _, action, _ in tools.calls)
    assert [span.sha256 for span in t.images][-2:] == [new.sha256, shown.sha256] and len(t.images) == 4
    assert [turn.call.tool for turn in t.turns[:3]] == ["python"] * 3


def test_control_tokens_in_a_script_are_not_said(stage):
    banned = sorted(stage.tokenizer.control_ids - {stage.tokenizer.eos_id})
    t = only(stage.play([(tiny.tiny_task(1), [[*banned, *stage.ids(ANSWER)]])], say()))
    assert not set(t.tokens[t.prompt_len :].tolist()) & set(banned)
    assert t.status is Status.ANSWERED and int(t.loss_mask.sum()) == len(banned) + len(stage.ids(ANSWER))


def test_each_program_is_compiled_once_whatever_is_played():
    fresh = tiny.Stage(Tokenizer.tiny(), n_slots=4, group_size=2, max_tokens=192, max_turn_tokens=32)
    fresh.play([(tiny.tiny_task(1), [SEARCH, ANSWER])], say(), n_rows=2)
    assert fresh.engine.slots.sampler.n_compiled() == 4  # encode, extend, fork, decode
    for n_rows in (1, 2):
        scripts = [(tiny.tiny_task(i, sizes=[(28, 28)] * (i + 1)), [*[SEARCH] * i, ANSWER]) for i in range(4)]
        fresh.play(scripts, say("note " * n_rows), n_rows=n_rows)
        assert fresh.engine.slots.sampler.n_compiled() == 4


# ----------------------------------------------------- real tools, end to end


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "i.sqlite"
    worlds = make_worlds(0, "test")
    SearchIndex.build(path, (Document(d.title, d.text, d.corpus) for w in worlds for d in w.documents))
    with PythonSandbox(n_workers=1, timeout_s=20.0) as python, SearchIndex(path) as index:
        with make_toolbox(python, index, top_k=2) as box:
            yield box


def _dark_item():
    return next(item for item in (coding.make_item(0, "test", i) for i in range(70)) if item.kinds == ("dark",))


def _coding_turns(item):
    source = degrade.repair_code(item.kinds)
    return [
        "<think>dim</think><problem>{'dark'}</problem>",
        f"<think>fix</think><code>```python\n{source}```</code>",
        f"<think>read</think><answer>{item.answers[0]}</answer>",
    ]


def test_problem_code_image_answer_with_the_real_sandbox(stage, tools):
    item = _dark_item()
    task, turns = item.task(), _coding_turns(item)
    t = only(stage.play([(task, turns)], tools))
    assert t.status is Status.ANSWERED and t.answer == item.answers[0]
    assert [turn.text for turn in t.turns] == turns
    assert [turn.observation.status for turn in t.turns[:2]] == [ToolStatus.OK] * 2
    assert t.turns[0].observation.text == diagnose.TIP_FIX and not t.turns[0].observation.images
    [seen] = t.turns[1].observation.images
    dark, bright = item.processed.astype(float), item.original.astype(float)
    assert np.abs(seen.pixels - bright).mean() < 0.2 * np.abs(dark - bright).mean()  # repaired
    # the very image that came back stands in the stream, behind the turn that made it
    assert [span.sha256 for span in t.images] == [task.images[0].sha256, seen.sha256]
    assert t.turns[1].end < t.images[1].start < t.turns[2].start
    scores = score_trajectory(t)
    assert (scores["format"], scores["em"], scores["problem"], scores["total"]) == (1.0, 1.0, 1.0, 2.0)


def test_search_information_answer_with_the_real_index(stage, tools):
    item = search.make_items(0, "test", 1)[0]
    world = next(w for w in make_worlds(0, "test") if w.corpus == item.corpus)
    house, relation = next(
        (h, r) for h, facts in world.facts.items() for r, name in facts.items() if name == item.answer
    )
    turns = [
        f"<think>look</think><search>{query_of(house, relation)}</search>",
        f"<think>read</think><answer>{item.answer}</answer>",
    ]
    t = only(stage.play([(item.task(), turns)], tools))
    found = t.turns[0].observation
    assert t.status is Status.ANSWERED and found.status is ToolStatus.OK
    assert found.text.startswith("<information> 1. Content: ") and item.answer in found.text.split("2. Content")[0]
    stream = stage.tokenizer.decode(t.tokens[t.turns[0].end : t.turns[1].start])
    assert found.text in stream
    assert score_trajectory(t)["total"] == 2.0


def test_tools_switched_off_serve_nobody(stage):
    item = _dark_item()
    fox = tiny.tiny_task(2)
    with make_toolbox(None, None, enabled=False) as off:
        [[a], [b]] = stage.play([(item.task(), _coding_turns(item)), (fox, [SEARCH, ANSWER])], off)
    calls = [turn.observation for t in (a, b) for turn in t.turns if turn.call]
    assert len(calls) == 3 and all(seen.status is ToolStatus.REFUSED for seen in calls)
    assert all(seen.text == toolbox.SWITCHED_OFF and not seen.images for seen in calls)
    assert a.status is b.status is Status.ANSWERED and len(a.images) == 1


def test_a_tool_that_the_task_does_not_offer_is_refused_and_the_trajectory_goes_on(stage, tools):
    t = only(stage.play([(tiny.tiny_task(1, "coding"), [SEARCH, ANSWER])], tools))
    assert t.turns[0].observation.status is ToolStatus.REFUSED and t.status is Status.ANSWERED


def test_failing_code_shows_its_error_and_keeps_the_image(stage, tools):
    bad = "<think>x</think><code>```python\nprint(1 / 0)\n```</code>"
    good = f"<think>y</think><code>```python\n{degrade.repair_code(('rotation180',))}```</code>"
    ramp = np.linspace(0, 255, 56).astype(np.uint8)
    pixels = np.broadcast_to(ramp[:, None, None], (56, 56, 3)).copy()
    task = Task("c", "coding", "which?", (Image(pixels, "image_1"),), ("7",))
    t = only(stage.play([(task, [bad, good, ANSWER])], tools))
    assert t.turns[0].observation.status is ToolStatus.ERROR and "ZeroDivisionError" in t.turns[0].observation.text
    turned = t.turns[1].observation.images[0].pixels.astype(int)
    assert np.abs(turned - pixels[::-1, ::-1]).max() <= 8  # what JPEG leaves of a ramp
