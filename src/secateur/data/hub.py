"""Data sets of the Hugging Face hub, and folders in its form, through the library `datasets`.

The library runs in a process of its own: what it caches and imports ends with it, so that nothing stays in
the user's home and nothing heavy in the caller's memory. This is the only file that imports it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data.record import Record
from secateur.errors import DataError, MissingExtraError

__all__ = ["HubData", "is_hub_id", "load_from_hub"]

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
_FEATURES = "features.json"
_MISSING, _FAILED = 3, 4  # exit codes of the process below
_PLACES = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE", "HF_MODULES_CACHE")


@dataclass(frozen=True)
class HubData:
    """What a data set holds.

    Attributes:
        splits: Records by the data set's own names of splits.
        names: Labels by column, where the data set names them.
    """

    splits: dict[str, list[Record]]
    names: dict[str, list[str]]


def is_hub_id(name: str) -> bool:
    """Says whether a name has the form `org/name` or `org/name:config`."""
    return _ID.fullmatch(name) is not None


def load_from_hub(name: str, cache: str | os.PathLike[str] | None = None) -> HubData:
    """Loads a data set.

    Args:
        name: `org/name` or `org/name:config`; or an existing folder or parquet file.
        cache: Where downloads stay; None keeps them in a temporary folder that is deleted.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such data set, or it cannot be reached or read.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-data-") as work:
        out = Path(work) / "rows"
        out.mkdir()
        home = Path(work) / "cache" if cache is None else Path(cache).expanduser()
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import _main; _main()", name, str(out)],
            env=_environment(os.environ, home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        said = (done.stderr.strip().splitlines() or ["no reason is given"])[-1].rstrip(".")
        if done.returncode == _MISSING:
            raise MissingExtraError(
                f"Data sets of the hub and parquet files need {said}, which is not installed: "
                f"pip install 'secateur[train]'."
            )
        if done.returncode:
            if os.path.exists(name):
                raise DataError(f"{name} cannot be read as a data set ({said}): save it again.")
            raise DataError(
                f"{name} is no file or folder here, and cannot be loaded as a data set of the hub ({said}): "
                f"check the name, its configuration (org/name:config) and the connection."
            )
        names = json.loads((out / _FEATURES).read_text(encoding="utf-8"))
        files = sorted(out.glob("*.jsonl"), key=lambda file: int(file.name.split(".", 1)[0]))
        return HubData(
            {file.name.split(".", 1)[1].removesuffix(".jsonl"): _read(file) for file in files}, names
        )


def _environment(given: Mapping[str, str], home: Path) -> dict[str, str]:
    """Returns the environment in which nothing is written outside `home`; the login is kept."""
    environment = {name: value for name, value in given.items() if name not in _PLACES}
    before = Path(given.get("HF_HOME") or Path(given.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    environment.setdefault("HF_TOKEN_PATH", str(before.expanduser() / "token"))
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
    environment.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    return environment


def _read(file: Path) -> list[Record]:
    with file.open(encoding="utf-8") as lines:
        return [Record(number, json.loads(line)) for number, line in enumerate(lines, start=1)]


def _main() -> None:
    """Writes the splits of a data set as JSON lines; runs in the process of `load_from_hub`."""
    name, out = sys.argv[1], Path(sys.argv[2])
    try:
        from datasets import DatasetDict, load_dataset
    except ModuleNotFoundError as error:
        print(error.name, file=sys.stderr)
        sys.exit(_MISSING)
    try:
        if Path(name).is_file():
            found: Any = load_dataset("parquet", data_files={"train": name})
        elif Path(name).is_dir():
            found = load_dataset(name)
        else:
            place, _, config = name.partition(":")
            found = load_dataset(place, config or None)
        if not isinstance(found, DatasetDict):
            raise ValueError("it has no splits")
        names: dict[str, list[str]] = {}
        for number, (split, rows) in enumerate(found.items()):
            for column, feature in rows.features.items():
                labels = getattr(getattr(feature, "feature", feature), "names", None)
                if labels:
                    names[column] = list(labels)
            with (out / f"{number}.{split}.jsonl").open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, default=str) + "\n")
        (out / _FEATURES).write_text(json.dumps(names), encoding="utf-8")
    except Exception as error:  # the library raises many kinds, all of them worth one sentence
        print(" ".join(str(error).split())[:300] or type(error).__name__, file=sys.stderr)
        sys.exit(_FAILED)
