"""Tiny data for every task that a tiny model learns in a few hundred steps, and an encoder to start from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tiny_training import FILLERS, WORDS, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertForMaskedLM, BertForTokenClassification, BertModel, PreTrainedTokenizerFast

from secateur.data import Splits
from secateur.tasks import (
    FillMask,
    QuestionAnswering,
    SentenceEmbeddings,
    TextClassification,
    TokenClassification,
)
from secateur.tasks.fill_mask import Row as MaskRow
from secateur.tasks.question_answering import Row as QuestionRow
from secateur.tasks.sentence_embeddings import Row as SentenceRow
from secateur.tasks.text_classification import Row as TextRow
from secateur.tasks.token_classification import Row as TagRow

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOPICS = list(WORDS)
_TOPIC_OF = {word: topic for topic, words in WORDS.items() for word in words}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = [*SPECIAL, *FILLERS, *_TOPIC_OF, *TOPICS]
    ids = {word: index for index, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    BertModel(tiny_config(vocab_size=40, max_position_embeddings=32)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def untrained(kind: str, folder: Path) -> Path:
    """Saves a model with the head that a kind of data needs, its weights random."""
    task = splits(kind).task
    config = tiny_config(vocab_size=40, max_position_embeddings=32, **task.config())
    torch.manual_seed(0)
    head = {"token-classification": BertForTokenClassification, "fill-mask": BertForMaskedLM}[task.name]
    head(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _rows(kind: str, count: int, seed: int) -> list[Any]:
    rng = random.Random(seed)
    rows: list[Any] = []
    for index in range(count):
        topic = TOPICS[index % 3]
        others = [rng.choice(FILLERS) for _ in range(rng.randint(1, 6))]
        words = [rng.choice(WORDS[topic]), *others]
        rng.shuffle(words)
        text = " ".join(words)
        if kind == "single":
            rows.append(TextRow(text, topic))
        elif kind == "pair":
            second = " ".join(rng.choices(WORDS[topic], k=2))
            rows.append(TextRow(" ".join(others), topic, second))
        elif kind == "multi":
            chosen = rng.sample(TOPICS, rng.randint(0, 2))
            both = [*(rng.choice(WORDS[one]) for one in chosen), *others]
            rng.shuffle(both)
            rows.append(TextRow(" ".join(both), tuple(sorted(chosen))))
        elif kind == "regression":
            rows.append(TextRow(text, float(index % 3) - 1.0 + rng.random() / 10))
        elif kind == "tokens":
            tags = tuple(f"B-{_TOPIC_OF[word]}" if word in _TOPIC_OF else "O" for word in words)
            rows.append(TagRow(tuple(words), tags))
        elif kind == "questions":
            answer = next(word for word in words if word in _TOPIC_OF)
            context = [*words, rng.choice(WORDS[TOPICS[(index + 1) % 3]])]
            rng.shuffle(context)
            passage = " ".join(context)
            place = (" " + passage + " ").index(f" {answer} ")
            rows.append(QuestionRow(topic, passage, ((answer, place),), str(index)))
        elif kind == "masked":
            rows.append(MaskRow(" ".join([topic] * rng.randint(4, 8))))
        elif kind == "pairs":
            rows.append(SentenceRow(text, " ".join(rng.sample(words, len(words)))))
        else:
            rows.append(SentenceRow(text))
    return rows


def splits(kind: str) -> Splits:
    train = 240 if kind == "multi" else 96
    parts = [_rows(kind, count, seed) for seed, count in enumerate((train, 12, 24))]
    task: Any = {
        "single": TextClassification,
        "pair": TextClassification,
        "multi": TextClassification,
        "regression": TextClassification,
        "tokens": TokenClassification,
        "questions": QuestionAnswering,
        "masked": FillMask,
        "pairs": SentenceEmbeddings,
        "texts": SentenceEmbeddings,
    }[kind]
    return Splits(kind, task.from_rows(parts[0]), *parts)


KINDS = ("single", "pair", "multi", "regression", "tokens", "questions", "masked", "pairs", "texts")
