"""The tunix side of the benchmark: its sampler on CPU, text alone. Reads a figure's name a line, answers with JSON.

python launch/peers/peer_tunix.py      (pip install google-tunix)
"""

import importlib.metadata
import json
import sys
import time

import numpy as np
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen2 import model as qwen2

VOCAB, PROMPT_LEN, TURN_LEN, DECODE_LEN, DECODE_ROWS = 32768, 256, 64, 128, 16
GROUPS, GROUP_SIZE, OBSERVATIONS = 4, 8, (128, 64)


class Ids:
    """A tokenizer whose text is a list of ids: tokenising costs next to nothing."""

    def encode(self, text, **_):
        return [int(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(map(str, ids))

    def bos_id(self):
        return 1

    def eos_id(self):
        return VOCAB + 5  # is never sampled

    def pad_id(self):
        return 0


class Peer:
    """One model behind a sampler with a cache of each figure's length."""

    def __init__(self):
        config = qwen2.ModelConfig(
            num_layers=8, vocab_size=VOCAB, embed_dim=512, hidden_dim=1536, num_heads=8, head_dim=64, num_kv_heads=2,
            norm_eps=1e-6, rope_theta=1_000_000, use_tied_embedding=True,
        )  # fmt: skip
        self._model, self._rng, self._seed = qwen2.Qwen2(config, rngs=nnx.Rngs(0)), np.random.default_rng(0), 0
        self._short = self._sampler(PROMPT_LEN + DECODE_LEN + 8)
        self._long = self._sampler(PROMPT_LEN + 3 * TURN_LEN + sum(OBSERVATIONS) + 8)

    def _sampler(self, length):
        cache = sampler_lib.CacheConfig(cache_size=length, num_layers=8, num_kv_heads=2, head_dim=64)
        return sampler_lib.Sampler(self._model, Ids(), cache)

    def _text(self, n):
        return " ".join(map(str, self._rng.integers(20, VOCAB, n)))

    def _generate(self, sampler, prompts, n, length):
        self._seed += 1
        options = dict(temperature=1.0, top_p=1.0, seed=self._seed)
        begin = time.perf_counter()
        out = sampler(prompts, max_generation_steps=n, max_prompt_length=length, **options)
        return time.perf_counter() - begin, out.text

    def _run(self, n):
        prompts = [self._text(PROMPT_LEN - 1) for _ in range(DECODE_ROWS)]
        return self._generate(self._short, prompts, n, PROMPT_LEN)[0]

    def decode(self):
        short = self._run(1)
        return DECODE_ROWS * (DECODE_LEN - 1) / (self._run(DECODE_LEN) - short)

    def prefill(self):
        return DECODE_ROWS * PROMPT_LEN / self._run(1)

    group_prefill = prefill

    def turns(self):
        texts, length, seconds = [self._text(PROMPT_LEN - 1) for _ in range(GROUPS)], PROMPT_LEN, 0.0
        texts = [text for text in texts for _ in range(GROUP_SIZE)]
        for n in (*OBSERVATIONS, 0):
            took, said = self._generate(self._long, texts, TURN_LEN, length)
            texts = [f"{text} {new} {self._text(n)}" for text, new in zip(texts, said, strict=True)]
            seconds, length = seconds + took, length + TURN_LEN + n
        return len(texts) / seconds


def main():
    peer, names = Peer(), ("google-tunix", "jax", "flax")
    versions = {name: importlib.metadata.version(name) for name in names}
    figures = ["decode", "prefill", "group_prefill", "turns"]
    print(json.dumps({"versions": versions, "figures": figures}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"rate": getattr(peer, line.strip())()}), flush=True)


if __name__ == "__main__":
    main()
