"""What a plan description means, in numpy and double precision: no fused steps, no packed weights."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

Record = dict[str, Any]


def widen(weights: np.ndarray) -> np.ndarray:
    """Bfloat16, given as uint16, as float64; other types as they are."""
    if weights.dtype != np.uint16:
        return weights
    return (weights.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds to 8 significant bits, half to even."""
    step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(x), 2.0**-60))) - 7)
    return np.asarray(np.where(np.abs(x) < 2.0**-60, 0, np.rint(x / step) * step))


def matrix(record: Record) -> np.ndarray:
    """The real weights [N, K] float64 of a linear step, dense."""
    n, k = record["n"], record["k"]
    if "values" in record:
        values = widen(record["values"])
        width = 1 if values.ndim == 1 else values.shape[1]
        keep = np.unpackbits(record["mask"], axis=1, bitorder="little", count=k // width).astype(bool)
        weight = np.zeros((n, k // width, width))
        weight[keep] = values.reshape(-1, width)
        weight = weight.reshape(n, k)
    else:
        weight = widen(record["weight"]).astype(np.float64)
    return weight * record["scale"][:, None] if "scale" in record else weight


def quantize(x: np.ndarray, scale: float | np.ndarray, zero_point: int, low: int, high: int) -> np.ndarray:
    """Rounds to the grid of the scale and back."""
    return (np.clip(np.rint(x / scale) + zero_point, low, high) - zero_point) * scale


def linear(record: Record, x: np.ndarray) -> np.ndarray:
    """An int8 linear takes its input quantized, a bfloat16 one rounded, a float32 one as it is."""
    if record.get("dynamic"):
        largest = np.abs(x).max(axis=1, keepdims=True)
        x = quantize(x, np.where(largest > 0, largest / 127, 1.0), 0, -127, 127)
    if "input_scale" in record:
        x = quantize(x, record["input_scale"], record["input_zero_point"], 0, 255)
    elif record["values" if "values" in record else "weight"].dtype == np.uint16:
        x = round_to_bf16(x)
    return np.asarray(x @ matrix(record).T + record["bias"])


def attend(record: Record, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Attention of one sequence, [tokens, heads * head_dim]; in int8 probabilities are whole 1/255."""
    quantized = "query_scale" in record
    if quantized:
        query = quantize(query, record["query_scale"], record["query_zero_point"], 0, 255)
        key = quantize(key, record["key_scale"], 0, -127, 127)
        value = quantize(value, record["value_scale"], 0, -127, 127)
    context = np.zeros_like(query)
    width = record["head_dim"]
    for head in range(record["num_heads"]):
        part = slice(head * width, (head + 1) * width)
        score = query[:, part] @ key[:, part].T / math.sqrt(width)
        p = np.exp(score - score.max(axis=1, keepdims=True))
        if quantized:
            p = np.rint(255 * p)
        context[:, part] = p @ value[:, part] / p.sum(axis=1, keepdims=True)
    return context


def activate(x: np.ndarray, name: str) -> np.ndarray:
    """GELU, its tanh form, ReLU or tanh."""
    if name == "tanh":
        return np.tanh(x)
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu_new":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def normalise(record: Record, x: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(
        centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * record["gamma"] + record["beta"]
    )


def head(record: Record, hidden: np.ndarray, eps: float) -> np.ndarray:
    """What a head gives for a sequence: [rows, outputs] of its [tokens, H]."""
    pool = {
        "first": lambda x: x[:1],
        "every": lambda x: x,
        "mean": lambda x: x.mean(axis=0, keepdims=True),
        "max": lambda x: x.max(axis=0, keepdims=True),
    }
    x = np.asarray(pool[record["rows"]](hidden))
    if "dense_weight" in record:
        x = activate(x @ record["dense_weight"].T + record["dense_bias"], record["dense_activation"])
    if "gamma" in record:
        x = normalise(record, x, eps)
    if "weight" in record:
        weight = record["weight"].astype(np.float64)
        if "weight_scale" in record:
            weight = weight * record["weight_scale"][:, None]
        x = x @ weight.T + record["bias"]
    if record.get("normalize"):
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x


def plain_outputs(
    description: Record,
    input_ids: np.ndarray,
    token_type_ids: np.ndarray,
    offsets: np.ndarray,
    positions: np.ndarray | None = None,
) -> np.ndarray:
    """Outputs [rows, outputs] float64 of a ragged batch."""
    rows = np.concatenate(
        [
            _encode(description, input_ids[begin:end], token_type_ids[begin:end])
            for begin, end in itertools.pairwise(offsets)
        ]
    )
    return rows if positions is None else rows[positions]


def _encode(description: Record, ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    eps = description["norm_eps"]
    embed, *steps = description["steps"]

    def rows(table: str, row: np.ndarray) -> np.ndarray:
        found = embed[table][row].astype(np.float64)
        return found * embed[f"{table}_scale"][row, None] if f"{table}_scale" in embed else found

    hidden = rows("word", ids) + rows("position", np.arange(len(ids)))
    if "token_type" in embed:
        hidden = hidden + rows("token_type", types)
    hidden = normalise(embed, hidden, eps)
    if "projection_weight" in embed:
        hidden = hidden @ embed["projection_weight"].T + embed["projection_bias"]
    seen: dict[str, np.ndarray] = {}
    for step in steps:
        match step["op"]:
            case "linear":
                source = {"attn_out": "attention", "ffn_out": "ffn_in"}.get(step["role"])
                out = linear(step, seen[source] if source else hidden)
                seen[step["role"]] = activate(out, step["activation"]) if "activation" in step else out
                if step["role"] in ("attn_out", "ffn_out"):
                    hidden = hidden + out
            case "attention":
                seen["attention"] = attend(step, seen["query"], seen["key"], seen["value"])
            case "add_norm":
                hidden = normalise(step, hidden, eps)
            case "head":
                return head(step, hidden, eps)
    raise AssertionError("the description has no head")
