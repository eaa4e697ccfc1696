"""Changes to a tiny checkpoint behind the back of `write_checkpoint`, which would refuse them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tiny_checkpoint import Numbers, tiny_config, tiny_tensors

Tensors = dict[str, np.ndarray]

LAYER = "bert.encoder.layer.0"
QUERY = f"{LAYER}.attention.self.query"
DENSE = "bert.encoder.layer.1.output.dense"


def rewrite(folder: Path, change: Callable[[Tensors], Any], numbers: Numbers = "int8") -> None:
    """Changes the tensors of a written checkpoint."""
    tensors = tiny_tensors(tiny_config(numbers), numbers=numbers)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def put(name: str, index: Any, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][index] = value

    return change


def replaced(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: np.ascontiguousarray(make(tensors[name]))})
