"""How long contexts are cut while training."""

from __future__ import annotations

import pytest
import tiny_tasks

from secateur.errors import UnsupportedError
from secateur.tasks import QuestionAnswering, TextClassification
from secateur.training.lengths import fit_window


def test_a_doc_stride_gives_other_windows_and_leaves_the_task_as_it_was() -> None:
    splits = tiny_tasks.splits("questions")
    task = splits.task
    assert isinstance(task, QuestionAnswering)
    tokenizer = tiny_tasks.tokenizer().backend_tokenizer
    rows = [row._replace(context=" ".join([row.context] * 6)) for row in splits.train[:4]]
    counts = [len(fit_window(task, 16, stride).encode(tokenizer, rows, 16)) for stride in (0, 2, 5)]
    assert counts == sorted(set(counts))
    assert (task.window, task.doc_stride) == (384, 128)


def test_other_tasks_have_no_stride() -> None:
    with pytest.raises(UnsupportedError, match="doc_stride is for question-answering"):
        fit_window(TextClassification(["a", "b"]), None, 64)
