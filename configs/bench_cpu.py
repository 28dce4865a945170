"""The shape of the benchmark: a 45M-parameter Qwen2.5-VL in float32 on two CPU cores, beside peers.

    python launch/bench.py --config=configs/bench_cpu.py --against=transformers,tunix --format=json

What is run stands in ``arft_jax/bench/shape.py``: decode (batch 16, 256 + 128 tokens), prefill, rollouts of three turns
(32 trajectories in groups of 8), a train step (16 x 384). Time: 25 minutes with both peers. Figures:
docs/benchmarks.md.
"""

from arft_jax.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.name = "bench_cpu"
    config.workdir = "runs/bench_cpu"
    config.model.text_config.update(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        rope_theta=1e6, mrope_section=(8, 12, 12),
    )  # fmt: skip
    config.model.vision_config.update(
        depth=4, hidden_size=256, intermediate_size=512, num_heads=4, fullatt_block_indexes=(1, 3)
    )
    config.data.min_pixels = config.data.max_pixels = 224 * 224  # 16 x 16 patches, 64 image tokens
    config.rollout.update(
        group_size=8, n_slots=32, max_turns=3, max_turns_eval=3, max_turn_tokens=64, max_tokens=672, decode_steps=8,
        bucket_columns=336, extend_rows=2, extend_chunk=75, n_patches=512, n_windows=8, n_features=4096,
    )  # fmt: skip
    config.train.update(rows_per_update=16, image_chunks=8, logps_chunk=1024, warmup_steps=0)
    if variant:
        raise ValueError(f"variant must be empty: got {variant!r} (configs/bench_cpu.py:{variant})")
    return config
