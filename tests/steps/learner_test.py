"""One update: what it learns from, what it leaves alone, and what its batch may hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.data.batch import assemble
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.samples import samples_of
from arft_jax.data.synthetic.chains import Chain, ChainTurn
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.lora import Lora, LoraParam, freeze
from arft_jax.rl.advantages import AdvantageSettings
from arft_jax.rl.objectives import PolicySettings
from arft_jax.steps import learner
from arft_jax.steps.optimizer import init_opt_state, make_apply, make_optimizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.scripted import CACHE_SIZES
from arft_jax.train.warm_start import chain_trajectory
from arft_jax.trajectory import Observation

LENGTH = 96
LOGPS_TOLERANCE = 1e-5  # float32 sums in another order; log-probs are near -7
ANSWERS = ("<answer>7</answer>", "<answer>red</answer>", "<answer>a card</answer>", "<answer>none</answer>")


class World:
    """A random policy, four rows with one to three images each, and the programs over them."""

    def __init__(self):
        self.tokenizer = Tokenizer.tiny()
        self.graphdef, params = tiny.tiny_policy(self.tokenizer.vocab_size)
        self.first = jax.device_put(params, jax.devices()[0])  # committed, as in a run
        # the engine makes prompts and observations; nothing is sampled here
        self.engine = tiny.tiny_engine(self.graphdef, CACHE_SIZES, 1, tokenizer=self.tokenizer, max_tokens=LENGTH)
        self.allowed = self.engine.slots.rules.allowed
        self.optimizer = make_optimizer(clip_norm=1.0, b1=0.9, b2=0.95, weight_decay=0.0)
        self.rows = [self.row(i) for i in range(4)]
        policy = learner.Objective()
        self.imitate = self.program(learner.Objective(kind="imitation"))
        self.improve = self.program(policy)
        self.step = make_apply(self.optimizer, rounding="nearest")
        self.score = learner.make_score(self.graphdef, policy)

    def row(self, i, trailing=False):
        """A search with an observation of 0 to 2 images, then an answer; ``trailing``: an observation ends it."""
        images = tuple(tiny.tiny_image(50 + i + k, 28, 28 * (1 + k)) for k in range(i % 3))
        seen = Observation(f"note {i}", images)
        turns = [ChainTurn("<search>fox</search>", seen, True), ChainTurn(ANSWERS[i], seen if trailing else None, True)]
        return chain_trajectory(self.engine.renderer, Chain(tiny.tiny_task(i, sizes=[(28, 56)]), tuple(turns)))

    def images_of(self, t):
        shown = [*t.task.images, *(image for turn in t.turns if turn.observation for image in turn.observation.images)]
        return {image.sha256: self.engine.renderer.patches.get(image) for image in shown}

    def program(self, objective):
        return learner.make_accumulate(self.graphdef, objective)

    def batch(
        self, rows=None, advantages=(0.0,) * 4, n_chunks=2, patches_of=None, length=LENGTH, packing=None, valid=None
    ):
        """``packing``: for each row the indices of its samples; ``patches_of``: of a trajectory, by hash."""
        rows = self.rows if rows is None else rows
        images = {name: item[0] for t in rows for name, item in (patches_of or self.images_of)(t).items()}
        samples = [
            dataclasses.replace(sample, advantages=np.full(len(sample.tokens), value, np.float32))
            for sample, value in zip(samples_of(rows, valid=valid), advantages, strict=True)
        ]
        packing = [[i] for i in range(len(rows))] if packing is None else packing
        micro = MicroBatch(tuple(tuple(Block((i,), 0) for i in row) for row in packing), length)
        bucket = self.engine.renderer.bucket
        return jax.device_put(assemble(micro, samples, images.__getitem__, n_chunks=n_chunks, bucket=bucket))

    def params(self):
        """A fresh copy: update donates what it is given."""
        return learner.copy_params(self.first)

    def whole(self, *batches, on_policy=True):
        """Counts over these batches, in which a row is one sample."""
        masks = [np.asarray(batch.loss_mask) for batch in batches]
        n_tokens, n_rows = sum(mask.sum() for mask in masks), sum(mask.any(axis=1).sum() for mask in masks)
        return learner.Whole(jnp.float32(n_tokens), jnp.float32(n_rows), jnp.bool_(on_policy))

    def gradients(self, program, batches, params=None, whole=None):
        """(gradients, stats) of an update in several micro-batches."""
        params = self.first if params is None else params
        whole = self.whole(*batches) if whole is None else whole
        gradients, parts = learner.make_zeros(params)(), []
        for batch in batches:
            gradients, stats = program(params, gradients, batch, self.allowed, whole)
            parts.append(jax.device_get(stats))
        return gradients, learner.joined_stats(parts)

    def apply(self, program, batch, lr=1e-2, params=None, opt_state=None, old=None, ref=None):
        params = self.params() if params is None else params
        opt_state = init_opt_state(self.optimizer, params) if opt_state is None else opt_state
        batch = batch if old is None else batch._replace(old_logps=old)
        batch = batch if ref is None else batch._replace(ref_logps=ref)
        gradients, stats = self.gradients(program, [batch], params, self.whole(batch, on_policy=old is None))
        params, opt_state, of_step = self.step(params, opt_state, gradients, jnp.float32(lr))
        return params, opt_state, stats | of_step

    def row_logps(self, params, batch):
        """float[B]: log-prob of each row's own tokens."""
        return np.asarray(jnp.where(batch.loss_mask, self.score(params, batch, self.allowed), 0.0).sum(axis=1))


