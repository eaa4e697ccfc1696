from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from secateur.data import Row, load_splits, read_records, read_table
from secateur.errors import DataError
from secateur.tasks import TextClassification

ROWS = [Row("set an alarm", "alarm"), Row('he said "hi", then left', "talk")]


def read_rows(file: Path, **columns: str) -> tuple[list[Row], dict[str, str]]:
    table = read_table(TextClassification, str(file), read_records(file), columns)
    return table.rows, table.columns


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\nset an alarm,alarm\n"he said ""hi"", then left",talk\n'),
        ("a.csv", '\ufefftext;label\r\nset an alarm;alarm\r\n"he said ""hi"", then left";talk\r\n'),
        ("a.tsv", 'Sentence\tIntent\nset an alarm\talarm\nhe said "hi", then left\ttalk\n'),
        ("a.tsv", 'text\tlabel\nset an alarm\talarm\n"he said ""hi"", then left"\ttalk\n'),
        (
            "a.jsonl",
            '{"text": "set an alarm", "label": "alarm"}\n\n'
            '{"label": " talk", "text": "he said \\"hi\\", then left"}',
        ),
        (
            "a.json",
            '[{"text": "set an alarm", "label": "alarm"}, '
            '{"text": "he said \\"hi\\", then left", "label": "talk"}]',
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_is_read(tmp_path: Path, name: str, content: str, packed: bool) -> None:
    file = tmp_path / (name + ".gz" if packed else name)
    file.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    rows, _ = read_rows(file)
    assert rows == ROWS


def test_columns_are_guessed_or_given(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,query,Category,note\n1,hello,greet,x\n")
    assert read_rows(file) == ([Row("hello", "greet")], {"text": "query", "label": "Category"})
    assert read_rows(file, text="note", label="id") == ([Row("x", "1")], {"text": "note", "label": "id"})


def test_a_quote_at_the_start_of_a_tsv_text_swallows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('text\tlabel\n"good\tpos\nbad\tneg\n')
    assert read_rows(file)[0] == [Row('"good', "pos"), Row("bad", "neg")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"sentence,intention\nhi,greet\n",
            r"none of the columns label, .*: sentence, intention\..*--label",
        ),
        ("a.csv", b"text,label\nhi\n", "line 2: 1 fields where the first line names 2"),
        ("a.csv", b"text,label\nhi,greet\n  ,greet\n", "line 3: 'text' is empty"),
        ("a.csv", b"text,label\nhi,a\nho,b\nhi,\n", "line 4: 'label' is empty"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"text,label\nhi,greet\n\xff\xfe,greet\n", "line 3: the bytes are not UTF-8"),
        ("a.jsonl", b'{"text": "hi", "label": "x"}\n{"text": "hi"\n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "hi", "label": "x"}\n{"text": "hi"}\n', "line 2: the row has no 'label'"),
        ("a.jsonl", b'{"text": 7, "label": "x"}\n', "line 1: 'text' must be a string, but is int"),
        (
            "a.jsonl",
            b'{"text": "hi", "label": {}}\n',
            "line 1: 'label' must be a string, a number or a list of",
        ),
        ("a.jsonl", b'"hi"\n', "line 1: each row must be a JSON object"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.parquet", b"PAR1", "cannot be read as a data set"),
        ("a.xlsx", b"PK", "unknown form"),
        ("a.csv.gz", b"text,label\n", "not a sound gzip file"),
        ("a.csv.gz", gzip.compress(b"text,label\nhi,greet\n" * 99, mtime=0)[:-9], "not a sound gzip file"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_splits(file)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_rows(tmp_path / "none.csv")
    file = tmp_path / "a.csv"
    file.write_text("text,label\nhi,greet\n")
    with pytest.raises(DataError, match="no column 'words'; its columns are: text, label"):
        read_rows(file, text="words")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    """The last one would win, without a word."""
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\nset an alarm,alarm,other\n")
    with pytest.raises(
        DataError, match=r"a\.csv, line 1: two columns are called 'text'; rename or delete one"
    ):
        read_records(path)
    path.write_text("text,label,,\nset an alarm,alarm,,\n")  # as spreadsheets write empty columns
    assert read_rows(path)[0] == ROWS[:1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_numbers_that_python_does_not_read(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / name
    path.write_text(form.replace("{}", '{"text": "a", "label": ' + "1" * 5000 + "}"))
    with pytest.raises(DataError, match=r"line 1: a number has thousands of digits\.$"):
        read_records(path)


def test_half_characters_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    whole = '{"text": "\\ud83c\\udf89 party", "label": "a"}\n'
    path.write_text(whole + '{"text": "\\ud83c party", "label": "a"}\n')
    with pytest.raises(DataError, match=r"line 2: '\\ud83c' is half a character"):
        read_records(path)
    path.write_text(whole)
    assert read_rows(path)[0] == [Row("\N{PARTY POPPER} party", "a")]


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\u2028still one\r\ntwo\x0cstill two\rthree\n".encode())
    found = [record.values["text"] for record in read_records(path)]
    assert found == ["one\u2028still one", "two\x0cstill two", "three"]


@pytest.mark.parametrize("labels", ["0.5,1.25", "0,1"])
def test_a_missing_number_is_no_label(tmp_path: Path, labels: str) -> None:
    """pandas writes nan; a class of that name would be learnt without a word."""
    first, second = labels.split(",")
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\none,{first}\ntwo,nan\nthree,{second}\n")
    with pytest.raises(DataError, match=r"line 3: 'label' must be a number for regression, but is 'nan'"):
        load_splits(path)


def test_a_huge_field_does_not_flood_the_message(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {n},0.{n}\n" for n in range(9)) + f"a,{'b' * 100_000}\n")
    with pytest.raises(DataError) as caught:
        load_splits(path, kind="regression")
    assert "line 11: 'label' must be a number for regression" in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
