"""Downloaded data sets as TFDS sets: prepared and read without TensorFlow, bad records counted and named."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from arft_jax.data import flashrag, source
from arft_jax.data.builders import mat, multihop_qa
from arft_jax.data.builders.manual import BAD, FILES, FORMAT, ManualBuilder
from arft_jax.io.disk import naming_write_faults

BUILDERS: Mapping[str, Callable[..., ManualBuilder]] = {
    "mat_coding": mat.MatCoding,
    "mat_search": mat.MatSearch,
    "mat_training_coding": mat.MatTrainingCoding,
    "mat_training_search": mat.MatTrainingSearch,
} | {name: functools.partial(multihop_qa.MultihopQa, config=name) for name in flashrag.NAMES}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A set that is there.

    Args:
      name: of the command line.
      tfds_name: under which ``tfds.data_source`` finds it.
      folder: where it lies.
      n_records: of each split.
      bad: what is wrong with each record that was left out, by split.
      is_new: it was made now; else it was there, of the same files.
    """

    name: str
    tfds_name: str
    folder: pathlib.Path
    n_records: dict[str, int]
    bad: dict[str, list[str]]
    is_new: bool


def prepare(names: Sequence[str], data: str, out: str) -> Iterator[Prepared]:
    """Prepares sets one by one; what is there of the same files stays, what is there of others is made again.

    Args:
      names: of the sets; none: all whose files are there.
      data: the folder that holds what was downloaded.
      out: where TFDS keeps sets.

    Raises:
      ValueError: an unknown name, files that are not there, a file without a good record.
    """
    unknown = [name for name in names if name not in BUILDERS]
    if unknown or len(set(names)) < len(names):
        got = repr(unknown[0]) if unknown else ", ".join(names)
        raise ValueError(f"sets must be among {', '.join(BUILDERS)}, each once: got {got} (--sets)")
    folder = pathlib.Path(data).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"the folder of what was downloaded must exist: got {data} (--data)")
    with naming_write_faults("the folder of prepared sets", pathlib.Path(out), "--out"), source.quiet():
        builders = {name: BUILDERS[name](data_dir=out, file_format=FORMAT) for name in names or BUILDERS}
    missing = {name: builder for name, builder in builders.items() if not builder.splits_of(folder)}
    if names and missing:
        raise ValueError("; ".join(f"{b.what_is_missing(folder)} (--data)" for b in missing.values()))
    if len(missing) == len(builders):
        needs = "; ".join(dict.fromkeys(f"{builder.NEEDS}, from {builder.PAGE}" for builder in builders.values()))
        raise ValueError(f"the folder must hold the files of some set: {folder} has none of these: {needs} (--data)")
    return (_prepare(name, builder, folder) for name, builder in builders.items() if name not in missing)


def _prepare(name: str, builder: ManualBuilder, folder: pathlib.Path) -> Prepared:
    there = dict(builder.info.metadata).get(FILES) if builder.data_path.exists() else None
    is_new = there != builder.files_sha256(folder)
    if is_new:
        tfds.disable_progress_bar()
        mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS  # a set of other files is deleted
        config = tfds.download.DownloadConfig(manual_dir=str(folder), download_mode=mode)
        with source.quiet(), naming_write_faults("the folder of prepared sets", builder.data_path, "--out"):
            builder.download_and_prepare(download_config=config)
    metadata: dict[str, Any] = dict(builder.info.metadata)
    return Prepared(
        name,
        "/".join(part for part in (builder.name, builder.builder_config and builder.builder_config.name) if part),
        pathlib.Path(builder.data_path),
        {split: info.num_examples for split, info in builder.info.splits.items()},
        metadata[BAD],
        is_new,
    )
