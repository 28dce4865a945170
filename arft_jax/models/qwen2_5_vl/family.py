"""The record of Qwen2.5-VL."""

import functools

from arft_jax.models.family import Family, ImagePacking
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import windowed_packing
from arft_jax.models.qwen2_5_vl.positions import mrope_positions
from arft_jax.models.qwen2_5_vl.published import SIZES, published
from arft_jax.models.qwen2_5_vl.weight_names import WEIGHTS

CONTROL_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def _packing(sizes: ModelConfig) -> ImagePacking:
    vision = sizes.vision
    return windowed_packing(
        vision.window_px, vision.patch_px, vision.merge, vision.patch_dim,
        functools.partial(mrope_positions, merge=vision.merge),
    )  # fmt: skip


def branch_shares(sizes: ModelConfig) -> tuple[float, ...]:
    """(windowed, full): the shares of the tower's blocks that attend so."""
    full = len(sizes.vision.full_layers) / sizes.vision.n_layers
    return 1 - full, full


QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    reads=("qwen2_5_vl",),
    config_from_hf=ModelConfig.from_hf,
    make=Qwen2_5_VL,
    packing=_packing,
    weights=WEIGHTS,
    control_ids=CONTROL_IDS,
    sizes=SIZES,
    published=published,
    processor={"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"},
    branch_shares=branch_shares,
    boxes="resized",
)
