"""The sampler under a random model of the true architecture: whatever the schedule, the same trajectory."""

import jax
import numpy as np
import pytest

from arft_jax.data.chat import Segment
from arft_jax.models.qwen2_5_vl import positions as mrope
from arft_jax.rollout import prefill
from arft_jax.rollout.request import Request
from arft_jax.rollout.row import Feed, image_spans
from arft_jax.steps import learner
from arft_jax.steps.sampler import UnstackedParams
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import (
    LOGPS_TOLERANCE,
    N_ROWS,
    N_TASKS,
    STOPS,
    World,
    assert_same,
    flat,
    reply,
)
from arft_jax.testing.rows import one_each
from arft_jax.trajectory import Status, Task


@pytest.fixture(scope="module")
def world():
    return World()


def test_the_reference_holds_what_the_other_tests_rely_on(world):
    rows = flat(world.reference)
    assert len(rows) == N_TASKS * N_ROWS > 2 * world.base.limits.n_slots
    assert {t.status for t in rows} >= {Status.ANSWERED, Status.TURN_LIMIT, Status.MALFORMED}
    assert {1, 2, 3} <= {len(t.images) for t in rows} and {1, 2, 3} == {len(t.turns) for t in rows}
    assert len({tuple(t.tokens.tolist()) for t in rows}) == len(rows)
    lengths = [turn.end - turn.start for t in rows for turn in t.turns]
    assert {1, world.base.limits.max_turn_tokens} <= set(lengths) and len(set(lengths)) > 4


def test_a_row_is_the_same_alone_and_among_many(world):
    for i in range(N_TASKS):
        [[alone]] = world.run(world.base, [Request(world.tasks[i], 10 + i, 1)])
        assert_same([alone], world.reference[i][:1])


def test_a_row_is_the_same_early_and_late_in_the_queue(world):
    backwards = world.run(world.base, world.requests[::-1])
    assert_same(flat(backwards[::-1]), flat(world.reference))


def test_a_row_is_the_same_whoever_shares_the_batch(world):
    strangers = [Request(tiny.tiny_task(50 + i, sizes=[(56, 56)]), i, 1) for i in range(4)]
    mixed = world.run(world.base, [strangers[0], world.requests[2], *strangers[1:], world.requests[0]])
    assert_same(mixed[1] + mixed[-1], world.reference[2] + world.reference[0])


def test_another_number_or_key_gives_another_trajectory(world):
    [[other]] = world.run(world.base, [Request(world.tasks[0], 99, 1)])
    assert not np.array_equal(other.tokens, world.reference[0][0].tokens)
    tools = tiny.InstantTools(reply)
    [[again]] = world.base.run(
        world.params, [Request(world.tasks[0], 10, 1)], tools, rng=jax.random.key(4), temperature=1.0
    )
    assert not np.array_equal(again.tokens, world.reference[0][0].tokens)


@pytest.mark.parametrize("seed", [0, 1])
def test_late_tools_in_shuffled_order_change_nothing(world, seed):
    tools = tiny.LateTools(reply, seed)
    try:
        late = world.run(world.base, world.requests, tools)
    finally:
        tools.close()
    assert len(tools.calls) > N_TASKS
    assert_same(flat(late), flat(world.reference))


@pytest.mark.parametrize("steps", [1, 16])
def test_the_number_of_decode_steps_changes_nothing(world, steps):
    assert_same(flat(world.run(world.engine(decode_steps=steps), world.requests)), flat(world.reference))


@pytest.mark.parametrize("limits", [{"extend_chunk": 8}, {"extend_chunk": 64}, {"extend_rows": 1}], ids=str)
def test_the_size_of_an_extend_call_changes_nothing(world, limits):
    prompts = [t.prompt_len for t in flat(world.reference)]
    assert max(prompts) > 8 and max(prompts) > world.base.limits.extend_chunk  # several chunks a prompt
    assert_same(flat(world.run(world.engine(**limits), world.requests)), flat(world.reference))


def test_more_slots_than_rows_change_nothing(world):
    assert_same(flat(world.run(world.engine(n_slots=64), world.requests)), flat(world.reference))


def test_a_single_slot_changes_nothing(world):
    single = world.run(
        world.engine(n_slots=1, extend_rows=1), [Request(t, 10 + i, 1) for i, t in enumerate(world.tasks)]
    )
    assert_same(flat(single), [group[0] for group in world.reference])


