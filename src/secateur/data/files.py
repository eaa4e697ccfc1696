"""Files to records: CSV, TSV and JSON lines, plain or gzip-compressed, with the line of every mistake."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import DataError

__all__ = ["SUFFIXES", "Record", "read_records", "suffix_of"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")

csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than one long document


class Record(NamedTuple):
    """What a file says in one place: the line, or the number of the object in a JSON list, and the values."""

    line: int
    values: Mapping[str, Any]


def suffix_of(path: Path) -> str | None:
    """Returns the suffix that names the form of a data file, without `.gz`; None for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_records(path: Path) -> list[Record]:
    """Reads a data file.

    Args:
        path: A file whose name ends in one of `SUFFIXES`, with or without `.gz`.

    Returns:
        The records in the order of the file, at least one.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds no record.
    """
    content = _read_text(path)
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        records = list(_delimited(path, content, "\t" if suffix == ".tsv" else _delimiter(content)))
    elif suffix is not None:
        records = list(_json(path, content))
    else:
        raise DataError(
            f"{path} has an unknown form; files may end in {', '.join(SUFFIXES)}, each also with .gz."
        )
    if not records:
        raise DataError(f"{path} holds no rows.")
    return records


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a sound gzip file: {error}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: the bytes are not UTF-8; save the file as UTF-8.") from None


def _delimiter(content: str) -> str:
    """Spreadsheets in many countries write semicolons into files called CSV."""
    header = content.split("\n", 1)[0]
    return ";" if ";" in header and "," not in header else ","


def _delimited(path: Path, content: str, delimiter: str) -> Iterator[Record]:
    # TSV knows no quoting: a text that merely starts with a quote must not swallow the lines after it.
    tabs = delimiter == "\t"
    lines = io.StringIO(content, newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if tabs:
                cells = [_unquote(cell) for cell in cells]
            if header is None:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} fields where the first line names "
                    f"{len(header)}; put quotes around fields that hold the separator."
                )
            else:
                yield Record(reader.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _unquote(cell: str) -> str:
    """Takes off the quotes that pandas and spreadsheets put around a TSV field that holds quotes."""
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _json(path: Path, content: str) -> Iterator[Record]:
    if content.lstrip().startswith("["):
        for number, record in enumerate(_parse(path, 1, content), start=1):
            yield Record(number, _object(path, number, record))
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield Record(number, _object(path, number, _parse(path, number, line)))


def _parse(path: Path, line: int, content: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise DataError(
            f"{path}, line {where}: not valid JSON ({error.msg}, column {error.colno})."
        ) from None
    except RecursionError:
        raise DataError(f"{path}, line {line}: the JSON is nested too deeply.") from None


def _object(path: Path, line: int, record: Any) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise DataError(
            f'{path}, line {line}: each row must be a JSON object, as {{"text": ..., "label": ...}}.'
        )
    return record
