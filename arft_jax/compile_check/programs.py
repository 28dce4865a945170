"""Every program of a run, lowered from shapes: nothing is computed and no weight is made.

The programs are those of ``steps/``, their arguments shapes with shardings on the devices of a placement.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from arft_jax.build import image_embedder
from arft_jax.build import placement as layout
from arft_jax.build.model import model_maker, state_maker
from arft_jax.build.plan import PolicyPlan
from arft_jax.build.settings import keeps_reference, objective, optimizer, pack_sizes
from arft_jax.data.batch import Batch
from arft_jax.sampling.stops import build_stop_table
from arft_jax.steps import learner, reshard
from arft_jax.steps.embed import make_embed
from arft_jax.steps.init import abstract_params
from arft_jax.steps.optimizer import make_apply
from arft_jax.steps.sampler import Extension, Rules, at_path, column_counts, make_sampler, unstacked_shapes
from arft_jax.steps.state import state_shardings
from arft_jax.tools.bundled import paper_syntax

GIB = 2**30
# What a run keeps on the devices, and which of it a program is given or makes: the rest waits beside it. The copy of
# the policy that rollouts read is let go before training and made again after it; so are the decoder's layers one by
# one, which decode and extend are given in place of their stack.
GIVEN = {
    "warm_start": ("params", "policy", "layers"),
    "reshard": ("params", "policy", "layers"),
    "encode": ("policy", "slots"),
    "extend": ("policy", "slots"),
    "fork": ("slots",),
    "decode": ("policy", "slots"),
    "embed": ("tower",),
    "score": ("params", "policy", "layers"),
    "score_base": ("params", "policy", "layers"),
    "accumulate": ("params", "policy", "layers"),
    "apply": ("params", "moments", "policy", "layers"),
}


def kind_of(name: str) -> str:
    """What a program is, whatever it reads of the cache: decode_2048 is a decode."""
    return re.sub(r"_\d+$", "", name)


def _shaped(tree: Any, places: Any) -> Any:
    """Shapes with shardings; ``places`` is one sharding or a tree of them."""
    if isinstance(places, jax.sharding.Sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places), tree)
    return jax.tree.map(lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p), tree, places)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)


def _layout(bucket, *lead: int) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), bucket.layout())


def _rules(vocab_size: int) -> Rules:
    n_states = len(build_stop_table([bytes([i]) for i in range(256)], paper_syntax().stops).hit_of)
    table = build_stop_table([b"x"], paper_syntax().stops).next_state
    return Rules(
        next_state=jax.ShapeDtypeStruct((n_states, vocab_size), table.dtype),
        hit_of=_ints(n_states),
        allowed=jax.ShapeDtypeStruct((vocab_size,), np.bool_),
        eos=_ints(),
    )


def _batch(plan: PolicyPlan, width: int) -> Batch:
    """A full micro-batch of rows so wide, as shapes."""
    t, lanes, bucket = plan.config.train, plan.placement.n_lanes, plan.bucket
    waves = t.image_chunks // lanes
    patches = jax.ShapeDtypeStruct((waves, lanes, bucket.n_patches, bucket.packing.patch_dim), np.float32)
    n_rows = lanes * pack_sizes(plan.config, lanes, plan.sizes.text.dim).n_rows(width)
    made = jax.eval_shape(lambda: Batch.empty(n_rows, width, None, None))
    batch = made._replace(patches=patches, layout=_layout(bucket, waves, lanes))
    return _shaped(batch, layout.batch_places(batch, plan.placement))


def lowered(plan: PolicyPlan) -> Iterator[tuple[str, Any]]:
    """(name, program ready to compile) of every program of a run; decode_2048 reads the cache's first 2048 columns."""
    config, sizes, placement = plan.config, plan.sizes, plan.placement
    graphdef, params = abstract_params(model_maker(config, sizes, placement))
    train = learner.abstract_train_state(optimizer(config), params, False, placement)
    batch = _batch(plan, pack_sizes(config, placement.n_lanes, sizes.text.dim).widths[-1])
    allowed = _shaped(_rules(sizes.text.vocab_size).allowed, placement.whole)
    if config.warm_start.steps:
        imitated = _batch(plan, config.rollout.max_tokens)
        yield "warm_start", _lowered_accumulate(plan, graphdef, train["params"], imitated, allowed, "imitation")
    if reshard.is_needed(params, config.model.dtype, placement, plan.global_placement):
        tensor = layout.rollout_tensor(config, placement)
        move = reshard.make_reshard(params, config.model.dtype, placement, tensor)
        yield "reshard", move.lower(train["params"])
    yield from lowered_rollout(plan)
    if config.tools.search.image_index:
        yield "embed", _lowered_embed(plan)
    policy, is_kept, t = objective(config, "policy"), keeps_reference(config), config.train
    n_updates = t.epochs * t.prompts * config.rollout.group_size // t.rows_per_update
    if is_kept or n_updates > 1:
        score = learner.make_score(graphdef, policy, placement=placement)
        yield "score", score.lower(train["params"], batch, allowed)
    if policy.policy.beta > 0 and not is_kept:
        score = learner.make_score(graphdef, policy, base=True, placement=placement)
        yield "score_base", score.lower(train["params"], batch, allowed)
    yield "accumulate", _lowered_accumulate(plan, graphdef, train["params"], batch, allowed, "policy")
    params, opt_state = train["params"], train["opt_state"]
    scalars = (jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((2,), np.uint32))
    apply = make_apply(optimizer(config), rounding=t.param_rounding, like=(params, opt_state))
    yield (
        "apply",
        apply.lower(params, opt_state, learner.abstract_gradients(params), *_shaped(scalars, placement.whole)),
    )


