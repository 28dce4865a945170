"""Where a run's arrays lie."""

import types

import jax
import numpy as np
import pytest

from arft_jax.build import placement as layout
from arft_jax.config import default_config


def test_rows_of_a_warm_start_that_is_not_made_need_not_divide(monkeypatch):
    config = default_config()
    two = types.SimpleNamespace(shape=dict(data=2, fsdp=1, tensor=1), devices=np.array(jax.devices()))
    monkeypatch.setattr(layout, "make_mesh", lambda sizes, devices: two)
    config.warm_start.rows = 63
    with pytest.raises(ValueError, match=r"got warm_start.rows=63 \(config.warm_start.rows\)"):
        layout.make_placement(config)
    config.warm_start.steps = 0
    assert layout.make_placement(config).n_lanes == 2