@pytest.fixture(scope="module")
def world():
    return World()


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(leaves(a), leaves(b), strict=True))


def test_imitation_lowers_the_nll_of_a_fixed_batch_and_reports_it(world):
    batch = world.batch()
    logps = np.asarray(world.score(world.first, batch, world.allowed))
    want = -logps[np.asarray(batch.loss_mask)].mean()
    params, opt_state, nlls = world.params(), None, []
    for _ in range(5):
        params, opt_state, stats = world.apply(world.imitate, batch, params=params, opt_state=opt_state)
        nlls.append(float(stats["nll"]))
    assert abs(nlls[0] - want) < LOGPS_TOLERANCE
    assert all(b < a - 0.05 for a, b in zip(nlls, nlls[1:], strict=False))
    assert float(stats["n_tokens"]) == sum(t.loss_mask.sum() for t in world.rows) and float(stats["skipped"]) == 0


def test_rows_of_positive_advantage_become_likelier_and_negative_ones_less_likely(world):
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    batch = world.batch(advantages=signs)
    before = world.row_logps(world.first, batch)
    params, _, stats = world.apply(world.improve, batch, lr=1e-4)
    change = world.row_logps(params, batch) - before
    assert np.all(change * signs > 0.3), change
    assert float(stats["ratio_mean"]) == 1.0 and float(stats["clip_frac"]) == 0.0  # on policy
    # each row by itself, so that it is its own advantage that moved it
    for i in (0, 1):
        alone = world.batch(advantages=signs * (np.arange(4) == i))
        params, _, _ = world.apply(world.improve, alone, lr=1e-4)
        assert (world.row_logps(params, batch) - before)[i] * signs[i] > 1


def test_zero_advantages_leave_params_as_they_are(world):
    params, _, stats = world.apply(world.improve, world.batch())
    assert same(params, world.first) and float(stats["grad_norm"]) == 0.0 and float(stats["skipped"]) == 0.0


def test_a_learning_rate_of_zero_leaves_params_as_they_are(world):
    params, _, stats = world.apply(world.improve, world.batch(advantages=[1, -1, 1, -1]), lr=0.0)
    assert same(params, world.first) and float(stats["grad_norm"]) > 0


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(world, bad):
    good = world.batch(advantages=[1, -1, 1, -1])
    params, opt_state, _ = world.apply(world.improve, good)
    kept, moments = learner.copy_params(params), learner.copy_params(opt_state)
    params, opt_state, stats = world.apply(
        world.improve, world.batch(advantages=[1, bad, 0, 0]), params=params, opt_state=opt_state
    )
    assert float(stats["skipped"]) == 1.0
    assert same(params, kept) and same(opt_state, moments)
    params, _, stats = world.apply(world.improve, good, params=params, opt_state=opt_state)
    assert float(stats["skipped"]) == 0.0 and not same(params, kept)


