"""TFDS builder of mini_coding; prepares and reads without TensorFlow (array_record, images as PNG bytes)."""

import dataclasses
import io

import tensorflow_datasets as tfds

from arft_jax.data.images import encode_png
from arft_jax.data.synthetic import coding
from arft_jax.trajectory import Image


@dataclasses.dataclass
class MiniConfig(tfds.core.BuilderConfig):
    """Seed and training rows; both are part of the name, so that each choice has its own folder."""

    seed: int = 0
    n_train: int = 2000


def config_of(seed: int, n_train: int) -> MiniConfig:
    """The configuration ``seed0_n2000``."""
    return MiniConfig(name=f"seed{seed}_n{n_train}", description=f"Drawn from seed {seed}.", seed=seed, n_train=n_train)


class MiniCoding(tfds.core.GeneratorBasedBuilder):
    """Degraded cards in the layout of MAT-Coding: 70 simple and 130 hard test items."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        features = {
            "id": tfds.features.Text(),
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "ori_image": image,
            "processed_image": image,
            "type": tfds.features.Sequence(tfds.features.Text()),
            "split": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            description="Cards with a figure and a number, spoilt in named ways, and questions about them.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples("train", self.builder_config.n_train),
            "test": self._generate_examples("test", coding.N_TEST),
        }

    def _generate_examples(self, split: str, n: int):
        for index in range(n):
            item = coding.make_item(self.builder_config.seed, split, index)
            yield (
                item.id,
                {
                    "id": item.id,
                    "question": item.question,
                    "answers": list(item.answers),
                    "ori_image": io.BytesIO(encode_png(Image(item.original))),
                    "processed_image": io.BytesIO(encode_png(Image(item.processed))),
                    "type": list(item.kinds),
                    "split": item.split,
                },
            )
