"""Reads a file of predictions and scores it as its benchmark prescribes.

Visual-ARFT (arXiv 2505.14246), MAT benchmark and the multi-hop QA sets.
"""

import json
import pathlib

from arft_jax.data import flashrag
from arft_jax.rewards import aggregate, choice, text

# items of the simple half, for files that carry no split; None: no halves
BENCHMARKS = {"mat_coding": 70, "mat_search": 75, "qa": None} | dict.fromkeys(flashrag.NAMES)
# of the whole benchmark; qa: sets of any size
N_ITEMS = {"mat_coding": 200, "mat_search": 150, "qa": None} | flashrag.N_ITEMS
_GOLD = ("gt", "answers", "answer", "golden_answers")
_SPLITS = ("simple", "hard", "")
_KIND = "kind of the trajectory's task"  # no key of a user's record
_OF_EVALUATION = ("question_id", "benchmark", "n_items")  # what launch/evaluate.py writes, all of them


def load_records(path: str) -> list[dict]:
    """The records of a JSON list or JSON Lines file.

    Raises:
      ValueError: the file cannot be read, is no JSON, or is not a non-empty list of objects.
    """
    try:
        content = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"predictions must be a readable file: got {path!r} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"predictions must be UTF-8 text: got {path!r}") from None
    try:
        try:
            records = json.loads(content)
        except json.JSONDecodeError:
            if not content.lstrip().startswith("{"):
                raise
            records = _json_lines(content)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"predictions must be JSON: got {path!r} ({error})") from None
    if isinstance(records, dict):  # JSON Lines of one line
        records = [records]
    if not isinstance(records, list) or not records:
        raise ValueError(f"predictions must be a non-empty list of records: got {type(records).__name__} in {path!r}")
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"every record must be an object: got {type(record).__name__} at place {place}")
    records = [_of_trajectory(record) if _is_trajectory(record) else record for record in records]
    if not any("pred_answer" in record for record in records):
        raise ValueError(f"records must carry 'pred_answer': got {', '.join(sorted(records[0]))} at place 0")
    return records


def _json_lines(content: str) -> list:
    """Every line; but for a last one that a kill cut short, which has no end of line."""
    *whole, rest = content.split("\n")  # not splitlines: JSON may hold other characters that it takes for line ends
    try:
        return [json.loads(line) for line in (*whole, rest) if line.strip()]
    except json.JSONDecodeError:
        records = [json.loads(line) for line in whole if line.strip()]
        if not records:
            raise
        return records


def _is_trajectory(record: dict) -> bool:
    return isinstance(record.get("task"), dict) and isinstance(record.get("turns"), list)


def _of_trajectory(record: dict) -> dict:
    """A line that io/trajectories.py wrote, as a record of a prediction."""
    task, actions = record["task"], [turn["action"] for turn in reversed(record["turns"])]
    answer = next((action["text"] for action in actions if action["type"] == "Answer"), None)
    kept = {"answers": task.get("answers"), "split": task.get("split"), _KIND: task.get("kind"), "pred_answer": answer}
    info = record.get("info") or {}
    if "item" in info:
        kept |= {"id": info["item"] + 1, "question_id": task.get("id"), "kind": task.get("kind")}
        kept |= {"benchmark": info.get("benchmark"), "n_items": info.get("n_items")}
        kept |= {"choices": task.get("choices"), "group": task.get("extra", {}).get("group")}
    return kept


def _benchmark_of(record: dict) -> str | None:
    """The benchmark of an evaluation's record; None for any other."""
    return record["benchmark"] if all(key in record for key in _OF_EVALUATION) else None


