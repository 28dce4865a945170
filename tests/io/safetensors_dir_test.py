"""Directories of safetensors: what is written comes back, what is broken is named."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from arft_jax.io import safetensors_dir
from arft_jax.io.safetensors_dir import Header, open_tensors, plan_shards, write_tensors

BF16 = np.dtype(ml_dtypes.bfloat16)


def make(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a.2.w": rng.normal(size=(3, 4)).astype(np.float32),
        "a.10.w": rng.normal(size=(2, 3, 2)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
    }


def write(folder, tensors, dtype="float32", limit=60):
    folder.mkdir(exist_ok=True)
    write_tensors(folder, {n: Header(t.shape, dtype) for n, t in tensors.items()}, tensors.__getitem__, limit)
    return folder


def fault(folder):
    with pytest.raises(ValueError, match="^[^\n]*$") as caught, open_tensors(folder):
        pass
    return str(caught.value)


@pytest.mark.parametrize("limit", [1000, 30], ids=["one_file", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_come_back_and_the_safetensors_library_reads_them_too(tmp_path, limit, dtype):
    tensors = make()
    write(tmp_path, tensors, dtype, limit)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == (1 if limit == 1000 else 3)
    theirs = {}
    for file in files:
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0  # the data are aligned
        theirs |= safetensors.numpy.load_file(file) if dtype != "bfloat16" else _load(file)
    with open_tensors(tmp_path) as ours:
        assert ours.headers == {n: Header(t.shape, dtype) for n, t in tensors.items()} and set(theirs) == set(tensors)
        for name, tensor in tensors.items():
            want = tensor.astype(dtype if dtype != "bfloat16" else BF16)
            for got in (ours.read(name), theirs[name]):
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(ours.read(name, 1, 2), want[1:2])


def _load(file):
    with safetensors.safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
        return {name: opened.get_tensor(name) for name in opened.keys()}


def test_files_of_the_safetensors_library_are_read_bfloat16_among_them(tmp_path):
    tensors = make() | {"c": np.array([1.5, -2, np.inf], BF16), "d": np.array(7.0, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as ours:
        assert ours.headers["c"] == Header((3,), "bfloat16")
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(ours.read(name), tensor)


def test_shards_hold_layers_in_their_order_and_the_index_counts_bytes(tmp_path):
    headers = {n: Header(t.shape, "float32") for n, t in make().items()}
    assert plan_shards(headers, 96) == [["a.2.w", "a.10.w"], ["b"]]  # 48 + 48 bytes, then 20
    assert plan_shards(headers, 1) == [["a.2.w"], ["a.10.w"], ["b"]]
    write(tmp_path, make(), limit=96)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 29, "total_size": 116}
    assert index["weight_map"]["a.10.w"] == "model-00001-of-00002.safetensors"


def test_a_strided_view_is_written_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_dir, "CHUNK_BYTES", 100)
    values = np.arange(300, dtype=np.float32).reshape(20, 15)
    write(tmp_path, {"w": values.T}, limit=10**6)
    with open_tensors(tmp_path) as files:
        np.testing.assert_array_equal(files.read("w"), values.T)


def test_equal_tensors_are_told_from_tensors_that_differ_in_the_last_row(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_dir, "CHUNK_BYTES", 64)
    one = np.arange(40, dtype=np.float32).reshape(10, 4)
    other = one.copy()
    other[-1, -1] += 1
    write(tmp_path, {"one": one, "same": one.copy(), "other": other}, limit=10**6)
    with open_tensors(tmp_path) as files:
        assert files.is_same("one", "same") and not files.is_same("one", "other")


# ----------------------------------------------------------------- what is refused


def test_a_directory_that_is_not_there_or_holds_nothing_is_named(tmp_path):
    assert f"got {tmp_path / 'none'}, which is none" in fault(tmp_path / "none")
    assert f"{tmp_path} holds no safetensors file" in fault(tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    assert "holds only adapter.safetensors" in fault(tmp_path)


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert "holds pytorch_model.bin, a pickle, which is never read" in fault(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("cut", [1, 30, 100_000])
def test_a_truncated_file_is_named(tmp_path, cut):
    write(tmp_path, make(), limit=10**6)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    assert f"{path} must be a whole safetensors file: it is truncated or corrupt" in fault(tmp_path)


@pytest.mark.parametrize("at, text", [(0, b"\xff\xff\xff\xff\xff\xff\xff\x7f"), (8, b"!!"), (30, b"\xff\xfe")])
def test_a_corrupt_header_is_named(tmp_path, at, text):
    write(tmp_path, make(), limit=10**6)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[at : at + len(text)] = text
    path.write_bytes(data)
    assert f"{path} must be a whole safetensors file: it is truncated or corrupt" in fault(tmp_path)


def test_every_broken_shard_is_named_at_once(tmp_path):
    write(tmp_path, make())
    first, second, third = (tmp_path / f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-4])
    message = fault(tmp_path)
    assert message.startswith(f"2 problems in the files of {tmp_path}")
    assert f"names {first.name}, which is not there" in message and f"{second} must be a whole" in message
    assert third.name not in message


def test_an_index_that_does_not_fit_its_shards_is_named(tmp_path):
    write(tmp_path, make(), limit=96)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost"] = "model-00002-of-00002.safetensors"
    del index["weight_map"]["a.2.w"]
    path.write_text(json.dumps(index))
    message = fault(tmp_path)
    assert "places ghost in model-00002-of-00002.safetensors, which does not hold it" in message
    assert "model-00001-of-00002.safetensors holds a.2.w, which model.safetensors.index.json does not" in message


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "must be a JSON index with a weight_map (JSONDecodeError"),
        ("{}", "must be a JSON index with a weight_map (KeyError"),
        ('{"weight_map": {}}', "whose weight_map gives each tensor its file"),
        ('{"weight_map": {"a": 3}}', "whose weight_map gives each tensor its file"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "must name files of its own directory"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, sentence):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert sentence in fault(tmp_path)


def test_one_file_beside_an_index_is_refused(tmp_path):
    write(tmp_path, make(), limit=96)
    write(tmp_path, make(), limit=10**6)
    assert "got both in" in fault(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    write(tmp_path, make(), limit=10**6)
    path = tmp_path / "model.safetensors"
    with open_tensors(tmp_path) as files:
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(ValueError, match="must hold 20 bytes of b: got 16"):
            files.read("b")


def test_values_of_another_shape_than_announced_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"w must have the shape \(2, 3\): got \(3, 2\)"):
        write_tensors(tmp_path, {"w": Header((2, 3), "float32")}, lambda _: np.zeros((3, 2), np.float32), 100)