def test_few_feature_rows_are_served_in_waves(world, monkeypatch):
    waves = []
    take = prefill.Feeder.take_wave
    monkeypatch.setattr(prefill.Feeder, "take_wave", lambda self, feeds: waves.append(take(self, feeds)) or waves[-1])
    small = world.engine(n_features=6)  # the largest turn's images are 6 tokens
    served = world.run(small, world.requests)
    assert any(len(a) and len(b) for a, b in zip(waves, waves[1:], strict=False))
    assert all(sum(span.n for feed in wave for span in feed.spans) <= 6 for wave in waves)
    assert_same(flat(served), flat(world.reference))


@pytest.mark.parametrize("n_slots", [1, 2, 4, 5])
def test_rows_of_a_group_begin_as_slots_come_free_and_are_the_same(world, n_slots, monkeypatch):
    begun_later = []  # how far the source had gone on when it gave its prompt

    def fork(feeder, source, targets, plain=prefill.Feeder.fork):
        begun_later.append(feeder.rows[source].length - feeder.rows[targets[0]].length)
        plain(feeder, source, targets)

    monkeypatch.setattr(prefill.Feeder, "fork", fork)
    engine = world.engine(n_slots=n_slots)
    assert_same(flat(world.run(engine, world.requests)), flat(world.reference))
    if n_slots == 1:  # nobody is left to take the prompt from
        assert not begun_later and engine.costs.n_encodes >= N_TASKS
    else:
        assert any(begun_later)
    assert not engine.held and n_slots % N_ROWS


def test_layers_that_stand_apart_and_layers_in_a_stack_give_the_same_rows(world):
    stacked = world.engine(stacked=True)
    assert world.base.slots.state.cache.is_unstacked and not stacked.slots.state.cache.is_unstacked
    assert isinstance(world.base.slots.read(world.params), UnstackedParams)
    assert stacked.slots.read(world.params) is world.params
    n = world.programs.n_compiled()
    assert_same(flat(world.run(stacked, world.requests)), flat(world.reference))
    assert world.programs.n_compiled() == n + 4  # each program once more, for the other state


def test_images_beyond_all_feature_rows_are_refused(world):
    small = world.engine(n_features=5)
    with pytest.raises(ValueError, match=r"got 6 image tokens, n_features=5 \(config.rollout.n_features\)"):
        world.run(small, [Request(tiny.tiny_task(1, sizes=[(56, 56), (28, 56)]), 0, 1)])


def test_forked_rows_equal_separately_prefilled_rows(world, monkeypatch):
    forked = []

    def prefill_each(feeder, source, targets):
        segment = world.base.renderer.prompt(feeder.rows[source].task)
        spans, grids = image_spans(segment), segment.grids
        pos, _ = mrope.mrope_positions(segment.tokens, grids, world.tokenizer.image_pad_id, 2)
        for slot in targets:
            forked.append(slot)
            feeder.feed([Feed(slot, segment, spans, pos, 0, None)])

    monkeypatch.setattr(prefill.Feeder, "fork", prefill_each)
    separate = world.run(world.base, world.requests)
    assert len(forked) == N_TASKS * (N_ROWS - 1)
    assert_same(flat(separate), flat(world.reference))


def _as_prompt(trajectory, world, end):
    """A trajectory's first tokens, sampled and observed ones alike, as one prompt."""
    shown = list(trajectory.task.images)
    for turn in trajectory.turns:
        shown += turn.observation.images if turn.observation else ()
    by_hash = {image.sha256: image for image in shown}
    spans = [span for span in trajectory.images if span.start < end]
    tokens = trajectory.tokens[:end]
    return Segment(
        tokens,
        tuple(by_hash[span.sha256] for span in spans),
        tuple(span.grid for span in spans),
        tuple(span.n for span in spans),
        tokens == world.tokenizer.image_pad_id,
    )


def test_a_paused_row_equals_a_fresh_prefill_of_its_stream(world, monkeypatch):
    rows = [t for t in flat(world.reference) if len(t.turns) == 3 and len(t.images) > len(t.task.images)]
    assert len(rows) >= 2
    for straight in rows[:3]:
        last = straight.turns[-1]
        segment = _as_prompt(straight, world, last.start)
        monkeypatch.setattr(world.base.renderer, "prompt", lambda task, segment=segment: segment)
        number = 10 + [task.id for task in world.tasks].index(straight.task.id)
        [group] = world.run(world.base, [Request(straight.task, number, N_ROWS)], max_turns=1)
        fresh = group[straight.row]
        np.testing.assert_array_equal(fresh.tokens, straight.tokens)
        np.testing.assert_array_equal(fresh.positions, straight.positions)
        np.testing.assert_allclose(
            fresh.sampler_logps[last.start :], straight.sampler_logps[last.start :], rtol=0, atol=LOGPS_TOLERANCE
        )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logps_equal_a_full_forward(world, temperature):
    rows = flat(world.reference)
    if temperature != 1.0:
        rows = flat(world.run(world.base, world.requests, temperature=temperature))
    later = [t for t in rows if len(t.images) > len(t.task.images)]
    assert {1, 2, 3} <= {len(t.images) for t in rows} and len(later) > 3
    batch = one_each(rows, world.images_of, length=128, n_chunks=8, bucket=world.bucket)
    score = learner.make_score(world.graphdef, learner.Objective(temperature=temperature))
    logps = np.asarray(score(world.params, jax.device_put(batch), world.rules.allowed))
    assert batch.loss_mask.sum() > 100
    gap = np.where(batch.loss_mask, logps - batch.sampler_logps, 0.0)
    assert np.abs(gap).max() < LOGPS_TOLERANCE
    assert np.all(batch.sampler_logps[batch.loss_mask] < 0)  # random weights are sure of nothing


