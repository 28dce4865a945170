"""Measures the local search index: time and size of a build, latency at many callers, recall of known passages.

The passages are drawn from a seed, so that the figures can be repeated anywhere: words follow Zipf's law with
Mandelbrot's shift, P(rank r) ∝ 1 / (r + 2.7)^1.05, over a vocabulary of a million. That is a little harder than English
text: some 90 words stand in over a tenth of all passages, and the rarest of a million passages stand in about six. A
question has five of the common words of its passage and five others. Words are drawn independently: no passage has
a topic by which a search could skip it. They are written to a ``.jsonl`` file and indexed from there, the way that
launch/build_index.py goes.
"""

import concurrent.futures
import io
import json
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from arft_jax.tools import passages as passages_lib
from arft_jax.tools.search_index import Document, SearchIndex

_N_WORDS = 1_000_000
_SHIFT, _EXPONENT = 2.7, 1.05
_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvz" for vowel in "aeiou"]
_COMMON_RANK = 150
_BATCH = 1000
_N_WARM_UP = 200


def word_of(rank: int) -> str:
    """The word of a rank, from 0, each another.

    >>> word_of(0), word_of(85)
    ('be', 'bebe')
    """
    letters = []
    rank += 1
    while rank:
        rank, digit = divmod(rank, len(_SYLLABLES))
        letters.append(_SYLLABLES[digit])
    return "".join(letters)


class Passages:
    """Synthetic passages of ``title_words`` + ``text_words`` words.

    Args:
      n: how many.
      seed: of the words.
      n_kept: of how many passages, evenly spread, the word ranks are remembered in ``kept`` while they are read;
        ``found_in`` counts meanwhile in how many passages each word stands.
    """

    def __init__(self, n: int, seed: int, n_kept: int, title_words: int = 4, text_words: int = 100):
        if not 0 < n_kept <= n:
            raise ValueError(f"0 < n_kept <= n must hold: got n_kept={n_kept}, n={n}")
        self.n, self.title_words, self.text_words = n, title_words, text_words
        weights = (np.arange(_N_WORDS) + 1 + _SHIFT) ** -_EXPONENT
        self._cumulative = np.cumsum(weights / weights.sum())
        self.words = np.array([word_of(rank) for rank in range(_N_WORDS)], dtype=object)
        self._seed = seed
        self._every = n // n_kept
        self.kept: dict[int, np.ndarray] = {}
        self.found_in = np.zeros(_N_WORDS, np.int32)

    def __iter__(self) -> Iterator[Document]:
        n_words, rng = self.title_words + self.text_words, np.random.default_rng([self._seed, 0])
        self.found_in[:] = 0
        for start in range(0, self.n, _BATCH):
            draws = rng.random((min(_BATCH, self.n - start), n_words))
            ranks = np.minimum(np.searchsorted(self._cumulative, draws), _N_WORDS - 1)
            in_order = np.sort(ranks, axis=1)
            is_first = np.diff(in_order, axis=1, prepend=-1) != 0
            np.add.at(self.found_in, in_order[is_first], 1)
            for row, of_passage in enumerate(ranks, start=start):
                if row % self._every == 0:
                    self.kept[row] = of_passage
                words = self.words[of_passage].tolist()
                title, text = words[: self.title_words], words[self.title_words :]
                yield Document(" ".join(title), " ".join(text), id=str(row))

    def question(self, ranks: np.ndarray, rng: np.random.Generator) -> str:
        """Five common words and five others of a passage, in any order."""
        common, own = ranks[ranks < _COMMON_RANK], ranks[ranks >= _COMMON_RANK]
        chosen = [rng.choice(part, min(5, len(part)), replace=False) for part in (common, own) if len(part)]
        return " ".join(self.words[rng.permutation(np.concatenate(chosen))])

    def rare_words(self, ranks: np.ndarray) -> str:
        """The five rarest words of a passage."""
        return " ".join(self.words[self._rarest(ranks)])

    def rare_in(self, ranks: np.ndarray) -> int:
        """In how many of the passages read so far the least rare of these words stands."""
        return int(self.found_in[self._rarest(ranks)].max())

    @staticmethod
    def _rarest(ranks: np.ndarray) -> np.ndarray:
        return np.unique(ranks)[-5:]


