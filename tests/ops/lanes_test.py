"""The sum over many lanes in two steps is the sum in one, each lane with its own part."""

import os
import subprocess
import sys
import textwrap

SCRIPT = """
    import functools
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import PartitionSpec as P
    from arft_jax.ops import lanes
    from arft_jax.sharding import make_mesh

    for size, data, steps in ((24, 1, 2), (12, 2, 1), (8, 3, 1), (16, 1, 2)):
        mesh = make_mesh({"fsdp": size, "data": data}, jax.devices()[: size * data])
        x = jnp.asarray(np.random.default_rng(size).integers(-50, 50, (size * data, 3, 2 * size)), jnp.float32)

        def of_lane(x):
            return jax.lax.psum(lanes.scatter(x[0], size, 1), "data")

        run = jax.jit(jax.shard_map(
            of_lane, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P(None, "fsdp"), check_vma=False))
        np.testing.assert_array_equal(run(x), x.sum(axis=0))  # whole numbers: any order gives the same
        text = run.lower(x).as_text()
        assert text.count("stablehlo.reduce_scatter") == steps, (size, text.count("stablehlo.reduce_scatter"))
    print("equal")
"""


def test_a_sum_over_lanes_is_scattered_in_order_in_one_step_or_two():
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=24", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"