def test_positions_are_those_of_the_finished_stream(world):
    for t in flat(world.reference):
        want, _ = mrope.mrope_positions(t.tokens, [s.grid for s in t.images], world.tokenizer.image_pad_id, 2)
        np.testing.assert_array_equal(t.positions, want)


def test_masks_tell_sampled_from_injected(world):
    for t in flat(world.reference):
        sampled = np.zeros(len(t.tokens), bool)
        for turn in t.turns:
            sampled[turn.start : turn.end] = True
            end = t.tokens[turn.end - 1]  # the token that ended the turn is the policy's own
            stopped = end == world.tokenizer.eos_id or any(s in turn.text for s in STOPS)
            assert stopped or turn.end - turn.start == 10
        np.testing.assert_array_equal(t.loss_mask, sampled)
        np.testing.assert_array_equal(t.completion_mask, np.arange(len(t.tokens)) >= t.prompt_len)
        np.testing.assert_array_equal(t.observation_mask, t.completion_mask & ~sampled)
        assert np.all(t.sampler_logps[~sampled] == 0) and np.all(t.sampler_logps[sampled] != 0)
        pads = t.tokens == world.tokenizer.image_pad_id
        spans = np.zeros(len(t.tokens), bool)
        for span in t.images:
            spans[span.start : span.start + span.n] = True
        np.testing.assert_array_equal(pads, spans)
        assert not (pads & sampled).any()


def test_control_tokens_are_never_sampled_however_likely_but_the_end_token_is(world):
    control = sorted(world.tokenizer.control_ids)
    table = np.array(world.params["text"]["embedding"][...])
    table[control] *= 100  # tied: their logits are of deviation 100, the others' of 1
    params = jax.tree.map(lambda x: x, world.params)
    params["text"]["embedding"] = params["text"]["embedding"].replace(jax.numpy.asarray(table))
    tools = tiny.InstantTools(reply)
    rows = flat(world.base.run(params, world.requests, tools, rng=world.rng, temperature=1.0))
    sampled = np.concatenate([t.tokens[t.loss_mask] for t in rows])
    assert set(sampled.tolist()) & set(control) == {world.tokenizer.eos_id}
    ended = [t for t in rows for turn in t.turns if t.tokens[turn.end - 1] == world.tokenizer.eos_id]
    assert len(ended) > 5
    assert all((t.tokens[turn.start : turn.end - 1] != world.tokenizer.eos_id).all() for t in rows for turn in t.turns)
    assert "<|im_end|>" not in "".join(turn.text for t in rows for turn in t.turns)


def test_each_program_is_compiled_once_for_all_tasks_images_and_rows(world):
    assert world.n_compiled == 4  # after the reference: encode, extend, fork, decode
    before = world.programs.n_compiled()
    for tasks, rows in ((5, 1), (3, 3), (4, 2)):
        sizes = [(28, 28), (56, 56), (28, 56)]
        world.run(
            world.base,
            [Request(tiny.tiny_task(70 + i, sizes=sizes[: 1 + (i + rows) % 3]), i, rows) for i in range(tasks)],
        )
        assert world.programs.n_compiled() == before


def test_a_prompt_that_leaves_no_room_is_refused_before_any_compute(world):
    with pytest.raises(ValueError, match=r"task 't8' must leave room .* max_tokens=128 \(config.rollout.max_tokens\)"):
        long = Task("t8", "search", "word " * 300, (tiny.tiny_image(1),), ("7",))
        world.run(world.base, [world.requests[0], Request(long, 0, 1)])
    with pytest.raises(ValueError, match=r"got 0 rows, 6 slots that are not held \(config.rollout.n_slots\)"):
        world.run(world.base, [Request(world.tasks[0], 0, 0)])
