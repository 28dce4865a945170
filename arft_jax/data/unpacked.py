"""Tables with pictures in them, Parquet or TSV, unpacked once: the pictures as files, the rest as JSON lines.

Pictures of 8K make such a table gigabytes large. It is read row by row, and what is made lies beside it in a folder of
its name, ``hr_bench_8k.parquet.unpacked``: ``rows.jsonl``, and each picture once, named by its content. From then on
pictures are files that are decoded when they are looked at (image_files.py). The folder is whole or absent, and is made
again where the table has changed.
"""

import base64
import binascii
import csv
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from arft_jax.data import items

ROWS, SOURCE = "rows.jsonl", "source.json"
_REFERENCE = 64  # characters; a shorter text in the place of a picture is the index of a row that has it


def unpack(table: pathlib.Path, columns: Sequence[str], picture: str, index: str = "") -> pathlib.Path:
    """The folder with the rows and pictures of a table, made where it is not there.

    Args:
      table: a ``.parquet`` or ``.tsv`` file.
      columns: that are kept; others may be there.
      picture: the column of a picture: base64 or the bytes of a file, alone or under ``bytes`` as Hugging Face's
        ``datasets`` has them; null where a row has none. ``rows.jsonl`` has the file's name in its place.
      index: the column that numbers the rows; a short text in the place of a picture names the row that has it.

    Raises:
      ValueError: a table that cannot be read, is of another layout, or has a row without a picture's bytes; a folder
        that cannot be written.
    """
    folder = table.with_name(f"{table.name}.unpacked")
    stat = table.stat()
    source = {"bytes": stat.st_size, "time_ns": stat.st_mtime_ns, "columns": [*columns, picture]}
    if _is_of(folder, source):
        return folder
    try:
        made = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=table.parent))
    except OSError as error:
        raise ValueError(
            f"the pictures of {table} are unpacked beside it: {table.parent} cannot be written ({error.strerror}) "
            "(config.data.dir)"
        ) from error
    try:
        with open(made / ROWS, "w", encoding="utf-8") as lines:
            names: dict[str, str] = {}
            for number, row in enumerate(_rows(table, [*columns, picture])):
                where = f"row {number} of {table}"
                row[picture] = _write(row[picture], made, names, where, picture)
                if index:
                    names[str(row[index])] = row[picture]
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        (made / SOURCE).write_text(json.dumps(source), encoding="utf-8")
        made.chmod(0o755)  # mkdtemp's is for its owner alone
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def _is_of(folder: pathlib.Path, source: dict[str, Any]) -> bool:
    try:
        return json.loads((folder / SOURCE).read_text(encoding="utf-8")) == source
    except (OSError, ValueError):
        return False


def _rows(table: pathlib.Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table with those columns, as JSON has them but for bytes."""
    read = _parquet_rows if table.suffix == ".parquet" else _tsv_rows
    for row in read(table, columns):
        yield {column: None if _is_nan(value) else value for column, value in row.items()}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _check_columns(found: Sequence[str], columns: Sequence[str], table: pathlib.Path) -> None:
    if missing := [column for column in columns if column not in found]:
        raise ValueError(
            f"{table} must have the columns {', '.join(columns)}: missing {', '.join(missing)}, got {', '.join(found)} "
            "(config.data.dir)"
        )


def _parquet_rows(table: pathlib.Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # takes a second
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table, pre_buffer=False, buffer_size=1 << 20) as file:  # a row group is not read ahead
            _check_columns(file.schema_arrow.names, columns, table)
            for batch in file.iter_batches(batch_size=1, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{table} must be a readable Parquet file: {error} (config.data.dir)") from error


def _tsv_rows(table: pathlib.Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    limit = csv.field_size_limit(sys.maxsize)  # a picture is one field
    try:
        with open(table, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            _check_columns(reader.fieldnames or (), columns, table)
            for row in reader:
                yield {column: row[column] for column in columns}
    except (csv.Error, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{table} must be a readable TSV file: {error} (config.data.dir)") from error
    finally:
        csv.field_size_limit(limit)


def _write(value: Any, folder: pathlib.Path, names: dict[str, str], where: str, key: str) -> str | None:
    """The name of a picture's file, which is written where it is not there."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        return None
    if isinstance(value, str) and len(value) <= _REFERENCE:
        if value not in names:
            raise items.wrong(where, key, "be a picture, or the index of an earlier row that has one", value)
        return names[value]
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise items.wrong(where, key, f"be base64 ({error})", value) from error
    if not isinstance(value, bytes) or not value:
        raise items.wrong(where, key, "be the bytes of a picture", value)
    name = hashlib.sha256(value).hexdigest()[:32]
    if not os.path.exists(folder / name):
        (folder / name).write_bytes(value)
    return name
