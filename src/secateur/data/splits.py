"""Rows to the three splits of a data set, with everything that looks wrong counted or refused."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secateur.data.files import SUFFIXES, Columns, read_rows, suffix_of
from secateur.errors import DataError
from secateur.tasks.text_classification import OUT_OF_SCOPE_LABELS, Row

__all__ = ["PACKAGED", "Splits", "load_splits"]

_PACKAGED_FOLDER = Path(__file__).parent / "packaged"
PACKAGED = ("assistant_intents",)

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_USUAL_COLUMNS = Columns("text", "label")
_SHARE = 0.1  # of the training rows, for a split that has no file of its own


@dataclass(frozen=True)
class Splits:
    """A data set ready for training and measuring.

    Attributes:
        name: Where it came from.
        train: Rows to learn from.
        validation: Rows to choose by.
        test: Rows to report on.
        labels: The labels of the training rows, sorted: numbers by value, anything else by name.
        out_of_scope: Test rows labelled out of scope where that is no trained label; never part of `test`.
        columns: The columns that were read.
        leaks: Texts that occur in two splits, by pair of splits.
        notes: What was decided on the way, one sentence each.
    """

    name: str
    train: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: list[str]
    out_of_scope: list[Row] = field(default_factory=list)
    columns: Columns = _USUAL_COLUMNS
    leaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Returns a few lines for the user: sizes, labels, columns, and what to look at."""
        counts = Counter(row.label for row in self.train)
        sizes = f"train {len(self.train)}, validation {len(self.validation)}, test {len(self.test)}"
        if self.out_of_scope:
            sizes += f", out of scope {len(self.out_of_scope)}"
        lines = [
            f"{self.name}: {sizes} rows",
            f"{len(self.labels)} labels, {min(counts.values())} to {max(counts.values())} training rows each",
            f"columns: text {self.columns.text!r}, label {self.columns.label!r}",
            *self.notes,
        ]
        lines += [
            f"{count} {'text occurs' if count == 1 else 'texts occur'} in both {pair}."
            for pair, count in self.leaks.items()
            if count
        ]
        return "\n".join(lines)


def load_splits(path: str | os.PathLike[str], text: str | None = None, label: str | None = None) -> Splits:
    """Loads a data set.

    Args:
        path: A CSV, TSV or JSON lines file, plain or `.gz`; or a folder with one such file for train and,
            where they exist, validation and test; or the name of a packaged set. What has no file of its own
            is split off the training rows: 10 % a split, by label, chosen by a hash of the text, so that the
            order of the rows does not matter.
        text: The column that holds the text; None looks for one of the usual names.
        label: The column that holds the label; None looks for one of the usual names.

    Returns:
        The splits.

    Raises:
        DataError: If something is missing, unreadable, empty or cannot be learnt from.
    """
    source = _locate(path)
    notes: list[str] = []
    parts: dict[str, list[Row]] = {}
    files = _split_files(source) if source.is_dir() else {"train": source}
    columns: Columns | None = None
    for split, file in files.items():
        wanted = columns or Columns(text or "", label or "")
        parts[split], found = read_rows(file, wanted.text or None, wanted.label or None)
        columns = columns or found
    missing = [split for split in ("test", "validation") if split not in parts]
    if missing:
        parts |= _carve(parts["train"], missing, notes)
    train = parts["train"]
    labels = _sorted_labels({row.label for row in train})
    _check_labels(source, labels, train)
    unseen = OUT_OF_SCOPE_LABELS - set(labels)
    out_of_scope = [row for row in parts["test"] if row.label in unseen]
    for split in ("validation", "test"):
        kept = [row for row in parts[split] if row.label not in unseen]
        if split == "validation" and len(kept) < len(parts[split]):
            notes.append(f"{len(parts[split]) - len(kept)} out-of-scope validation rows are not used.")
        parts[split] = kept
        _check_known(files.get(split, source), kept, labels)
    return Splits(
        name=str(path),
        train=train,
        validation=parts["validation"],
        test=parts["test"],
        labels=labels,
        out_of_scope=out_of_scope,
        columns=columns or _USUAL_COLUMNS,
        leaks=_leaks(parts),
        notes=notes,
    )


