"""Random models of the systems in the paper's table, small, in transformers' own layouts: to try their servers on.

Needs torch, torchvision and transformers. A model says nothing; its directory is read, served and asked as the
published one is: classes, processors and image tokens are those of llava-hf/llava-1.5-7b-hf,
llava-hf/llava-v1.6-vicuna-7b-hf, llava-hf/llava-onevision-qwen2-7b-ov-hf and, as transformers has it,
OpenGVLab/InternVL2_5-8B. All have the embedded tokenizer of this package.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from arft_jax.data.tokenizer import Tokenizer

SYSTEMS = ("LLaVA-v1.5", "LLaVA-NeXT", "LLaVA-OneVision", "InternVL2.5")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
_VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
_CROPPED = dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
_PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def make_tiny_vlm(system: str, folder: pathlib.Path, seed: int = 0) -> None:
    """Writes the model's directory.

    Args:
      system: one of :data:`SYSTEMS`.
      folder: new.
      seed: of the weights.
    """
    import torch

    torch.manual_seed(seed)
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "LLaVA-v1.5": _llava,
        "LLaVA-NeXT": _llava_next,
        "LLaVA-OneVision": _llava_onevision,
        "InternVL2.5": _internvl,
    }
    model, processor = makers[system]()
    text = model.config.get_text_config()
    model.generation_config.eos_token_id = text.eos_token_id = Tokenizer.tiny().eos_id
    model.generation_config.pad_token_id = text.pad_token_id = Tokenizer.tiny().pad_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _tokenizer(image: str, *more: str, **named: str) -> Any:
    """The embedded tokenizer as a fast one of transformers, with a model's image tokens behind its vocabulary."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(Tokenizer.tiny().text),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": image, **named},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [image, *more]}, replace_extra_special_tokens=False)
    return tokenizer


def _template(image: str) -> str:
    return _TEMPLATE.replace("IMAGE", image)


def _llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    config, parts = _clip_and_llama()
    model = LlavaForConditionalGeneration(LlavaConfig(image_seq_length=4, **config))
    return model, LlavaProcessor(image_processor=CLIPImageProcessor(**_CROPPED), **parts)


def _llava_next() -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    config, parts = _clip_and_llama()
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=_PINPOINTS, **config))
    images = LlavaNextImageProcessor(image_grid_pinpoints=_PINPOINTS, **_CROPPED)
    return model, LlavaNextProcessor(image_processor=images, **parts)


def _clip_and_llama() -> tuple[dict[str, Any], dict[str, Any]]:
    """What the configurations, and what the processors of the first two LLaVAs have in common."""
    from transformers import CLIPVisionConfig, LlamaConfig

    tokenizer = _tokenizer("<image>")
    config = dict(
        vision_config=CLIPVisionConfig(image_size=28, projection_dim=32, **_VISION),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **_TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, dict(
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = _tokenizer("<image>", "<video>", video_token="<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(image_size=28, vision_use_head=False, **_VISION),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **_TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_layer=-1,
    )
    size = {"height": 28, "width": 28}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_PINPOINTS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    context, named = "<IMG_CONTEXT>", dict(start_image_token="<img>", end_image_token="</img>")
    named |= dict(context_image_token=context, video_token="<video>")
    tokenizer = _tokenizer(context, "<img>", "</img>", "<video>", **named)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**_VISION | dict(image_size=[28, 28], patch_size=[14, 14])),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **_TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids(context),
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    size = {"height": 28, "width": 28}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=1,
        chat_template=_template(context),
    )
    return InternVLForConditionalGeneration(config), processor
