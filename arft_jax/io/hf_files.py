"""The small files beside the weights of a Hugging Face directory: tokenizer, processor, generation settings."""

import importlib.resources
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from arft_jax.data import sentencepiece_model
from arft_jax.data.chat_template import tiny_template
from arft_jax.data.images import MEAN, STD, TEMPORAL_PATCH
from arft_jax.data.tokenizer import FILE_NAME, Tokenizer
from arft_jax.io import gguf_file
from arft_jax.models.families import DEFAULT
from arft_jax.models.family import Sizes

# Copied where they are there; never code.
NAMES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "chat_template.jinja", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
_TOKENIZERS = (FILE_NAME, "vocab.json")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def side_files(directory: str | os.PathLike) -> dict[str, bytes]:
    """{file name: contents} of the tokenizer, processor and generation files that a directory holds."""
    folder = pathlib.Path(directory)
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}


def tokenizer_files(directory: str | os.PathLike = "") -> dict[str, bytes]:
    """As :func:`side_files`, and a tokenizer must be among them; a GGUF file's own; empty: the embedded tiny one's.

    Raises:
      ValueError: no such directory, or no tokenizer in it.
    """
    if not directory:
        return _tiny_tokenizer_files()
    if gguf_file.is_gguf(directory):
        return {FILE_NAME: gguf_file.tokenizer_text(directory).encode()}
    files = side_files(directory)
    model = pathlib.Path(directory) / sentencepiece_model.FILE_NAME
    if not any(name in files for name in _TOKENIZERS):
        if not model.is_file():
            names = " or ".join((*_TOKENIZERS, model.name))
            raise ValueError(f"tokenizer must be a directory with {names}: got {directory}")
        files[FILE_NAME] = Tokenizer.load(directory).text.encode()
    return files


def keep_files(folder: pathlib.Path, *, weights: str = "", tokenizer: str = "", added: Sequence[str] = ()) -> None:
    """Copies what belongs to a model but its tensors, so that nothing else of its directory is needed again.

    Args:
      folder: made whole or not at all; left as it is where it is there.
      weights: directory with the model's config.json, or GGUF file; empty: none.
      tokenizer: directory of tokenizer and processor files; empty: the weights'.
      added: control tokens that the kept tokenizer shall hold too, as ``Tokenizer`` adds them.

    Raises:
      ValueError: no tokenizer, or a folder that cannot be written.
    """
    if folder.exists():
        return
    files = tokenizer_files(tokenizer or weights)
    if added and FILE_NAME in files:
        files[FILE_NAME] = Tokenizer(files[FILE_NAME].decode(), FILE_NAME, added).text.encode()
    if gguf_file.is_gguf(weights):
        files["config.json"] = _json(gguf_file.hf_config(weights))
    elif weights:
        files["config.json"] = (pathlib.Path(weights) / "config.json").read_bytes()
    try:
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, contents in files.items():
                (partial / name).write_bytes(contents)
            partial.chmod(0o755)  # mkdtemp's is for its owner alone
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        if not folder.is_dir():  # another process may have been first
            raise ValueError(f"the folder must be writable: got {folder} ({error.strerror})") from error


def _tiny_tokenizer_files() -> dict[str, bytes]:
    asset = importlib.resources.files("arft_jax.data") / "assets" / "tiny_tokenizer" / FILE_NAME
    text = asset.read_text(encoding="utf-8")
    control = [entry["content"] for entry in json.loads(text)["added_tokens"] if entry["special"]]
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": [token for token in control if token not in named.values()],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "processor_class": DEFAULT.processor["processor_class"],
    }
    return {
        FILE_NAME: text.encode(),
        "chat_template.jinja": tiny_template().encode(),
        "tokenizer_config.json": _json(config),
        "generation_config.json": _json(generation_ids(Tokenizer.tiny())),
    }


def generation_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Where generation ends and what it pads with: for ``generation_config.json``."""
    return {"eos_token_id": [tokenizer.eos_id, tokenizer.pad_id], "pad_token_id": tokenizer.pad_id}


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids that ``config.json`` repeats; left out, readers take those of the published vocabulary."""
    return {"bos_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}


def preprocessor_file(min_pixels: int, max_pixels: int, sizes: Sizes) -> dict[str, bytes]:
    """``preprocessor_config.json``, for readers other than this package; none for a model that takes no images.

    Args:
      min_pixels, max_pixels: bounds of a resized image.
      sizes: of the model: how it takes images.
    """
    if sizes.vision is None:
        return {}
    packing = sizes.family.packing(sizes)
    config = {
        **sizes.family.processor,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "patch_size": packing.patch,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": packing.merge,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "rescale_factor": 1 / 255,
        "resample": 3,  # bicubic
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    return {"preprocessor_config.json": _json(config)}
