"""Twenty-six faults, each planted alone in a copy of the package: an ordinary test, of the default suite, sees it.

A fault is a few characters of source that are written differently. The copy's tests then run in a process of their own
with the options of a plain ``pytest``, so that what is marked ``slow`` or ``torch`` does not count.

    pytest -m slow -s tests/planted_faults_test.py

prints which test saw which fault.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORACLE = "tests/models/qwen2_5_vl/logits_oracle_test.py"
LORA = "tests/models/lora_test.py::test_an_adapter_is_scaled_by_alpha_over_rank_in_the_product_and_in_the_merged_kernel"
PACKING = "tests/models/qwen2_5_vl/packing_test.py"
POSITIONS = "tests/models/qwen2_5_vl/positions_test.py::test_positions_by_hand"
TEXT = "tests/models/qwen2_5_vl/text_test.py::test_features_stand_where_their_index_says"
BATCH = "tests/data/batch_test.py::test_rows_are_padded_and_images_found_by_hash"
FEED = "tests/rollout/row_test.py::test_a_feed_begins_with_the_sampled_token_whose_column_is_not_written"
ROW = "tests/rollout/row_test.py::test_a_row_grows_by_segments_and_turns"
LOGPS = "tests/ops/logps_test.py::test_chunked_equals_the_numpy_oracle"
LOG_PROBS = "tests/sampling/pick_test.py::test_log_probs_equal_the_definitions"
PICKS = "tests/sampling/pick_test.py::test_picks_follow_the_distribution_that_is_reported"
CACHED = "tests/ops/cached_attention_test.py::test_it_equals_the_general_form"
SAMPLER = "tests/steps/sampler_test.py::test_sampler_logps_equal_a_full_forward"
IMAGES = "tests/data/images_test.py::test_patches_equal_those_of_transformers_bit_for_bit"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is planted, and the test that must fail.

    Args:
      name: in the table.
      old: source that stands in one place of the package alone.
      new: what is written in its place.
      test: a file or a test of the default suite.
    """

    name: str
    old: str
    new: str
    test: str


WINDOW = "        window = first_window + rows // side * -(-width // side) + columns // side\n"
PLACE = "        place = rows % side * side + columns % side\n"
FAR = WINDOW + PLACE
for axis, size in (("rows", "height"), ("columns", "width")):
    for operation in ("//", "%"):
        FAR = FAR.replace(f"{axis} {operation} side", f"({axis} + -{size} % side) {operation} side")