def test_the_rate_and_the_batch_are_data(world):
    for lr, advantages, old in ((0.1, [1, 0, 0, 0], None), (0.2, [0, -1, 0, 0], jnp.zeros((4, LENGTH)))):
        world.apply(world.improve, world.batch(advantages=advantages), lr=lr, old=old)
    assert world.improve._cache_size() == 1 and world.step._cache_size() == 1


def test_observed_tokens_are_context_and_never_targets(world):
    # behind the last sampled token an observation is nothing at all
    rows = [world.row(i, trailing=True) for i in range(4)]
    cut = []
    for t in rows:
        tokens = t.tokens.copy()
        behind = np.arange(len(tokens)) > np.flatnonzero(t.loss_mask)[-1]
        swap = behind & (tokens != world.tokenizer.image_pad_id)
        assert swap.sum() > 5
        tokens[swap] = (tokens[swap] + 17) % 900
        cut.append(dataclasses.replace(t, tokens=tokens))
    signs = [1, -1, 1, -1]
    a, _, _ = world.apply(world.improve, world.batch(rows, signs))
    b, _, _ = world.apply(world.improve, world.batch(cut, signs))
    assert same(a, b) and not same(a, world.first)
    # a row of observed tokens alone teaches nothing, whatever its advantage
    deaf = [dataclasses.replace(t, observation_mask=t.completion_mask) for t in world.rows]
    params, _, stats = world.apply(world.improve, world.batch(deaf, signs))
    assert same(params, world.first) and float(stats["n_tokens"]) == 0
    # and its log-prob is no part of the loss: a row's nll is that of its own tokens
    half = [world.rows[0], *deaf[1:]]
    _, _, stats = world.apply(world.imitate, world.batch(half))
    n = world.rows[0].loss_mask.sum()
    assert abs(float(stats["nll"]) * n + world.row_logps(world.first, world.batch())[0]) < n * LOGPS_TOLERANCE


def test_an_image_in_the_context_teaches_the_vision_tower(world):
    params, _, _ = world.apply(world.improve, world.batch(advantages=[1, -1, 1, -1]))
    assert not same(params["vision"], world.first["vision"])


# ---------------------------------------------------------------------- images


class _CountingModel:
    """Counts the chunks that are really encoded."""

    def __init__(self):
        self.seen = []

    def encode(self, patches, layout):
        jax.debug.callback(lambda ids: self.seen.append(int((ids >= 0).sum())), layout.segment_ids)
        return patches.sum(axis=-1).reshape(patches.shape[0], -1, 4).sum(axis=-1)[..., None]


def test_empty_chunks_are_not_encoded(world):
    batch = world.batch(n_chunks=5)
    filled = np.asarray((batch.layout.segment_ids >= 0).any(axis=(1, 2)))
    assert 1 <= filled.sum() < 4
    model = _CountingModel()
    features = jax.jit(lambda p, w: learner._encode_chunks(model, p, w))(batch.patches, batch.layout)
    jax.block_until_ready(features)
    jax.effects_barrier()
    assert len(model.seen) == filled.sum() and all(model.seen)
    assert np.asarray(features).reshape(5, -1)[~filled].max() == 0


def test_padded_chunks_change_nothing(world):
    batches = [world.batch(n_chunks=n) for n in (2, 4)]
    a, b = (np.asarray(world.score(world.first, batch, world.allowed)) for batch in batches)
    mask = np.asarray(batches[0].loss_mask)
    np.testing.assert_allclose(a[mask], b[mask], rtol=0, atol=LOGPS_TOLERANCE)
    assert np.abs(a[mask]).max() > 1


