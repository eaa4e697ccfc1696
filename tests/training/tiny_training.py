"""Tiny tokenizer, config, rows, recipes and Trainers for tests that train."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from secateur.data import Row
from secateur.recipe import Recipe
from secateur.tasks import TextClassification
from secateur.training import CompressionCallback
from secateur.training.encoding import Features, Padder, encode_rows

WORDS = {
    "weather": ["rain", "sun", "snow", "cold", "warm"],
    "music": ["song", "band", "album", "guitar", "loud"],
    "travel": ["train", "flight", "hotel", "ticket", "border"],
}
TASK = TextClassification(sorted(WORDS))
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


LABELS = ["music", "travel", "weather"]
PRUNING = {"type": "pruning", "sparsity": 0.75, "start_epoch": 0, "end_epoch": 1, "update_every": 0.25}
DISTILLATION = {"type": "distillation", "hardness": 0.9, "temperature": 2.0}
QUANTIZATION = {"type": "quantization", "start_epoch": 1, "freeze_epoch": 1.75}


def recipe(*stages: dict[str, Any], **training: Any) -> Recipe:
    settings = {"epochs": 2, "learning_rate": 1e-3, **training}
    return Recipe.model_validate({"name": "test", "training": settings, "stages": stages})


def tiny_model(seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(**{"num_labels": 3, **changes}))


def rows(count: int = 32) -> Features:
    return encode_rows(tiny_tokenizer(), TASK, tiny_rows(count, 0), 24)


def trainer(
    folder: Path,
    model: BertForSequenceClassification | None,
    callback: CompressionCallback | None,
    train: Features | None = None,
    others: tuple[Any, ...] = (),
    **arguments: Any,
) -> Trainer:
    settings: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "remove_unused_columns": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **(settings | arguments)),
        data_collator=Padder(0),
        train_dataset=train or rows(),
        eval_dataset=rows(8),
        callbacks=[*([] if callback is None else [callback]), *others],
    )
