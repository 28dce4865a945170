"""TFDS builder of mini_search; prepares and reads without TensorFlow (array_record, images as PNG bytes)."""

import io

import tensorflow_datasets as tfds

from arft_jax.data.images import encode_png
from arft_jax.data.synthetic import search
from arft_jax.trajectory import Image


class MiniSearch(tfds.core.GeneratorBasedBuilder):
    """Emblems and questions in the layout of MAT-Search: 75 simple and 75 hard test items."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "split": tfds.features.Text(),
            "corpus": tfds.features.Text(),
            "query": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            description="Emblems of made-up houses and questions that only a search in their corpus can answer.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples("train", self.builder_config.n_train),
            "test": self._generate_examples("test", search.N_TEST),
        }

    def _generate_examples(self, split: str, n: int):
        for item in search.make_items(self.builder_config.seed, split, n):
            yield (
                item.id,
                {
                    "id": item.id,
                    "question": item.question,
                    "answer": item.answer,
                    "image": io.BytesIO(encode_png(Image(item.image))),
                    "split": item.split,
                    "corpus": item.corpus,
                    "query": item.query,
                },
            )
