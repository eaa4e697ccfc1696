"""Bias correction: the mean error that quantization makes in an output on texts is taken out of its bias."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.modeling.structure import EncoderBlock, Projection, find_blocks
from secateur.quantization.calibration import CalibrationTexts
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.quantization.qat import input_quantizer
from secateur.sparsity.layer_inputs import LayerInputs
from secateur.sparsity.mask import unquantized_weight

__all__ = ["correct_biases_", "output_means"]


def output_means(model: nn.Module, texts: CalibrationTexts) -> dict[str, Tensor]:
    """Returns what each projection of a float model gives on average over all real tokens.

    Args:
        model: A live float model in eval mode.
        texts: What it reads.

    Returns:
        Name of the projection to [N] float64.
    """
    projections = [one for block in find_blocks(model) for one in block.projections()]
    sums = [torch.zeros(one.linear.out_features, dtype=torch.float64) for one in projections]
    tokens = [0] * len(projections)  # layers that run more than once see each token as often

    def visit(place: int, x: Tensor) -> None:
        sums[place] += x.double().sum(0).cpu()
        tokens[place] += len(x)

    texts.watch(model, [(one.linear, "output") for one in projections], visit)
    return {
        one.name: (total / count)[one.row_slice]
        for one, total, count in zip(projections, sums, tokens, strict=True)
    }


def correct_biases_(
    model: nn.Module, texts: CalibrationTexts, means: Mapping[str, Tensor]
) -> dict[str, float]:
    """Gives every quantized projection a bias with which its mean output is again that of the float model.

    Layer by layer: a layer's error includes what the ones before it, corrected already, still hand on.

    Args:
        model: A model in eval mode with quantizers whose ranges are frozen.
        texts: What it reads.
        means: What `output_means` gave for the float model.

    Returns:
        Name of the projection to the largest change of its bias, in the order of the layers.

    Source:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv
        1906.04721), appendix D (empirical bias correction). Since a layer is linear, its mean output follows
        from the mean of its quantized inputs: one pass for each input, not one for each layer again.
    """
    source = LayerInputs(model, texts.inputs)
    changes = {}
    for block in find_blocks(model):
        for group in _groups(block):
            quantized = [one for one in group if input_quantizer(one) is not None]
            if not quantized:
                continue
            mean = _mean_input(source, quantized[0])
            for projection in quantized:
                bias = projection.linear.bias
                if bias is None:
                    continue
                weight = fake_quantize_rows(unquantized_weight(projection.linear)[projection.row_slice])
                with torch.no_grad():
                    part = bias[projection.row_slice]
                    wanted = means[projection.name].to(mean.device) - weight.double() @ mean
                    changes[projection.name] = float((wanted - part).abs().max())
                    part.copy_(wanted)
    return changes


def _groups(block: EncoderBlock) -> tuple[tuple[Projection, ...], ...]:
    return (block.q, block.k, block.v), (block.attn_out,), (block.ffn_in,), (block.ffn_out,)


def _mean_input(source: LayerInputs, projection: Projection) -> Tensor:
    """Returns [K] float64, the mean of the input as it is quantized."""
    quantizer = input_quantizer(projection)
    assert quantizer is not None
    total = torch.zeros(projection.in_features, dtype=torch.float64)
    tokens = 0

    def visit(_: Projection, x: Tensor, real: Tensor) -> None:
        nonlocal total, tokens
        q, scale = quantizer(x[real], torch.float32)
        scale = scale.unsqueeze(-1) if scale.dim() else scale  # one for each token, or one
        total = total.to(x.device) + (q * scale).double().sum(0)
        tokens += int(real.sum())

    source.inputs(visit, {projection.name})
    return total / tokens
