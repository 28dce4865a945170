"""Which published tensor is which parameter of Qwen2.5-VL.

Both key layouts are read: ``visual.* model.* lm_head`` of the published files, which is also what is written, and
``model.visual.* model.language_model.*`` of later ones.
"""

from arft_jax.models.family import WeightNames
from arft_jax.models.qwen2_5_vl.config import ModelConfig

_LAYER = "text.layers.{}."
_BLOCK = "visual.blocks.{}."
_OTHERS = {
    "text.embedding": "text.embed_tokens.weight",
    "text.unembedding": "lm_head.weight",
    "text.norm.scale": "text.norm.weight",
    "text.layers.norm1.scale": _LAYER + "input_layernorm.weight",
    "text.layers.norm2.scale": _LAYER + "post_attention_layernorm.weight",
    "vision.patch_embed.kernel": "visual.patch_embed.proj.weight",
    "vision.blocks.norm1.scale": _BLOCK + "norm1.weight",
    "vision.blocks.norm2.scale": _BLOCK + "norm2.weight",
    "vision.merger.norm.scale": "visual.merger.ln_q.weight",
}
_LINEARS = {
    **{f"text.layers.{name}": f"{_LAYER}self_attn.{name}_proj" for name in "qkvo"},
    **{f"text.layers.mlp.{name}": f"{_LAYER}mlp.{name}_proj" for name in ("gate", "up", "down")},
    **{f"vision.blocks.mlp.{name}": f"{_BLOCK}mlp.{name}_proj" for name in ("gate", "up", "down")},
    **{f"vision.blocks.{name}": f"{_BLOCK}attn.{name}" for name in ("qkv", "proj")},
    "vision.merger.up": "visual.merger.mlp.0",
    "vision.merger.down": "visual.merger.mlp.2",
}


def _patch_shape(sizes: ModelConfig) -> tuple[int, ...]:
    """[channels, frames, row, column] of the patch embedding's published form."""
    vision = sizes.vision
    return vision.channels, vision.temporal_patch, vision.patch_px, vision.patch_px


WEIGHTS = WeightNames(
    names=_OTHERS
    | {f"{ours}.kernel": f"{theirs}.weight" for ours, theirs in _LINEARS.items()}
    | {f"{ours}.bias": f"{theirs}.bias" for ours, theirs in _LINEARS.items()},
    prefixes=(("model.visual.", "visual."), ("model.language_model.", "text."), ("model.", "text.")),
    written=(("text.", "model."),),
    modules=(("text.", "model.language_model."), ("visual.", "model.visual.")),
    two_input_axes=("text.layers.o.kernel", "vision.blocks.proj.kernel"),
    convolutions={"vision.patch_embed.kernel": _patch_shape},
)
