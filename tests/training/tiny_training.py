"""Tiny tokenizer, config and rows for tests that train."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from secateur.data import Row

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
