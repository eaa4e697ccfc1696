"""Single matrices and attentions of a quantized model, turned to float and back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from secateur.modeling.structure import EncoderBlock, Projection, find_blocks
from secateur.quantization.attention import AttentionQuantizer
from secateur.quantization.qat import attention_quantizer, enable_quantizers_, input_quantizer
from secateur.sparsity.mask import set_weight_, unquantized_weight

__all__ = ["FloatWeights", "Switches"]


class FloatWeights:
    """Weights and biases as the float model has them, to be put back where a matrix stays float.

    Args:
        model: A live model of a supported family.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = {
            projection.name: _weights_of(projection.linear)
            for block in find_blocks(model)
            for projection in block.projections()
        }

    def of(self, projection: Projection) -> tuple[Tensor, Tensor | None]:
        """Returns [N, K] float32, masked, and [N] float32 or None."""
        return self._kept[projection.name]


class Switches:
    """What of a quantized model computes in int8, one unit at a time. A float unit has its float weights.

    Args:
        model: A model with quantizers; all its int8 units are on.
        floats: From before its weights were rounded and its biases corrected.
        rounds: Whether the engine will run a float matrix in bfloat16, which rounds the weight and what it
            multiplies; so does the model then, until `release_`, which leaves the rounded weight behind.

    Attributes:
        units: Names of what can be switched: projections, and attentions as `<layer>.attention`, in the order
            of the layers.
    """

    def __init__(self, model: nn.Module, floats: FloatWeights, rounds: bool) -> None:
        self._model = model
        self._floats = floats
        self._rounds = rounds
        self._projections: dict[str, Projection] = {}
        self._attentions: dict[str, tuple[EncoderBlock, AttentionQuantizer]] = {}
        for block in find_blocks(model):
            attention = attention_quantizer(model, block)
            if attention is not None:
                self._attentions[f"{block.prefix}.attention"] = block, attention
            quantized = [one for one in block.projections() if input_quantizer(one) is not None]
            self._projections |= {one.name: one for one in quantized}
        self._forwards: dict[str, Any] = {name: one.linear.forward for name, one in self._projections.items()}
        self._rounded = {name: _weights_of(one.linear) for name, one in self._projections.items()}
        self._on = set(self._projections)
        self.units = [*self._attentions, *self._projections]

    def set_(self, int8: Collection[str], rows: bool = True) -> None:
        """Lets these units compute in int8, and all others in float.

        Args:
            int8: Some of `units`.
            rows: Whether looked-up embeddings are quantized.
        """
        enable_quantizers_(self._model, rows)
        sources: dict[int, tuple[Any, list[str]]] = {}
        for name, projection in self._projections.items():
            linear, forward = projection.linear, self._forwards[name]
            if (name in int8) != (name in self._on):
                if name in int8:
                    linear.forward = forward
                    weight, bias = self._rounded[name]
                else:
                    del linear.forward
                    weight, bias = self._floats.of(projection)
                    if self._rounds:
                        linear.forward = _BfloatForward(linear)
                        weight = weight.bfloat16()
                set_weight_(linear, weight)
                if bias is not None:
                    linear.bias.data.copy_(bias)
            readers = sources.setdefault(id(forward.source), (forward.source, []))[1]
            readers += [name] if name in int8 else []
        for source, readers in sources.values():
            source.readers = len(readers)
            source.quantizer.enabled = bool(readers)
        for name, (_, attention) in self._attentions.items():
            for quantizer in (attention.query, attention.key, attention.value):
                quantizer.enabled = name in int8
        self._on = {name for name in self._projections if name in int8}

    def release_(self, int8: Collection[str]) -> None:
        """Lets these units compute in int8, and takes the quantizers off all others for good.

        Weights that the engine will run in bfloat16 stay rounded; what they multiply no longer is, as where a
        checkpoint is loaded in PyTorch.

        Args:
            int8: Some of `units`.
        """
        self.set_(int8)
        for name in set(self._projections) - set(int8):
            quantizer = self._forwards[name].source.quantizer
            self._projections[name].linear.__dict__.pop("forward", None)
            for module in self._model.modules():
                if self._forwards[name].source.readers == 0 and quantizer in module.children():
                    del module.input_quantizer
        for name, (block, _) in self._attentions.items():
            if name not in int8:
                owner = self._model.get_submodule(block.q.name.rpartition(".")[0])
                AttentionQuantizer.detach_(owner)


class _BfloatForward:
    """Takes the place of `nn.Linear.forward`: the engine's bfloat16 product, summed in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.bfloat16().float(), self.linear.weight, self.linear.bias)


def _weights_of(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias = None if linear.bias is None else linear.bias.detach().clone()
    return unquantized_weight(linear).clone(), bias
