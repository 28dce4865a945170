"""Qwen2.5-VL-7B on a TPU v5e slice of 64 chips: GRPO with live tools, no warm start.

    python launch/compile_check.py --config=configs/qwen7b_tpu.py
    python launch/train.py --config=configs/qwen7b_tpu.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B, ``data.dir`` where prepared data sets are kept. Hardware:
v5e:8x8 (16 GiB a chip). Compile-checked, not yet run. Variant ``:smoke``: every stage on a CPU, with the weights of
``launch/make_tiny_checkpoint.py``.
"""

from arft_jax.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.name = "qwen7b_tpu"
    config.workdir = "runs/qwen7b_tpu"
    config.hardware = "tpu v5e:8x8"
    config.model.update(size="7b", dtype="bfloat16", remat=True)
    config.data.update(min_pixels=3136, max_pixels=401408)
    config.warm_start.steps = 0
    config.rollout.update(
        n_slots=64, max_turn_tokens=1024, max_tokens=8192, decode_steps=64, extend_rows=64, extend_chunk=256,
        n_patches=4096, n_windows=128, n_features=65536,
    )  # fmt: skip
    config.train.update(steps=200, prompts=8, image_chunks=128, logps_chunk=256, learning_rate=1e-6)
    if variant == "smoke":
        config.name, config.workdir, config.hardware = "smoke_weights", "runs/smoke_weights", ""
        config.model.size = ""
        config.data.update(n_train=16, max_pixels=7056)
        config.rollout.update(
            n_slots=16, max_turn_tokens=32, max_tokens=768, decode_steps=8, extend_rows=16, n_patches=576, n_windows=64,
            n_features=1024,
        )  # fmt: skip
        config.train.update(steps=2, prompts=2, rows_per_update=16, image_chunks=8)
        config.eval.update(every=1, n_during=4, bootstrap=100)
        config.checkpoint.every = 1
    elif variant:
        raise ValueError(f"variant must be smoke: got {variant!r} (configs/qwen7b_tpu.py:{variant})")
    return config
