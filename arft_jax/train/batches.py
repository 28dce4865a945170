"""From samples to micro-batches on the devices: which of them an update takes, how they are packed, who builds what."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.placement import batch_places
from arft_jax.build.plan import Plan
from arft_jax.build.settings import pack_sizes
from arft_jax.data import packing
from arft_jax.data.batch import Batch, assemble, images_fit
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.samples import Sample
from arft_jax.io import hosts
from arft_jax.steps.learner import Whole
from arft_jax.train.random_streams import Stream, stream_generator
from arft_jax.trajectory import Image, Trajectory

_PACKED_FROM = 8  # chains that a row of the warm start is packed from


def share(n_items: int) -> slice:
    """This process's part of what all processes have in one order."""
    n = n_items // jax.process_count()
    return slice(n * jax.process_index(), n * (jax.process_index() + 1))


def images_of(trajectory: Trajectory) -> dict[str, Image]:
    """{sha256: image} of every image that a trajectory shows."""
    images = list(trajectory.task.images)
    for turn in trajectory.turns:
        images += turn.observation.images if turn.observation else ()
    by_hash = {image.sha256: image for image in images}
    return {span.sha256: by_hash[span.sha256] for span in trajectory.images}


def groups_of_updates(config, step: int) -> list[list[int]]:
    """Which groups of a GRPO step each of its updates takes: a function of seed and step.

    Every epoch takes all groups once, in an order of its own.
    """
    t = config.train
    a_update = t.rows_per_update // config.rollout.group_size
    draws = stream_generator(config.seed, Stream.UPDATES, step)
    orders = [draws.permutation(t.prompts).tolist() for _ in range(t.epochs)]
    return [order[k : k + a_update] for order in orders for k in range(0, t.prompts, a_update)]


def _pack_sizes(plan: Plan) -> packing.Sizes:
    return pack_sizes(plan.config, plan.placement.n_lanes, plan.sizes.text.dim)


def plan_update(plan: Plan, samples: Sequence[Sample]) -> list[MicroBatch]:
    """The micro-batches of an update, the same on every process."""
    return packing.plan_update(
        samples, _pack_sizes(plan), images_fit(samples, plan.config.train.image_chunks, plan.bucket)
    )


def whole_of(samples: Sequence[Sample], on_policy: bool) -> Whole:
    """The counts of an update, on the host."""
    n_tokens = [int(sample.loss_mask.sum()) for sample in samples]
    return Whole(np.float32(sum(n_tokens)), np.float32(sum(n > 0 for n in n_tokens)), np.bool_(on_policy))


def put_batch(parts: Parts, micro: MicroBatch, samples: Sequence[Sample], images: Mapping[str, Image]) -> Batch:
    """This process's lanes of a micro-batch, placed beside those of the other processes."""
    config, placement = parts.plan.config, parts.plan.placement
    batch = assemble(
        micro,
        samples,
        lambda sha256: parts.patches.get(images[sha256])[0],
        n_chunks=config.train.image_chunks,
        bucket=parts.plan.bucket,
        lanes=placement.lanes_of(jax.process_index()),
    )
    return hosts.put(batch, batch_places(batch, placement))


def imitation_update(plan: Plan, samples: Sequence[Sample], step: int) -> list[MicroBatch]:
    """Recorded chains of one warm-start step in ``warm_start.rows`` full rows; the order follows from the step."""
    config, n_rows = plan.config, plan.config.warm_start.rows
    order = stream_generator(config.seed, Stream.WARM_START, step).permutation(len(samples))
    drawn = order[: _PACKED_FROM * n_rows].tolist()
    width = config.rollout.max_tokens
    filled = packing.first_fit([len(samples[i].tokens) for i in drawn], width, n_rows)
    rows = [tuple(Block((drawn[i],), 0) for i in row) for row in filled]
    fits = images_fit(samples, config.train.image_chunks, plan.bucket)
    return packing.micro_batches(rows, width, _pack_sizes(plan), fits) or []
