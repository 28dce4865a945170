"""``tokenizer.model`` files: the ids are SentencePiece's own, every text round-trips, other kinds are refused."""

import json
import random

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from arft_jax.data.sentencepiece_model import tokenizer_text
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files

WORDS = "the number on a sheet is seven red fox café 东京 straße search answer think image year 1912 built by".split()


def train(folder, **options):
    """A small model in the form of Llama's, but for what ``options`` change."""
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=12)) + rng.choice(["", "  and", "\t.", " <answer>"]) for _ in range(400)]
    llama = dict(
        model_type="bpe", vocab_size=420, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=0.98, split_digits=True, allow_whitespace_only_pieces=True,
        user_defined_symbols=["<image>"], minloglevel=2,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), **llama | options
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def oracle(folder):
    """SentencePiece itself, told to put no space in front of a text."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def texts():
    rng = random.Random(1)
    odd = [" ", "  ", "\n", "\t", "🙂", "é", "東", "<", "</answer>", "x = 1", "\x00", "9"]
    fixed = ["", " ", "the", " the", "a\nb", "<|im_end|>", "café 東京 <unk> </s>", "the  number   1912"]
    return fixed + ["".join(rng.choice([w + " ", w, o]) for w, o in zip(
        rng.choices(WORDS, k=20), rng.choices(odd, k=20), strict=True)) for _ in range(200)]  # fmt: skip


def test_ids_are_those_of_sentencepiece_and_every_text_round_trips(folder, oracle):
    tokenizer = Tokenizer.load(folder)
    for text in texts():
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text), text
        assert tokenizer.decode(ids) == text and not set(ids) & tokenizer.control_ids
        assert b"".join(tokenizer.token_bytes()[i] for i in ids).decode() == text


def test_the_frame_of_turns_stands_behind_the_vocabulary(folder, oracle):
    tokenizer = Tokenizer.load(folder)
    n = oracle.get_piece_size()
    frame = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.im_start_id}
    frame |= {tokenizer.vision_start_id, tokenizer.vision_end_id, tokenizer.image_pad_id, tokenizer.video_pad_id}
    assert frame == set(range(n, n + 7)) and tokenizer.vocab_size == n + 7
    assert {oracle.bos_id(), oracle.eos_id(), oracle.unk_id()} < tokenizer.control_ids
    assert tokenizer.encode("see <image>")[-1] == oracle.piece_to_id("<image>")


def test_ids_of_added_tokens_beside_the_model_are_kept(folder, tmp_path, oracle):
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    n = oracle.get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": n + 1, "<image_end>": n}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.control_id("<image_end>"), tokenizer.control_id("<pad>")) == (n, n + 1)
    assert min(tokenizer.pad_id, tokenizer.eos_id, tokenizer.im_start_id) == n + 2
    assert not set(tokenizer.encode("<pad>")) & tokenizer.control_ids


def test_a_run_keeps_it_as_tokenizer_json(folder, tmp_path):
    hf_files.keep_files(tmp_path / "hf", tokenizer=str(folder))
    kept = Tokenizer.load(tmp_path / "hf")
    assert kept.sha256 == Tokenizer.load(folder).sha256
    assert kept.encode("the red fox") == Tokenizer.load(folder).encode("the red fox")


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(model_type="unigram", vocab_size=300), "no byte-pair model"),
        (dict(byte_fallback=False, vocab_size=150), "no bytes for unknown characters"),
        (dict(normalization_rule_name="nmt_nfkc"), "a normalisation of text"),
        (dict(remove_extra_whitespaces=True), "spaces taken out of text"),
    ],
)
def test_a_model_that_changes_text_is_refused(tmp_path, options, reason):
    path = train(tmp_path / "other", **options)
    with pytest.raises(ValueError, match=rf"{reason}.*; convert it to tokenizer.json \(config.tokenizer\)"):
        tokenizer_text(path)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x01 no model")
    with pytest.raises(ValueError, match="must be a SentencePiece model: got .*tokenizer.model"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="tokenizer.json or tokenizer.model: got"):
        Tokenizer.load(tmp_path / "none")
