"""Random heads of plan descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np

# Name -> rows, activation of the dense layer if there is one, whether a norm follows it, what the output is:
# labels, the word table ("tied"), an int8 matrix of its own, or nothing; and whether rows are made length 1.
HEADS: dict[str, tuple[str, str | None, bool, str | None, bool]] = {
    "sequence": ("first", "tanh", False, "labels", False),
    "sequence gelu": ("first", "gelu", False, "labels", False),
    "sequence relu": ("first", "relu", False, "labels", False),
    "sequence plain": ("first", None, False, "labels", False),
    "token": ("every", None, False, "labels", False),
    "token dense": ("every", "gelu_new", False, "labels", False),
    "masked": ("every", "gelu", True, "tied", False),
    "masked int8": ("every", "relu", True, "int8", False),
    "cls": ("first", None, False, None, True),
    "mean": ("mean", None, False, None, True),
    "mean dense": ("mean", "tanh", False, None, True),
    "mean norm": ("mean", "tanh", True, None, False),
    "max": ("max", None, False, None, False),
    "max labels": ("max", "relu", True, "labels", True),
    "tokens themselves": ("every", None, False, None, True),
}


def random_head(
    name: str, embed: dict[str, Any], hidden: int, labels: int, rng: np.random.Generator
) -> dict[str, Any]:
    """A head with random weights over `hidden` channels, its output tied to the word table if it says so."""
    rows, activation, has_norm, output, normalize = HEADS[name]

    def floats(*shape: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
        return rng.normal(mean, std, shape).astype(np.float32)

    head: dict[str, Any] = {"op": "head", "rows": rows, "normalize": normalize}
    width = hidden
    if activation is not None:
        width = embed["word"].shape[1] if output == "tied" else hidden
        head["dense_weight"] = floats(width, hidden, std=hidden**-0.5)
        head["dense_bias"] = floats(width)
        head["dense_activation"] = activation
    if has_norm:
        head |= {"gamma": floats(width, std=0.1, mean=1.0), "beta": floats(width, std=0.1)}
    if output == "tied":
        head["weight"] = embed["word"]
        if "word_scale" in embed:
            head["weight_scale"] = embed["word_scale"]
    elif output == "int8":
        head["weight"] = rng.integers(-127, 128, (labels, width)).astype(np.int8)
        head["weight_scale"] = np.abs(floats(labels, std=0.003, mean=0.01))
    elif output == "labels":
        head["weight"] = floats(labels, width)
    if output is not None:
        head["bias"] = floats(len(head["weight"]))
    return head
