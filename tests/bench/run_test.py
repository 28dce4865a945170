"""A sitting: who is asked when, and what is made of the answers."""

import runpy
import sys

import pytest

from arft_jax.bench import run, shape
from arft_jax.bench.peers import Peer
from arft_jax.data.batch import VisionBucket, pack_chunks
from arft_jax.testing.tiny_model import TINY_PACKING

PEER = """
import json, sys
print(json.dumps({"versions": {"x": "1"}, "figures": ["decode"]}), flush=True)
n = 0
for line in sys.stdin:
    n += 1
    if line.strip() != "decode": sys.exit("no such figure")
    print(json.dumps({"rate": float(n)}), flush=True)
"""


class Side:
    """Answers from a list and writes down when it was asked."""

    def __init__(self, name, rates, log):
        self.name, self.figures, self._rates, self._log = name, ("decode",), iter(rates), log

    def measure(self, figure):
        self._log.append((self.name, figure))
        return next(self._rates)


def script(tmp_path, text):
    path = tmp_path / "peer.py"
    path.write_text(text)
    return str(path)


def test_sides_take_turns_and_the_first_answer_does_not_count():
    log = []
    ours, peer = Side("arft_jax", [99.0, 4.0, 9.0], log), Side("x", [99.0, 2.0, 3.0], log)
    result = run.sit(ours, [peer], ["decode"], 2)["decode"]
    assert log == [("arft_jax", "decode"), ("x", "decode")] * 3
    assert result["rates"] == {"arft_jax": [4.0, 9.0], "x": [2.0, 3.0]}
    assert result["ratio_to"] == {"x": {"min": 2.0, "median": 2.5, "max": 3.0}}
    assert "2.00 / 2.50 / 3.00 times x" in run.figure_line("decode", result)


def test_a_peer_that_lacks_a_figure_sits_it_out():
    log = []
    ours, peer = Side("arft_jax", [1.0] * 4, log), Side("x", [1.0] * 4, log)
    result = run.sit(ours, [peer], ["train"], 1)["train"]
    assert list(result["rates"]) == ["arft_jax"] and result["ratio_to"] == {}
    assert {name for name, _ in log} == {"arft_jax"}


def test_a_peer_answers_from_its_own_process(tmp_path):
    with Peer("x", sys.executable, script(tmp_path, PEER)) as peer:
        assert peer.versions == {"x": "1"} and peer.figures == ["decode"]
        assert [peer.measure("decode") for _ in range(3)] == [1.0, 2.0, 3.0]


def test_a_peer_that_dies_says_why(tmp_path):
    with Peer("x", sys.executable, script(tmp_path, PEER)) as peer:
        with pytest.raises(ValueError, match=r"x ended with status 1: no such figure \(--x_python\)"):
            peer.measure("turns")
        with pytest.raises(ValueError, match="x ended with status 1"):
            peer.measure("decode")
    with pytest.raises(ValueError, match="No module named 'nowhere'"):
        Peer("x", sys.executable, script(tmp_path, "import nowhere"))
    with pytest.raises(ValueError, match=r"the python of x must be a file: got '' \(--x_python\)"):
        Peer("x", "", script(tmp_path, PEER))


def test_a_peer_is_ended_in_the_middle_of_its_work(tmp_path):
    busy = PEER.replace("n += 1", "n += 1; __import__('time').sleep(60)")
    peer = Peer("x", sys.executable, script(tmp_path, busy))
    peer._process.stdin.write("decode\n")
    peer._process.stdin.flush()
    peer.close()
    assert peer._process.returncode not in (None, 0)


@pytest.mark.parametrize("wrong", [dict(figures=["speed"]), dict(repeats=0)], ids=str)
def test_bad_settings_are_refused_before_any_compute(wrong):
    with pytest.raises(ValueError, match=r"figures must be among decode, .* \(--figures, --repeats\)"):
        run.bench(None, against={}, **wrong)


def test_the_images_of_the_train_step_fit_the_chunks_of_the_config(repo_root):
    config = runpy.run_path(str(repo_root / "configs" / "bench_cpu.py"))["get_config"]()
    r, side = config.rollout, shape.IMAGE_PX // 14
    bucket = VisionBucket(r.n_patches, r.n_windows, TINY_PACKING)
    assert len(pack_chunks([(1, side, side)] * shape.DECODE_ROWS, bucket)) <= config.train.image_chunks