def test_images_deduplicated_by_hash_equal_separate_ones(world):
    task = tiny.tiny_task(0, sizes=[(28, 56)])
    seen = Observation("two", (tiny.tiny_image(50), tiny.tiny_image(51, 28, 56)))
    turns = (ChainTurn("<search>fox</search>", seen, True), ChainTurn(ANSWERS[1], None, True))
    rows = [chain_trajectory(world.engine.renderer, Chain(task, turns)) for _ in range(4)]

    def renamed(t, i):
        spans = [dataclasses.replace(span, sha256=f"{i}:{span.sha256}") for span in t.images]
        return dataclasses.replace(t, images=tuple(spans), row=i)

    def patches_of(t):
        return {f"{t.row}:{sha}": item for sha, item in world.images_of(t).items()}

    together = world.batch(rows, n_chunks=4)
    apart = world.batch([renamed(t, i) for i, t in enumerate(rows)], n_chunks=4, patches_of=patches_of)
    n_patches = [int((np.asarray(b.layout.segment_ids) >= 0).sum()) for b in (together, apart)]
    assert n_patches[1] == 4 * n_patches[0]
    a, b = (np.asarray(world.score(world.first, batch, world.allowed)) for batch in (together, apart))
    mask = np.asarray(together.loss_mask)
    np.testing.assert_allclose(a[mask], b[mask], rtol=0, atol=LOGPS_TOLERANCE)


def test_another_image_in_the_context_changes_the_log_probs(world):
    swapped = {
        sha: (patches[::-1].copy(), grid) for t in world.rows for sha, (patches, grid) in world.images_of(t).items()
    }
    other = world.batch(patches_of=lambda t: {span.sha256: swapped[span.sha256] for span in t.images})
    batch = world.batch()
    gap = np.abs(
        np.asarray(world.score(world.first, batch, world.allowed) - world.score(world.first, other, world.allowed))
    )
    assert np.where(batch.loss_mask, gap, 0).max(axis=1).min() > 1e-3


def test_trajectories_that_share_a_row_score_as_alone(world):
    lengths = [len(t.tokens) for t in world.rows]
    assert lengths[1] + lengths[0] <= 2 * LENGTH and max(lengths) < LENGTH
    apart = world.batch(length=2 * LENGTH)
    packed = world.batch(length=2 * LENGTH, packing=[[1, 0], [], [3], [2]])
    a, b = (np.asarray(world.score(world.first, batch, world.allowed)) for batch in (apart, packed))
    own = [a[i][np.asarray(apart.loss_mask)[i]] for i in range(4)]
    got = [b[r][np.asarray(packed.loss_mask)[r]] for r in range(4)]
    np.testing.assert_allclose(got[0], np.concatenate([own[1], own[0]]), rtol=0, atol=LOGPS_TOLERANCE)
    np.testing.assert_allclose(np.concatenate(got[2:]), np.concatenate([own[3], own[2]]), rtol=0, atol=LOGPS_TOLERANCE)


# ------------------------------------------------------------- old, reference


def test_the_update_with_old_log_probs_of_the_same_policy_is_the_on_policy_one(world):
    batch = world.batch(advantages=[1, -1, 0.5, -2])
    logps = world.score(world.first, batch, world.allowed)
    update = world.program(learner.Objective(policy=PolicySettings(beta=0.3)))
    a, _, want = world.apply(world.improve, batch)
    b, _, got = world.apply(update, batch, old=logps, ref=logps)  # a reference that agrees pulls nowhere
    assert abs(float(got["loss"] - want["loss"])) < 1e-5 and float(got["kl_ref"]) < 1e-8
    # Adam's first step is a sign: where a gradient is zero but for rounding, it is not comparable
    moved = [np.abs(x - y) > 1e-4 for x, y in zip(leaves(a), leaves(b), strict=True)]
    assert np.concatenate([m.ravel() for m in moved]).mean() < 0.01
    # a reference that disagrees pulls though no row has an advantage
    ref = logps + jnp.where(batch.loss_mask, 1.0, 0.0)
    still = batch._replace(advantages=jnp.zeros_like(batch.advantages))
    c, _, stats = world.apply(update, still, old=logps, ref=ref)
    assert abs(float(stats["kl_ref"]) - (np.e - 2)) < 1e-4  # exp(1) - 1 - 1
    assert np.all(world.row_logps(c, batch) > world.row_logps(world.first, batch))


