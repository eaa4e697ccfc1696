"""Files to records, plain or gzip-compressed, with the line of every mistake."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.data.conll import looks_like_conll, read_conll
from secateur.data.record import Record
from secateur.data.squad_json import is_squad, read_squad
from secateur.errors import DataError
from secateur.tasks import Task, TokenClassification

__all__ = ["SUFFIXES", "Record", "read_records", "suffix_of"]

_CONLL = (".conll", ".bio", ".iob", ".iob2")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", *_CONLL)

_LINE_END = re.compile(r"\r\n|\r|\n")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than one long document


def suffix_of(path: Path) -> str | None:
    """Returns the suffix that names the form of a data file, without `.gz`; None for any other file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_records(path: Path, task: type[Task] | None = None) -> list[Record]:
    """Reads a data file.

    Args:
        path: A file whose name ends in one of `SUFFIXES`, with or without `.gz`.
        task: What it is for; decides whether `.txt` holds words with tags or a text a line. None looks.

    Returns:
        The records in the order of the file, at least one.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds no record.
    """
    content = _read_text(path)
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        records = list(_delimited(path, content, "\t" if suffix == ".tsv" else _delimiter(content)))
    elif suffix in _CONLL:
        records = read_conll(path, content)
    elif suffix == ".txt":
        tagged = looks_like_conll(content) if task is None else task is TokenClassification
        records = read_conll(path, content) if tagged else _lines(content)
    elif suffix is not None:
        records = list(_json(path, content))
        if _ESCAPED_SURROGATE.search(content):
            _refuse_half_characters(path, records)
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
                header = _header(path, [cell.strip() for cell in cells])
            elif len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} fields where the first line names "
                    f"{len(header)}; put quotes around fields that hold the separator."
                )
            else:
                yield Record(reader.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _header(path: Path, columns: list[str]) -> list[str]:
    twice = next((name for place, name in enumerate(columns) if name and name in columns[:place]), None)
    if twice is not None:
        raise DataError(f"{path}, line 1: two columns are called {twice!r}; rename or delete one.")
    return columns


def _unquote(cell: str) -> str:
    """Takes off the quotes that pandas and spreadsheets put around a TSV field that holds quotes."""
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _json(path: Path, content: str) -> Iterator[Record]:
    whole = _parse(path, 1, content) if content.lstrip().startswith("[") else _nested(path, content)
    if whole is not None:
        if is_squad(whole):
            yield from read_squad(path, whole)
            return
        for number, record in enumerate(whole, start=1):
            yield Record(number, _object(path, number, record))
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield Record(number, _object(path, number, _parse(path, number, line)))


def _nested(path: Path, content: str) -> list[Any] | None:
    """Returns the rows of a file that is one object with a list called data, as SQuAD is; else None."""
    if suffix_of(path) != ".json":
        return None
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return None  # JSON lines, or a mistake that is found there
    rows = whole.get("data") if isinstance(whole, dict) else None
    return rows if isinstance(rows, list) else None


def _refuse_half_characters(path: Path, records: list[Record]) -> None:
    for record in records:
        try:
            json.dumps(record.values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}, line {record.line}: {error.object[error.start : error.end]!a} is half a character, "
                f"as text that was cut in the middle of one has; write the whole one or delete it."
            ) from None


def _lines(content: str) -> list[Record]:
    # not splitlines, which ends a line at a form feed or U+2028 as well
    lines = enumerate(_LINE_END.split(content), start=1)
    return [Record(number, {"text": line.strip()}) for number, line in lines if line.strip()]


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
    except ValueError:  # the only other reason for which Python gives up
        raise DataError(f"{path}, line {line}: a number has thousands of digits.") from None


def _object(path: Path, line: int, record: Any) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise DataError(
            f'{path}, line {line}: each row must be a JSON object, as {{"text": ..., "label": ...}}.'
        )
    return record
