"""The model that a config means."""

from arft_jax.build import model
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer


def test_the_models_vocabulary_and_control_ids_are_the_tokenizers():
    config, tokenizer = default_config(), Tokenizer.tiny()
    sizes = model.model_config(config, tokenizer)
    assert sizes.text.vocab_size == tokenizer.vocab_size and sizes.image_token_id == tokenizer.image_pad_id
    assert (sizes.video_token_id, sizes.vision_start_token_id, sizes.vision_end_token_id) == (
        tokenizer.video_pad_id, tokenizer.vision_start_id, tokenizer.vision_end_id
    )  # fmt: skip
    text = config.model.text_config
    assert (sizes.text.dim, sizes.text.n_layers, sizes.text.n_heads) == (
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads
    )  # fmt: skip
    assert sizes.text.mrope_section == tuple(text.mrope_section) and sizes.text.tied
    assert sizes.vision.out_dim == sizes.text.dim and sizes.text.max_positions == config.rollout.max_tokens