def test_the_gap_between_sampler_and_trainer_is_reported(world):
    batch = world.batch(advantages=[1, -1, 1, -1])
    logps = np.asarray(world.score(world.first, batch, world.allowed))
    off = np.where(np.asarray(batch.loss_mask), logps, 0.0).astype(np.float32)
    row, column = np.argwhere(np.asarray(batch.loss_mask))[3]
    off[row, column] -= 0.5
    _, _, stats = world.apply(world.improve, batch._replace(sampler_logps=jax.device_put(off)))
    assert abs(float(stats["gap_max"]) - 0.5) < 1e-4
    assert abs(float(stats["gap_mean"]) * int(batch.loss_mask.sum()) - 0.5) < 1e-3


def _weighted_loss(settings, sampler, old, logps, advantages, mask):
    """The loss as a loop over tokens, and the weights."""
    weights = np.exp(old - sampler)
    if settings.importance == "sequence":
        weights = np.exp(np.where(mask, old - sampler, 0).sum(1, keepdims=True)) * np.ones_like(weights)
    weights = np.minimum(weights, settings.importance_cap)
    total = 0.0
    for r, c in np.argwhere(mask):
        ratio = np.exp(logps[r, c] - old[r, c])
        clipped = min(max(ratio, 1 - settings.epsilon_low), 1 + settings.epsilon_high)
        total -= weights[r, c] * min(ratio * advantages[r], clipped * advantages[r])
    return total / mask.sum(), weights[mask]


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("on_policy", [True, False])
def test_the_importance_weighted_loss_equals_the_loop_over_tokens(world, importance, on_policy):
    cap, advantages = 1.2, np.array([1, -1, 0.5, -2], np.float32)
    batch = world.batch(advantages=advantages)
    mask, logps = np.asarray(batch.loss_mask), np.asarray(world.score(world.first, batch, world.allowed))
    noise = np.random.default_rng(0).normal(0, 0.3, (2, *mask.shape)).astype(np.float32)
    sampler, old = logps + noise[0], logps if on_policy else logps + noise[1]
    settings = PolicySettings(importance=importance, importance_cap=cap)
    update = world.program(learner.Objective(policy=settings))
    # what stands where nothing was sampled is not read
    told = batch._replace(sampler_logps=jnp.asarray(np.where(mask, sampler, np.nan)))
    _, _, stats = world.apply(update, told, old=None if on_policy else jnp.asarray(old))
    want, weights = _weighted_loss(settings, sampler, old, logps, advantages, mask)
    assert abs(float(stats["loss"]) - want) < 1e-5 and np.ptp(weights) > 0.1
    assert abs(float(stats["importance_mean"]) - weights.mean()) < 1e-5
    assert abs(float(stats["importance_capped_frac"]) - (weights == cap).mean()) < 1e-6
    assert 0 < (weights == cap).mean() < 1


def test_without_correction_the_sampler_is_not_read(world):
    batch = world.batch(advantages=[1, -1, 1, -1])
    a, _, stats = world.apply(world.improve, batch)
    off = batch._replace(sampler_logps=batch.sampler_logps - 1)
    b, _, _ = world.apply(world.improve, off)
    assert same(a, b) and "importance_mean" not in stats


def test_train_state_holds_a_reference_that_outlives_the_donated_params(world):
    params = world.params()
    state = learner.train_state(world.optimizer, params, with_reference=True)
    params, _, _ = world.apply(
        world.improve, world.batch(advantages=[1, -1, 1, -1]), params=state["params"], opt_state=state["opt_state"]
    )
    assert same(state["ref_params"], world.first) and not same(params, world.first)
    assert learner.train_state(world.optimizer, params, with_reference=False)["ref_params"] is None


def test_advantages_are_those_of_each_group():
    compute = learner.make_advantages(2, AdvantageSettings(scale="none"), PolicySettings())
    mask = jnp.array([[True, False]] * 4)
    advantages, stats = compute(jnp.array([1.0, 0.0, 3.0, 3.0]), jnp.ones(4, bool), mask)
    np.testing.assert_allclose(advantages, [[0.5, 0], [-0.5, 0], [0, 0], [0, 0]])
    assert float(stats["zero_variance_frac"]) == 0.5


