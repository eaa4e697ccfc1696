"""Random plan descriptions for tests of the C++ engine, without a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from plan_heads import random_head

STEPS_OF_A_LAYER = 9
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_description(
    hidden: int = 32,
    heads: int = 2,
    inner: int = 64,
    layers: int = 2,
    labels: int = 5,
    vocab: int = 50,
    positions: int = 64,
    density: float = 0.3,
    dense_roles: tuple[str, ...] = (),
    activation: str = "gelu",
    seed: int = 0,
    f32: tuple[str, ...] = (),
    embedding: int | None = None,
    token_types: bool = True,
    head: str = "sequence",
) -> dict[str, Any]:
    """A plan description of an encoder with random weights; sparse but for `dense_roles`.

    `embedding` is the width of tables that a projection widens to `hidden`; `head` is one of
    `plan_heads.HEADS`.

    Matrices are int8 in `block4`, or float32 and unstructured where `f32` has their role ("query"), name
    ("layer.0.query") or layer ("layer.0"); so are attentions ("attention") and tables ("word").
    """
    rng = np.random.default_rng(seed)

    def is_f32(name: str) -> bool:
        layer, _, role = name.rpartition(".")
        return not {name, layer, role}.isdisjoint(f32)

    def floats(*shape: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
        return rng.normal(mean, std, shape).astype(np.float32)

    def norm(width: int = hidden) -> dict[str, np.ndarray]:
        return {"gamma": floats(width, std=0.1, mean=1.0), "beta": floats(width, std=0.1)}

    def linear(name: str, role: str, n: int, k: int, scale: float, zero_point: int) -> dict[str, Any]:
        record: dict[str, Any] = {"op": "linear", "name": name, "role": role, "n": n, "k": k}
        if role == "ffn_in":
            record["activation"] = activation
        if is_f32(name):
            floating = floats(n, k, std=0.8 / np.sqrt(k * max(density, 0.05)))
            if role in dense_roles:
                record["weight"] = floating
            else:
                keep = rng.random((n, k)) < density
                keep[0] = False  # an empty row
                record["values"] = floating[keep]
                record["mask"] = np.packbits(keep, axis=1, bitorder="little")
            record["bias"] = floats(n, std=0.2)
            return record
        weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
        if role in dense_roles:
            record["weight"] = weight
        else:
            keep = rng.random((n, k // 4)) < density
            keep[0] = False  # an empty row
            record["values"] = np.ascontiguousarray(weight.reshape(n, k // 4, 4)[keep])
            record["mask"] = np.packbits(keep, axis=1, bitorder="little")
        record["scale"] = np.abs(floats(n, std=0.1, mean=1.0)) / np.float32(
            60 * np.sqrt(k * max(density, 0.05))
        )
        record["bias"] = floats(n, std=0.2)
        record["input_scale"] = scale
        record["input_zero_point"] = zero_point
        return record

    width = embedding or hidden
    steps: list[dict[str, Any]] = [{"op": "embed", **norm(width)}]
    if embedding is not None:
        steps[0]["projection_weight"] = floats(hidden, width, std=width**-0.5)
        steps[0]["projection_bias"] = floats(hidden, std=0.2)
    for table, rows in (("word", vocab), ("position", positions), ("token_type", 2 * token_types)):
        if rows == 0:
            continue
        if is_f32(table):
            steps[0][table] = floats(rows, width)
            continue
        steps[0][table] = rng.integers(-127, 128, (rows, width)).astype(np.int8)
        steps[0][f"{table}_scale"] = np.full(rows, 0.01, np.float32)
    for i in range(layers):
        for role in ("query", "key", "value"):
            steps.append(linear(f"layer.{i}.{role}", role, hidden, hidden, 0.03, 120))
        attention = {
            "op": "attention",
            "name": f"layer.{i}.attention",
            "num_heads": heads,
            "head_dim": hidden // heads,
        }
        if not is_f32(f"layer.{i}.attention"):
            attention |= {
                "query_scale": 0.03,
                "query_zero_point": 131,
                "key_scale": 0.03,
                "value_scale": 0.03,
            }
        steps.append(attention)
        steps.append(linear(f"layer.{i}.attn_out", "attn_out", hidden, hidden, 0.02, 127))
        steps.append({"op": "add_norm", "name": f"layer.{i}.attn_norm", **norm()})
        steps.append(linear(f"layer.{i}.ffn_in", "ffn_in", inner, hidden, 0.03, 125))
        steps.append(linear(f"layer.{i}.ffn_out", "ffn_out", hidden, inner, 0.02, 9))
        steps.append({"op": "add_norm", "name": f"layer.{i}.ffn_norm", **norm()})
    steps.append(random_head(head, steps[0], hidden, labels, rng))
    return {
        "hidden_size": hidden,
        "num_heads": heads,
        "max_tokens": positions,
        "norm_eps": 1e-12,
        "steps": steps,
    }


def as_bf16(description: dict[str, Any], bf16: tuple[str, ...]) -> dict[str, Any]:
    """The same model, its float32 matrices of these roles ("query") or layers ("layer.0") made bfloat16."""
    steps = [dict(step) for step in description["steps"]]
    for step in steps:
        if step["op"] != "linear":
            continue
        layer, _, role = step["name"].rpartition(".")
        key = "values" if "values" in step else "weight"
        if {layer, role}.isdisjoint(bf16) or step[key].dtype != np.float32:
            continue
        bits = step[key].view(np.uint32)
        step[key] = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return {**description, "steps": steps}


def as_dynamic(description: dict[str, Any], dynamic: tuple[str, ...]) -> dict[str, Any]:
    """The same model, the int8 matrices of these roles ("query") or layers ("layer.0") with dynamic inputs.

    Query, key and value go together.
    """
    steps = [dict(step) for step in description["steps"]]
    for step in steps:
        if step["op"] != "linear" or "input_scale" not in step:
            continue
        layer, _, role = step["name"].rpartition(".")
        role = "query" if role in ("key", "value") else role
        if not {layer, role}.isdisjoint(dynamic):
            del step["input_scale"], step["input_zero_point"]
            step["dynamic"] = True
    return {**description, "steps": steps}


def share_layers(description: dict[str, Any]) -> dict[str, Any]:
    """The same model with the objects of its first layer in the place of every other layer's."""
    embed, *layers, head = description["steps"]
    count = len(layers) // STEPS_OF_A_LAYER
    return {**description, "steps": [embed, *layers[:STEPS_OF_A_LAYER] * count, head]}