def _as_text(value: object, place: int, key: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{key!r} must be text: got {type(value).__name__} at place {place}")


def _answers(record: dict, place: int) -> list[str]:
    key = next((key for key in _GOLD if record.get(key) is not None), None)
    if key is None:
        raise ValueError(f"every record must carry its answers under one of {', '.join(_GOLD)}: none at place {place}")
    values = record[key] if isinstance(record[key], list) else [record[key]]
    if not values:
        raise ValueError(f"{key!r} must hold at least one answer: got an empty list at place {place}")
    return [_as_text(value, place, key) for value in values]


def _ids(records: list[dict]) -> list[int] | None:
    """Integer ids where every record has one, else None."""
    ids = []
    for record in records:
        value = record.get("id")
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        ids.append(value)
    return ids


def _check_benchmark(records: list[dict], benchmark: str, n_items: int | None) -> None:
    """Refuses records that are of another benchmark as far as they tell.

    Raises:
      ValueError: predictions of an evaluation on another benchmark, or trajectories of the other agent; without a
        split, more items or higher ids than the benchmark has.
    """
    if benchmark == "qa":
        return
    named = next((name for name in map(_benchmark_of, records) if name not in (None, benchmark)), None)
    if named is not None:
        raise ValueError(f"predictions must be of {benchmark}: got some of the benchmark {named!r}")
    kind = "coding" if benchmark == "mat_coding" else "search"
    other = next((record[_KIND] for record in records if record.get(_KIND) not in (None, kind)), None)
    if other is not None and benchmark in BENCHMARKS:
        raise ValueError(f"trajectories must be of the {kind} agent for {benchmark}: got some of kind {other!r}")
    if any(record.get("split") is not None for record in records):
        return
    ids = _ids(records) or []
    largest = max(ids) - min(1, min(ids)) + 1 if ids else 0
    if n_items is not None and max(largest, len(records)) > n_items:
        got = f"{len(records)} records" if len(records) > n_items else f"the id {max(ids)}"
        raise ValueError(f"{benchmark} has {n_items} items: got {got}, so the file is of another benchmark")


def _load_of(path: str, benchmark: str) -> tuple[list[dict], int | None]:
    """(records, items of the whole benchmark), which the records of an evaluation say themselves."""
    try:
        records = load_records(path)
    except ValueError:
        if benchmark in BENCHMARKS:
            raise
        records = []
    said = next((record["n_items"] for record in records if _benchmark_of(record) == benchmark), None)
    if benchmark not in BENCHMARKS and said is None:
        known = ", ".join(BENCHMARKS)
        raise ValueError(f"benchmark must be one of {known}, or that of the file's own records: got {benchmark!r}")
    return records, N_ITEMS.get(benchmark) if said is None else said


def _splits(records: list[dict], n_simple: int) -> list[str]:
    given = [record.get("split") for record in records]
    if any(split is not None for split in given):
        for place, split in enumerate(given):
            if split not in _SPLITS:
                raise ValueError(
                    f"'split' must be 'simple' or 'hard' in every record, or empty: got {split!r} at place {place}"
                )
        return given
    # the benchmarks number their items in order from 1, so an id tells the half even in a shuffled file
    ids = _ids(records)
    places = [i - min(1, min(ids)) for i in ids] if ids else range(len(records))
    return ["simple" if place < n_simple else "hard" for place in places]


def _score(prediction: str | None, answers: list[str], record: dict, benchmark: str) -> tuple[float, float]:
    if benchmark not in BENCHMARKS and record.get("choices"):
        right = choice.score_choice(prediction, record["choices"], answers[0])
        return right, right
    chinese = benchmark == "mat_coding" or (benchmark not in BENCHMARKS and record.get("kind") != "search")
    return text.score_answer(prediction, answers, chinese=chinese)


def score_file(path: str, benchmark: str) -> dict[str, object]:
    """Scores a file of predictions.

    Args:
      path: JSON list or JSON Lines of records with ``pred_answer`` (null where none was given) and the accepted
        answers under ``gt``, ``answers``, ``answer`` or ``golden_answers`` (one text or a list); ``id`` and
        ``split`` if known. Or the trajectories of a run, as io/trajectories.py writes them.
      benchmark: ``mat_coding``, ``mat_search``, ``qa`` or one of the sets of text by name, or another one that the
        records of an evaluation name.

    Returns:
      ``benchmark``, ``n``, ``n_items`` (of the whole benchmark, None where that is not known), ``missing`` (records
      without an answer), ``absent`` (items without a record, None as ``n_items``) and, for ``simple``, ``hard`` and
      ``avg`` (sets of text: ``avg`` alone),
      ``{"n", "f1", "em", "ci95": {"f1": [low, high], "em": [low, high]}}`` in percent.

    Raises:
      ValueError: unknown benchmark, or a file that does not hold such records or those of another benchmark.
    """
    records, n_items = _load_of(path, benchmark)
    ids = _ids(records)
    if ids and len(set(ids)) < len(ids):
        raise ValueError(f"ids must differ: got {next(i for i in ids if ids.count(i) > 1)} more than once")
    _check_benchmark(records, benchmark, n_items)
    f1, em, missing = [], [], 0
    for place, record in enumerate(records):
        prediction = record.get("pred_answer")
        if prediction is not None:
            prediction = _as_text(prediction, place, "pred_answer")
        missing += prediction is None or not prediction.strip()
        scores = _score(prediction, _answers(record, place), record, benchmark)
        f1.append(scores[0])
        em.append(scores[1])
    if BENCHMARKS.get(benchmark, 0) is None:
        parts = {"avg": aggregate.summarise(f1, em)}
    else:
        groups = [record.get("group") or place for place, record in enumerate(records)]
        splits = _splits(records, BENCHMARKS.get(benchmark, 0))
        parts = aggregate.by_split(*aggregate.by_group(f1, em, splits, groups))
    absent = None if n_items is None else max(n_items - len(records), 0)
    counts = {"n": len(records), "n_items": n_items, "missing": missing, "absent": absent}
    return {"benchmark": benchmark, **counts, **parts}


def format_text(scores: dict) -> str:
    """:func:`score_file`'s result as a table for people.

    >>> print(format_text({"benchmark": "qa", "n": 1, "missing": 0, "avg": aggregate.summarise([1.0], [1.0])}))
    qa: n=1, missing=0
               n      F1  95 % interval         EM  95 % interval
    avg        1  100.00  [100.00, 100.00]  100.00  [100.00, 100.00]
    """
    lines = [f"{scores['benchmark']}: n={scores['n']}, missing={scores['missing']}"]
    if scores["n"] < (scores.get("n_items") or 0):
        lines[0] += f", absent={scores['absent']} (a part: the benchmark has {scores['n_items']} items)"
    lines.append(f"{'':6}{'n':>6}{'F1':>8}  {'95 % interval':16}{'EM':>8}  {'95 % interval'}")
    for name in ("simple", "hard", "avg"):
        part = scores.get(name)
        if part is None:
            continue
        cells = []
        for metric in ("f1", "em"):
            if part["n"]:
                low, high = part["ci95"][metric]
                cells.append(f"{part[metric]:8.2f}  {f'[{low:.2f}, {high:.2f}]':16}")
            else:
                cells.append(f"{'-':>8}  {'':16}")
        lines.append(f"{name:6}{part['n']:6}{''.join(cells)}".rstrip())
    return "\n".join(lines)
