"""Checkpoints with random weights in the shape of known models: speed and size without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.affine import symmetric_scale
from secateur.checkpoint import (
    FAMILIES,
    ModelShape,
    encode_float_weight,
    encode_weight,
    quantization_of,
    tensor_name,
    write_checkpoint,
)
from secateur.checkpoint.column_order import layer_orders
from secateur.checkpoint.shape import parse_shape
from secateur.errors import UnsupportedError

__all__ = ["PATTERNS", "SHAPES", "SyntheticShape", "write_synthetic"]

PATTERNS = ("block4", "unstructured", "dense")


@dataclass(frozen=True)
class SyntheticShape:
    """The sizes of a model family member."""

    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int = 30522
    max_positions: int = 512
    family: str = "bert"
    embedding_size: int | None = None

    @property
    def intermediate_size(self) -> int:
        """Features inside the feed-forward part."""
        return 4 * self.hidden_size

    def config(self) -> dict[str, Any]:
        """Returns the config.json of a classifier with two labels, without `quantization_config`."""
        layout = FAMILIES[self.family]
        sizes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_positions + 2 * layout.counts_padding,
            "type_vocab_size": 1 if layout.counts_padding else 2,
            "hidden_act": layout.activation,
            "layer_norm_eps": 1e-12,
        }
        config: dict[str, Any] = {
            "architectures": [f"{layout.class_name}ForSequenceClassification"],
            "model_type": self.family,
            **{layout.key(name): value for name, value in sizes.items()},
            "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
            "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        }
        if layout.counts_padding:
            config["pad_token_id"] = 1
        if layout.projection is not None:
            config["embedding_size"] = self.embedding_size or self.hidden_size
        return config


# "distilbert" is older than its family here: BERT's layout with six layers of the same matrices.
SHAPES = {
    "bert-base": SyntheticShape(12, 768, 12),
    "bert-large": SyntheticShape(24, 1024, 16),
    "distilbert": SyntheticShape(6, 768, 12),
    "minilm-l6": SyntheticShape(6, 384, 12),
    "roberta-base": SyntheticShape(12, 768, 12, 50265, family="roberta"),
    "roberta-large": SyntheticShape(24, 1024, 16, 50265, family="roberta"),
    "xlm-roberta-base": SyntheticShape(12, 768, 12, 250002, family="xlm-roberta"),
    "camembert-base": SyntheticShape(12, 768, 12, 32005, family="camembert"),
    "distilbert-base": SyntheticShape(6, 768, 12, family="distilbert"),
    "electra-small": SyntheticShape(12, 256, 4, family="electra", embedding_size=128),
    "electra-base": SyntheticShape(12, 768, 12, family="electra", embedding_size=768),
    "albert-base": SyntheticShape(12, 768, 12, 30000, family="albert", embedding_size=128),
}


def write_synthetic(
    folder: Path,
    name: str,
    *,
    pattern: str = "block4",
    sparsity: float = 0.8,
    num_layers: int | None = None,
    seed: int = 0,
    quantized: bool = True,
) -> Path:
    """Writes a checkpoint with random weights; its answers mean nothing, its speed does.

    Args:
        folder: Where to write; see `write_checkpoint`.
        name: A key of `SHAPES`.
        pattern: `block4` keeps the heaviest 1x4 blocks, `unstructured` the heaviest weights, `dense` all.
        sparsity: Fraction of zeros in the six matrices of each layer, 0 to under 1.
        num_layers: Another number of layers than the model has.
        seed: Of the random numbers.
        quantized: Int8 throughout; False gives float32 throughout.

    Returns:
        The folder.

    Raises:
        UnsupportedError: The name, the pattern, the sparsity or the number of layers is not possible.
    """
    sizes = _checked_shape(name, pattern, sparsity, num_layers)
    config = sizes.config()
    shape = parse_shape(config, name)
    random = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    _put_embeddings(tensors, shape, random, quantized)
    _put_layers(tensors, shape, pattern, sparsity, random, quantized)
    _put_head(tensors, shape, random)
    zeros = 0.0 if pattern == "dense" else sparsity
    config["quantization_config"] = quantization_of(tensors, shape, zeros).model_dump()
    return write_checkpoint(folder, config, tensors, {})


def _checked_shape(name: str, pattern: str, sparsity: float, num_layers: int | None) -> SyntheticShape:
    if name not in SHAPES:
        raise UnsupportedError(f"There is no synthetic model {name!r}; known are {', '.join(SHAPES)}.")
    if pattern not in PATTERNS:
        raise UnsupportedError(f"There is no pattern {pattern!r}; known are {', '.join(PATTERNS)}.")
    if not 0 <= sparsity < 1:
        raise UnsupportedError(f"The sparsity is {sparsity}: give a fraction of zeros from 0 to under 1.")
    if num_layers is None:
        return SHAPES[name]
    if not 1 <= num_layers <= 100:
        raise UnsupportedError(f"The number of layers is {num_layers}: give one from 1 to 100.")
    return replace(SHAPES[name], num_layers=num_layers)


def _normal(random: np.random.Generator, *size: int, std: float, mean: float = 0.0) -> NDArray[np.float32]:
    return mean + std * random.standard_normal(size, dtype=np.float32)


def _put(tensors: dict[str, NDArray[Any]], module: str, **arrays: NDArray[Any]) -> None:
    for suffix, array in arrays.items():
        tensors[tensor_name(module, suffix)] = array


def _put_embeddings(
    tensors: dict[str, NDArray[Any]], shape: ModelShape, random: np.random.Generator, quantized: bool
) -> None:
    names, wide = shape.embeddings, shape.embedding_size
    for kind, module in names.tables.items():
        rows = shape.table_rows[kind]
        if not quantized:
            _put(tensors, module, weight=_normal(random, rows, wide, std=0.03))
            continue
        table = random.integers(-127, 128, (rows, wide), dtype=np.int8)
        table[:, 0] = 127  # as training leaves every row: PyTorch loads no others
        _put(tensors, module, weight=table, weight_scale=np.full(rows, 4e-4, np.float32))
    # The one norm that the format stores with two axes; see docs/format.md on the guard.
    _put_norm(tensors, names.norm, (1, wide), random)
    if names.projection is not None:
        _put_linear(tensors, names.projection, shape.hidden_size, wide, random)


def _put_linear(
    tensors: dict[str, NDArray[Any]], module: str, rows: int, columns: int, random: np.random.Generator
) -> None:
    weight = _normal(random, rows, columns, std=1 / columns**0.5)
    _put(tensors, module, weight=weight, bias=np.zeros(rows, np.float32))


def _put_norm(
    tensors: dict[str, NDArray[Any]], module: str, size: tuple[int, ...], random: np.random.Generator
) -> None:
    _put(
        tensors,
        module,
        weight=_normal(random, *size, std=0.1, mean=1.0),
        bias=_normal(random, *size, std=0.1),
    )


def _put_layers(
    tensors: dict[str, NDArray[Any]],
    shape: ModelShape,
    pattern: str,
    sparsity: float,
    random: np.random.Generator,
    quantized: bool,
) -> None:
    hidden, wide = shape.hidden_size, shape.intermediate_size
    sizes = {"ffn_in": (wide, hidden), "ffn_out": (hidden, wide)}
    roles = shape.stored_layers[0].linears
    # Drawn once and rolled by some rows in each layer: random numbers are the slow part.
    drawn = {role: _pruned(sizes.get(role, (hidden, hidden)), pattern, sparsity, random) for role in roles}
    masks = {role: mask for role, (_, mask) in drawn.items() if mask is not None}
    orders = layer_orders(masks, shape.head_dim) if quantized else {}
    for layer, names in enumerate(shape.stored_layers):
        for role, module in names.linears.items():
            weight, mask = drawn[role]
            weight = np.roll(weight, 7 * layer, axis=0)
            mask = None if mask is None else np.roll(mask, 7 * layer, axis=0)
            _put(tensors, module, bias=_normal(random, weight.shape[0], std=0.1))
            if not quantized:
                _put(tensors, module, **encode_float_weight(weight, mask))
                continue
            scale = symmetric_scale(np.abs(weight).max(axis=1))
            _put(
                tensors,
                module,
                **encode_weight(weight, mask, scale, orders.get(role)),
                weight_scale=scale,
                input_scale=np.full(1, 0.03, np.float32),
                input_zero_point=np.full(1, 128 if role != "ffn_out" else 6, np.uint8),
            )
        if quantized:
            _put(
                tensors,
                names.attention,
                query_scale=np.full(1, 0.03, np.float32),
                query_zero_point=np.full(1, 128, np.uint8),
                key_scale=np.full(1, 0.03, np.float32),
                value_scale=np.full(1, 0.03, np.float32),
            )
        for norm in (names.attn_norm, names.ffn_norm):
            _put_norm(tensors, norm, (hidden,), random)


def _pruned(
    size: tuple[int, int], pattern: str, sparsity: float, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Draws a weight [N, K] and prunes it by magnitude, which leaves values as heavy-tailed as real ones."""
    out_features, in_features = size
    weight = _normal(random, out_features, in_features, std=1.0)
    if pattern == "dense" or not sparsity:
        return weight / np.float32(np.sqrt(in_features)), None
    group = 4 if pattern == "block4" else 1
    score = np.square(weight).reshape(out_features, -1, group).sum(axis=2)
    pruned = round(sparsity * score.size)
    keep = np.ones(score.size, np.bool_)
    keep[np.argpartition(score, pruned, axis=None)[:pruned]] = False
    mask = np.repeat(keep.reshape(score.shape), group, axis=1)
    weight *= mask / np.float32(np.sqrt(in_features * (1 - sparsity)))
    return weight, mask


def _put_head(tensors: dict[str, NDArray[Any]], shape: ModelShape, random: np.random.Generator) -> None:
    head, hidden = shape.head, shape.hidden_size
    if head.dense is not None:
        _put_linear(tensors, head.dense, hidden, hidden, random)
    if head.output is not None:
        _put_linear(tensors, head.output, 2, hidden, random)
