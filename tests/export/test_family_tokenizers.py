"""The tokenizer of every family survives an export: AutoTokenizer opens the folder and gives the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_models import FAMILY_ROWS, tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from secateur.export import export_checkpoint

TEXTS = ["book me a table for two", "what is the time", "Crème brûlée, s'il vous plaît!", "a <b> c"]
CORPUS = TEXTS * 4


def wordpiece(kind: str) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    made = getattr(transformers, kind)
    return made(tokenizer_object=tokenizer, vocab={word: i for i, word in enumerate(vocabulary)})


def byte_level(kind: str) -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return getattr(transformers, kind)(tokenizer_object=tokenizer, vocab=model["vocab"], merges=merges)


def unigram(kind: str) -> Any:
    """As the fast tokenizers that are made of sentencepiece models."""
    special = {
        "AlbertTokenizerFast": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        "CamembertTokenizerFast": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<s>", "</s>", "<mask>"],
        "XLMRobertaTokenizerFast": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    }[kind]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.Metaspace()
    vocabulary = [(word, score) for word, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return getattr(transformers, kind)(tokenizer_object=tokenizer, vocab=vocabulary)


MAKERS = {
    "bert": lambda: wordpiece("BertTokenizerFast"),
    "distilbert": lambda: wordpiece("DistilBertTokenizerFast"),
    "electra": lambda: wordpiece("ElectraTokenizerFast"),
    "roberta": lambda: byte_level("RobertaTokenizerFast"),
    "xlm-roberta": lambda: unigram("XLMRobertaTokenizerFast"),
    "camembert": lambda: unigram("CamembertTokenizerFast"),
    "albert": lambda: unigram("AlbertTokenizerFast"),
}


@pytest.mark.parametrize("family", FAMILY_ROWS)
def test_auto_tokenizer_opens_the_folder(tmp_path: Path, family: str) -> None:
    MAKERS[family]().save_pretrained(tmp_path / "saved")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")  # as users get theirs
    model = tiny_model(family, vocab_size=len(tokenizer))
    folder = export_checkpoint(model, tokenizer, tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(folder)
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    assert dict(again(TEXTS)) == dict(tokenizer(TEXTS))
    assert dict(again(pairs)) == dict(tokenizer(pairs))
    assert again.model_input_names == tokenizer.model_input_names
    assert again.mask_token_id == tokenizer.mask_token_id
    assert again.pad_token_id == tokenizer.pad_token_id
    assert [again.decode(row) for row in again(TEXTS)["input_ids"]] == [
        tokenizer.decode(row) for row in tokenizer(TEXTS)["input_ids"]
    ]
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [encoding.ids for encoding in raw.encode_batch(TEXTS)] == tokenizer(TEXTS)["input_ids"]
    assert raw.padding is None
    assert raw.truncation is None
