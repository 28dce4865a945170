"""Tasks, images, tokenizer."""
