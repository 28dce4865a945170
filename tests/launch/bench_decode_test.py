"""The decode benchmark's command: its refusals, and a sitting beside transformers at a tiny size."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from arft_jax.bench.decode import Decoder, decode_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*flags, timeout_s=120):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "ARFT_TRANSFORMERS_PYTHON": ""}
    command = [sys.executable, str(ROOT / "launch" / "bench_decode.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=timeout_s)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--against=vllm"], "peers must be among transformers: got vllm (--against)"),
        (["--contexts=2k"], "contexts must be whole numbers: got 2k (--contexts)"),
        (["--format=xml"], "format must be text or json: got 'xml' (--format)"),
        (["3b"], "every argument must be a --flag=value: got '3b'"),
        (["--size=tiny", "--against=transformers"], "python of transformers must be a file: got '' (--transformers_p"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(flags, sentence):
    done = run(*flags)
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.torch
def test_the_peer_has_the_weights_that_our_step_reads():
    path = ROOT / "launch" / "peers" / "peer_transformers_decode.py"
    spec = importlib.util.spec_from_file_location("peer_transformers_decode", path)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    ours = Decoder(decode_config("tiny", 2, 2))
    before = peer.torch.get_default_dtype()
    try:
        model = peer.make_model(ours.sizes.to_hf()["text_config"], "bfloat16")
    finally:
        peer.torch.set_default_dtype(before)
    text = sum(p.numel() * p.element_size() for p in model.model.language_model.parameters())
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight  # tied, as ours
    assert text == ours.weight_bytes and model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.slow
@pytest.mark.torch
def test_a_sitting_beside_transformers_gives_every_side_its_rates():
    flags = ["--size=tiny", "--contexts=32,64", "--slots=2", "--steps=4", "--repeats=2", "--format=json"]
    done = run(*flags, "--against=transformers", f"--transformers_python={sys.executable}", timeout_s=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["versions"]) == {"arft_jax", "transformers"} and set(result["contexts"]) == {"32", "64"}
    for figures in result["contexts"].values():
        assert list(figures["rates"]) == ["arft_jax", "transformers_dynamic", "transformers_static"]
        assert all(rate > 0 for rates in figures["rates"].values() for rate in rates)
        assert set(figures["rows"].values()) == {2} and figures["bound"] > 0
