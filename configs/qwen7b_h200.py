"""Qwen2.5-VL-7B on one H200: GRPO with live tools, no warm start (LoRA).

    python launch/compile_check.py --config=configs/qwen7b_h200.py
    python launch/train.py --config=configs/qwen7b_h200.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B; ``data.dir`` holds ``mat_coding/`` and ``mat_search/`` in the
layout of the MAT benchmark (arft_jax/data/mat.py). Compile-checked for one H200 at cf5b037
(docs/compile_check.md); expected figures: not yet run.
Variant ``:smoke``: every stage on a CPU in two minutes, with the weights of ``launch/make_tiny_checkpoint.py`` and the
data of ``launch/make_tiny_data.py``.
"""

from arft_jax.presets import qwen_config


def get_config(variant: str = ""):
    config = qwen_config("qwen7b_h200", "7b", "gpu h200:1", variant)
    config.model.lora.rank = 32
    # The products of a layer fit beside 8192 tokens: they are kept, and a backward pass computes none twice.
    config.model.remat = "dots"
    if not variant:
        config.model.param_dtype = "bfloat16"
        config.rollout.update(n_slots=64, extend_rows=4)
        config.train.update(micro_tokens=8192, image_chunks=8, learning_rate=1e-5)
    return config
