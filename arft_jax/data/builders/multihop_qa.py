"""TFDS builder of the multi-hop questions in FlashRAG's layout, one configuration a data set; no TensorFlow."""

import pathlib
from typing import Any

import tensorflow_datasets as tfds

from arft_jax.data import flashrag
from arft_jax.data.builders.manual import TEXT, TEXTS, Load, ManualBuilder
from arft_jax.trajectory import Task


class MultihopQa(ManualBuilder):
    """2WikiMultihopQA, HotpotQA, MuSiQue and Bamboogle."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in flashrag.NAMES]
    PAGE = flashrag.PAGE
    ABOUT = "Questions of text alone that take several searches."
    NEEDS = " or ".join(f"{name}/{split}.jsonl" for name, split in flashrag.SPLITS.items())
    FEATURES = dict(id=TEXT, question=TEXT, golden_answers=TEXTS, type=TEXT)

    @property
    def needs(self) -> str:
        """The files that are looked for."""
        name = self.builder_config.name
        return f"{name}/{flashrag.SPLITS[name]}.jsonl or {name}/train.jsonl"

    def splits_of(self, folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, Load]]:
        """FlashRAG's splits whose file is there."""
        name, found = self.builder_config.name, {}
        for split in ("train", "dev", "test"):
            path = flashrag.split_file(name, split, folder)
            if path.is_file():
                found[split] = path, lambda on_bad, s=split: flashrag.load_split(name, s, folder, on_bad=on_bad)
        return found

    def record_of(self, task: Task) -> dict[str, Any]:
        """``type`` is empty where the set has none."""
        return dict(
            id=task.id,
            question=task.question,
            golden_answers=list(task.answers),
            type=task.extra.get("type", ""),
        )
