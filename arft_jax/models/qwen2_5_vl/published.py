"""Sizes of the published Qwen2.5-VL models, for planning before any weights are there.

Facts of the published ``config.json`` files of Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct.
"""

from arft_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig

# dim, mlp_dim, layers, heads, kv heads, vocabulary, tied, mlp_dim of the vision tower
_SIZES = {
    "3b": (2048, 11008, 36, 16, 2, 151936, True, 3420),
    "7b": (3584, 18944, 28, 28, 4, 152064, False, 3420),
    "32b": (5120, 27648, 64, 40, 8, 152064, False, 3456),
    "72b": (8192, 29568, 80, 64, 8, 152064, False, 3456),
}
SIZES = tuple(_SIZES)


def published(size: str) -> ModelConfig:
    """The model of one published size.

    >>> published("7b").text.head_dim
    128

    Raises:
      ValueError: a size that was not published.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}: got {size!r} (config.model.size)")
    dim, mlp_dim, n_layers, n_heads, n_kv_heads, vocab_size, tied, vision_mlp_dim = _SIZES[size]
    text = TextConfig(
        vocab_size=vocab_size,
        dim=dim,
        mlp_dim=mlp_dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        mrope_section=(16, 24, 24),
        tied=tied,
        max_positions=128000,
    )
    vision = VisionConfig(
        dim=1280, mlp_dim=vision_mlp_dim, n_layers=32, n_heads=16, out_dim=dim, full_layers=(7, 15, 23, 31)
    )
    return ModelConfig(text=text, vision=vision)
