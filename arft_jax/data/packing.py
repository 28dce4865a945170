"""Which samples share a row, and which rows share a micro-batch: planned on the host, from lengths alone.

Rows are filled by first-fit decreasing (Johnson 1973): at most 11/9 of the fewest rows, and near them for lengths as
rollouts have them. The samples of a group may share their prompt: it then stands once in a row, and its tokens, image
tokens included, are computed once for all of the group's completions there. The plan is a function of the samples
alone, so all processes of a run make the same one.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from arft_jax.data.samples import Sample

_MULTIPLE = 16  # of widths: whole vector registers
_NARROWEST = 64
_WIDTHS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4)  # of the longest sample that there may be
_PARTS = 4  # rows of a lane come in so many steps


class Block(NamedTuple):
    """Samples that stand behind one another in a row, behind the prefix that they share.

    Args:
      members: their indices.
      prefix_len: tokens of the prefix that stands once; 0: each has all of its own tokens.
    """

    members: tuple[int, ...]
    prefix_len: int


Row = tuple[Block, ...]
Fits = Callable[[Sequence[Row]], bool]  # whether rows fit one micro-batch in all but their tokens: their images do


def _anything(rows: Sequence[Row]) -> bool:
    return True


class MicroBatch(NamedTuple):
    """Rows that are computed at once.

    Args:
      rows: lane by lane, as many for each; a row may be empty.
      width: tokens of a row, padding included.
    """

    rows: tuple[Row, ...]
    width: int

    @property
    def members(self) -> list[int]:
        """Indices of its samples, in order."""
        return [i for row in self.rows for block in row for i in block.members]

    @property
    def n_computed(self) -> int:
        """Tokens computed, padding included."""
        return len(self.rows) * self.width


class Sizes(NamedTuple):
    """What a micro-batch may hold.

    Args:
      micro_tokens: of one lane.
      max_tokens: of the longest sample that there may be.
      n_lanes: over which the rows are split.
      shares_prompts: a group's prompt stands once in a row.
      attention_cost: of one token against one column of its row, where all else that is done for a token is 1.
      row_widths: tokens that a row may have; empty: parts and multiples of ``max_tokens``.
    """

    micro_tokens: int
    max_tokens: int
    n_lanes: int = 1
    shares_prompts: bool = False
    attention_cost: float = 0.0
    row_widths: tuple[int, ...] = ()

    @property
    def widths(self) -> list[int]:
        """Tokens that a row may have, ascending: each is a program of its own where it is used."""
        if self.row_widths:
            return sorted(self.row_widths)
        some = {-(-math.ceil(part * self.max_tokens) // _MULTIPLE) * _MULTIPLE for part in _WIDTHS}
        return sorted({w for w in some if _NARROWEST <= w <= self.micro_tokens} | {self.max_tokens})

    def n_rows(self, width: int) -> int:
        """Rows of that width that a lane holds."""
        return max(self.micro_tokens // width, 1)


def block_len(block: Block, samples: Sequence[Sample]) -> int:
    """Tokens of a block."""
    return block.prefix_len + sum(len(samples[i].tokens) - block.prefix_len for i in block.members)


def first_fit_decreasing(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Bins of ``size`` that hold everything, as indices of what they hold.

    Example: lengths [3, 5, 4, 2], bins of 8: [[1, 0], [2, 3]].
    """
    bins: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = next((b for b, room in enumerate(free) if lengths[i] <= room), None)
        if fits is None:
            bins.append([])
            free.append(size)
            fits = len(bins) - 1
        bins[fits].append(i)
        free[fits] -= lengths[i]
    return bins


def first_fit(lengths: Sequence[int], size: int, n_bins: int) -> list[list[int]]:
    """``n_bins`` bins of ``size`` filled in order; what fits none is left out.

    Example: lengths [5, 4, 3, 2], 2 bins of 8: [[0, 2], [1, 3]].
    """
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    free = [size] * n_bins
    for i, need in enumerate(lengths):
        fits = next((b for b in range(n_bins) if need <= free[b]), None)
        if fits is not None:
            bins[fits].append(i)
            free[fits] -= need
    return bins


def _blocks(samples: Sequence[Sample], chosen: Sequence[int], width: int, shares_prompts: bool) -> list[Block]:
    """The chosen samples as blocks that fit a row, each group in as few as may be."""
    groups: dict[int, list[int]] = {}
    for i in chosen:
        shared = shares_prompts and samples[i].prefix_len > 0
        groups.setdefault(samples[i].group if shared else -2 - i, []).append(i)
    blocks = []
    for members in groups.values():
        prefix = samples[members[0]].prefix_len if len(members) > 1 else 0
        lengths = [len(samples[i].tokens) - prefix for i in members]
        for part in first_fit_decreasing(lengths, width - prefix):
            blocks.append(Block(tuple(sorted(members[k] for k in part)), prefix if len(part) > 1 else 0))
    return blocks


