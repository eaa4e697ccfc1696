"""Tiny random models of every family with every task head. Adding a family is one row here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from tiny_bert import MAX_TOKENS
from torch import Tensor, nn
from torch.nn import functional

from secateur.checkpoint import FAMILIES
from secateur.sparsity import MagnitudePruner, Pattern

# model_type -> what its config gets on top of, or instead of, the common sizes
FAMILY_ROWS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1},
    "camembert": {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "electra": {"embedding_size": 24},
    "albert": {"embedding_size": 24, "num_hidden_layers": 3},
}

# Further members of families, with their sizes: what the rows above do not have.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert-sinusoidal": ("distilbert", {"sinusoidal_pos_embds": True}),
    "distilbert-relu": ("distilbert", {"activation": "relu"}),
    "electra-wide": ("electra", {"embedding_size": 32, "hidden_act": "gelu_new"}),
    "albert-wide": ("albert", {"embedding_size": 32}),
    "albert-groups": ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}),
    "roberta-padding": ("roberta", {"pad_token_id": 4, "max_position_embeddings": MAX_TOKENS + 5}),
}
MEMBERS = {**{family: (family, {}) for family in FAMILY_ROWS}, **VARIANTS}

HEADS = tuple(FAMILIES["bert"].heads)
_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tiny_model(
    member: str,
    end: str = "ForSequenceClassification",
    sparsity: float | None = None,
    pattern: str = "block4",
    seed: int = 0,
    **changes: Any,
) -> Any:
    """Returns a small model in eval mode, with weights large enough that its layers matter.

    Args:
        member: A row of `MEMBERS`.
        end: Of the class's name: the task head.
        sparsity: Masks with this fraction of zeros; None attaches no masks.
        pattern: Of the masks.
        seed: Of the weights.
        **changes: Go into the config.
    """
    family, sizes = MEMBERS[member]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(
        family,
        **{
            **({} if family == "distilbert" else _COMMON),
            "vocab_size": 50,
            "max_position_embeddings": MAX_TOKENS,
            "initializer_range": 0.3,
            **FAMILY_ROWS[family],
            **sizes,
            **changes,
        },
    )
    if FAMILIES[family].heads[end].labels and "num_labels" not in changes and "id2label" not in changes:
        config.num_labels = 5
    if end == "Model":
        config.sentence_embedding = {"pooling": "mean", "normalize": True}
    model = getattr(transformers, f"{FAMILIES[family].class_name}{end}")(config).eval()
    _set_biases_(model)
    if sparsity is not None:
        pruner = MagnitudePruner(Pattern.parse(pattern))
        pruner.attach_(model)
        pruner.step_(sparsity)
    return model


def _set_biases_(model: nn.Module) -> None:
    """transformers starts biases at 0 and norms at 1, where a forgotten one would not be seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.1 + ("norm" in name.lower()) * name.endswith("weight")
                )


def token_types(model: Any, sequences: Sequence[Sequence[int]]) -> list[list[int]] | None:
    """Returns types as those of pairs of texts, where the family has two; else None."""
    if getattr(model.config, "type_vocab_size", 1) < 2:
        return None
    return [[0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2) for ids in sequences]


def family_batch(model: Any, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Returns the model's arguments, padded with its own padding id."""
    longest = max(map(len, sequences))

    def filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

    batch = {
        "input_ids": filled(sequences, model.config.pad_token_id),
        "attention_mask": filled([[1] * len(ids) for ids in sequences], 0),
    }
    types = token_types(model, sequences)
    return batch if types is None else {**batch, "token_type_ids": filled(types, 0)}


def torch_outputs(model: Any, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Returns what PyTorch's model gives for each sequence, as the engine's head shall: [L] or [S, L]."""
    with torch.no_grad():
        result = model(**family_batch(model, sequences))
    if hasattr(result, "start_logits"):
        rows = torch.stack([result.start_logits, result.end_logits], dim=-1)
    else:
        rows = result.logits if hasattr(result, "logits") else result.last_hidden_state
    if rows.dim() == 2:
        return list(rows.numpy())
    tokens = [row[: len(ids)] for row, ids in zip(rows, sequences, strict=True)]
    if hasattr(result, "last_hidden_state"):
        return [_sentence_embedding(row, **model.config.sentence_embedding).numpy() for row in tokens]
    return [row.numpy() for row in tokens]


def _sentence_embedding(tokens: Tensor, pooling: str, normalize: bool) -> Tensor:
    pooled = {"mean": tokens.mean(dim=0), "max": tokens.amax(dim=0), "cls": tokens[0]}[pooling]
    return functional.normalize(pooled, dim=0) if normalize else pooled
