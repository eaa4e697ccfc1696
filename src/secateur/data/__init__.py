"""Files and folders to rows and splits, with checks. Free of torch."""

from secateur.data.files import read_records
from secateur.data.record import Record
from secateur.data.rows import Table, read_table
from secateur.data.splits import PACKAGED, Splits, load_splits
from secateur.tasks.text_classification import Row

__all__ = ["PACKAGED", "Record", "Row", "Splits", "Table", "load_splits", "read_records", "read_table"]
