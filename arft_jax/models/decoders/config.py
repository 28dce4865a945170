"""Sizes of a text decoder, read from and written to the published configuration's layout.

Qwen2.5 (arXiv 2412.15115, section 2) and Llama (arXiv 2302.13971, section 2.2): the same pre-norm blocks with grouped
queries, rotary positions and SwiGLU; Qwen's queries, keys and values have biases, Llama's have none.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from arft_jax.models.family import Family
from arft_jax.models.qwen2_5_vl.config import (
    CONTROL_TOKENS,
    TEXT_KEYS,
    TextConfig,
    VisionConfig,
    vision_from_hf,
    vision_to_hf,
)
from arft_jax.models.size_checks import MAX_TOKEN_ID, as_float, is_whole, part, require, whole

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_HAS_BIAS = {"llama": False, "qwen2": True}  # of queries, keys and values
_DEFAULTS = {  # of transformers' LlamaConfig and Qwen2Config: older versions leave out of a saved file what equals them
    "llama": dict(max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=False),
    "qwen2": dict(max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=False),
}
_MUST_BE = {  # what these decoders do not have, whatever the model type
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A text model, or one with a fresh vision tower in front of it.

    Args:
      text: the decoder.
      vision: the tower; None: the model takes no images.
      model_type: llama or qwen2.
      image_token_id, video_token_id, vision_start_token_id, vision_end_token_id: control tokens that frame an image;
        -1 without a tower.
    """

    text: TextConfig
    vision: VisionConfig | None = None
    model_type: str = "llama"
    image_token_id: int = -1
    video_token_id: int = -1
    vision_start_token_id: int = -1
    vision_end_token_id: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.model_type, str) or self.model_type not in _ARCHITECTURES:
            raise ValueError(f"model_type must be one of {', '.join(_ARCHITECTURES)}: got {self.model_type!r}")
        least = -1 if self.vision is None else 0
        require([problem for key in CONTROL_TOKENS for problem in whole(key, getattr(self, key), MAX_TOKEN_ID, least)])
        if self.vision is not None and self.vision.out_dim != self.text.dim:
            raise ValueError(
                f"vision out_hidden_size must equal the decoder's hidden_size: got {self.vision.out_dim} and "
                f"{self.text.dim}"
            )

    @property
    def family(self) -> Family:
        """The record of this kind of decoder."""
        from arft_jax.models.decoders.family import OF_TYPE  # which is made of this class

        return OF_TYPE[self.model_type]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Reads a ``config.json``; ``vision_config`` beside the decoder's keys is a tower, as :meth:`to_hf` writes it.

        Raises:
          ValueError: a key is missing or asks for what this model does not have.
        """
        kind, vision = config.get("model_type"), part(config, "vision_config")
        known = kind if isinstance(kind, str) else ""
        text = {**_DEFAULTS.get(known, {}), **config}
        try:
            text.setdefault("num_key_value_heads", text["num_attention_heads"])
            head_dim = _head_dim(text)
            tied = text["tie_word_embeddings"]
            return cls(
                text=TextConfig(
                    **{ours: text[theirs] for theirs, ours in TEXT_KEYS.items()},
                    mrope_section=(head_dim // 2, 0, 0),
                    rope_theta=_rope(text, head_dim),
                    tied=False if tied is None else tied,
                    qkv_bias=_HAS_BIAS.get(known, False),
                ),
                vision=vision_from_hf(vision) if vision else None,
                model_type=kind,
                **({key: config[key] for key in CONTROL_TOKENS} if vision else {}),
            )
        except KeyError as error:
            raise ValueError(f"model configuration lacks the key {error}") from error

    def to_hf(self) -> dict[str, Any]:
        """The layout of ``config.json``; ``from_hf(c.to_hf()) == c``."""
        text = self.text
        layout = {
            "model_type": self.model_type,
            "architectures": [_ARCHITECTURES[self.model_type]],
            **{theirs: getattr(text, ours) for theirs, ours in TEXT_KEYS.items()},
            "rope_theta": text.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": text.tied,
        }
        if self.model_type == "llama":
            layout |= {"attention_bias": False, "mlp_bias": False, "head_dim": text.head_dim}
        if self.vision is not None:
            layout |= {"vision_config": vision_to_hf(self.vision)}
            layout |= {key: getattr(self, key) for key in CONTROL_TOKENS}
        return layout


def _head_dim(text: Mapping[str, Any]) -> int:
    """H; 0 where the sizes give none, which the decoder's own checks name."""
    dim, n_heads = text["hidden_size"], text["num_attention_heads"]
    return dim // n_heads if is_whole(dim) and is_whole(n_heads) and min(dim, n_heads) > 0 else 0


def _rope(text: Mapping[str, Any], head_dim: int) -> Any:
    """θ; raises for everything that these decoders do not have."""
    rope = {**part(text, "rope_scaling"), **part(text, "rope_parameters")}
    kind = rope.get("rope_type", rope.get("type", "default"))
    problems = [
        f"{key} must be {must!r}: got {text[key]!r}"
        for key, must in _MUST_BE.items()
        if text.get(key, must) not in (must, None)
    ]
    if kind != "default":
        problems.append(f"rope type must be default: got {kind!r}")
    if head_dim and text.get("head_dim") not in (None, head_dim):
        problems.append(f"head_dim must be hidden_size / num_attention_heads = {head_dim}: got {text['head_dim']}")
    require(problems)
    return as_float(rope.get("rope_theta", text.get("rope_theta", 10_000.0)))


def with_tower(sizes: DecoderConfig, vision: Mapping[str, Any], ids: Mapping[str, int], n_ids: int) -> DecoderConfig:
    """The same decoder behind a fresh tower.

    Args:
      sizes: of the text model.
      vision: the tower's sizes, in the layout of a ``vision_config``.
      ids: of the control tokens that frame an image.
      n_ids: of the tokenizer with these tokens; the vocabulary grows where it does not hold them, to a multiple of 128.
    """
    vocab_size = sizes.text.vocab_size if n_ids <= sizes.text.vocab_size else -(-n_ids // 128) * 128
    return dataclasses.replace(
        sizes,
        text=dataclasses.replace(sizes.text, vocab_size=vocab_size),
        vision=vision_from_hf({**vision, "out_hidden_size": sizes.text.dim}),
        **ids,
    )
