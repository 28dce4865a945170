"""Every layer's output against transformers', in float32 and, as an error against float32, in bfloat16."""

import jax
import numpy as np
import pytest
from flax import nnx

from arft_jax.testing import parity

pytestmark = pytest.mark.torch
LAYERS = ("output of each layer, worst case, float32", "max |theirs|", "max difference", "tolerance")
BF16 = ("bfloat16 against float32", "ours / theirs", "error, ours", "theirs")
HALF_SEEDS = range(4)
ids = {"ids": lambda value: value.name if isinstance(value, parity.Case) else None}
tied = pytest.mark.parametrize("pair", [True], indirect=True, ids=["tied"])


def compare(ours, theirs, batch, inputs, table):
    """Asserts every stage; the names must be the same."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        mine = parity.compact(name, ours[name], batch, inputs.valid, 2)
        assert mine.shape == theirs[name].shape
        gap, limit = np.abs(mine - theirs[name]).max(), parity.tolerance(theirs[name])
        table.add(LAYERS, name, np.abs(theirs[name]).max(), gap, limit)
        assert gap <= limit, name


@tied
@pytest.mark.parametrize("case", parity.CASES, **ids)
def test_every_layer_equals_that_of_transformers(case, pair, expected, run_ours, parity_table):
    batch = parity.make_batch(case, pair.ours.config)
    inputs = parity.make_inputs(batch, pair.ours.config)
    ours = run_ours(parity.our_stages, inputs)
    assert len(ours) == (6 if batch.all_grids else 0) + 6  # tower: in, 4 blocks, merger; decoder: in, 3, norm, logits
    compare(ours, expected(case), batch, inputs, parity_table)


@tied
def test_every_layer_equals_that_of_transformers_at_896_px(pair, run_ours, parity_table):
    case = parity.Case("1 image of 896 px", ((parity.EN, (1, 64, 64), parity.ZH),))
    batch = parity.make_batch(case, pair.ours.config)
    inputs = parity.make_inputs(batch, pair.ours.config, parity.Sizes(1, 1120, 0, 4096, 64))
    theirs = parity.their_stages(pair.theirs, batch)
    compare(run_ours(parity.our_stages, inputs), theirs, batch, inputs, parity_table)


@tied
def test_unrolled_layers_are_the_scanned_model(pair, run_ours):
    inputs = parity.make_inputs(parity.make_batch(parity.TWO_IMAGES, pair.ours.config), pair.ours.config)
    unrolled, scanned = run_ours(parity.our_stages, inputs)["logits"], run_ours(parity.our_logits, inputs)
    np.testing.assert_allclose(unrolled[inputs.valid], scanned[inputs.valid], atol=2e-5)


@pytest.fixture(scope="module")
def rounding_errors():
    """stage -> float[seeds, 2 (ours, theirs), 2 (mean, max)] of |bfloat16 - float32|, each against its own float32."""
    pytest.importorskip("torch")
    compiled, errors = {}, {}
    for seed in HALF_SEEDS:
        full = parity.make_pair(tied=seed % 2 == 0, seed=seed)
        batch = parity.make_batch(parity.CASES[-2], full.ours.config, seed)
        inputs = parity.make_inputs(batch, full.ours.config)
        found = []
        for pair in (full, parity.in_bfloat16(full)):
            graphdef, params = nnx.split(pair.ours)
            run = compiled.setdefault(  # the weights are arguments: two programs a layout serve all seeds
                (pair is full, seed % 2),
                jax.jit(lambda p, x, graphdef=graphdef: parity.our_stages(nnx.merge(graphdef, p), x)),
            )
            ours = {n: parity.compact(n, v, batch, inputs.valid, 2) for n, v in run(params, inputs).items()}
            found.append((ours, parity.their_stages(pair.theirs, batch)))
        for name in found[0][0]:
            gaps = [np.abs(half[name] - exact[name]) for exact, half in zip(*found, strict=True)]
            errors.setdefault(name, []).append([(gap.mean(), gap.max()) for gap in gaps])
    return {name: np.array(values) for name, values in errors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vision block 3", "vision merger", "text layer 2", "text norm", "logits"])
def test_bfloat16_costs_no_more_than_in_transformers(rounding_errors, stage, parity_table):
    error = rounding_errors[stage]
    (mean, their_mean), (peak, their_peak) = error.mean(axis=0).T
    parity_table.add(BF16, f"{stage}, mean", mean / their_mean, mean, their_mean)
    parity_table.add(BF16, f"{stage}, max (mean of {len(error)} seeds)", peak / their_peak, peak, their_peak)
    assert np.all(error[:, :, 0] > 1e-4)  # the models do compute in bfloat16
    assert np.all(error[:, 0, 0] <= error[:, 1, 0])  # the mean error, for each seed
    if stage == "logits":  # the worst of 500 thousand numbers: steady as a mean over seeds, and at the end
        assert peak <= their_peak
