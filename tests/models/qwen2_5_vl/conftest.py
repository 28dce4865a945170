"""The pair of models that parity is held on, and the table that it leaves at the end of the run."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

ROWS = pytest.StashKey[dict]()


class ParityTable:
    """(section, what) -> (size, difference, limit), the worst of all that was recorded."""

    def __init__(self, rows):
        self.rows = rows

    def add(self, section, what, size, difference, limit):
        old = self.rows.setdefault(section, {}).get(what)
        if old is None or difference / limit > old[1] / old[2]:
            self.rows[section][what] = (float(size), float(difference), float(limit))


@pytest.fixture(scope="session")
def parity_table(request):
    return ParityTable(request.config.stash.setdefault(ROWS, {}))


def pytest_terminal_summary(terminalreporter, config):
    for section, rows in config.stash.get(ROWS, {}).items():
        title, size, difference, limit = section
        width = max(map(len, [title, *rows]))
        terminalreporter.section("parity with transformers")
        terminalreporter.write_line(f"{title:{width}}  {size:>14}  {difference:>16}  {limit:>12}")
        for what, values in rows.items():
            terminalreporter.write_line(f"{what:{width}}  {values[0]:14.2f}  {values[1]:16.2e}  {values[2]:12.2e}")


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def pair(request):
    """(transformers' model, ours) with the same weights in float32."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from arft_jax.testing import parity

    return parity.make_pair(request.param)


@pytest.fixture(scope="session")
def expected(pair):
    """case -> every stage of transformers' model."""
    from arft_jax.testing import parity

    return functools.cache(lambda case: parity.their_stages(pair.theirs, parity.make_batch(case, pair.ours.config)))


@pytest.fixture(scope="session")
def run_ours(pair):
    """(function of parity.py, inputs) -> its result on our model, compiled once a function and shape."""
    graphdef, params = nnx.split(pair.ours)
    compile_ = functools.cache(lambda function: jax.jit(lambda p, x: function(nnx.merge(graphdef, p), x)))
    return lambda function, inputs: jax.tree.map(np.asarray, compile_(function)(params, inputs))
