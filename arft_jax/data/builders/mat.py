"""TFDS builders of the user's MAT files: both halves of the benchmark and both of its training sets; no TensorFlow."""

import pathlib
from typing import Any

from arft_jax.data import mat, recorded_steps
from arft_jax.data.builders.manual import IMAGE, TEXT, TEXTS, Load, ManualBuilder, image_bytes
from arft_jax.trajectory import Task

_PAGE = "https://huggingface.co/datasets/laolao77/MAT"


class _Mat(ManualBuilder, skip_registration=True):
    PAGE = _PAGE

    def splits_of(self, folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, Load]]:
        """The splits whose JSON file is there."""
        found = {}
        for split in ("train", "test"):
            path = mat.split_files(self.name, split, folder)[0]
            if path.is_file():
                found[split] = path, lambda on_bad, s=split: mat.load_split(self.name, s, folder, on_bad=on_bad)
        return found


class MatCoding(_Mat):
    """MAT-Coding, or data of one's own in its layout."""

    ABOUT = "Questions about pictures that were turned, darkened, overexposed, blurred, noised, or need a crop."
    NEEDS = "MAT-Benchmark/MAT-Coding.json and MAT-Coding-image/, or mat_coding/{train,test}.json and their images"
    FEATURES = dict(id=TEXT, question=TEXT, answers=TEXTS, image=IMAGE, type=TEXTS, split=TEXT)

    def record_of(self, task: Task) -> dict[str, Any]:
        """``image`` is the one that is shown: the processed one, but the original where the type is crop."""
        return dict(
            id=task.id,
            question=task.question,
            answers=list(task.answers),
            image=image_bytes(task.images[0]),
            type=list(task.problems),
            split=task.split,
        )


class MatSearch(_Mat):
    """MAT-Search, or data of one's own in its layout."""

    ABOUT = "Questions about pictures that a text search answers."
    NEEDS = "MAT-Benchmark/MAT-Search.json and MAT-Search-image/, or mat_search/{train,test}.json and their images"
    FEATURES = dict(id=TEXT, question=TEXT, answer=TEXT, image=IMAGE, split=TEXT, corpus=TEXT, query=TEXT)

    def record_of(self, task: Task) -> dict[str, Any]:
        """As the file has it."""
        return dict(
            id=task.id,
            question=task.question,
            answer=task.answers[0],
            image=image_bytes(task.images[0]),
            split=task.split,
            corpus=task.corpus,
            query=task.query,
        )


class _MatTraining(ManualBuilder, skip_registration=True):
    PAGE = _PAGE
    FEATURES = dict(id=TEXT, question=TEXT, target=TEXT, image=IMAGE)

    def splits_of(self, folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, Load]]:
        """The one file of recorded steps, where it is there."""
        path = recorded_steps.training_file(self.name, folder)
        if not path.is_file():
            return {}
        return {"train": (path, lambda on_bad: recorded_steps.load_split(self.name, "train", folder, on_bad=on_bad))}

    def record_of(self, task: Task) -> dict[str, Any]:
        """``question`` has the chain so far, ``target`` the step to be written, its tag included."""
        return dict(id=task.id, question=task.question, target=task.target, image=image_bytes(task.images[0]))


class MatTrainingCoding(_MatTraining):
    """The recorded coding steps of MAT-Training."""

    ABOUT = "Single steps of recorded chains of the coding agent."
    NEEDS = "MAT-Training/rft_agent_code_1_2k.json and its images"


class MatTrainingSearch(_MatTraining):
    """The recorded search steps of MAT-Training."""

    ABOUT = "Single steps of recorded chains of the search agent."
    NEEDS = "MAT-Training/rft_agent_search_20.json and its images"