def test_with_adapters_the_base_stands_still_and_is_the_reference(world):
    graphdef, params = tiny.tiny_policy(world.tokenizer.vocab_size, lora=Lora(rank=2, vision=True))
    params = jax.device_put(params, jax.devices()[0])
    objective = learner.Objective(policy=PolicySettings(beta=0.1))
    accumulate, step = learner.make_accumulate(graphdef, objective), make_apply(world.optimizer, rounding="nearest")
    batch = world.batch(advantages=(1.0, -1.0, 0.5, -0.5))
    opt_state = init_opt_state(world.optimizer, params)
    n_trained = sum(leaf.size for leaf in jax.tree.leaves(nnx.split_state(params, LoraParam, ...)[0]))
    assert sum(leaf.size for leaf in jax.tree.leaves(opt_state)) == 2 * n_trained + 1  # two moments and a count
    before = jax.device_get(learner.copy_params(params))
    reference = learner.make_score(graphdef, objective, base=True)(params, batch, world.allowed)
    base_graphdef = tiny.tiny_policy(world.tokenizer.vocab_size)[0]
    base = nnx.split_state(params, LoraParam, ...)[1]
    want = learner.make_score(base_graphdef, objective)(base, batch, world.allowed)
    np.testing.assert_array_equal(reference, want)
    batch = batch._replace(ref_logps=reference)
    gradients = learner.make_zeros(params)()
    gradients, stats = accumulate(params, gradients, batch, world.allowed, world.whole(batch))
    after, _, of_step = step(params, opt_state, gradients, jnp.float32(1e-2))
    stats |= of_step
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert float(stats["kl_ref"]) > 0 and float(stats["grad_norm"]) > 0
    for (keys, new), (_, old) in zip(nnx.to_flat_state(after), nnx.to_flat_state(before), strict=True):
        moved = not np.array_equal(new[...], old[...])
        assert moved == (keys[-1] in ("lora_a", "lora_b")), keys


def test_a_frozen_tower_stands_still_and_the_rest_moves(world):
    model = nnx.merge(*tiny.tiny_policy(world.tokenizer.vocab_size))
    freeze(model.vision)
    graphdef, params = nnx.split(model)
    params = jax.device_put(params, jax.devices()[0])
    before = jax.device_get(learner.copy_params(params))
    opt_state = init_opt_state(world.optimizer, params)
    n_text = sum(leaf.size for leaf in jax.tree.leaves(params["text"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(opt_state)) == 2 * n_text + 1  # two moments and a count
    update = learner.make_accumulate(graphdef, learner.Objective(kind="imitation"))
    after, _, _ = world.apply(update, world.batch(), params=params, opt_state=opt_state)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for (keys, new), (_, old) in zip(nnx.to_flat_state(after), nnx.to_flat_state(before), strict=True):
        assert np.array_equal(new[...], old[...]) == (keys[0] == "vision"), keys


@pytest.mark.parametrize("aggregation", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_rows_of_our_own_failures_change_no_other_rows_gradient_and_no_figure(world, aggregation):
    """Rows 1 and 3 failed: the update is that of rows 0 and 2 alone, whatever the failed ones hold."""
    advantages, old = [1.0, 0.7, -1.0, -0.4], jnp.zeros((4, LENGTH), jnp.float32)
    # KL to the reference and clipping too: a row without an advantage has a gradient there.
    settings = PolicySettings(beta=0.1, aggregation=aggregation, importance="token")
    update = world.program(learner.Objective(policy=settings))

    def step(rows, advantages, old, valid=None):
        batch = world.batch(rows, advantages, valid=valid)
        return world.apply(update, batch, old=old, ref=old - 0.3, lr=1e-3)

    good = [True, False, True, False]
    params, _, stats = step(world.rows, advantages, old, good)
    _, _, others = step([world.rows[i] for i in (0, 2, 2, 0)], [1.0, 9.0, -1.0, 0.0], old, good)
    alone, _, want = step(world.rows[::2], advantages[::2], old[:2])
    for name in want:
        np.testing.assert_allclose(stats[name], want[name], rtol=2e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(others[name], want[name], rtol=2e-5, atol=1e-6, err_msg=name)
    for got, wanted in zip(leaves(params), leaves(alone), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)
    _, _, whole = step(world.rows, advantages, old)
    assert abs(float(whole["loss"]) - float(want["loss"])) > 1e-3  # rows that are learnt from do change it
