"""The numeric law of docs/format.md as a model, one sequence at a time, in plain numpy.

It reads a checkpoint and shares nothing with the engine but the file: the definition that the C++ engine is
tested against. Where the engine approximates (GELU and exp by polynomials) or chooses an order (float32
sums), this file is exact and rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from secateur.affine import quantize, symmetric_scale
from secateur.checkpoint import Checkpoint, decode_float_weight, decode_weight
from secateur.checkpoint.bfloat16 import BF16, from_bf16, to_bf16
from secateur.checkpoint.names import WEIGHT_SUFFIXES, LayerNames

_erf = np.vectorize(math.erf, otypes=[np.float64])


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns a * b + c rounded once to float32.

    The product of two float32 is exact in float64. The sum is rounded to odd there, which makes the second
    rounding, to float32, correct (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    product = np.float64(a) * np.float64(b)
    addend = np.broadcast_to(np.float64(c), product.shape)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = total.view(np.int64) % 2 == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, toward), total).astype(np.float32)


def reference_logits(
    checkpoint: Checkpoint, sequences: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """Returns [B, L] float32 for heads that give a row a sequence."""
    return np.stack(reference_outputs(checkpoint, sequences, types))


def reference_outputs(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    types: Sequence[Sequence[int]] | None = None,
    gelu: Callable[[np.ndarray, str], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Returns what the task head gives for each sequence of a ragged batch: [L], or [S, L] for all tokens.

    `gelu(x, kind)` takes the place of the true one.
    """
    token_types = types if types is not None else [[0] * len(ids) for ids in sequences]
    model = _Model(checkpoint, gelu)
    return [model.outputs(*pair) for pair in zip(sequences, token_types, strict=True)]


