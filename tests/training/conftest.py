"""Tiny models and data, made once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from secateur.data import Row, Splits

WORDS = {
    "weather": ["rain", "sun", "snow", "cold", "warm"],
    "music": ["song", "band", "album", "guitar", "loud"],
    "travel": ["train", "flight", "hotel", "ticket", "border"],
}
FILLERS = ["the", "a", "me", "please", "now", "today", "tell", "find"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *FILLERS,
        *(word for words in WORDS.values() for word in words),
    ]
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_config(**changes: object) -> BertConfig:
    values = {
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
    }
    return BertConfig(**(values | changes))


def tiny_rows(count: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        label = list(WORDS)[index % len(WORDS)]
        words = [*rng.choices(WORDS[label], k=2), *rng.choices(FILLERS, k=rng.randint(1, 8))]
        rng.shuffle(words)
        rows.append(Row(" ".join(words), label))
    return rows


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny_splits() -> Splits:
    return Splits("tiny", tiny_rows(96, 0), tiny_rows(12, 1), tiny_rows(30, 2), sorted(WORDS))


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