LAST = "        window_slot[here] = window * side**2 + place\n"
SCORED = "    values = scores(logits, allowed, temperature, top_k, top_p)\n"
SAMPLED = "        sampled = np.concatenate(self._sampled)\n"
JOINED = "self.norm(x).reshape(x.shape[0], x.shape[1] // self.block, self.block * x.shape[2])"
BLOCKS = "self.norm(x).reshape(x.shape[0], x.shape[1] // self.block, self.block, x.shape[2])"
GELU = "jax.nn.gelu(self.up(joined), approximate=False)"
READ = "        part[...] = read(name, start, start + rows).reshape(part.shape)\n    return values\n"
TURNED = """    if item.path in ("text.layers.q.kernel", "text.layers.o.kernel"):  # [D, N, H] and [N, H, D]
        values[...] = np.flip(values.copy(), 1 if ".q." in item.path else 0)
"""
FAULTS = (
    Fault("windows cut from the far corner", WINDOW + PLACE, FAR, PACKING),
    Fault(
        "last patch of a partial window lost",
        LAST,
        LAST + "        window_index[window[-1], place[-1]] = -1\n",
        PACKING,
    ),
    Fault(
        "h and w swapped in M-RoPE",
        "np.stack([np.zeros_like(h), h, w])",
        "np.stack([np.zeros_like(h), w, h])",
        POSITIONS,
    ),
    Fault(
        "image tokens off by one: model",
        "jnp.maximum(feature_index, 0)].astype(embeds",
        "jnp.maximum(feature_index, 0) - 1].astype(embeds",
        TEXT,
    ),
    Fault("image tokens off by one: batch", "first[span.sha256] + np", "1 + first[span.sha256] + np", BATCH),
    Fault(
        "image tokens off by one: feed",
        " index[span.start : span.start + span.n] = ",
        " index[span.start : span.start + span.n] = 1 + ",
        FEED,
    ),
    Fault("loss mask without a turn's first token", SAMPLED, SAMPLED + "        sampled &= np.roll(sampled, 1)\n", ROW),
    Fault("loss mask without a turn's last token", SAMPLED, SAMPLED + "        sampled &= np.roll(sampled, -1)\n", ROW),
    Fault("log-probs shifted", "jnp.arange(-1, length - 1, dtype", "jnp.arange(0, length, dtype", LOGPS),
    Fault(
        "temperature twice, in the pick alone", SCORED, "    logits = logits / (temperature or 1.0)\n" + SCORED, PICKS
    ),
    Fault(
        "temperature twice, on both sides", "logits * (1.0 / temperature)", "logits * (1.0 / temperature**2)", LOG_PROBS
    ),
    Fault("top-p on one side", SCORED, SCORED.replace("top_p", "1.0"), PICKS),
    Fault("position behind an image", "start + max(rows, columns)", "start + max(rows, columns) + 1", POSITIONS),
    Fault("cached attention one column too far", "[None, None, :] <= cols[", "[None, None, :] <= 1 + cols[", CACHED),
    Fault("decode's position one too late", "(state.next_position - 1)[:", "state.next_position[:", SAMPLER),
    Fault("BGR for RGB", "blocks[:, :, :, :, channel])", "blocks[:, :, :, :, 2 - channel])", IMAGES),
    Fault(
        "merger joins patches in another order",
        JOINED,
        BLOCKS + "[:, :, ::-1].reshape(*x.shape[:1], -1, self.up.kernel.shape[0])",
        ORACLE,
    ),
    Fault("bias of k missing", "rotate(self.k(y), cos", "rotate(self.k(y) - self.k.bias[...][None, None], cos", ORACLE),
    Fault(
        "text rope theta 10 % off", "config.rope_theta, config.mrope", "1.1 * config.rope_theta, config.mrope", ORACLE
    ),
    Fault(
        "vision rope theta 10 % off",
        "angles(layout.hw, config.head_dim, ",
        "angles(layout.hw, config.head_dim, 1.1 * ",
        ORACLE,
    ),
    Fault(
        "vision attention scale 5 % off",
        "rotate(q, cos, sin), rotate(k, cos",
        "rotate(1.05 * q, cos, sin), rotate(k, cos",
        ORACLE,
    ),
    Fault("SiLU in the merger", GELU, "jax.nn.silu(self.up(joined))", ORACLE),
    Fault("tanh-GELU in the merger", GELU, GELU.replace("False", "True"), ORACLE),
    Fault("norm epsilon ignored", "keepdims=True) + self.eps)", "keepdims=True) + 1e-12)", ORACLE),  # 0: NaN on padding
    Fault(
        "heads of q and o in another order on import", READ, READ.replace("    return", TURNED + "    return"), ORACLE
    ),
    Fault("LoRA scaled by alpha", "return self.alpha / self.rank", "return self.alpha", LORA),
)


def _sources(root):
    """The text of every module by its path; those of ``testing`` left out."""
    paths = (path for path in sorted((root / "arft_jax").rglob("*.py")) if "testing" not in path.parts)
    return {path: path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package, its tests and what they read, in a folder of their own."""
    folder = tmp_path_factory.mktemp("planted")
    for name in ("arft_jax", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def table():
    """fault -> the test that saw it; printed at the end."""
    seen = {}
    yield seen
    width = max(map(len, seen), default=0)
    print("\n" + "\n".join(f"{name:{width}}  {test}" for name, test in seen.items()))


def run(folder, tests):
    """(exit code, output) of a plain pytest in the copy."""
    env = dict(os.environ, PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1", JAX_PLATFORMS="cpu")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-rf", "--tb=line", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_fault_has_one_place_in_the_package_and_a_test_that_exists():
    sources = _sources(ROOT)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 26
    for fault in FAULTS:
        places = [path for path, text in sources.items() for _ in range(text.count(fault.old))]
        assert len(places) == 1, f"{fault.name}: {fault.old!r} must stand in one place: got {places}"
        file, _, name = fault.test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), fault.test


@pytest.mark.slow
def test_without_a_fault_the_tests_pass(copy):
    code, output = run(copy, sorted({fault.test for fault in FAULTS}))
    assert code == 0, output[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_seen_by_a_default_test(copy, table, fault):
    [(path, text)] = [(path, text) for path, text in _sources(copy).items() if fault.old in text]
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        code, output = run(copy, [fault.test])
    finally:
        path.write_text(text, encoding="utf-8")
    failed = re.findall(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE)
    assert code == 1 and failed, output[-4000:]  # 1: a test failed; 2 and more: pytest itself did
    table[fault.name] = failed[0]