class _Model:
    def __init__(
        self, checkpoint: Checkpoint, gelu: Callable[[np.ndarray, str], np.ndarray] | None = None
    ) -> None:
        self.gelu = gelu
        self.shape = checkpoint.shape
        self.tensors = checkpoint.tensors

    def get(self, module: str, suffix: str) -> np.ndarray:
        return np.asarray(self.tensors[f"{module}.{suffix}"])

    def has(self, module: str, suffix: str) -> bool:
        return f"{module}.{suffix}" in self.tensors

    def outputs(self, ids: Sequence[int], types: Sequence[int]) -> np.ndarray:
        x = self.embed(ids, types)
        for names in self.shape.layers:
            x = self.norm(names.attn_norm, x + self.linear(names.attn_out, self.attention(names, x)))
            inner = self.activation(self.linear(names.ffn_in, x))
            x = self.norm(names.ffn_norm, x + self.linear(names.ffn_out, inner))
        return self.head(x)

    def head(self, x: np.ndarray) -> np.ndarray:
        head = self.shape.head
        if self.shape.pooling is not None:
            pooled = {"mean": x.mean(axis=0), "max": x.max(axis=0), "cls": x[0]}[self.shape.pooling]
            return pooled / max(float(np.sqrt((pooled**2).sum())), 1e-12) if self.shape.normalize else pooled
        x = x[:1] if head.head == "sequence" else x
        if head.dense is not None:
            kind = self.shape.activation if head.activation == "hidden" else head.activation
            x = self.activation(x @ self.get(head.dense, "weight").T + self.get(head.dense, "bias"), kind)
        if head.norm is not None:
            x = self.norm(head.norm, x)
        if head.decoder is None:
            weight = self.get(head.output, "weight")
        else:
            weight = self.table(self.shape.embeddings.word)
        result = x @ weight.T + self.get(head.output, "bias")
        return result[0] if head.head == "sequence" else result

    def table(self, module: str) -> np.ndarray:
        if not self.has(module, "weight_scale"):
            return self.get(module, "weight")
        return self.get(module, "weight_scale")[:, None] * self.get(module, "weight").astype(np.float32)

    def embed(self, ids: Sequence[int], types: Sequence[int]) -> np.ndarray:
        names = self.shape.embeddings
        first = self.shape.first_position
        total = self.table(names.word)[list(ids)]
        if names.token_type is not None:
            total = total + self.table(names.token_type)[list(types)]
        total = self.norm(names.norm, total + self.table(names.position)[first : first + len(ids)])
        if names.projection is None:
            return total
        return total @ self.get(names.projection, "weight").T + self.get(names.projection, "bias")

    def norm(self, module: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float32)
        variance = (centred**2).mean(axis=-1, keepdims=True, dtype=np.float32)
        scaled = centred / np.sqrt(variance + np.float32(self.shape.norm_eps))
        gamma, beta = (self.get(module, suffix).reshape(-1) for suffix in ("weight", "bias"))
        return scaled * gamma + beta

    def linear(self, module: str, x: np.ndarray) -> np.ndarray:
        belonging = {
            suffix: self.get(module, suffix) for suffix in WEIGHT_SUFFIXES if self.has(module, suffix)
        }
        if not self.has(module, "weight_scale"):
            if any(tensor.dtype == BF16 for tensor in belonging.values()):
                x = from_bf16(to_bf16(x, least=np.float32(2.0**-60)))
            exact = decode_float_weight(belonging, x.shape[1])[0].astype(np.float64)
            return (x @ exact.T).astype(np.float32) + self.get(module, "bias")
        weight = decode_weight(belonging, x.shape[1])[0].astype(np.int32)
        if not self.has(module, "input_scale"):
            own = symmetric_scale(np.abs(x).max(axis=1))[:, None]
            acc = quantize(x, own, 0, -127, 127) @ weight.T
            return fma(
                acc.astype(np.float32), own * self.get(module, "weight_scale"), self.get(module, "bias")
            )
        zero_point = np.int32(self.get(module, "input_zero_point")[0])
        x_q = quantize(x, self.get(module, "input_scale")[0], zero_point, 0, 255)
        acc = x_q @ weight.T
        scale = self.get(module, "input_scale")[0] * self.get(module, "weight_scale")
        bias = self.get(module, "bias") - scale * (zero_point * weight.sum(axis=1)).astype(np.float32)
        return fma(acc.astype(np.float32), scale, bias)

    def attention(self, names: LayerNames, x: np.ndarray) -> np.ndarray:
        if not self.has(names.attention, "query_scale"):
            return self.float_attention(names, x)

        def number(suffix: str) -> np.float32:
            return np.float32(self.get(names.attention, suffix)[0])

        zero_point = int(number("query_zero_point"))
        query = quantize(self.linear(names.query, x), number("query_scale"), zero_point, 0, 255) - zero_point
        key = quantize(self.linear(names.key, x), number("key_scale"), 0, -127, 127)
        value = quantize(self.linear(names.value, x), number("value_scale"), 0, -127, 127)
        exponent = float(number("query_scale")) * float(number("key_scale")) / math.sqrt(self.shape.head_dim)
        heads = []
        for part in self.heads():
            scores = query[:, part] @ key[:, part].T
            distance = scores - scores.max(axis=1, keepdims=True)
            p = np.rint(255 * np.exp(distance * exponent)).astype(np.int32)
            mixed = (p @ value[:, part]).astype(np.float32)
            heads.append(mixed * (number("value_scale") / p.sum(axis=1, keepdims=True).astype(np.float32)))
        return np.concatenate(heads, axis=1)

    def float_attention(self, names: LayerNames, x: np.ndarray) -> np.ndarray:
        query, key, value = (
            self.linear(module, x).astype(np.float64) for module in (names.query, names.key, names.value)
        )
        heads = []
        for part in self.heads():
            scores = query[:, part] @ key[:, part].T
            p = np.exp((scores - scores.max(axis=1, keepdims=True)) / math.sqrt(self.shape.head_dim))
            heads.append(p @ value[:, part] / p.sum(axis=1, keepdims=True))
        return np.concatenate(heads, axis=1).astype(np.float32)

    def heads(self) -> list[slice]:
        width = self.shape.head_dim
        return [slice(start, start + width) for start in range(0, self.shape.hidden_size, width)]

    def activation(self, x: np.ndarray, kind: str | None = None) -> np.ndarray:
        kind = kind or self.shape.activation
        wide = x.astype(np.float64)
        if kind == "tanh":
            return np.tanh(x)
        if kind == "relu":
            return np.maximum(x, np.float32(0))
        if self.gelu is not None:
            return self.gelu(x, kind)
        if kind == "gelu_new":
            inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
            return (0.5 * wide * (1 + np.tanh(inner))).astype(np.float32)
        return (0.5 * wide * (1 + _erf(wide / math.sqrt(2)))).astype(np.float32)
