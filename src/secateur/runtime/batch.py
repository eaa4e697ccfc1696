"""Token ids in the forms that users have, to the ragged batch that the engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError

__all__ = ["Ids", "RaggedBatch", "flat_positions", "ragged_batch"]

Ids = Sequence[Sequence[int]] | Sequence[NDArray[Any]] | NDArray[Any]


class RaggedBatch(NamedTuple):
    """The tokens of all sequences one after another; sequence i is `offsets[i]:offsets[i + 1]`."""

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32] | None
    offsets: NDArray[np.int32]


def ragged_batch(
    input_ids: Ids,
    token_type_ids: Ids | None,
    attention_mask: Ids | None,
    *,
    vocab_size: int,
    num_token_types: int,
    max_length: int,
    max_tokens: int | None = None,
    padding_id: int | None = None,
) -> RaggedBatch:
    """Flattens and checks a batch.

    Args:
        input_ids: [B, S] integers, or B sequences of any lengths.
        token_type_ids: Shaped like `input_ids`; None means 0 everywhere.
        attention_mask: Shaped like `input_ids`: 1 for tokens and then 0 for padding, which is dropped.
        vocab_size: Ids must be smaller.
        num_token_types: Token types must be smaller.
        max_length: Most tokens a sequence may have.
        max_tokens: Most tokens that the engine takes at a time, if it has a limit.
        padding_id: An id that must not be among the tokens, if there is one.

    Returns:
        The batch; it may hold no sequence at all.

    Raises:
        DataError: If anything is out of range, empty, too long or not of the same shape.
    """
    ids, lengths = _flatten(input_ids, "input_ids")
    types = None
    if token_type_ids is not None:
        types = _same_shape(token_type_ids, lengths, "token_type_ids")
    if attention_mask is not None:
        mask = _same_shape(attention_mask, lengths, "attention_mask")
        keep = mask != 0
        lengths = _prefix_lengths(keep, lengths)
        ids = ids[keep]
        types = None if types is None else types[keep]
    if lengths.size and int(lengths.min()) == 0:
        raise DataError(f"Sequence {int(lengths.argmin())} has no tokens; give each at least one.")
    if lengths.size and int(lengths.max()) > max_length:
        worst = int(lengths.argmax())
        raise DataError(
            f"Sequence {worst} has {int(lengths[worst])} tokens, and the model takes at most {max_length}: "
            f"truncate it."
        )
    if max_tokens is not None and lengths.size and int(lengths.max()) > max_tokens:
        worst = int(lengths.argmax())
        raise DataError(
            f"Sequence {worst} has {int(lengths[worst])} tokens, and this engine takes at most {max_tokens} "
            f"at a time: truncate it, or load the engine with a larger max_tokens."
        )
    if int(lengths.sum()) >= 2**31:
        raise DataError("The batch has 2^31 tokens or more: give it in parts.")
    _check_range(ids, vocab_size, lengths, "Token id")
    if padding_id is not None:
        _check_padding(ids, padding_id, lengths)
    if types is not None:
        _check_range(types, num_token_types, lengths, "Token type")
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return RaggedBatch(_as_int32(ids), None if types is None else _as_int32(types), offsets)


def flat_positions(positions: Ids, offsets: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Turns positions within sequences to positions within a ragged batch.

    Args:
        positions: For each of B sequences ascending integers, or none.
        offsets: [B + 1] where the sequences begin and end.

    Returns:
        [P] ascending indices of tokens, and [B + 1] the bounds of each sequence's part of them.

    Raises:
        DataError: If they are not one list a sequence, do not ascend or are out of range.
    """
    flat, counts = _flatten(positions, "positions")
    sequences = len(offsets) - 1
    if len(counts) != sequences:
        raise DataError(
            f"positions must be a list a sequence, but these are {len(counts)} for {sequences} sequences."
        )
    if flat.dtype == np.bool_:
        raise DataError("positions must be the numbers of tokens, but is a mask: use numpy.flatnonzero.")
    row_of = np.repeat(np.arange(sequences), counts)
    lengths = np.diff(offsets)
    wrong = (flat < 0) | (flat >= lengths[row_of])
    if wrong.any():
        worst = int(wrong.argmax())
        row = int(row_of[worst])
        raise DataError(
            f"Position {int(flat[worst])} of sequence {row} is outside 0 to {int(lengths[row]) - 1}."
        )
    found = offsets[row_of] + flat.astype(np.int32)
    behind = found[1:] <= found[:-1]
    if behind.any():
        row = int(row_of[int(behind.argmax()) + 1])
        raise DataError(f"positions of sequence {row} must ascend, each of them once.")
    bounds = np.zeros(sequences + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return _as_int32(found), bounds


def _flatten(rows: Ids, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns all values in one row, and how many belong to each sequence."""
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2:
            raise DataError(f"{name} must be [batch, length], but this array is {list(rows.shape)}.")
        flat, lengths = rows.reshape(-1), np.full(rows.shape[0], rows.shape[1], np.int64)
    else:
        try:
            parts = [np.asarray(row) for row in rows]
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{name} must be a list of lists of integers or an array.") from None
        if any(part.ndim != 1 for part in parts):
            raise DataError(f"{name} must be a batch: a list of sequences, each a list of integers.")
        lengths = np.fromiter((len(part) for part in parts), np.int64, len(parts))
        filled = [part for part in parts if len(part)]
        flat = np.concatenate(filled) if filled else np.zeros(0, np.int64)
    if flat.size and not (np.issubdtype(flat.dtype, np.integer) or flat.dtype == np.bool_):
        raise DataError(f"{name} must be integers, but is {flat.dtype}.")
    return flat, lengths


def _same_shape(rows: Ids, lengths: NDArray[np.int64], name: str) -> NDArray[Any]:
    flat, own_lengths = _flatten(rows, name)
    if not np.array_equal(lengths, own_lengths):
        raise DataError(f"{name} must have the shape of input_ids.")
    return flat


def _prefix_lengths(keep: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the tokens that a mask keeps of each sequence; they have to come first."""
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    kept = np.bincount(row_of, weights=keep, minlength=len(lengths)).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(keep)) - np.repeat(starts, lengths)
    wrong = keep != (position < np.repeat(kept, lengths))
    if wrong.any():
        raise DataError(
            f"attention_mask of sequence {int(row_of[wrong.argmax()])} has a 0 before a 1: "
            f"pad at the end (padding_side='right')."
        )
    return kept


def _check_range(values: NDArray[Any], size: int, lengths: NDArray[np.int64], name: str) -> None:
    if not values.size or (int(values.min()) >= 0 and int(values.max()) < size):
        return
    worst = int(((values < 0) | (values >= size)).argmax())
    sequence = int(np.searchsorted(np.cumsum(lengths), worst, side="right"))
    raise DataError(
        f"{name} {int(values[worst])} in sequence {sequence} is outside 0 to {size - 1}: "
        f"use the tokenizer of this model."
    )


def _check_padding(ids: NDArray[Any], padding_id: int, lengths: NDArray[np.int64]) -> None:
    """Refuses padding among the tokens of a family whose positions count the ids that are no padding."""
    found = ids == padding_id
    if found.any():
        sequence = int(np.searchsorted(np.cumsum(lengths), int(found.argmax()), side="right"))
        raise DataError(
            f"Sequence {sequence} holds the padding id {padding_id} among its tokens, and this family of "
            f"models has no position for it: give an attention_mask, or take it out of the text."
        )


def _as_int32(values: NDArray[Any]) -> NDArray[np.int32]:
    return np.ascontiguousarray(values, np.int32)