def with_orders(description: dict[str, Any], seed: int = 2) -> dict[str, Any]:
    """The same model, the blocks of its sparse int8 matrices cut from columns in random orders."""
    rng = np.random.default_rng(seed)
    steps = [dict(step) for step in description["steps"]]
    hidden_order = None
    for step in steps:
        if step["op"] != "linear" or "values" not in step or step["values"].dtype != np.int8:
            continue
        n, k, role = step["n"], step["k"], step["role"]
        head = description["hidden_size"] // description["num_heads"]
        order = rng.permutation(k)
        if role == "query":
            hidden_order = order
        elif role in ("key", "value"):
            order = hidden_order
        elif role == "attn_out":
            order = np.concatenate([begin + rng.permutation(head) for begin in range(0, k, head)])
        if order is None:  # a float32 query, so that the key has no order to share
            continue
        blocks = np.unpackbits(step["mask"], axis=1, count=k // 4, bitorder="little").astype(bool)
        weight = np.zeros((n, k // 4, 4), np.int8)
        weight[blocks] = step["values"]
        weight = weight.reshape(n, k)[:, order].reshape(n, k // 4, 4)
        kept = weight.any(axis=2)
        step["values"] = np.ascontiguousarray(weight[kept])
        step["mask"] = np.ascontiguousarray(np.packbits(kept, axis=1, bitorder="little"))
        step["order"] = order.astype(np.uint16)
    return {**description, "steps": steps}


def random_batch(lengths: list[int], vocab: int = 50, seed: int = 1) -> Batch:
    """Token ids, token type ids and offsets (int32) of sequences with these lengths."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    total = int(offsets[-1])
    return rng.integers(0, vocab, total).astype(np.int32), rng.integers(0, 2, total).astype(np.int32), offsets
