"""Text decoders of the same form as Qwen2.5-VL's: Qwen2, Qwen2.5 and Llama."""
