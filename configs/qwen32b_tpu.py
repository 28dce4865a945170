"""Qwen2.5-VL-32B on 64 chips of TPU v5p: GRPO with live tools, no warm start.

    python launch/compile_check.py --config=configs/qwen32b_tpu.py
    python launch/train.py --config=configs/qwen32b_tpu.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-32B; ``data.dir`` is where prepared data sets are kept.
Compile-checked for v5p:4x4x4; expected figures: not yet run. Variant ``:smoke``: every stage on a CPU, with the weights
of ``launch/make_tiny_checkpoint.py``.
"""

from arft_jax.presets import qwen_config


def get_config(variant: str = ""):
    config = qwen_config("qwen32b_tpu", "32b", "tpu v5p:4x4x4", variant)
    if not variant:
        config.rollout.update(n_slots=64, extend_rows=64)
    return config
