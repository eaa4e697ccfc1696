"""Outputs and scores of a PyTorch model over rows of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.data import Splits
from secateur.errors import DataError
from secateur.modeling.chosen_tokens import ChosenTokens
from secateur.modeling.pooling import Pooling
from secateur.tasks import Encoded, Task
from secateur.training.encoding import Features, Padder, pad_token_of, takes_token_types
from secateur.training.lengths import max_tokens

__all__ = ["embeddings", "evaluate", "model_outputs", "predict", "quick_score"]

_QUICK_ROWS = 200


def predict(network: Any, task: Task, encoded: Encoded, *, batch_size: int = 64) -> list[NDArray[np.float32]]:
    """Runs a model over features and gives what the task's `answers` and `score` take.

    Args:
        network: A transformers model with the task's head; its training mode is restored afterwards.
        task: The task.
        encoded: What `task.encode` made.
        batch_size: Features a batch.

    Returns:
        [F] reduced outputs, in the order of the features.
    """
    return model_outputs(network, task, encoded, batch_size=batch_size, reduce=True)


def model_outputs(
    network: Any, task: Task, encoded: Encoded, *, batch_size: int = 64, reduce: bool = False
) -> list[NDArray[np.float32]]:
    """Runs a model over features, longest first.

    Args:
        network: As in `predict`.
        task: As in `predict`.
        encoded: As in `predict`.
        batch_size: Features a batch.
        reduce: Makes each output small by the task's `reduce` at once.

    Returns:
        [F] outputs as `task.head` says: [L], [S, L], [m, V] at `encoded.positions`, or [H].

    Raises:
        DataError: A masked model is asked for no positions.
    """
    features = Features(encoded, [{}] * len(encoded), token_types=takes_token_types(network))
    if task.head == "masked" and encoded.positions is None and len(encoded):
        raise DataError("A masked language model is asked for no token: mask one.")
    pad = Padder(pad_token_of(network))
    outputs: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(features)
    order = features.by_length()
    was_training = network.training
    network.eval()
    chosen = ChosenTokens(network) if task.head == "masked" else None
    try:
        with torch.no_grad():  # not inference_mode: training goes on with what masks keep
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                batch = {
                    name: one.to(network.device) for name, one in pad([features[i] for i in numbers]).items()
                }
                for number, output in zip(
                    numbers, _outputs(network, task, encoded, numbers, batch, chosen), strict=True
                ):
                    outputs[number] = task.reduce(encoded, number, output) if reduce else output
    finally:
        network.train(was_training)
        if chosen is not None:
            chosen.detach_()
    return outputs


def evaluate(network: Any, tokenizer: Any, splits: Splits, max_length: int | None = None) -> dict[str, Any]:
    """Scores a model on the validation and test rows, where there are any.

    Args:
        network: A transformers model whose labels are those of the data's task, in the same order.
        tokenizer: Its tokenizer.
        splits: The data.
        max_length: Most tokens of a feature; None means what `max_tokens` says.

    Returns:
        `validation` and `test`, as the task's `score` gives them.
    """
    longest = max_tokens(network, tokenizer, splits.task, max_length)
    result = {}
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if not rows:
            continue
        given = [*rows, *splits.out_of_scope] if name == "test" else rows
        if not splits.task.main_metric:  # plain texts, of which nobody says what is right
            result[name] = {"n": len(given)}
            continue
        encoded = splits.task.encode(tokenizer.backend_tokenizer, given, longest)
        result[name] = splits.task.score(given, encoded, predict(network, splits.task, encoded))
    return result


def embeddings(
    network: Any, tokenizer: Any, splits: Splits, max_length: int
) -> dict[str, NDArray[np.float32]]:
    """Returns [n, H] vectors of the validation and test texts, where the task is to make such."""
    if splits.task.head != "embedding":
        return {}
    result = {}
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if rows:
            encoded = splits.task.encode(tokenizer.backend_tokenizer, rows, max_length)
            result[name] = np.stack(model_outputs(network, splits.task, encoded))
    return result


def quick_score(
    network: Any, tokenizer: Any, splits: Splits, max_length: int
) -> Callable[[], float | None] | None:
    """Returns what gives the main score on some validation rows; None where there are none.

    It is for showing how a run goes, not for reporting: a few hundred rows cost less than a percent of a run.
    """
    rows = splits.validation[:_QUICK_ROWS]
    if not rows or not splits.task.main_metric:
        return None
    encoded = splits.task.encode(tokenizer.backend_tokenizer, rows, max_length)

    def score() -> float | None:
        found = splits.task.score(rows, encoded, predict(network, splits.task, encoded))
        value = found.get(splits.task.main_metric)
        return None if value is None else float(value)

    return score


def _outputs(
    network: Any, task: Task, encoded: Encoded, numbers: list[int], batch: dict[str, Any], chosen: Any
) -> list[NDArray[np.float32]]:
    if chosen is not None:
        assert encoded.positions is not None
        asked = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, number in enumerate(numbers):
            asked[row, encoded.positions[number]] = True
        chosen.choose(asked)
        logits = network(**batch).logits[0].float().cpu().numpy()
        ends = np.cumsum([len(encoded.positions[number]) for number in numbers])
        return list(np.split(logits, ends[:-1]))
    output = network(**batch)
    if task.head == "embedding":
        pooled = Pooling.of(network.config)(output.last_hidden_state, batch["attention_mask"])
        return list(pooled.float().cpu().numpy())
    if getattr(output, "logits", None) is None:
        found = torch.stack((output.start_logits, output.end_logits), dim=-1)
    else:
        found = output.logits
    array = found.float().cpu().numpy()
    if task.head == "sequence":
        return list(array)
    return [array[row, : len(encoded.input_ids[number])] for row, number in enumerate(numbers)]
