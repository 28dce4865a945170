"""The records of Llama and of Qwen2: text decoders, with a fresh vision tower where a config asks for one."""

import dataclasses

from arft_jax.models.decoders.config import DecoderConfig, with_tower
from arft_jax.models.decoders.packing import TEXT_ONLY, sequential_positions
from arft_jax.models.family import Family, ImagePacking
from arft_jax.models.qwen2_5_vl.family import CONTROL_IDS, branch_shares
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import windowed_packing
from arft_jax.models.qwen2_5_vl.weight_names import WEIGHTS


def _packing(sizes: DecoderConfig) -> ImagePacking:
    tower = sizes.vision
    if tower is None:
        return TEXT_ONLY
    return windowed_packing(tower.window_px, tower.patch_px, tower.merge, tower.patch_dim, sequential_positions)


def _family(name: str, title: str) -> Family:
    return Family(
        name=name,
        title=title,
        reads=(name,),
        config_from_hf=DecoderConfig.from_hf,
        make=Qwen2_5_VL,
        packing=_packing,
        weights=dataclasses.replace(WEIGHTS, modules=()),
        control_ids=CONTROL_IDS,
        with_tower=with_tower,
        branch_shares=lambda sizes: () if sizes.vision is None else branch_shares(sizes),
    )


LLAMA = _family("llama", "Llama")
QWEN2 = _family("qwen2", "Qwen2")
OF_TYPE = {family.name: family for family in (LLAMA, QWEN2)}
