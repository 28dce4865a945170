"""Qwen2.5-VL-7B on 64 chips of TPU v5e: GRPO with live tools, no warm start.

    python launch/compile_check.py --config=configs/qwen7b_tpu.py
    python launch/train.py --config=configs/qwen7b_tpu.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B; ``data.dir`` is where prepared data sets are kept.
Compile-checked for v5e:8x8; expected figures: not yet run. Variant ``:smoke``: every stage on a CPU, with the weights
of ``launch/make_tiny_checkpoint.py``.
"""

from arft_jax.presets import qwen_config


def get_config(variant: str = ""):
    config = qwen_config("qwen7b_tpu", "7b", "tpu v5e:8x8", variant)
    if not variant:
        config.rollout.update(n_slots=64, extend_rows=64)
    return config
