"""The decode benchmark: what a decode call does, what its bound counts, how sides take turns."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.bench import decode
from arft_jax.bench.decode import Decoder, decode_config
from arft_jax.build import parts as build

CONTEXT, SLOTS, STEPS = 12, 3, 4

# Holds two rows; answers with the number of requests that it has served.
PEER = """
import json, sys
print(json.dumps({"versions": {"device": "DEVICE"}, "figures": ["dynamic"]}), flush=True)
n = 0
for line in sys.stdin:
    request = json.loads(line)
    assert request["text"]["num_hidden_layers"] == 4 and request["dtype"] == "bfloat16", request
    n += request["rows"] <= 2
    print(json.dumps({"rate": n if request["rows"] <= 2 else 0}), flush=True)
"""


@pytest.fixture(scope="module")
def decoder():
    made = Decoder(decode_config("tiny", SLOTS, STEPS))
    made.draw()
    made.fill(CONTEXT)
    made.measure()
    return made


def test_every_repeat_samples_every_row_at_every_step_from_the_same_place(decoder):
    n_compiled = decoder.sampler.n_compiled()
    (_, a), (_, b) = decoder.call(), decoder.call()
    assert a.tokens.shape == (SLOTS, STEPS) and np.all(a.logps < 0)
    assert a.length.tolist() == [CONTEXT + STEPS] * SLOTS
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.logps, b.logps)
    assert decoder.state.row.tolist() == [0, 1, 2]  # rows draw with keys of their own
    assert decoder.sampler.n_compiled() == n_compiled == 1
    assert decoder.measure() > 0


def test_every_column_of_every_layer_holds_normal_numbers_of_its_own(decoder):
    decoder.fill(CONTEXT)
    k, v = (np.asarray(jnp.stack(a).astype(jnp.float32)) for a in (decoder.state.cache.k, decoder.state.cache.v))
    layers = np.concatenate([k.reshape(len(k), -1), v.reshape(len(v), -1)])
    assert np.all(np.abs(layers.std(axis=1) - 1) < 0.1) and np.all(np.abs(layers.mean(axis=1)) < 0.1)
    assert np.abs(np.corrcoef(layers) - np.eye(len(layers))).max() < 0.1
    assert np.all(np.abs(k).sum(axis=-2) > 0)  # no column is left empty


def test_a_decode_call_reads_what_the_cache_was_filled_with(decoder):
    decoder.fill(CONTEXT)
    _, full = decoder.call()
    decoder.state = decoder.state._replace(cache=jax.tree.map(lambda a: a * 0, decoder.state.cache))
    _, empty = decoder.call()
    assert np.abs(full.logps - empty.logps).max() > 1e-3


@pytest.mark.parametrize(
    "size, n_params, column_bytes",
    [
        # Published counts of the decoder; untied: less the embedding, of which a step reads a row a slot.
        ("3b", 3_085_938_688, 2 * 36 * 2 * 128 * 2),
        ("7b", 7_615_616_512 - 152064 * 3584, 2 * 28 * 4 * 128 * 2),
    ],
)
def test_a_step_reads_the_published_weights_and_the_live_columns(size, n_params, column_bytes):
    made = Decoder(decode_config(size, 64, 64))
    assert (made.weight_bytes, made.column_bytes) == (2 * n_params, column_bytes)
    # Steps 0 .. 63 behind 2048 tokens see 2048 .. 2111 columns, in the mean 2079.5.
    assert made.step_bytes(2048) == 2 * n_params + 64 * 2079.5 * column_bytes
    assert made.param_bytes > made.weight_bytes  # the vision tower lies there too


def test_weights_and_cache_beyond_the_memory_are_refused_with_the_flags_to_change():
    made = Decoder(decode_config("tiny", 64, 16))
    cache_bytes = 64 * (1000 + 16) * made.column_bytes
    made.check_memory([10, 1000], made.param_bytes + cache_bytes)
    with pytest.raises(ValueError, match=r"must fit .* 0.07 GB \(64 slots of 1016 columns\).* \(--size, --slots, --c"):
        made.check_memory([1000, 10], made.param_bytes + cache_bytes - 1)


def test_a_peer_is_asked_for_half_the_rows_until_they_fit():
    class Holds:
        name = "x"

        def __init__(self, n):
            self.n, self.asked = n, []

        def measure(self, request):
            self.asked.append(json.loads(request)["rows"])
            return float(self.asked[-1] <= self.n)

    peer = Holds(10)
    assert decode.fit_rows(peer, {"context": 8}, 32) == 8 and peer.asked == [32, 16, 8]
    with pytest.raises(ValueError, match=r"x must hold a row of 8 tokens .* \(--slots, --contexts\)"):
        decode.fit_rows(Holds(0), {"context": 8}, 4)


def sitting(tmp_path, monkeypatch, device):
    monkeypatch.setattr(build, "set_up_jax", lambda config: None)  # the tests' own compilation cache stays
    script = tmp_path / "peer.py"
    script.write_text(PEER.replace("DEVICE", device))
    against = {"x": (sys.executable, str(script))}
    return decode.bench("tiny", [8, CONTEXT], n_slots=4, n_steps=STEPS, repeats=2, against=against)


def test_a_sitting_pairs_rounds_and_names_the_share_of_the_bound(tmp_path, monkeypatch, capsys):
    result = sitting(tmp_path, monkeypatch, "cpu")
    assert list(result["contexts"]) == ["12", "8"]  # the longest first
    for context, figures in result["contexts"].items():
        ours, theirs = figures["rates"]["arft_jax"], figures["rates"]["x_dynamic"]
        assert theirs == ([2.0, 3.0] if context == "12" else [5.0, 6.0])  # the first that fit warmed the peer
        assert figures["ratio_to"]["x_dynamic"]["max"] == max(a / b for a, b in zip(ours, theirs, strict=True))
        assert figures["rows"] == {"arft_jax": 4, "x_dynamic": 2}
        assert figures["ms_a_step"]["x_dynamic"] == 1000 * 2 / np.median(theirs)
        speed = max(result["bandwidth_bytes_s"].values())
        bytes_s = ours[0] / 4 * figures["step_bytes"]
        assert figures["share_of_bound"]["min"] <= bytes_s / speed * (1 + 1e-9)
        assert figures["share_of_bound"]["max"] >= bytes_s / speed * (1 - 1e-9)
    assert result["cache"] == "random values, not a prefill's"
    assert "times x_dynamic" in decode.format_text(result) and "context 8: arft_jax" in capsys.readouterr().err


def test_a_peer_on_another_device_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"x must run on the same device: got NVIDIA H200, here cpu \(--x_python\)"):
        sitting(tmp_path, monkeypatch, "NVIDIA H200")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(size="9b"), "size must be one of tiny, 3b, .* got '9b', 64, 64"),
        (dict(n_slots=0), r"slots and steps at least 1: got 'tiny', 0, 64 \(--size, --slots, --steps\)"),
        (dict(contexts=[]), r"got \[\], 5 \(--contexts, --repeats\)"),
        (dict(contexts=[3]), "contexts must be at least 4 tokens"),
        (dict(repeats=0), r"got \[8\], 0 \(--contexts, --repeats\)"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_any_compute(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        decode.bench(**{"size": "tiny", "contexts": [8], **wrong})
