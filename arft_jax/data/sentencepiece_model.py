"""SentencePiece models (``tokenizer.model``, the form of Llama's and LLaVA's) as the JSON of a ``tokenizer.json``.

Only byte-pair models that leave text as it is: with bytes for what the vocabulary lacks, no normalisation and no spaces
taken out, so that every text round-trips. Where SentencePiece puts a space in front of a text this does not: a text is
encoded behind a control token, where transformers' Llama tokenizer puts none either.
"""

import json
import os
import pathlib

FILE_NAME = "tokenizer.model"
_ADDED = "added_tokens.json"  # beside it: {content: id} of tokens behind the vocabulary
SPACE = "▁"  # of a vocabulary, in place of a space
_BPE = 2  # of the trainer's model types
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of a piece


def tokenizer_text(path: str | os.PathLike) -> str:
    """The JSON of a ``tokenizer.json`` that encodes as the model does.

    Raises:
      ValueError: no SentencePiece model, or one of another kind than described above.
    """
    proto = _read(path)
    pieces = [piece.piece for piece in proto.pieces]
    types = [piece.type for piece in proto.pieces]
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    added = [
        dict(id=i, content=piece, special=kind != _USER_DEFINED, **plain)
        for i, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    behind = _added_beside(pathlib.Path(path))
    added += [dict(id=i, content=content, special=True, **plain) for content, i in behind if i >= len(pieces)]
    layout = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": pieces[types.index(_UNKNOWN)] if _UNKNOWN in types else None,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": _merges(proto.pieces),
        },
    }
    return json.dumps(layout, ensure_ascii=False)


def _read(path: str | os.PathLike):
    """The model's own record; raises a ValueError for one of another kind."""
    from sentencepiece import sentencepiece_model_pb2  # takes its time

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(pathlib.Path(path).read_bytes())
    except Exception as error:  # protobuf's own classes
        raise ValueError(f"a tokenizer.model must be a SentencePiece model: got {path} ({error})") from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    wrong = {
        "no pieces": not proto.pieces,
        "no byte-pair model": trainer.model_type != _BPE,
        "no bytes for unknown characters": not trainer.byte_fallback,
        "a normalisation of text": bool(normalizer.precompiled_charsmap),
        "spaces taken out of text": normalizer.remove_extra_whitespaces,
        "spaces left as they are in the vocabulary": not normalizer.escape_whitespaces,
    }
    if any(wrong.values()):
        got = ", ".join(name for name, is_so in wrong.items() if is_so)
        raise ValueError(
            f"a tokenizer.model must be a byte-pair model with bytes that leaves text as it is: {path} has {got}; "
            "convert it to tokenizer.json (config.tokenizer)"
        )
    return proto


def _merges(pieces) -> list[list[str]]:
    """Every way to put a piece together from two, the pieces of the highest score first."""
    known = {piece.piece for piece in pieces if piece.type == 1}
    ranked = sorted((piece for piece in pieces if piece.type == 1), key=lambda piece: -piece.score)  # stable
    return [
        [whole[:cut], whole[cut:]]
        for whole in (piece.piece for piece in ranked)
        for cut in range(1, len(whole))
        if whole[:cut] in known and whole[cut:] in known
    ]


def _added_beside(path: pathlib.Path) -> list[tuple[str, int]]:
    beside = path.with_name(_ADDED)
    if not beside.is_file():
        return []
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        if not all(isinstance(i, int) for i in found.values()):
            raise ValueError("an id that is no integer")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{beside} must hold {{content: id}}: {error} (config.tokenizer)") from error
    return sorted(found.items(), key=lambda item: item[1])