def pack_rows(samples: Sequence[Sample], chosen: Sequence[int], width: int, shares_prompts: bool) -> list[Row]:
    """Samples in rows of ``width`` tokens, each of which is at most so long.

    Args:
      samples: all that there are.
      chosen: indices of those to pack.
      width: of a row.
      shares_prompts: a group's prompt stands once in a row.
    """
    blocks = _blocks(samples, chosen, width, shares_prompts)
    filled = first_fit_decreasing([block_len(block, samples) for block in blocks], width)
    return [tuple(blocks[b] for b in sorted(row)) for row in filled]


def _rows_a_lane(n: int, most: int) -> int:
    """Rows of each lane where ``n`` are needed: the smallest step up to ``most`` that holds them."""
    return min(step for step in (1, *(-(-most * k // _PARTS) for k in range(1, _PARTS + 1))) if step >= n)


def micro_batches(rows: Sequence[Row], width: int, sizes: Sizes, fits: Fits = _anything) -> list[MicroBatch] | None:
    """Rows as micro-batches, in order.

    Args:
      rows: of one width.
      width: of them.
      sizes: what a micro-batch may hold.
      fits: see :data:`Fits`.

    Returns:
      None where a row does not fit a micro-batch of its own.
    """
    most, made, left = sizes.n_rows(width), [], list(rows)
    while left:
        n = min(len(left), most * sizes.n_lanes)
        if not fits(left[:n]):
            n = bisect.bisect_left(range(1, n), True, key=lambda m: not fits(left[: m + 1])) + 1
            if not fits(left[:n]):
                return None
        here, left = left[:n], left[n:]
        made.append(MicroBatch(_dealt(here, sizes.n_lanes, _rows_a_lane(-(-n // sizes.n_lanes), most)), width))
    return made


def _dealt(rows: Sequence[Row], n_lanes: int, a_lane: int) -> tuple[Row, ...]:
    """Rows dealt to the lanes in turn, and empty ones up to ``a_lane`` each."""
    lanes = [[*rows[lane::n_lanes]] for lane in range(n_lanes)]
    return tuple(row for lane in lanes for row in [*lane, *[()] * (a_lane - len(lane))])


def plan_update(samples: Sequence[Sample], sizes: Sizes, fits: Fits = _anything) -> list[MicroBatch]:
    """The micro-batches of an update: of all widths of a row the one that costs least.

    Args:
      samples: of the update; those without a token to learn from are left out.
      sizes: what a micro-batch may hold.
      fits: see :data:`Fits`.

    Raises:
      ValueError: a sample that is longer than ``max_tokens`` or does not fit a micro-batch alone.
    """
    learnt = [i for i, sample in enumerate(samples) if sample.loss_mask.any()]
    longest = max((len(samples[i].tokens) for i in learnt), default=0)
    if longest > sizes.max_tokens:
        raise ValueError(
            f"a trajectory must fit max_tokens: got {longest} tokens, max_tokens={sizes.max_tokens} "
            "(config.rollout.max_tokens)"
        )
    if not learnt:
        return []
    widths = [w for w in sizes.widths if w >= longest]  # the widest holds every sample
    plans = [(w, micro_batches(pack_rows(samples, learnt, w, sizes.shares_prompts), w, sizes, fits)) for w in widths]
    costs = {
        k: sum(micro.n_computed for micro in plan) * (1 + sizes.attention_cost * width)
        for k, (width, plan) in enumerate(plans)
        if plan is not None
    }
    if costs:
        return plans[min(costs, key=lambda k: (costs[k], k))][1]
    alone = micro_batches([(Block((i,), 0),) for i in learnt], widths[0], sizes, fits)
    if alone is None:
        raise ValueError(
            "the images of a trajectory must fit a micro-batch: got one that does not (config.train.image_chunks, "
            "config.rollout.max_images)"
        )
    return alone


def figures(plan: Sequence[MicroBatch], samples: Sequence[Sample]) -> Mapping[str, float]:
    """How full the rows of a plan are.

    Returns:
      ``packing_frac``: tokens that are some sample's of those computed; ``shared_frac``: tokens of samples that are not
      computed, because their group's prompt is once; ``n_micro_batches``.
    """
    blocks = [block for micro in plan for row in micro.rows for block in row]
    computed = sum(micro.n_computed for micro in plan)
    placed = sum(block_len(block, samples) for block in blocks)
    of_samples = sum(len(samples[i].tokens) for block in blocks for i in block.members)
    return {
        "packing_frac": placed / max(computed, 1),
        "shared_frac": 1.0 - placed / max(of_samples, 1),
        "n_micro_batches": float(len(plan)),
    }