def _lowered_accumulate(plan: PolicyPlan, graphdef, params, batch: Batch, allowed, kind: str) -> Any:
    accumulate = learner.make_accumulate(graphdef, objective(plan.config, kind), like=params, placement=plan.placement)
    whole = jax.eval_shape(lambda: learner.Whole(jnp.float32(0), jnp.float32(0), jnp.bool_(True)))
    whole = _shaped(whole, plan.placement.whole)
    return accumulate.lower(params, learner.abstract_gradients(params), batch, allowed, whole)


def lowered_rollout(plan: PolicyPlan) -> Iterator[tuple[str, Any]]:
    """The sampler's programs."""
    config, sizes, own, r = plan.config, plan.sizes, plan.local_placement, plan.config.rollout
    graphdef, params = abstract_params(model_maker(config, sizes, own))
    params = reshard.rollout_shapes(params, config.model.dtype, own)
    state = jax.eval_shape(state_maker(config, sizes, own))
    sampler = make_sampler(
        graphdef, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p, state=state, placement=own,
        layers=sizes.family.layers,
    )  # fmt: skip
    state = _shaped(state, state_shardings(state, own))

    def whole(tree):
        return _shaped(tree, own.whole)

    bucket = plan.bucket
    patches = jax.ShapeDtypeStruct((own.n_lanes, bucket.n_patches, bucket.packing.patch_dim), np.float32)
    if own.reads_unstacked_layers:
        params = unstacked_shapes(params, sizes.family.layers)
    images = (patches, _layout(bucket, own.n_lanes), _ints(own.n_lanes * bucket.n_features))
    yield "encode", sampler.encode.lower(params, state, *whole(images))
    n, c = r.extend_rows, r.extend_chunk
    rows = {name: _ints(n) for name in Extension._fields}
    rows |= dict(tokens=_ints(n, c), positions=_ints(n, 3, c), feature_index=_ints(n, c))
    rows["final"] = jax.ShapeDtypeStruct((n,), np.bool_)
    named = {columns: _suffix(columns, r.max_tokens) for columns in column_counts(r.bucket_columns, r.max_tokens)}
    for columns, suffix in named.items():
        yield f"extend{suffix}", sampler.extend.lower(params, state, whole(Extension(**rows)), columns=columns)
    width = max(r.group_size - 1, 1)
    yield "fork", sampler.fork.lower(state, *whole((_ints(), _ints(width), _ints(width), _ints(3))))
    keys, rules = whole(jax.ShapeDtypeStruct((r.n_slots, 2), np.uint32)), whole(_rules(sizes.text.vocab_size))
    for columns, suffix in named.items():
        decode = sampler.decode.lower(params, state, rules, keys, r.temperature, columns=columns)
        yield f"decode{suffix}", decode


def _suffix(columns: int | None, length: int) -> str:
    return "" if columns in (None, length) else f"_{columns}"


def _tower_place(plan: PolicyPlan) -> SingleDeviceSharding:
    """The one device that holds the vision tower of image search: a process's first."""
    return SingleDeviceSharding(plan.local_placement.mesh.devices.flat[0])


def _tower(plan: PolicyPlan) -> tuple[nnx.GraphDef, Any]:
    """The vision tower that searches images."""
    model = image_embedder.model_maker(plan.config, plan.sizes)
    graphdef, params = abstract_params(lambda rngs: getattr(model(rngs), plan.sizes.family.tower))
    return graphdef, _shaped(params, _tower_place(plan))


def _lowered_embed(plan: PolicyPlan) -> Any:
    graphdef, params = _tower(plan)
    bucket, place = plan.bucket, _tower_place(plan)
    patches = jax.ShapeDtypeStruct((1, bucket.n_patches, bucket.packing.patch_dim), np.float32)
    chunk = _shaped((patches, _layout(bucket, 1), _ints(bucket.n_features)), place)
    return make_embed(graphdef).lower(params, *chunk)


def resident_gib(plan: PolicyPlan) -> Mapping[str, float]:
    """GiB a device of what a run keeps: parameters, moments, reference, the policy as rolled out, its decoder's layers
    once more where they are read one by one, the slots, the tower of image search (on a process's first device alone).
    Gradients are kept in an update alone, whose programs are given them.
    """
    config, sizes, placement, own = plan.config, plan.sizes, plan.placement, plan.local_placement
    _, params = abstract_params(model_maker(config, sizes, placement))
    train = learner.abstract_train_state(optimizer(config), params, keeps_reference(config), placement)

    def share(tree) -> float:
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GIB

    slots = jax.eval_shape(state_maker(config, sizes, own))
    # Without a copy the policy that is rolled out is the parameters themselves.
    is_copy = reshard.is_needed(params, config.model.dtype, placement, plan.global_placement)
    policy = reshard.rollout_shapes(params, config.model.dtype, own) if is_copy else train["params"]
    tower = _tower(plan)[1] if config.tools.search.image_index else None
    return {
        "params": share(train["params"]) if is_copy else 0.0,
        "policy": share(policy),
        "layers": share(at_path(policy, sizes.family.layers)) if own.reads_unstacked_layers else 0.0,
        "moments": share(train["opt_state"]),
        "reference": share(train["ref_params"]),
        "slots": share(_shaped(slots, state_shardings(slots, own))),
        "tower": share(tower),
    }