def write_jsonl(passages: Passages, path: str | os.PathLike[str]) -> None:
    """Writes passages as launch/build_index.py reads them."""
    with open(path, "w", encoding="utf-8") as f:
        for passage in passages:
            f.write(json.dumps({"id": passage.id, "title": passage.title, "text": passage.text}) + "\n")


def _build(passages: Passages, path: pathlib.Path, memory_mb: int) -> dict[str, float]:
    """Writes the passages beside ``path``, indexes the file there and removes it; returns the figures of the build."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-search-", dir=path.parent) as folder:
        file = pathlib.Path(folder) / "passages.jsonl"
        write_jsonl(passages, file)
        input_mb = file.stat().st_size / 1e6
        built = passages_lib.build_index([file], path, memory_mb=memory_mb, progress=io.StringIO())
    return {
        "build_s": round(built["seconds"], 1),
        "passages_per_s": round(built["passages"] / built["seconds"]),
        "input_mb": round(input_mb, 1),
        "size_mb": round(built["bytes"] / 1e6, 1),
        "build_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _latencies(index: SearchIndex, questions: list[str], n_callers: int, top_k: int) -> tuple[np.ndarray, float, float]:
    """Seconds of each call, of all, and of processor, with every caller asking again as soon as it has its answer."""

    def ask(question: str) -> float:
        started = time.perf_counter()
        index.search(question, top_k)
        return time.perf_counter() - started

    with concurrent.futures.ThreadPoolExecutor(n_callers) as callers:
        list(callers.map(ask, questions[:_N_WARM_UP]))
        started, processor = time.perf_counter(), time.process_time()
        each = list(callers.map(ask, questions))
        return np.array(each), time.perf_counter() - started, time.process_time() - processor


def run(
    path: str | os.PathLike[str],
    *,
    n_passages: int = 1_000_000,
    n_questions: int = 4000,
    n_callers: int = 16,
    top_k: int = 4,
    memory_mb: int = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Builds an index at ``path`` and measures it; it is left there.

    Returns:
      build_s, passages_per_s, input_mb (of the ``.jsonl`` file), size_mb, build_peak_mb (of the process); p50_ms,
      p99_ms, max_ms, processor_ms a question and questions_per_s with n_callers, p50_ms_alone and p99_ms_alone with
      one; recall_at_1 and recall_at_k, shares of known passages that their own five rarest words find, and rare_in, the
      most passages that any of those words stands in; question_recall_at_k, which need not be 1: others may fit a
      question as well.
    """
    passages = Passages(n_passages, seed, min(n_questions, n_passages))
    built = _build(passages, pathlib.Path(path), memory_mb)
    rng = np.random.default_rng([seed, 1])
    known = list(passages.kept.items())[:n_questions]
    questions = [passages.question(ranks, rng) for _, ranks in known]
    with SearchIndex(path) as index:
        each, all_s, processor_s = _latencies(index, questions, n_callers, top_k)
        alone, _, _ = _latencies(index, questions[: max(1, n_questions // 4)], 1, top_k)
        rare = [[hit.source for hit in index.search(passages.rare_words(ranks), top_k)] for _, ranks in known]
        asked = [[hit.source for hit in index.search(question, top_k)] for question in questions]
    sources = [str(row) for row, _ in known]

    def percentile(seconds: np.ndarray, q: float) -> float:
        return round(float(np.percentile(seconds, q)) * 1e3, 2)

    def share(found: list[list[str]], k: int) -> float:
        return float(np.mean([source in hits[:k] for source, hits in zip(sources, found, strict=True)]))

    return {
        "passages": n_passages,
        **built,
        "questions": len(questions),
        "callers": n_callers,
        "p50_ms": percentile(each, 50),
        "p99_ms": percentile(each, 99),
        "max_ms": percentile(each, 100),
        "processor_ms": round(processor_s / len(questions) * 1e3, 2),
        "questions_per_s": round(len(questions) / all_s),
        "p50_ms_alone": percentile(alone, 50),
        "p99_ms_alone": percentile(alone, 99),
        "recall_at_1": share(rare, 1),
        "recall_at_k": share(rare, top_k),
        "rare_in": max(passages.rare_in(ranks) for _, ranks in known),
        "question_recall_at_k": share(asked, top_k),
    }
