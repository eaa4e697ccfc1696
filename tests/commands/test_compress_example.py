"""The command that `secateur compress` says to try next is one that its model understands."""

from pathlib import Path

import pytest

from secateur.commands.before_and_after import example_of
from secateur.data import load_splits


@pytest.mark.parametrize(("columns", "names_pair"), [("premise,hypothesis", True), ("text,note", False)])
def test_a_pair_is_asked_with_a_pair(tmp_path: Path, columns: str, names_pair: bool) -> None:
    file = tmp_path / "rows.csv"
    rows = "".join(f"day {i},more,{'yes' if i % 2 else 'no'}\n" for i in range(60))
    file.write_text(f"{columns},label\n{rows}")
    assert ('"text_pair"' in example_of(load_splits(file))) == names_pair
