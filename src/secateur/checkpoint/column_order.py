"""Which four columns to store together, so that an unstructured matrix has the fewest non-empty blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint import names
from secateur.checkpoint.codec import BLOCK, is_order, is_stored_sparse
from secateur.checkpoint.shape import ModelShape

__all__ = ["column_order", "layer_orders", "order_problems"]

_TOGETHER = (("query", "key", "value"), ("attn_out",), ("ffn_in",), ("ffn_out",))  # by what they read
_LEAST_GAIN = 0.03  # of the blocks; below it an order is not worth its bytes


def layer_orders(masks: Mapping[str, NDArray[np.bool_]], head_dim: int) -> dict[str, NDArray[np.uint16]]:
    """Finds the orders that fill the blocks of an encoder layer's matrices, where there is much to gain.

    Args:
        masks: Role to [N, K] bool, True = keep, of the layer's int8 matrices.
        head_dim: Channels of an attention head: those that `attn_out` reads stay within it.

    Returns:
        Role to [K] uint16. Query, key and value read one tensor: they have the same order or none.
    """
    found: dict[str, NDArray[np.uint16]] = {}
    for roles in _TOGETHER:
        present = [role for role in roles if role in masks]
        if not present:
            continue
        mask = np.concatenate([masks[role] for role in present])
        group = head_dim if roles == ("attn_out",) else None
        if mask.shape[1] % BLOCK or (group is not None and group % BLOCK):
            continue
        before = _count_blocks(mask)
        if BLOCK * before == int(mask.sum()):
            continue  # whole blocks already
        order = column_order(mask, group)
        gains = _count_blocks(mask[:, order]) <= (1 - _LEAST_GAIN) * before
        if gains and all(is_stored_sparse(masks[role][:, order]) for role in present):
            found |= dict.fromkeys(present, order)
    return found


def order_problems(
    tensors: Mapping[str, NDArray[Any]], layer: names.LayerNames, shape: ModelShape, int8: frozenset[str]
) -> list[str]:
    """Finds what is wrong with the orders of one encoder layer.

    Args:
        tensors: All tensors of the file, by name.
        layer: The layer's modules.
        shape: The sizes in config.json.
        int8: Modules whose weight is int8.

    Returns:
        One clause a problem.
    """
    problems = []
    orders = {}
    head = np.arange(shape.hidden_size) // shape.head_dim
    columns = {**dict.fromkeys(layer.linears, shape.hidden_size), "ffn_out": shape.intermediate_size}
    for role, module in layer.linears.items():
        name = names.tensor_name(module, names.INPUT_ORDER)
        order = tensors.get(name)
        if order is None:
            continue
        if module not in int8 or names.tensor_name(module, names.WEIGHT_VALUES) not in tensors:
            problems.append(f"tensor {name} orders columns, but {module} has no sparse int8 weight")
        elif not is_order(order, columns[role]):
            problems.append(f"tensor {name} must name each column once, in uint16")
        elif role == "attn_out" and bool((head[order] != head).any()):
            problems.append(f"tensor {name} moves columns out of their attention head")
        else:
            orders[role] = order.tobytes()
    readers = [role for role in _TOGETHER[0] if layer.linears[role] in int8]
    if len({orders.get(role) for role in readers}) > 1:
        problems.append(f"query, key and value of {layer.attention} have different orders of columns")
    return problems


def _count_blocks(mask: NDArray[np.bool_]) -> int:
    return int(mask.reshape(len(mask), -1, BLOCK).any(axis=2).sum())


def column_order(mask: NDArray[np.bool_], group: int | None = None) -> NDArray[np.uint16]:
    """Finds an order of the columns in which neighbouring four share many rows.

    Columns are matched to pairs and pairs to fours, the fullest first, each with the one that shares most of
    its rows. On random masks of 90 % zeros the non-empty blocks fall from 34.4 to 31.4 % of all, on masks
    whose columns differ in scale as trained ones do (log-normal, 0.6) from 29.4 to 22.3 %; choosing the third
    and fourth column one by one gains a thousandth more and takes five times as long.

    Args:
        mask: [N, K] bool, True = keep; K a multiple of 4 and at most 65536. Matrices that read the same input
            in the same order are stacked along N.
        group: Columns that must stay among each other, a divisor of K and a multiple of 4: those of an
            attention head; None for all of them.

    Returns:
        [K] uint16, a permutation: place j holds column `order[j]`. Always the same for one mask.
    """
    columns = mask.T.astype(np.float32)
    width = group or max(len(columns), 1)
    orders = [begin + _fours(columns[begin : begin + width]) for begin in range(0, len(columns), width)]
    return np.concatenate(orders).astype(np.uint16) if orders else np.zeros(0, np.uint16)


def _fours(columns: NDArray[np.float32]) -> NDArray[np.intp]:
    pairs = _match(columns)
    unions = np.maximum(columns[pairs[:, 0]], columns[pairs[:, 1]])
    fours = _match(unions)
    return np.concatenate([pairs[fours[:, 0]], pairs[fours[:, 1]]], axis=1).reshape(-1)


def _match(columns: NDArray[np.float32]) -> NDArray[np.intp]:
    """Pairs an even number of 0/1 columns [C, N]; returns [C / 2, 2]."""
    shared = columns @ columns.T  # counts of rows: exact in float32 below 2^24
    counts = shared.diagonal().copy()
    np.fill_diagonal(shared, -1.0)
    taken = np.zeros(len(columns), np.bool_)
    pairs = []
    for first in np.argsort(-counts, kind="stable"):
        if taken[first]:
            continue
        taken[first] = True
        second = int(np.where(taken, -1.0, shared[first]).argmax())
        taken[second] = True
        pairs.append((int(first), second))
    return np.array(pairs, np.intp).reshape(-1, 2)
