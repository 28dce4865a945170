"""What the items of the user's own files must hold: readers of single values that say what is wrong, and where.

Every reader raises a ValueError of one sentence: the key, what it must be, what was got. ``where`` names the item, for
example ``line 3 of photos.jsonl``.
"""

import difflib
import json
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from arft_jax import protocol

# What is told, in a sentence, of each record of a file that is left out; where there is none a bad record is refused.
OnBad = Callable[[str], None]

_NEAR = 0.8  # likeness from which an unknown key is taken for a misspelt one
_SHOWN = 80


def wrong(where: str, key: str, must: str, got: Any) -> ValueError:
    """The error of one value: ``line 3 of a.jsonl: id must be text: got None``; ``where`` may be empty."""
    shown, head = repr(got), f"{where}: " if where else ""
    return ValueError(f"{head}{key} must {must}: got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '..'}")


def read_json_lines(
    path: str | os.PathLike, config_key: str = "config.data.tasks", on_bad: OnBad | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """(where, object) of every line of a JSONL file; empty lines are passed over.

    Args:
      path: the file.
      config_key: which names the file.
      on_bad: takes what is wrong with a line that is left out; None: it is refused.

    Raises:
      ValueError: an unreadable file, a line that is no JSON object, a NaN or an infinity in it, a text that nothing
        can write (:func:`check_texts`), no line at all.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data file must be a readable UTF-8 file: got {path} ({error})") from error
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            found.append((where, _object_of(line, where, config_key)))
        except ValueError as error:
            tell_or_raise(error, on_bad)
    if not found:
        raise ValueError(f"data file must hold items, one a line: got none in {path}")
    return found


def tell_or_raise(error: ValueError, on_bad: OnBad | None) -> None:
    """Tells of a record that is left out; raises the error where nobody is told."""
    if on_bad is None:
        raise error
    on_bad(str(error))


def _object_of(line: str, where: str, config_key: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be a JSON object: {error}") from error
    if not isinstance(item, dict):
        raise ValueError(f"{where} must be a JSON object: got {type(item).__name__}")
    for key, value in item.items():
        if not _is_finite(value):
            raise wrong(where, key, "hold no NaN or Infinity", value)
    check_texts(item, where, config_key)
    return item


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def check_texts(value: Any, where: str, config_key: str, key: str = "") -> None:
    """Refuses a text, however deep it lies in lists and objects, with a NUL or half of a surrogate pair.

    JSON can hold both. No file can: neither a tokenizer nor a page, nor the record of a trajectory would take them.

    Args:
      value: of JSON.
      where: the item.
      config_key: which names the file.
      key: under which the value stands; empty for a whole item.

    Raises:
      ValueError: such a text; the item, its key and the place below it are named.
    """
    left = [(key, value)]
    while left:
        name, each = left.pop()
        if isinstance(each, str):
            if not can_be_written(each):
                raise ValueError(f"{wrong(where, name, 'hold no NUL and no lone surrogate', each)} ({config_key})")
        elif isinstance(each, dict):
            for inner in each:
                if not can_be_written(str(inner)):
                    at = f"a key of {name}" if name else "a key"
                    raise ValueError(f"{wrong(where, at, 'hold no NUL and no lone surrogate', inner)} ({config_key})")
            left += [(f"{name}.{inner}" if name else str(inner), below) for inner, below in reversed(each.items())]
        elif isinstance(each, list):
            left += [(f"{name}[{place}]", below) for place, below in reversed(list(enumerate(each)))]


def can_be_written(text: str) -> bool:
    """Whether UTF-8 can hold a text, and a C library read it to its end: no lone surrogate, no NUL.

    >>> can_be_written("é"), can_be_written(chr(0xD800)), can_be_written(chr(0))
    (True, False, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def check_keys(item: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuses a key that looks like a misspelt known one; other keys are the data set's own."""
    for key in item:
        near = difflib.get_close_matches(key.lower(), known, 1, _NEAR) if key not in known else []
        if near:
            raise ValueError(f"{where}: the key {key!r} is unknown; did you mean {near[0]!r}?")


def check_different(where_by_id: dict[str, str], identity: str, where: str) -> None:
    """Notes the id of an item; refuses one that an earlier item has."""
    if identity in where_by_id:
        raise ValueError(f"{where}: id must differ from every other: got {identity!r}, as in {where_by_id[identity]}")
    where_by_id[identity] = where


def text_of(item: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A text; not blank where there is no default."""
    value = item.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise wrong(where, key, "be text" if default is not None else "be text that is not blank", value)
    return value


def choice_of(item: Mapping[str, Any], key: str, choices: Collection[str], where: str, default: str) -> str:
    """One of the choices."""
    value = item.get(key, default)
    if value not in choices:
        near = difflib.get_close_matches(value.lower(), choices, 1) if isinstance(value, str) else []
        error = wrong(where, key, f"be one of {', '.join(choices)}", value)
        raise ValueError(f"{error}; did you mean {near[0]!r}?") if near else error
    return value


def id_of(item: Mapping[str, Any], where: str) -> str:
    """The item's id, a text or an integer, as text."""
    value = item.get("id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise wrong(where, "id", "be text or an integer", value)
    return str(value)


def answers_of(value: Any, key: str, where: str) -> tuple[str, ...]:
    """Accepted answers: one text or number, or a list of them; none blank, none NaN."""
    answers = value if isinstance(value, list) else [value]
    if not answers:
        raise wrong(where, key, "hold an answer", value)
    for answer in answers:
        if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
            raise wrong(where, key, "be a text, a number or a list of them", value)
        if (isinstance(answer, str) and not answer.strip()) or not _is_finite(answer):
            raise wrong(where, key, "hold no blank text and no NaN", value)
    return tuple(map(str, answers))


def list_of(item: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A list of anything; empty where the key is not there."""
    values = item.get(key, [])
    if not isinstance(values, list):
        raise wrong(where, key, "be a list", values)
    return values


def names_of(item: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of different texts; empty where the key is not there."""
    values = item.get(key, [])
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise wrong(where, key, "be a list of texts", values)
    if len(set(values)) < len(values):
        raise wrong(where, key, "hold each text once", values)
    return tuple(values)


def check_problems(kinds: Iterable[str], key: str, where: str) -> None:
    """Refuses a kind of degradation that the protocol does not know."""
    for kind in kinds:
        choice_of({key: kind}, key, protocol.KINDS, where, "")
