"""A task's outputs from the engine: batched by length, made small at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.runtime.engine import Engine
from secateur.tasks.task import Encoded, Task

__all__ = ["outputs_of"]

_MAX_BATCH_TOKENS = 8192  # keeps activations of a large request small; speed no longer gains from more
_MAX_BATCH_LOGITS = 2**23  # 32 MB; a vocabulary at 15 % of 8,192 tokens would take 150 MB and more


def outputs_of(engine: Engine, task: Task, encoded: Encoded) -> list[NDArray[np.float32]]:
    """Runs features through the engine.

    Features of like length go together, and each batch's outputs are reduced before the next one runs, so
    that memory is bounded by what `Task.reduce` keeps. Safe to call from many threads at a time.

    Args:
        engine: What runs the model.
        task: The task whose head the model has.
        encoded: F features.

    Returns:
        [F] reduced outputs, in the order of the features.

    Raises:
        DataError: A feature does not fit the model.
    """
    positions = encoded.positions
    types = encoded.token_type_ids if engine.num_token_types > 1 else None
    width = engine.vocab_size if task.head == "masked" else 0
    found: list[NDArray[np.float32]] = [_NOTHING] * len(encoded)
    lengths = [len(ids) for ids in encoded.input_ids]
    asked = lengths if positions is None else [len(chosen) for chosen in positions]
    for batch in _batches(lengths, asked, width):
        given = engine(
            [encoded.input_ids[index] for index in batch],
            None if types is None else [types[index] for index in batch],
            positions=None if positions is None else [positions[index] for index in batch],
        )
        for index, output in zip(batch, given, strict=True):
            found[index] = task.reduce(encoded, index, output)
    return found


def _batches(lengths: Sequence[int], asked: Sequence[int], width: int) -> Iterator[list[int]]:
    """Groups features of like length, longest first, up to a number of tokens and of logits.

    Args:
        lengths: [F] tokens of each feature.
        asked: [F] at how many of them the head is asked.
        width: Logits that each of these gives, where they are many; 0 where they are few.
    """
    if len(lengths) == 1:
        yield [0]
        return
    batch: list[int] = []
    tokens = logits = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        more = asked[index] * width
        if batch and (tokens + lengths[index] > _MAX_BATCH_TOKENS or logits + more > _MAX_BATCH_LOGITS):
            yield batch
            batch, tokens, logits = [], 0, 0
        batch.append(index)
        tokens += lengths[index]
        logits += more
    if batch:
        yield batch


_NOTHING = np.zeros(0, np.float32)
