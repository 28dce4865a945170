"""What loading costs the host beside the parameters: one tensor, not the file."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from arft_jax.io.safetensors_dir import Header, write_tensors
from arft_jax.io.weight_rules import published_name, published_shape, sources
from arft_jax.io.weights import abstract_params
from arft_jax.testing.tiny_model import tiny_config

MIB = 2**20
ALLOWANCE = 96 * MIB  # XLA's compilations, 72 here, and the allocator's slack; the promise is 1 GiB
SCRIPT = """
    import dataclasses, json, sys
    import jax, numpy as np
    from flax import nnx
    from arft_jax.io.weights import abstract_params, load_model_config, load_params

    def status(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

    params = abstract_params(load_model_config(sys.argv[1]))
    jax.block_until_ready(jax.device_put(np.zeros(3)))
    before = status("VmRSS:")
    loaded = load_params(sys.argv[1], params)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    print(json.dumps({"extra": status("VmHWM:") - before - n_bytes, "params": n_bytes}))
"""


def _config():
    base = tiny_config(vocab_size=102400, tied=False)
    text = dataclasses.replace(
        base.text, dim=512, mlp_dim=4096, n_layers=8, n_heads=8, n_kv_heads=2, mrope_section=(8, 12, 12)
    )
    return dataclasses.replace(base, text=text, vision=dataclasses.replace(base.vision, out_dim=512))


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", ["float32", "bfloat16"])
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_the_host_holds_one_tensor_beside_the_parameters(tmp_path, on_disk):
    """As large as in the file: bfloat16 becomes the parameters' float32 on the device.

    A float32 tensor of a float32 file becomes the parameter itself on a CPU, without a copy.
    """
    config = _config()
    assignments, _ = sources(abstract_params(config), config.family.weights)
    tensors = {published_name(name, config.family.weights): item for item in assignments for name in item.names}

    shapes = {name: published_shape(item.path, item.piece_shape, config) for name, item in tensors.items()}
    headers = {name: Header(shape, on_disk) for name, shape in shapes.items()}
    write_tensors(
        tmp_path, headers, lambda name: np.full(headers[name].shape, len(name), np.float32), max_shard_bytes=100 * MIB
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    item_bytes = {"float32": 4, "bfloat16": 2}[on_disk]
    largest = max(item_bytes * math.prod(header.shape) for header in headers.values())
    assert largest == item_bytes * 102400 * 512
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(
        f"{on_disk} on disk: parameters {found['params'] / MIB:.0f} MiB, largest tensor {largest / MIB:.0f} MiB, "
        f"peak beside the parameters {found['extra'] / MIB:.0f} MiB"
    )
    assert 600 * MIB < found["params"] < 700 * MIB
    assert found["extra"] <= largest + ALLOWANCE
