"""Tiny rows, and teachers that know them, for tests of the BiLSTM."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from secateur.data import Splits
from secateur.tasks import TextClassification, TokenClassification
from secateur.tasks.text_classification import Row as TextRow
from secateur.tasks.token_classification import Row as TagRow
from secateur.training import fine_tune

WORDS = {
    "weather": ["rain", "sun", "snow", "cold", "warm"],
    "travel": ["train", "flight", "hotel", "ticket", "border"],
    "music": ["song", "band", "album", "guitar", "loud"],
}
FILLERS = ["the", "a", "me", "please", "now", "today", "tell", "find"]
_TOPIC_OF = {word: topic for topic, words in WORDS.items() for word in words}


def _words(count: int, seed: int) -> list[tuple[list[str], str]]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        topic = list(WORDS)[index % 3]
        words = [*rng.choices(WORDS[topic], k=2), *rng.choices(FILLERS, k=rng.randint(1, 6))]
        rng.shuffle(words)
        rows.append((words, topic))
    return rows


def _splits() -> tuple[Splits, Splits]:
    parts = [_words(count, seed) for seed, count in enumerate((96, 0, 30))]
    texts = [[TextRow(" ".join(words), topic) for words, topic in part] for part in parts]
    tagged = [
        [
            TagRow(
                tuple(words), tuple(f"B-{_TOPIC_OF[word]}" if word in _TOPIC_OF else "O" for word in words)
            )
            for words, _ in part
        ]
        for part in parts
    ]
    tags: Any = TokenClassification.from_rows(tagged[0])
    return Splits("texts", TextClassification(list(WORDS)), *texts), Splits("tags", tags, *tagged)


SPLITS, TAGGED = _splits()


def taught(splits: Splits, folder: Path) -> Path:
    """Fine-tunes a tiny encoder on the rows; its labels stand in the order of the task."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {word: index for index, word in enumerate([*special, *FILLERS, *_TOPIC_OF])}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder / "encoder")
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder / "encoder")
    tuned = fine_tune(
        folder / "encoder",
        splits,
        folder / "tuned",
        epochs=1,
        min_steps=120,
        learning_rate=3e-3,
        progress=False,
    )
    return tuned.folder
