"""Makes the embedded tiny tokenizer again: python launch/make_tiny_tokenizer.py [output file].

Byte-level BPE with Qwen2.5's control tokens behind its vocabulary, trained on the self-made tasks' own texts.
The same library version gives the same file.
"""

import json
import pathlib
import sys

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from arft_jax.commands.tokenizer_texts import training_texts
from arft_jax.io import terminal

N_IDS = 1024
CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

_WORD = r"[A-Za-z_]\w*"
_PIECES = (
    r"</?[a-z]+>",  # a tag
    r"```(?:python)?\n?",
    r"//[0-9]+(?::[a-z]\*|, [a-z]\*|\]\n?)?",  # ...*500//1000:h*...
    # a line of code up to its first number: words joined by code punctuation, never by a bare space
    rf" ?[a-z_]\w*(?:(?: = |\.|\('?|', |, |\[){_WORD})*(?:, \(|'?\)\n|\(|, |\[:|\*|=)?\n?",
    r"[A-Z][a-z]*\w*",  # a name: no space in front, so that it is one token wherever it stands
    r"[0-9]",  # numbers digit by digit
    r"', '",
    r" ?[^\s\w<`]+ ?\n?",
    r"[<`]",
    r"\s+",
)


def make() -> str:
    """The tokenizer's JSON."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex("|".join(_PIECES)), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_IDS - len(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for text, weight in training_texts() for _ in range(weight)), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=0) + "\n"


def main() -> None:
    """Writes the asset, or the file named on the command line."""
    default = pathlib.Path(__file__).parents[1] / "arft_jax/data/assets/tiny_tokenizer/tokenizer.json"
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make(), encoding="utf-8")
    terminal.say(f"wrote {path}")


if __name__ == "__main__":
    main()
