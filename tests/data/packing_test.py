"""Packing of samples: everything once, nothing too long, as few computed tokens as may be."""

import numpy as np
import pytest

from arft_jax.data import packing
from arft_jax.data.packing import Block, Sizes, plan_update
from arft_jax.data.samples import Sample


def sample(length, group=0, prefix_len=0, learnt=True):
    return Sample(
        tokens=np.zeros(length, np.int32), positions=np.zeros((3, length), np.int32),
        loss_mask=np.arange(length) >= (prefix_len if learnt else length), sampler_logps=np.zeros(length, np.float32),
        images=(), group=group, prefix_len=prefix_len, advantages=np.zeros(length, np.float32),
    )  # fmt: skip


def groups(rng, n_groups, prompt, completion, group_size=8):
    """Groups of samples with prompts and completions of lengths drawn from these ranges."""
    made = []
    for g in range(n_groups):
        prefix_len = int(rng.integers(*prompt))
        made += [sample(prefix_len + int(rng.integers(*completion)), g, prefix_len) for _ in range(group_size)]
    return made


MAT = dict(prompt=(300, 1501), completion=(50, 1501))  # tokens, as rollouts on that benchmark have them


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("n_lanes", [1, 4])
def test_every_sample_with_a_token_to_learn_from_stands_once_and_fits(shares, n_lanes):
    rng = np.random.default_rng(0)
    samples = groups(rng, 6, (40, 90), (1, 200))
    samples[::5] = [sample(len(s.tokens), s.group, s.prefix_len, learnt=False) for s in samples[::5]]
    sizes = Sizes(micro_tokens=600, max_tokens=300, n_lanes=n_lanes, shares_prompts=shares)
    plan = plan_update(samples, sizes)
    assert sorted(i for micro in plan for i in micro.members) == [i for i in range(48) if i % 5]
    assert len(plan) > 1
    for micro in plan:
        assert len(micro.rows) % n_lanes == 0 and micro.width * len(micro.rows) <= 600 * n_lanes
        for row in micro.rows:
            assert sum(packing.block_len(block, samples) for block in row) <= micro.width
            for block in row:
                if block.prefix_len:  # one group, more than one member
                    assert {(samples[i].group, samples[i].prefix_len) for i in block.members} == {
                        (samples[block.members[0]].group, block.prefix_len)
                    }
                    assert shares and len(block.members) > 1
    assert any(block.prefix_len for micro in plan for row in micro.rows for block in row) == shares
    assert plan == plan_update(samples, sizes)


def test_a_plan_by_hand():
    samples = [sample(10, 0, 6), sample(9, 0, 6), sample(12, 1, 6), sample(5, 2, 2, learnt=False)]
    sizes = Sizes(micro_tokens=32, max_tokens=16, row_widths=(16,), shares_prompts=True)
    (micro,) = plan_update(samples, sizes)
    assert micro == packing.MicroBatch(((Block((0, 1), 6),), (Block((2,), 0),)), 16)  # 6 + 4 + 3 tokens, and 12
    assert packing.figures([micro], samples) == {
        "packing_frac": 25 / 32, "shared_frac": 1 - 25 / 31, "n_micro_batches": 1.0,
    }  # fmt: skip
    (micro,) = plan_update(samples, sizes._replace(shares_prompts=False, micro_tokens=48))
    assert [[block.members for block in row] for row in micro.rows] == [[(2,)], [(0,)], [(1,)]]
    assert plan_update(samples[3:], sizes) == []


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_real_lengths_are_full(seed):
    samples = groups(np.random.default_rng(seed), 8, **MAT)
    n_tokens = sum(len(s.tokens) for s in samples)
    for micro_tokens in (8192, 16384, 65536):
        sizes = Sizes(micro_tokens, max_tokens=8192, attention_cost=1 / (6 * 3584))
        found = packing.figures(plan_update(samples, sizes), samples)
        assert found["packing_frac"] >= 0.85 and found["shared_frac"] == 0, found
        shared = plan_update(samples, sizes._replace(shares_prompts=True))
        assert packing.figures(shared, samples)["packing_frac"] >= 0.85
        assert sum(micro.n_computed for micro in shared) < 0.75 * n_tokens  # fewer than there are


def test_short_samples_take_narrow_rows_where_long_ones_would_take_wide_ones():
    sizes = Sizes(micro_tokens=4096, max_tokens=1024, attention_cost=1e-3)
    assert sizes.widths == [128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
    short = plan_update([sample(100) for _ in range(8)], sizes)
    assert sum(micro.n_computed for micro in short) <= 1024 and short[0].width <= 256
    assert plan_update([sample(1000)], sizes)[0].width == 1024
    # a wider row costs more attention for the same tokens
    samples = [sample(600) for _ in range(5)]
    assert plan_update(samples, sizes)[0].width == 768
    assert plan_update(samples, sizes._replace(attention_cost=0.0))[0].width == 3072


def test_the_number_of_micro_batches_follows_the_data_and_their_sizes_are_few():
    sizes = Sizes(micro_tokens=1024, max_tokens=128, row_widths=(128,), n_lanes=2)
    seen = set()
    for n in range(1, 60):
        plan = plan_update([sample(120) for _ in range(n)], sizes)
        assert len(plan) == -(-n // 16)
        seen |= {(len(micro.rows), micro.width) for micro in plan}
        assert all(len(micro.rows) == 16 for micro in plan[:-1])
    assert seen == {(2, 128), (4, 128), (8, 128), (12, 128), (16, 128)}


def test_images_close_a_micro_batch_and_split_a_row_that_holds_too_many():
    samples = [sample(30) for _ in range(8)]
    sizes = Sizes(micro_tokens=256, max_tokens=64, row_widths=(64,))

    def at_most(n):
        return lambda rows: sum(len(block.members) for row in rows for block in row) <= n

    assert [len(micro.members) for micro in plan_update(samples, sizes)] == [8]
    assert [len(micro.members) for micro in plan_update(samples, sizes, at_most(4))] == [4, 4]
    assert [len(micro.members) for micro in plan_update(samples, sizes, at_most(5))] == [4, 4]  # whole rows of two
    assert [len(micro.members) for micro in plan_update(samples, sizes, at_most(1))] == [1] * 8
    with pytest.raises(ValueError, match=r"images of a trajectory must fit a micro-batch.*config.train.image_chunks"):
        plan_update(samples, sizes, at_most(0))


def test_a_sample_that_is_too_long_is_named():
    with pytest.raises(ValueError, match=r"got 65 tokens, max_tokens=64 \(config.rollout.max_tokens\)"):
        plan_update([sample(65)], Sizes(128, 64))


def test_lists_by_hand():
    assert packing.first_fit_decreasing([3, 5, 4, 2], 8) == [[1, 0], [2, 3]]
    assert packing.first_fit_decreasing([], 8) == []
    assert packing.first_fit([5, 4, 3, 2], 8, 2) == [[0, 2], [1, 3]]
    assert packing.first_fit([5, 9, 4, 4], 8, 1) == [[0]]  # what does not fit is left out
