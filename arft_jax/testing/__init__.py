"""Tiny models, tokenizers, scripted policies and oracles for tests."""
