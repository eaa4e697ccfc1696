"""Other forms in which PyTorch can run a model: linears on sparse matrices, or dynamically quantized."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["dynamic_int8", "sparse_linears"]


def sparse_linears(model: Any) -> Any:
    """Replaces the linears of a model's encoder by products with `torch.sparse` matrices in compressed rows.

    Args:
        model: A Hugging Face BERT in float32; changed.

    Returns:
        The model.
    """
    import torch

    class SparseLinear(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self, linear: Any) -> None:
            super().__init__()
            self.register_buffer("weight", linear.weight.detach().to_sparse_csr())
            self.register_buffer("bias", linear.bias.detach()[:, None].clone())

        def forward(self, x: Any) -> Any:
            flat = x.reshape(-1, x.size(-1))  # (M, K)
            return (self.weight @ flat.t() + self.bias).t().reshape(*x.shape[:-1], -1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the layout a beta
        for module in list(model.base_model.encoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(module, name, SparseLinear(child))
    return model


def dynamic_int8(model: Any) -> Any:
    """Quantizes a model's linears to int8, activations call by call.

    Args:
        model: A Hugging Face BERT in float32; may be changed.

    Returns:
        The quantized model.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to be replaced by torchao, which is another package
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
