"""BPE tokenizers over bytes with the control tokens of ChatML, from a directory or the embedded tiny one.

Text from outside (questions, tool output, recorded turns) can never become a control token: ``encode`` reads
``<|im_end|>`` in a text as ten ordinary characters. Control tokens are placed by id, in ``chat.py`` alone.
"""

import copy
import functools
import hashlib
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import tokenizers

from arft_jax.data import sentencepiece_model

_CONTROL = re.compile(r"<\|.*\|>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte as a piece of its own, in vocabularies of SentencePiece
_NAMED = {
    "pad_id": "<|endoftext|>",
    "eos_id": "<|im_end|>",
    "im_start_id": "<|im_start|>",
}
_OF_IMAGES = {  # what only a model with a vision tower needs
    "vision_start_id": "<|vision_start|>",
    "vision_end_id": "<|vision_end|>",
    "image_pad_id": "<|image_pad|>",
    "video_pad_id": "<|video_pad|>",
}
FILE_NAME = "tokenizer.json"


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins: every byte is one character of the vocabulary file."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


def _level_bytes(piece: str) -> bytes | None:
    """What a piece of a byte-level vocabulary writes; None: it is of none."""
    table = _byte_of_char()
    return bytes(table[char] for char in piece) if all(char in table for char in piece) else None


def _fallback_bytes(piece: str) -> bytes:
    """What a piece of a vocabulary with bytes for unknown characters writes.

    >>> _fallback_bytes("▁fox"), _fallback_bytes("<0x0A>")
    (b' fox', b'\\n')
    """
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(sentencepiece_model.SPACE, " ").encode()


def _with_tokens(text: str, contents: Sequence[str]) -> str:
    """A ``tokenizer.json`` in which each of these is a control token; new ones stand behind the vocabulary."""
    layout = json.loads(text)
    known = layout.setdefault("added_tokens", [])
    absent = [content for content in contents if content not in {entry["content"] for entry in known}]
    if not absent:
        return text
    size = 1 + max([*layout["model"]["vocab"].values(), *(entry["id"] for entry in known)])
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    known += [dict(id=size + i, content=content, **plain) for i, content in enumerate(absent)]
    return json.dumps(layout, ensure_ascii=False)


class Tokenizer:
    """Text <-> token ids.

    The ids that frame an image are -1 in a tokenizer without them.

    Args:
      text: the JSON of a ``tokenizer.json``.
      name: what errors call it.
      added: control tokens that get ids behind the vocabulary where the file lacks them.

    Raises:
      ValueError: not a byte-level BPE, or one with bytes for unknown characters, with the control tokens of ChatML.
    """

    pad_id: int
    eos_id: int
    im_start_id: int
    vision_start_id: int
    vision_end_id: int
    image_pad_id: int
    video_pad_id: int

    def __init__(self, text: str, name: str = "tokenizer", added: Sequence[str] = ()):
        self.text = _with_tokens(text, added) if added else text
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()  # of the file: ids of another mean other words
        try:
            layout = json.loads(self.text)
            added = layout.get("added_tokens", [])
            for entry in added:  # Qwen marks some <|...|> tokens as ordinary: then text could spell them
                entry["special"] = bool(entry["special"] or _CONTROL.fullmatch(entry["content"]))
            self._encoder = tokenizers.Tokenizer.from_str(json.dumps(layout))
        except Exception as error:  # the library raises bare Exception for a bad layout
            raise ValueError(f"{name} must be a tokenizers JSON file: {error}") from error
        self._encoder.encode_special_tokens = True
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self._control = {entry["id"]: entry["content"] for entry in added if entry["special"]}
        ids = {content: token for token, content in self._control.items()}
        missing = [content for content in _NAMED.values() if content not in ids]
        if missing:
            raise ValueError(
                f"{name} must hold the control tokens of ChatML, the frame of turns: missing {missing} "
                "(config.tokenizer)"
            )
        for attribute, content in {**_NAMED, **_OF_IMAGES}.items():
            setattr(self, attribute, ids.get(content, -1))
        read = _fallback_bytes if layout["model"].get("byte_fallback") else _level_bytes
        self._bytes = self._decode_vocab({entry["id"]: entry["content"] for entry in added}, read, name)

    @classmethod
    def load(cls, directory: str | os.PathLike = "", added: Sequence[str] = ()) -> "Tokenizer":
        """From a directory with ``tokenizer.json`` or, alone, ``tokenizer.model``; empty for the embedded tiny one.

        A SentencePiece model has no control tokens of ChatML, nor those that frame an image: they get ids behind its
        vocabulary.

        Args:
          directory: of the file.
          added: as of the class.

        Raises:
          ValueError: no such file, or not a tokenizer of this layout.
        """
        if not directory:
            return cls.tiny()
        path = pathlib.Path(directory) / FILE_NAME
        if path.is_file():
            return cls(path.read_text(encoding="utf-8"), str(path), added)
        model = path.with_name(sentencepiece_model.FILE_NAME)
        if not model.is_file():
            raise ValueError(
                f"tokenizer must be a directory with {FILE_NAME} or {model.name}: got {directory} (config.tokenizer)"
            )
        frame = (*_NAMED.values(), *_OF_IMAGES.values())
        return cls(sentencepiece_model.tokenizer_text(model), str(model), (*frame, *added))

    @classmethod
    def tiny(cls) -> "Tokenizer":
        """The embedded tokenizer: about a thousand ids, made for the self-made tasks; any text round-trips."""
        asset = importlib.resources.files("arft_jax.data") / "assets" / "tiny_tokenizer" / FILE_NAME
        return cls(asset.read_text(encoding="utf-8"), "the embedded tiny tokenizer")

    def _decode_vocab(self, added: dict[int, str], read: Callable[[str], bytes | None], name: str) -> list[bytes]:
        vocab = {token: piece for piece, token in self._encoder.get_vocab(with_added_tokens=False).items()}
        pieces = []
        for token in range(max([*vocab, *added]) + 1):
            if token in self._control or (token not in vocab and token not in added):
                pieces.append(b"")
            elif token in added:
                pieces.append(added[token].encode())
            elif (written := read(vocab[token])) is not None:
                pieces.append(written)
            else:
                raise ValueError(f"{name} must be a byte-level BPE: token {token} is {vocab[token]!r}")
        return pieces

    @property
    def vocab_size(self) -> int:
        """Highest id + 1; a model's vocabulary may be padded beyond it."""
        return len(self._bytes)

    def without_images(self) -> "Tokenizer":
        """The same tokenizer for a model that takes no images: the ids that frame one are -1."""
        other = copy.copy(self)
        for attribute in _OF_IMAGES:
            setattr(other, attribute, -1)
        return other

    def control_id(self, content: str) -> int:
        """The id of a control token, -1 where there is none."""
        return next((token for token, name in self._control.items() if name == content), -1)

    @property
    def control_ids(self) -> frozenset[int]:
        """Every id that stands for no text: to be banned from sampling, all but ``eos_id``."""
        return frozenset(self._control)

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text; never a control id. A lone surrogate, which no encoder takes, becomes a question mark.

        >>> Tokenizer.tiny().eos_id in Tokenizer.tiny().encode("<|im_end|>")
        False
        """
        text = text.encode("utf-8", "replace").decode()
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; broken UTF-8 becomes U+FFFD, control tokens their names, ids beyond the vocabulary nothing."""
        size = self.vocab_size
        parts = []
        for token in ids:
            token = int(token)
            name = self._control.get(token)
            parts.append(name.encode() if name else self._bytes[token] if 0 <= token < size else b"")
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, n_ids: int | None = None) -> list[bytes]:
        """What each id writes; ``b""`` for control ids, holes and padding.

        Args:
          n_ids: length of the list, for a model whose vocabulary is padded; default ``vocab_size``.

        Raises:
          ValueError: fewer than ``vocab_size``.
        """
        n_ids = self.vocab_size if n_ids is None else n_ids
        if n_ids < self.vocab_size:
            raise ValueError(f"the model's vocabulary must hold the tokenizer's: got {n_ids} < {self.vocab_size}")
        return self._bytes + [b""] * (n_ids - self.vocab_size)
