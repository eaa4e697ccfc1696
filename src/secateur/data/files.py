"""Files to rows: CSV, TSV and JSON lines, plain or gzip-compressed, with the line of every mistake."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import DataError
from secateur.tasks.text_classification import LABEL_COLUMNS, TEXT_COLUMNS, Row

__all__ = ["SUFFIXES", "Columns", "read_rows", "suffix_of"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")

csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than one long document


class Columns(NamedTuple):
    """The columns that hold text and label."""

    text: str
    label: str


def suffix_of(path: Path) -> str | None:
    """Returns the suffix that names the form of a data file, without `.gz`; None for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_rows(path: Path, text: str | None = None, label: str | None = None) -> tuple[list[Row], Columns]:
    """Reads a data file.

    Args:
        path: A file whose name ends in one of `SUFFIXES`, with or without `.gz`.
        text: The column that holds the text; None looks for one of the usual names.
        label: The column that holds the label; None looks for one of the usual names.

    Returns:
        The rows in the order of the file, and the columns that were read.

    Raises:
        DataError: If the file cannot be read, lacks a column, or a row has no text or no label.
    """
    content = _read_text(path)
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        records = _delimited(path, content, "\t" if suffix == ".tsv" else _delimiter(content))
    elif suffix is not None:
        records = _json(path, content)
    else:
        raise DataError(
            f"{path} has an unknown form; files may end in {', '.join(SUFFIXES)}, each also with .gz."
        )
    rows: list[Row] = []
    columns: Columns | None = None
    for line, record in records:
        if columns is None:
            columns = Columns(
                _column(path, record, text, TEXT_COLUMNS, "--text"),
                _column(path, record, label, LABEL_COLUMNS, "--label"),
            )
        rows.append(_row(path, line, record, columns))
    if columns is None:
        raise DataError(f"{path} holds no rows.")
    return rows, columns


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


def _delimited(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
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
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _unquote(cell: str) -> str:
    """Takes off the quotes that pandas and spreadsheets put around a TSV field that holds quotes."""
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _json(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if content.lstrip().startswith("["):
        for number, record in enumerate(_parse(path, 1, content), start=1):
            yield number, _object(path, number, record)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, _object(path, number, _parse(path, number, line))


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


def _column(
    path: Path, record: Mapping[str, Any], wanted: str | None, usual: Sequence[str], option: str
) -> str:
    present = ", ".join(map(str, record))
    if wanted is not None:
        if wanted not in record:
            raise DataError(f"{path} has no column {wanted!r}; its columns are: {present}.")
        return wanted
    lowered = {str(name).lower(): str(name) for name in record}
    found = next((lowered[name] for name in usual if name in lowered), None)
    if found is None:
        raise DataError(
            f"{path} has none of the columns {', '.join(usual)}; its columns are: {present}. "
            f"Name the right one with {option}."
        )
    return found


def _row(path: Path, line: int, record: Mapping[str, Any], columns: Columns) -> Row:
    missing = [name for name in columns if record.get(name) is None]
    if missing:
        raise DataError(f"{path}, line {line}: the row has no {missing[0]!r}.")
    text, label = record[columns.text], record[columns.label]
    if not isinstance(text, str):
        raise DataError(
            f"{path}, line {line}: {columns.text!r} must be a string, but is {type(text).__name__}."
        )
    if not isinstance(label, (str, int)):
        raise DataError(
            f"{path}, line {line}: {columns.label!r} must be a string or an integer, "
            f"but is {type(label).__name__}."
        )
    label = str(label).strip()
    if not text.strip() or not label:
        empty = columns.label if text.strip() else columns.text
        raise DataError(f"{path}, line {line}: {empty!r} is empty; fill it or delete the row.")
    return Row(text, label)
