"""Writes a small recurrent network as an ONNX graph, for engines that run such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import MissingExtraError

__all__ = ["LstmDirection", "RecurrentWeights", "require_onnx", "to_onnx"]

_OPSET = 17
_IR_VERSION = 8  # what goes with the opset; a newer one is refused by older runtimes
_GATES = (0, 3, 1, 2)  # PyTorch's order is input, forget, cell, output; ONNX's input, output, forget, cell

Array = NDArray[Any]


@dataclass(frozen=True)
class LstmDirection:
    """One direction of an LSTM as PyTorch stores it, gates in the order input, forget, cell, output.

    Attributes:
        inputs: [4 * h, D] float32.
        states: [4 * h, h] float32.
        input_bias: [4 * h] float32.
        state_bias: [4 * h] float32.
    """

    inputs: Array
    states: Array
    input_bias: Array
    state_bias: Array


@dataclass(frozen=True)
class RecurrentWeights:
    """A bidirectional LSTM over word pieces with a hidden layer after it.

    Attributes:
        pieces: [V] int64, token id to row of the table.
        table: [v, D] float32.
        directions: Forward and backward.
        dense: [F, 2 * h] float32 and [F] float32, followed by ReLU.
        output: [L, F] float32 and [L] float32.
        each_token: Whether there is an answer for every token, or one for a text.
    """

    pieces: Array
    table: Array
    directions: tuple[LstmDirection, LstmDirection]
    dense: tuple[Array, Array]
    output: tuple[Array, Array]
    each_token: bool


def require_onnx() -> None:
    """Raises MissingExtraError where ONNX files cannot be written."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Writing ONNX needs {error.name}, which is not installed: pip install 'secateur[onnx]'."
        ) from error


def to_onnx(weights: RecurrentWeights) -> bytes:
    """Returns a recurrent network as an ONNX file.

    Its inputs are `input_ids` and `attention_mask`, both (B, S) int64, padded on the right; its output is
    `logits`, (B, L) float32, or (B, S, L) with an answer for every token. A text's answer does not depend on
    the padding beside it.

    Args:
        weights: The network.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    require_onnx()
    from onnx import TensorProto, checker, helper, numpy_helper

    width = weights.directions[0].states.shape[1]
    constants = {
        "pieces": weights.pieces.astype(np.int64),
        "table": weights.table,
        "inputs": np.stack([_ordered(one.inputs) for one in weights.directions]),
        "states": np.stack([_ordered(one.states) for one in weights.directions]),
        "biases": np.stack(
            [
                np.concatenate([_ordered(one.input_bias), _ordered(one.state_bias)])
                for one in weights.directions
            ]
        ),
        "dense_weight": weights.dense[0].T,
        "dense_bias": weights.dense[1],
        "output_weight": weights.output[0].T,
        "output_bias": weights.output[1],
        "tokens": np.array([1], np.int64),
        "joined": np.array([0, 0, 2 * width] if weights.each_token else [0, 2 * width], np.int64),
    }
    node = helper.make_node
    last = (
        node("Transpose", ["all"], ["turned"], perm=[2, 0, 1, 3])  # (B, S, 2, h)
        if weights.each_token
        else node("Transpose", ["final"], ["turned"], perm=[1, 0, 2])  # (B, 2, h)
    )
    nodes = [
        node("ReduceSum", ["attention_mask", "tokens"], ["count"], keepdims=0),
        node("Cast", ["count"], ["lengths"], to=TensorProto.INT32),
        node("Gather", ["pieces", "input_ids"], ["rows"]),
        node("Gather", ["table", "rows"], ["embedded"]),  # (B, S, D)
        node("Transpose", ["embedded"], ["steps"], perm=[1, 0, 2]),
        node(
            "LSTM",
            ["steps", "inputs", "states", "biases", "lengths"],
            ["all", "final"],  # (S, 2, B, h), (2, B, h)
            direction="bidirectional",
            hidden_size=width,
        ),
        last,
        node("Reshape", ["turned", "joined"], ["read"]),
        node("MatMul", ["read", "dense_weight"], ["product"]),
        node("Add", ["product", "dense_bias"], ["sum"]),
        node("Relu", ["sum"], ["hidden"]),
        node("MatMul", ["hidden", "output_weight"], ["answers"]),
        node("Add", ["answers", "output_bias"], ["logits"]),
    ]
    labels = weights.output[0].shape[0]
    shape = ["batch", "tokens", labels] if weights.each_token else ["batch", labels]
    graph = helper.make_graph(
        nodes,
        "bilstm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="secateur"
    )
    model.ir_version = _IR_VERSION
    checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString()
    return written


def _ordered(rows: Array) -> Array:
    """Returns the rows of an LSTM's gates in ONNX's order."""
    gates = np.split(rows, 4)
    return np.concatenate([gates[place] for place in _GATES])
