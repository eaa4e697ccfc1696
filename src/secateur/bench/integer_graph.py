"""The int8 graph that DeepSparse runs fastest: every product of the encoder, attention included, in integers.

A plain quantize-dequantize graph falls off DeepSparse's int8 path and runs several times slower. Weights
get one scale a matrix and stay zero where they are; activations are uint8, with ranges from a few samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_integer_graph"]

Range = tuple[float, float]


def write_integer_graph(plain: Path, out: Path, samples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Rewrites a float32 graph.

    Args:
        plain: A graph of `secateur.bench.peers.export_plain`.
        out: The file to write.
        samples: Inputs of the graph to take the ranges of activations from.

    Raises:
        ValueError: The graph is not that of a BERT encoder.
    """
    import onnx

    model = onnx.load(str(plain))
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    stored = {tensor.name for tensor in model.graph.initializer}
    if not products or any(node.input[0] in stored for node in products):
        raise ValueError(f"{plain} has products of an unknown form")
    activations = {name for node in products for name in node.input if name not in stored}
    _Rewriter(model, _ranges(model, sorted(activations), samples)).rewrite_()
    onnx.checker.check_model(model)
    onnx.save(model, str(out))


def _ranges(
    model: Any, names: Sequence[str], samples: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, Range]:
    """Runs the graph on the samples and returns the least and the largest value of each named tensor."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {output.name for output in watched.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in known
    )
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict.fromkeys(names, (0.0, 0.0))  # a range holds 0, so that a zero point is a zero
    for sample in samples:
        for name, values in zip(names, session.run(list(names), dict(sample)), strict=True):
            low, high = found[name]
            found[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return found


class _Rewriter:
    """Replaces the products of one graph."""

    def __init__(self, model: Any, ranges: Mapping[str, Range]) -> None:
        import onnx

        self._onnx = onnx
        self._graph = model.graph
        self._ranges = ranges
        self._floats = {tensor.name: tensor for tensor in self._graph.initializer}
        self._added: dict[str, Any] = {}
        self._nodes: list[Any] = []
        self._quantized: dict[str, float] = {}  # activation -> its scale

    def rewrite_(self) -> None:
        readers: dict[str, list[Any]] = {}
        for node in self._graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        done: set[str] = set()
        for node in self._graph.node:
            if node.output[0] in done:
                continue
            if node.op_type != "MatMul":
                self._nodes.append(node)
            elif node.input[1] in self._floats:
                (bias,) = readers[node.output[0]]
                self._linear(node, bias)
                done.add(bias.output[0])
            else:
                self._product(node)
        kept = {name for node in self._nodes for name in node.input}
        tensors = [tensor for name, tensor in self._floats.items() if name in kept]
        nodes = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        del self._graph.initializer[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend([*tensors, *self._added.values()])

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        node = self._onnx.helper.make_node(
            kind, list(inputs), [output], name=f"{output}_{kind}", **attributes
        )
        self._nodes.append(node)
        return output

    def _constant(self, name: str, value: Any) -> str:
        self._added[name] = self._onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def _quantize(self, name: str) -> tuple[list[str], float]:
        """Returns the names of an activation's quantized form and its zero point, and its scale."""
        if name not in self._quantized:
            low, high = self._ranges[name]
            scale = (high - low) / 255 or 1.0
            self._quantized[name] = scale
            inputs = [
                name,
                self._constant(f"{name}_scale", np.float32(scale)),
                self._constant(f"{name}_zero", np.uint8(np.clip(round(-low / scale), 0, 255))),
            ]
            self._add("QuantizeLinear", inputs, f"{name}_u8")
        return [f"{name}_u8", f"{name}_zero"], self._quantized[name]

    def _linear(self, node: Any, bias: Any) -> None:
        """MatMul and Add become MatMulInteger, an integer Add, a Cast and a Mul."""
        data, weight = node.input
        (vector,) = (name for name in bias.input if name != node.output[0])
        if bias.op_type != "Add" or vector not in self._floats:
            raise ValueError(f"the product {node.name} is not followed by its bias")
        (quantized, zero), scale = self._quantize(data)
        values = self._onnx.numpy_helper.to_array(self._floats[weight])
        step = float(np.abs(values).max()) / 127 or 1.0
        integers = self._constant(f"{weight}_s8", np.rint(values / step).astype(np.int8))
        no_zero = self._constant(f"{weight}_zero", np.int8(0))
        added = np.rint(self._onnx.numpy_helper.to_array(self._floats[vector]) / (scale * step))
        whole = self._constant(f"{weight}_bias", added.astype(np.int32))
        name = node.output[0]
        sums = self._add("MatMulInteger", [quantized, integers, zero, no_zero], f"{name}_s32")
        shifted = self._add("Add", [sums, whole], f"{name}_biased")
        self._rescale(shifted, scale * step, bias.output[0])

    def _product(self, node: Any) -> None:
        """A product of two activations becomes MatMulInteger, a Cast and a Mul."""
        (left, left_zero), left_scale = self._quantize(node.input[0])
        (right, right_zero), right_scale = self._quantize(node.input[1])
        name = node.output[0]
        sums = self._add("MatMulInteger", [left, right, left_zero, right_zero], f"{name}_s32")
        self._rescale(sums, left_scale * right_scale, name)

    def _rescale(self, sums: str, scale: float, output: str) -> None:
        floats = self._add("Cast", [sums], f"{sums}_f32", to=self._onnx.TensorProto.FLOAT)
        self._add("Mul", [floats, self._constant(f"{sums}_scale", np.float32(scale))], output)
