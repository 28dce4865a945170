"""Nonsense in any field of a config.json is refused in one sentence with the field's name, or is no nonsense."""

import copy
import json

import pytest

from arft_jax.io.weights import load_model_config
from arft_jax.models.families import FAMILIES, family_of
from arft_jax.models.qwen2_5_vl.published import published

QWEN_VL = published("3b").to_hf()
LLAMA = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048, "head_dim": 16, "tie_word_embeddings": True, "rope_parameters": None,
}  # fmt: skip
TOWER = {key: QWEN_VL[key] for key in family_of("qwen2_5_vl").control_ids} | {
    "vision_config": QWEN_VL["vision_config"] | {"out_hidden_size": 64, "rope_parameters": {"rope_theta": 10_000.0}}
}
CONFIGS = {
    "a Qwen2.5-VL": QWEN_VL,
    "a Qwen2": LLAMA | {"model_type": "qwen2"},
    "a Llama": LLAMA,
    "a Llama behind a tower": LLAMA | TOWER,
}
NONSENSE = [float("nan"), float("inf"), -float("inf"), -1, 0, 10**9, 10**400, 0.5, "x", "8", None, [], ["x"], {}, True]
LEFT_OUT = (None, {})  # where a field or an object may be absent
IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
# What is taken: an id within int32, what no still image asks for, a model of full windows, and what may be left out.
TAKEN = [
    *((name, value) for name in IDS for value in (0, 10**9)), ("rope_theta", 10**9), ("fullatt_block_indexes", []),
    ("head_dim", None), ("tie_word_embeddings", None), ("tie_word_embeddings", True),
    *((name, value) for name in ("rope_scaling", "rope_parameters", "text_config", "vision_config")
      for value in LEFT_OUT),
]  # fmt: skip


def fields(config, path=()):
    """The path of every field but texts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from fields(value, (*path, key))
        if not isinstance(value, str) and key != "architectures":
            yield (*path, key)


def changed(config, path, value):
    config = copy.deepcopy(config)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


@pytest.mark.parametrize("kind", CONFIGS)
def test_nonsense_in_any_field_is_one_sentence(kind):
    config = CONFIGS[kind]
    read = family_of(config["model_type"]).config_from_hf
    good, n_refused = read(config), 0
    for path in fields(config):
        for value in NONSENSE:
            try:
                sizes = read(changed(config, path, value))
            except ValueError as error:
                sentence, n_refused = str(error), n_refused + 1
                assert (
                    "\n" not in sentence
                    and len(sentence) < 1000
                    and sentence.startswith(("model configuration", "vision out_hidden_size"))
                ), sentence
                if value not in LEFT_OUT:  # else another field may be the one that is missed
                    assert path[-1] in sentence, (path, sentence)
            else:
                assert sizes == good or any(path[-1] == name and value == taken for name, taken in TAKEN), (path, value)
    assert n_refused > 150


def test_a_billion_layers_end_at_the_door(tmp_path):
    for config, path in ((LLAMA, ("num_hidden_layers",)), (QWEN_VL, ("text_config", "num_hidden_layers"))):
        (tmp_path / "config.json").write_text(json.dumps(changed(config, path, 10**9)))
        with pytest.raises(
            ValueError, match=r"config.json: .*num_hidden_layers must be .* to 1024: got 1000000000 \(config.weig"
        ):
            load_model_config(tmp_path)


def test_what_is_no_config_is_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    for text in (
        b"[" * 10**5,
        b"\xff",
        b"[]",
        b"null",
        b'{"model_type": []}',
        b'{"model_type": {}}',
        b" " * (2**24 + 1),
    ):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="config.json"):
            load_model_config(tmp_path)


def test_published_sizes_are_within_the_bounds():
    for family in FAMILIES:
        for size in family.sizes:
            assert family.config_from_hf(family.published(size).to_hf()) == family.published(size)
