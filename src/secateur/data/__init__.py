"""Files and folders to rows and splits, with checks. Free of torch."""

from secateur.data.files import Columns, read_rows
from secateur.data.splits import PACKAGED, Splits, load_splits
from secateur.tasks.text_classification import Row

__all__ = ["PACKAGED", "Columns", "Row", "Splits", "load_splits", "read_rows"]
