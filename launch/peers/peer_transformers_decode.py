"""The transformers side of the decode benchmark: sampled tokens/s behind a cache of random values, eager torch, sdpa.

python launch/peers/peer_transformers_decode.py      (pip install torch transformers; on a GPU where torch sees one)

Reads a request a line, JSON: ``cache`` (dynamic or static), ``text`` (a text_config), ``dtype``, ``rows``, ``context``,
``steps``. Answers with its rate, JSON; 0 where the memory does not hold the rows. The loop is what ``generate`` does
between two tokens, without its checks: one forward pass of one token a row, softmax, multinomial.
"""

import importlib.metadata
import inspect
import json
import sys
import time

import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, StaticCache

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
FORWARD = inspect.signature(Qwen2_5_VLForConditionalGeneration.forward).parameters
CACHE_KEY = "cache" if "cache" in FORWARD else "past_key_values"  # its earlier name
WARM = 2  # steps before the clock starts: the first ones ask the driver for memory


def make_model(text, dtype):
    """Random weights of the decoder's size, drawn on the device; the vision tower, which decode passes by, is small."""
    vision = dict(depth=1, hidden_size=64, intermediate_size=64, num_heads=2, fullatt_block_indexes=[0])
    vision["out_hidden_size"] = text["hidden_size"]
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"],
        attn_implementation="sdpa",
    )  # fmt: skip
    torch.set_default_dtype(getattr(torch, dtype))
    with DEVICE:
        return Qwen2_5_VLForConditionalGeneration(config).eval()


def filled_cache(config, kind, rows, columns, n_steps):
    """Every layer's first columns random, with room for the steps where the cache is static."""
    cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config, max_cache_len=columns + n_steps)
    shape = rows, config.num_key_value_heads, columns, config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE), layer)
    return cache


@torch.no_grad()
def step(model, cache, tokens, position):
    """The next token of every row, int64[rows, 1]."""
    rows = tokens.shape[0]
    positions = torch.full((3, rows, 1), position, device=DEVICE)
    out = model(input_ids=tokens, position_ids=positions, use_cache=True, logits_to_keep=1, **{CACHE_KEY: cache})
    return torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)


def decode(model, request):
    """Tokens/s. Step i writes column context - 1 + i and sees context + i columns, as on the other side."""
    rows, n_steps, first = request["rows"], request["steps"], request["context"] - 1
    config = model.config.get_text_config()
    cache = filled_cache(config, request["cache"], rows, first - WARM, n_steps + WARM)
    tokens = torch.randint(config.vocab_size, (rows, 1), device=DEVICE)
    for i in range(-WARM, 0):
        tokens = step(model, cache, tokens, first + i)
    wait()
    begin = time.perf_counter()
    for i in range(n_steps):
        tokens = step(model, cache, tokens, first + i)
    tokens.cpu()
    seconds = time.perf_counter() - begin
    assert int(cache.get_seq_length()) == first + n_steps
    return rows * n_steps / seconds


def wait():
    if GPU:
        torch.cuda.synchronize()


def rate(model, request):
    """:func:`decode`, or 0; what it held is given back to the device, which another process uses in turn."""
    try:
        return decode(model, request)
    except torch.OutOfMemoryError:
        return 0.0
    finally:
        if GPU:
            torch.cuda.empty_cache()


def main():
    torch.manual_seed(0)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    versions["device"] = torch.cuda.get_device_name() if GPU else "cpu"
    print(json.dumps({"versions": versions, "figures": ["dynamic", "static"]}), flush=True)
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        model = model or make_model(request["text"], request["dtype"])
        print(json.dumps({"rate": rate(model, request)}), flush=True)


if __name__ == "__main__":
    main()
