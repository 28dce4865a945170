"""Qwen2.5-VL-32B on 64 chips of TPU v5p: GRPO with live tools, no warm start.

    python launch/compile_check.py --config=configs/qwen32b_tpu.py
    python launch/train.py --config=configs/qwen32b_tpu.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-32B; ``data.dir`` holds ``mat_coding/`` and ``mat_search/`` in the
layout of the MAT benchmark (arft_jax/data/mat.py). Compile-checked for v5p:4x4x4 at cf5b037
(docs/compile_check.md); expected figures: not yet run.
Variant ``:smoke``: every stage on a CPU in two minutes, with the weights of ``launch/make_tiny_checkpoint.py`` and the
data of ``launch/make_tiny_data.py``.
"""

from arft_jax.presets import qwen_config


def get_config(variant: str = ""):
    config = qwen_config("qwen32b_tpu", "32b", "tpu v5p:4x4x4", variant)
    if not variant:
        config.distributed.enabled = True
        config.rollout.update(tensor=4, n_slots=32, extend_rows=4)
        config.train.update(prompts=16, rows_per_update=128)
    return config
