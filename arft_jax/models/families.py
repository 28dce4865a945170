"""The model families that the package brings, and which of them a ``config.json`` is of."""

from typing import Any

from arft_jax.models.decoders.family import LLAMA, QWEN2
from arft_jax.models.family import Family
from arft_jax.models.qwen2_5_vl.family import QWEN2_5_VL

FAMILIES = (QWEN2_5_VL, QWEN2, LLAMA)
DEFAULT = QWEN2_5_VL  # where nothing names a family: a model drawn from the seed, a published size


def family_of(model_type: Any) -> Family:
    """The family that reads this ``model_type``.

    Raises:
      ValueError: none of them does.
    """
    for family in FAMILIES:
        if model_type in family.reads:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.reads)
    raise ValueError(f"model_type must be one of {known}: got {model_type!r}")
