"""Sizes of a Qwen2.5-VL model, read from and written to the published configuration's layout.

Qwen2.5-VL (arXiv 2502.13923, table 1).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from arft_jax.models.family import Family
from arft_jax.models.size_checks import (
    MAX_TOKEN_ID,
    as_float,
    as_tuple,
    flag,
    is_whole,
    part,
    real,
    require,
    whole,
)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder.

    Args:
      vocab_size: V.
      dim: D, equal to n_heads * head_dim.
      mlp_dim: F.
      n_layers: decoder layers.
      n_heads, n_kv_heads: N and K.
      rope_theta: base of the rotary frequencies.
      mrope_section: frequencies for time, height and width, summing to head_dim / 2.
      norm_eps: of every RMS norm.
      tied: whether the unembedding is the embedding transposed.
      max_positions: the longest context that the model was made for, tokens.
      qkv_bias: whether queries, keys and values have biases.
    """

    vocab_size: int
    dim: int
    mlp_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    tied: bool = False
    max_positions: int = 32768
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        problems = _wrong_numbers(self, TEXT_KEYS, _TEXT_MOST)
        problems += flag("tie_word_embeddings", self.tied)
        section = self.mrope_section
        if not isinstance(section, tuple) or not all(is_whole(n) and n >= 0 for n in section):
            problems.append(f"mrope_section must be a list of whole numbers, none negative: got {section!r:.100}")
        require(problems)
        if self.dim % self.n_heads or self.head_dim % 2:
            problems.append(f"hidden_size must be n_heads even heads: got D={self.dim}, N={self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            problems.append(
                "num_attention_heads must be a multiple of num_key_value_heads: "
                f"got N={self.n_heads}, K={self.n_kv_heads}"
            )
        if len(self.mrope_section) != 3 or 2 * sum(self.mrope_section) != self.head_dim:
            problems.append(
                f"mrope_section must be three numbers summing to head_dim / 2 = {self.head_dim // 2}: "
                f"got {self.mrope_section}"
            )
        require(problems)

    @property
    def head_dim(self) -> int:
        """H."""
        return self.dim // self.n_heads


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower.

    Args:
      dim: width of the tower.
      mlp_dim: of its gated MLP.
      n_layers, n_heads: blocks, and heads of each.
      out_dim: width of a feature, the decoder's D.
      full_layers: blocks with full attention; all others attend within windows.
      window_px: side of a window in pixels.
      patch_px: side of a patch in pixels.
      temporal_patch: frames a patch (a still image is repeated).
      channels: colour channels.
      merge: side of a merge block in patches; merge² patches make one feature.
      rope_theta, norm_eps: as in the decoder.
      tokens_per_second: time step of video positions (kept for the configuration's sake).
    """

    dim: int
    mlp_dim: int
    n_layers: int
    n_heads: int
    out_dim: int
    full_layers: tuple[int, ...]
    window_px: int = 112
    patch_px: int = 14
    temporal_patch: int = 2
    channels: int = 3
    merge: int = 2
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tokens_per_second: int = 2

    def __post_init__(self) -> None:
        problems = _wrong_numbers(self, _VISION_KEYS, _VISION_MOST, "vision_config.")
        layers = self.full_layers
        if not isinstance(layers, tuple) or not all(map(is_whole, layers)):
            problems.append(f"fullatt_block_indexes must be a list of whole numbers: got {layers!r:.100}")
        require(problems)
        if self.dim % self.n_heads or self.head_dim % 4:
            problems.append(
                f"vision hidden_size / num_heads must be a whole multiple of 4: got {self.dim} / {self.n_heads}"
            )
        if self.window_px % (self.patch_px * self.merge):
            problems.append(
                "window_size must be a multiple of patch_size * spatial_merge_size: "
                f"got {self.window_px}, {self.patch_px}, {self.merge}"
            )
        if any(not 0 <= layer < self.n_layers for layer in self.full_layers):
            problems.append(f"fullatt_block_indexes must lie in [0, {self.n_layers}): got {self.full_layers}")
        require(problems)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.n_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch: channels * frames * side²."""
        return self.channels * self.temporal_patch * self.patch_px**2

    @property
    def window_len(self) -> int:
        """Patches in a whole window: 112 px of 14 px patches are 8 * 8 = 64."""
        return (self.window_px // self.patch_px) ** 2


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model: decoder, vision tower and the control tokens that frame an image."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    def __post_init__(self) -> None:
        require([problem for key in CONTROL_TOKENS for problem in whole(key, getattr(self, key), MAX_TOKEN_ID, 0)])
        if self.vision.out_dim != self.text.dim:
            raise ValueError(
                "vision out_hidden_size must equal the decoder's hidden_size: "
                f"got {self.vision.out_dim} and {self.text.dim}"
            )

    @property
    def family(self) -> Family:
        """The record of Qwen2.5-VL."""
        from arft_jax.models.qwen2_5_vl.family import QWEN2_5_VL  # which is made of this class

        return QWEN2_5_VL

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Reads a ``config.json`` in the flat layout or with a nested ``text_config``.

        ``mrope_section`` may also stand beside the decoder's other keys, as in ``config.model.text_config``.

        Raises:
          ValueError: a key is missing or asks for what this model does not have.
        """
        text = {**config, **part(config, "text_config")}
        ties = [one.get("tie_word_embeddings") for one in (config, text)]
        require([problem for tied in ties for problem in flag("tie_word_embeddings", tied)][:1])
        try:
            return cls(
                text=_text_from_hf(text, any(ties)),
                vision=vision_from_hf(_vision_part(config)),
                **{key: config[key] for key in CONTROL_TOKENS if key in config},
            )
        except KeyError as error:
            raise ValueError(f"model configuration lacks the key {error}") from error

    def to_hf(self) -> dict[str, Any]:
        """The nested layout of ``config.json``; ``from_hf(c.to_hf()) == c``."""
        text, vision = self.text, self.vision
        return {
            "model_type": "qwen2_5_vl",
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "tie_word_embeddings": text.tied,
            **{key: getattr(self, key) for key in CONTROL_TOKENS},
            "text_config": {
                "model_type": "qwen2_5_vl_text",
                **{theirs: getattr(text, ours) for theirs, ours in TEXT_KEYS.items()},
                "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
                "rope_theta": text.rope_theta,
                "hidden_act": "silu",
                "tie_word_embeddings": text.tied,
            },
            "vision_config": vision_to_hf(vision),
        }


CONTROL_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
TEXT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_positions",
}
_TEXT_MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "num_hidden_layers": 1024,
    "num_attention_heads": 2**14,
    "num_key_value_heads": 2**14,
    "max_position_embeddings": 2**28,
}
_VISION_KEYS = {
    "hidden_size": "dim",
    "intermediate_size": "mlp_dim",
    "depth": "n_layers",
    "num_heads": "n_heads",
    "out_hidden_size": "out_dim",
    "window_size": "window_px",
    "patch_size": "patch_px",
    "temporal_patch_size": "temporal_patch",
    "in_channels": "channels",
    "spatial_merge_size": "merge",
    "tokens_per_second": "tokens_per_second",
}
_VISION_MOST = {
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "depth": 1024,
    "num_heads": 2**14,
    "out_hidden_size": 2**20,
    "window_size": 2**16,
    "patch_size": 2**10,
    "temporal_patch_size": 64,
    "in_channels": 64,
    "spatial_merge_size": 64,
    "tokens_per_second": 2**16,
}
# Of transformers' Qwen2_5_VLVisionConfig: its versions 4.49 to 4.51 leave out of a saved file what equals them. Its
# hidden_size is no published model's, so every file has its own; of the decoder's keys those versions leave out none.
_VISION_DEFAULTS = {
    "depth": 32,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 4,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": (7, 15, 23, 31),
}


def _wrong_numbers(sizes: Any, keys: Mapping[str, str], most: Mapping[str, int], prefix: str = "") -> list[str]:
    """A sentence for each field of a configuration that is no number within its bounds."""
    values = {theirs: getattr(sizes, ours) for theirs, ours in keys.items()}
    problems = [problem for key, bound in most.items() for problem in whole(prefix + key, values[key], bound)]
    problems += real(prefix + "rope_theta", sizes.rope_theta, 1.0, 1e15)
    return problems + real(prefix + "rms_norm_eps", sizes.norm_eps, 1e-30, 0.1)


def _vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if "vision_config" not in config:
        raise KeyError("vision_config")
    return part(config, "vision_config")


def _text_from_hf(text: Mapping[str, Any], tied: bool) -> TextConfig:
    rope = {**part(text, "rope_scaling"), **part(text, "rope_parameters")}
    kind = rope.get("rope_type", rope.get("type", "default"))
    problems = []
    if kind not in ("default", "mrope"):
        problems.append(f"rope type must be default or mrope: got {kind!r}")
    if text.get("use_sliding_window"):
        problems.append("use_sliding_window must be false: got true")
    if text.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act must be silu: got {text['hidden_act']!r}")
    require(problems)
    return TextConfig(
        **{ours: text[theirs] for theirs, ours in TEXT_KEYS.items()},
        mrope_section=as_tuple(rope["mrope_section"] if "mrope_section" in rope else text["mrope_section"]),
        rope_theta=as_float(rope["rope_theta"] if "rope_theta" in rope else text["rope_theta"]),
        tied=tied,
    )


def vision_to_hf(vision: VisionConfig) -> dict[str, Any]:
    """A tower in the layout of a ``vision_config``."""
    return {
        "model_type": "qwen2_5_vl_vision",
        **{theirs: getattr(vision, ours) for theirs, ours in _VISION_KEYS.items()},
        "fullatt_block_indexes": list(vision.full_layers),
        "hidden_act": "silu",
    }


def vision_from_hf(vision: Mapping[str, Any]) -> VisionConfig:
    """A tower from a ``vision_config``.

    Raises:
      ValueError, KeyError: what it asks for is not to be had, or is missing.
    """
    if vision.get("hidden_act", "silu") != "silu":
        raise ValueError(f"vision hidden_act must be silu: got {vision['hidden_act']!r}")
    if "hidden_size" not in vision:
        raise KeyError("vision_config.hidden_size")
    older = {"in_channels": vision["in_chans"]} if "in_chans" in vision else {}  # the published files' word
    vision = {**_VISION_DEFAULTS, **older, **vision}
    theta = part(vision, "rope_parameters").get("rope_theta", 10_000.0)
    return VisionConfig(
        **{ours: vision[theirs] for theirs, ours in _VISION_KEYS.items()},
        full_layers=as_tuple(vision["fullatt_block_indexes"]),
        rope_theta=as_float(theta),
    )