def _locate(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    if source.exists():
        return source
    if str(path) in PACKAGED:
        return _PACKAGED_FOLDER / str(path)
    raise DataError(
        f"{path} does not exist; give a data file, a folder, or the packaged set {', '.join(PACKAGED)}."
    )


def _split_files(folder: Path) -> dict[str, Path]:
    """Finds the file of each split by its name; train comes first, because it decides the columns."""
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        suffix = suffix_of(file)
        if suffix is not None and file.is_file():
            stem = file.name.lower().removesuffix(".gz").removesuffix(suffix)
            split = next((name for name, usual in _SPLIT_NAMES.items() if stem in usual), None)
            if split is not None:
                by_split[split].append(file)
    for split, found in by_split.items():
        if len(found) > 1:
            raise DataError(
                f"{folder} has several {split} files ({', '.join(f.name for f in found)}): keep one."
            )
    if "train" not in by_split:
        present = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder} has no train file; it must be called train with one of the endings "
            f"{', '.join(SUFFIXES)}, also with .gz. Found: {present}."
        )
    return {split: by_split[split][0] for split in _SPLIT_NAMES if split in by_split}


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())


def _carve(rows: Sequence[Row], missing: Sequence[str], notes: list[str]) -> dict[str, list[Row]]:
    """Splits validation or test off the training rows; equal texts stay together, repeats are dropped."""
    distinct = list(dict.fromkeys(rows))
    if len(distinct) < len(rows):
        notes.append(f"{len(rows) - len(distinct)} repeated rows were dropped.")
    label_of: dict[str, str] = {}
    for row in distinct:
        text = _normalized(row.text)
        label_of[text] = min(row.label, label_of.get(text, row.label))
    by_label: dict[str, list[str]] = defaultdict(list)
    for text, label in label_of.items():
        by_label[label].append(text)
    split_of: dict[str, str] = {}
    for texts in by_label.values():
        texts.sort(key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        share = round(_SHARE * len(texts)) or int(len(texts) > len(missing) + 1)
        for position, split in enumerate(missing):
            split_of |= dict.fromkeys(texts[position * share : (position + 1) * share], split)
    parts: dict[str, list[Row]] = {split: [] for split in ("train", *missing)}
    for row in distinct:
        parts[split_of.get(_normalized(row.text), "train")].append(row)
    for split in missing:
        if not parts[split]:
            raise DataError(
                f"There are too few rows to set some apart for {split}: give more, or a {split} file."
            )
        notes.append(
            f"{split} has no file: {len(parts[split])} training rows were set apart by a hash of the text."
        )
    return parts


def _sorted_labels(labels: set[str]) -> list[str]:
    numbers = all(label.isascii() and label.isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (int(label) if numbers else 0, label))


def _check_labels(source: Path, labels: Sequence[str], train: Sequence[Row]) -> None:
    if len(labels) < 2:
        raise DataError(
            f"{source} has {len(train)} training rows with the only label {labels[0]!r}; "
            f"at least two labels are needed."
        )


def _check_known(file: Path, rows: Sequence[Row], labels: Sequence[str]) -> None:
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        raise DataError(
            f"{file}: the label {unknown[0]!r} occurs in no training row"
            f"{f' (and {len(unknown) - 1} other labels neither)' if len(unknown) > 1 else ''}: "
            f"add training rows for it or delete its rows."
        )


def _leaks(parts: dict[str, list[Row]]) -> dict[str, int]:
    texts = {split: {_normalized(row.text) for row in parts[split]} for split in _SPLIT_NAMES}
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    return {f"{first} and {second}": len(texts[first] & texts[second]) for first, second in pairs}
