"""Tiny models and data, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import TASK, tiny_config, tiny_rows, tiny_tokenizer
from transformers import BertForSequenceClassification, BertModel

from secateur.data import Splits


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny_splits() -> Splits:
    return Splits("tiny", TASK, tiny_rows(96, 0), tiny_rows(12, 1), tiny_rows(30, 2))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder without a head, as sentence-transformers saves one."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    BertModel(tiny_config()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose labels stand in another order than sorted."""
    torch.manual_seed(0)
    labels = ["weather", "travel", "music"]
    config = tiny_config(
        num_labels=3, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
    )
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
