"""What the TFDS builders of downloaded sets have in common: a folder to read from, and bad records that are counted.

TFDS calls such a folder ``manual_dir``. A record that is not of its layout, or whose image cannot be decoded, is left
out, and is counted and named in the metadata of the prepared set (``builder.info.metadata["bad_records"]``, which is
``metadata.json`` in its folder), beside the sha256 of the files that were read.

Nothing here needs TensorFlow. Sets are kept as Parquet, the one format that TFDS 4.9.10 writes and reads without
TensorFlow (``tfds.data_source``) and that its ``tfds.load`` reads too, which does need it.
"""

import hashlib
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer

from arft_jax.data.image_files import plain_file
from arft_jax.data.items import OnBad
from arft_jax.trajectory import Image, Task

FORMAT = "parquet"
BAD, FILES = "bad_records", "files"  # keys of the metadata

IMAGE = tfds.features.Image(shape=(None, None, 3))
TEXT = tfds.features.Text()
TEXTS = tfds.features.Sequence(tfds.features.Text())

# ``load(on_bad)`` gives the tasks of a split, and ``on_bad`` what is wrong with each record that is left out.
Load = Callable[[OnBad], list[Task]]


class _WholeShards(writer.ExampleWriter):
    """Hands a shard's records over as a list: TFDS 4.9.10 loses those of an iterator behind the first 100 (Parquet)."""

    def write(self, path, examples):
        """Writes one shard."""
        return super().write(path, list(examples))


class ManualBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set that is prepared from files which the user downloaded; records keep the order of their file.

    A builder of a set gives it FEATURES, ABOUT (what it is, a sentence), PAGE (where it is published) and NEEDS (the
    files that are looked for).
    """

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: dict[str, Any] = {}
    ABOUT = PAGE = NEEDS = ""

    def __init_subclass__(cls, **options: Any):
        if cls.NEEDS:
            cls.MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {cls.NEEDS}, from {cls.PAGE}"
        super().__init_subclass__(**options)

    def splits_of(self, folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, Load]]:
        """``{split: (its file, what loads it)}`` of the files that are there."""
        raise NotImplementedError

    def record_of(self, task: Task) -> dict[str, Any]:
        """A record with the keys of FEATURES."""
        raise NotImplementedError

    def what_is_missing(self, folder: pathlib.Path) -> str:
        """A sentence on a folder without the files of the set."""
        name = self.builder_config.name if self.builder_config else self.name
        return f"{name} needs a folder with {self.needs}, from {self.PAGE}: {folder} has none of them"

    @property
    def needs(self) -> str:
        """The files that are looked for."""
        return self.NEEDS

    def download_and_prepare(self, **options: Any) -> None:
        """As TFDS has it, from ``download_config.manual_dir``; counts what can be read back.

        Raises:
          ValueError: no file of the set in the folder, or no good record in one of them.
        """
        super().download_and_prepare(**options)
        for split, info in self.info.splits.items():
            n_read = len(self.as_data_source(split))
            if n_read != info.num_examples:
                raise RuntimeError(f"{n_read} of {info.num_examples} records of {split} are in {self.data_path}")

    def _example_writer(self) -> writer.ExampleWriter:
        return _WholeShards(self.info.file_format)

    def files_sha256(self, folder: pathlib.Path) -> dict[str, str]:
        """``{split: hash of its file}``."""
        paths = {split: path for split, (path, _) in self.splits_of(folder).items()}
        return {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in paths.items()}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.ABOUT,
            homepage=self.PAGE,
            features=tfds.features.FeaturesDict(self.FEATURES),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        folder = pathlib.Path(dl_manager.manual_dir)
        splits = self.splits_of(folder)
        if not splits:
            raise ValueError(self.what_is_missing(folder))
        self.info.metadata.update({FILES: self.files_sha256(folder), BAD: {split: [] for split in splits}})
        return {split: self._generate_examples(split, path, load) for split, (path, load) in splits.items()}

    def _generate_examples(self, split: str, path: pathlib.Path, load: Load) -> Iterator[tuple[int, dict[str, Any]]]:
        bad, n_good = self.info.metadata[BAD][split], 0
        for task in load(bad.append):
            try:
                record = self.record_of(task)
            except ValueError as error:
                bad.append(str(error))
                continue
            yield n_good, record
            n_good += 1
        if not n_good:
            raise ValueError(f"some record must be of the layout: got none in {path}, the first: {bad[0]}")


def image_bytes(image: Image) -> io.BytesIO:
    """The image as TFDS takes it: image_files.plain_file.

    Raises:
      ValueError: it cannot be decoded.
    """
    return io.BytesIO(plain_file(image)[0])
