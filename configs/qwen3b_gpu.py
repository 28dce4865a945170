"""Qwen2.5-VL-3B on 8 x H100 80 GB: GRPO with live tools, no warm start.

    python launch/compile_check.py --config=configs/qwen3b_gpu.py
    python launch/train.py --config=configs/qwen3b_gpu.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-3B; ``data.dir`` holds ``mat_coding/`` and ``mat_search/`` in the
layout of the MAT benchmark (arft_jax/data/mat.py). Compile-checked for 8 x H100 80 GB at cf5b037
(docs/compile_check.md); expected figures: not yet run.
Variant ``:smoke``: every stage on a CPU in two minutes, with the weights of ``launch/make_tiny_checkpoint.py`` and the
data of ``launch/make_tiny_data.py``.
"""

from arft_jax.presets import fitted_config


def get_config(variant: str = ""):
    return fitted_config("qwen3b_gpu", "3b", "gpu", variant)
