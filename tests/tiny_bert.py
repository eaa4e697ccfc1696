"""Tiny random BERTs in PyTorch, for tests of training and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny_checkpoint import int8_parts, tiny_tokenizer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from secateur.checkpoint import linear_names
from secateur.modeling import find_blocks
from secateur.quantization import QuantizedParts
from secateur.sparsity import MagnitudePruner, Pattern

MAX_TOKENS = 24

# Products this small gain nothing from a second thread, and wait long for it on a busy machine.
torch.set_num_threads(1)


def tiny_bert(
    seed: int = 0, sparsity: float | None = None, pattern: str = "block4", **changes: Any
) -> BertForSequenceClassification:
    """Returns a two-layer BERT in eval mode, with weights large enough that its layers matter.

    Args:
        seed: Of the weights.
        sparsity: Masks with this fraction of zeros; None attaches no masks.
        pattern: Of the masks.
        **changes: Go into the config.
    """
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
        "max_position_embeddings": MAX_TOKENS,
        "num_labels": 5,
        "initializer_range": 0.3,
    }
    model = BertForSequenceClassification(BertConfig(**{**sizes, **changes})).eval()
    if sparsity is not None:
        pruner = MagnitudePruner(Pattern.parse(pattern))
        pruner.attach_(model)
        pruner.step_(sparsity)
    return model


def mixed_parts(model: BertForSequenceClassification) -> QuantizedParts:
    """Returns parts as those of `tiny_checkpoint.int8_parts("mixed")`: every one that can be is in there."""
    blocks = find_blocks(model)
    parts = int8_parts("mixed", len(blocks))
    attention = [index for index, _ in enumerate(blocks) if linear_names(index).attention in parts.attention]
    return QuantizedParts(parts.linears, attention, parts.embeddings)


def random_sequences(count: int, seed: int = 0, vocab_size: int = 50) -> list[list[int]]:
    """Returns token ids of 1 to `MAX_TOKENS` tokens a sequence."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, MAX_TOKENS + 1, count)
    return [random.integers(5, vocab_size, length).tolist() for length in lengths]


def padded(sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Returns `input_ids` and `attention_mask` as a transformers collator makes them, padded with 0."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    return {"input_ids": ids, "attention_mask": mask}


def tiny_fast_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of `tiny_checkpoint`, which pads and truncates to 8 tokens, for transformers."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer().decode()), pad_token="[PAD]", unk_token="[UNK]"
    )
