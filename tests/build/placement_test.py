"""Where a run's arrays lie."""

import types

import jax
import numpy as np
import pytest

from arft_jax.build import placement as layout
from arft_jax.config import default_config


def test_chunks_of_images_are_dealt_to_the_lanes_evenly_and_rows_need_not_be(monkeypatch):
    config = default_config()
    two = types.SimpleNamespace(shape=dict(data=2, fsdp=1, tensor=1), devices=np.array(jax.devices()))
    monkeypatch.setattr(layout, "make_mesh", lambda sizes, devices: two)
    config.warm_start.rows = 63  # packed rows are filled up with empty ones
    assert layout.make_placement(config).n_lanes == 2
    config.train.image_chunks = 5
    with pytest.raises(
        ValueError,
        match=r"image_chunks must be a multiple of data\*fsdp=2: got 5 \(config.train.image_chunks, config.mesh",
    ):
        layout.make_placement(config)
