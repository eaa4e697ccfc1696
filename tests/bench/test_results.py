"""JSON files of figures are whole, readable and never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.bench.results import write_results
from secateur.errors import DataError


def test_results_are_written_into_a_new_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    write_results(path, {"ms": 1})
    write_results(path, {"ms": 2.5, "name": "größer"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ms": 2.5, "name": "größer"}
    assert [entry.name for entry in path.parent.iterdir()] == ["figures.json"]


def test_dash_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_results(Path("-"), {"ms": 1})
    assert json.loads(capsys.readouterr().out) == {"ms": 1}


def test_what_is_no_number_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_results(path, {"ms": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(path, {"ms": float("nan")})
    assert json.loads(path.read_text()) == {"ms": 1}


def test_a_folder_or_an_impossible_place_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        write_results(tmp_path, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_results(tmp_path / "file" / "figures.json", {})
