"""Files beside the weights: what is copied, and what transformers makes of those that are written."""

import json

import numpy as np
import pytest

from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files
from arft_jax.testing.tiny_model import tiny_config


def _write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, contents in files.items():
        (folder / name).write_bytes(contents)


def test_known_files_are_copied_and_nothing_else(tmp_path):
    wanted = {"tokenizer.json": b"{}", "merges.txt": b"a b\n", "chat_template.jinja": "{{ 茶 }}".encode()}
    _write(tmp_path, wanted | {"model.safetensors": b"x", "modeling_evil.py": b"import os", "config.json": b"{}"})
    assert hf_files.side_files(tmp_path) == wanted == hf_files.tokenizer_files(tmp_path)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    _write(tmp_path, {"merges.txt": b""})
    names = "tokenizer.json or vocab.json or tokenizer.model"
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"directory with {names}: got {folder}"):
            hf_files.tokenizer_files(folder)


def test_transformers_loads_the_embedded_tokenizer_with_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    _write(tmp_path, hf_files.tokenizer_files())
    ours, text = Tokenizer.tiny(), "<think>发票 47</think>\n<code>print(1)</code>"
    for kind in (transformers.PreTrainedTokenizerFast, transformers.AutoTokenizer):
        theirs = kind.from_pretrained(tmp_path)
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
        assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
        assert theirs.convert_tokens_to_ids("<|image_pad|>") == ours.image_pad_id
        assert theirs("<|im_end|>")["input_ids"] == [ours.eos_id]
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [ours.eos_id, ours.pad_id], "pad_token_id": ours.pad_id}


@pytest.mark.parametrize("bounds", [(7056, 7056), (56 * 56, 28 * 28 * 40)])
def test_transformers_makes_the_same_patches_from_the_written_settings(tmp_path, bounds):
    processor = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    _write(tmp_path, hf_files.preprocessor_file(*bounds, tiny_config()))
    theirs = processor.Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)
    done = theirs(pixels, return_tensors="np")
    patches, grid = ImageProcessor(*bounds)(pixels)
    assert tuple(done["image_grid_thw"][0]) == grid
    np.testing.assert_array_equal(done["pixel_values"], patches)


def test_what_is_kept_is_whole_or_absent_and_stays_as_it_is(tmp_path, monkeypatch):
    hf, tok, kept = tmp_path / "hf", tmp_path / "tok", tmp_path / "run" / "hf"
    kept.parent.mkdir()
    _write(hf, {"config.json": b"model", "tokenizer.json": b"theirs", "merges.txt": b"m", "model.safetensors": b"x"})
    _write(tok, {"tokenizer.json": b"mine", "config.json": b"not this one"})
    writes = []
    monkeypatch.setattr(hf_files.pathlib.Path, "write_bytes", lambda path, data: writes.append(path) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hf_files.keep_files(kept, weights=str(hf))
    monkeypatch.undo()
    assert len(writes) == 1 and not list(kept.parent.iterdir())
    hf_files.keep_files(kept, weights=str(hf), tokenizer=str(tok))
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == {"config.json": b"model", "tokenizer.json": b"mine"}
    hf_files.keep_files(kept, weights=str(tmp_path / "gone"))
    assert (kept / "tokenizer.json").read_bytes() == b"mine"
    hf_files.keep_files(tmp_path / "tokenizer_only", tokenizer=str(tok))
    assert [p.name for p in (tmp_path / "tokenizer_only").iterdir()] == ["tokenizer.json"]
    with pytest.raises(ValueError, match="the folder must be writable: got .*none"):
        hf_files.keep_files(tmp_path / "none" / "hf", weights=str(hf))
