"""Masks: the parametrization that holds one in a live model.

A mask is bool, True = keep, shaped like the weight it belongs to. A masked `nn.Linear` computes with
`weight * mask`; its state dict keeps the plain names `weight` (the effective weight) and `weight_mask`, so a
saved model loads into an unmasked one with no key missing, and a resumed run continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import StructureError

__all__ = [
    "MaskParametrization",
    "attach_mask_",
    "find_mask",
    "remove_mask_",
    "set_weight_",
    "sparsity_of",
    "unquantized_weight",
    "weight_and_mask",
]

_WEIGHT = "weight"
_ORIGINAL = "parametrizations.weight.original"


class MaskParametrization(nn.Module):  # type: ignore[misc]
    """Multiplies a weight by its mask.

    Args:
        mask: [N, K] bool, True = keep.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self._factor: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._spare: Tensor | None = None  # the last step's effective weight, whose memory the next one takes

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the effective weight.

        Args:
            weight: [N, K] float32.

        Returns:
            [N, K] float32, zero where the mask is False. Like a plain layer's weight it is not a copy: it
            holds until a gradient has passed through it and the layer runs again.
        """
        if not torch.is_grad_enabled() or not weight.requires_grad:
            return weight * self.multiplier(weight.dtype)
        result: Tensor = _Masked.apply(weight, self)
        return result

    def multiplier(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the mask in the type that multiplies fastest.

        Args:
            dtype: Type of what it multiplies, which the product keeps.
        """
        mask = self.mask
        if mask.device.type != "cpu" or mask.is_inference() or dtype != torch.float32:
            return mask
        # A CPU converts bool to float32 in every product: 0.52 ms instead of 0.13 for 1536 x 384 on Zen 3.
        state = (mask._version, mask.data_ptr())
        # The tensor itself, too: another one may lie in its memory and have its version, as after `to`.
        if self._factor is None or self._factor[0] is not mask or self._factor[1] != state:
            with torch.inference_mode(False):  # an inference tensor could not be trained with later
                self._factor = (mask, state, mask.to(torch.float32))
        return self._factor[2]

    def __getstate__(self) -> dict[str, Any]:
        # A copy's mask has another version.
        return {**super().__getstate__(), "_factor": None, "_spare": None}


class _Masked(torch.autograd.Function):  # type: ignore[misc]
    """weight * mask into the memory of the step before.

    A fresh tensor goes back to the system after every step and is faulted in again in the next: 5 % of it
    (MiniLM, 384 tokens).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, owner: MaskParametrization) -> Tensor:
        spare, owner._spare = owner._spare, None
        if spare is not None and (spare.dtype, spare.device) != (weight.dtype, weight.device):
            spare = None
        ctx.owner = owner
        ctx.factor = owner.multiplier(weight.dtype)
        product = torch.mul(weight, ctx.factor, out=spare)
        # An alias shares the version counter: autograd raises where an overwritten weight is read backwards.
        ctx.product = product.detach()
        return product.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.owner._spare = ctx.product
        return grad * ctx.factor, None


def attach_mask_(linear: nn.Linear, mask: Tensor | None = None) -> MaskParametrization:
    """Masks a linear layer's weight from now on.

    Args:
        linear: The layer; its weight must carry no parametrization yet.
        mask: [N, K] bool, True = keep; everything is kept where None.

    Returns:
        The parametrization; assign to its `mask` with `copy_`.

    Raises:
        StructureError: The weight is masked or parametrized already.
    """
    if parametrize.is_parametrized(linear, _WEIGHT):
        raise StructureError("The weight is parametrized already; attach the mask first, and once.")
    weight = linear.weight
    if mask is None:
        mask = torch.ones_like(weight, dtype=torch.bool)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise StructureError(
            f"A mask must be bool and shaped like its weight {tuple(weight.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}."
        )
    module = MaskParametrization(mask)
    parametrize.register_parametrization(linear, _WEIGHT, module, unsafe=True)
    linear._secateur_mask_hooks = (
        linear.register_state_dict_post_hook(_save_plain_names),
        linear.register_load_state_dict_pre_hook(_load_plain_names),
    )
    return module


def find_mask(linear: nn.Linear) -> MaskParametrization | None:
    """Returns the mask of a linear layer, or None where it has none."""
    if not parametrize.is_parametrized(linear, _WEIGHT):
        return None
    for module in linear.parametrizations[_WEIGHT]:
        if isinstance(module, MaskParametrization):
            return module
    return None


def weight_and_mask(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Returns the two factors of a layer's weight, for those who multiply them on their own.

    Args:
        linear: A linear layer, with or without a mask.

    Returns:
        weight: [N, K] float32, with its gradient.
        mask: [N, K] that multiplies it; None where the first is the weight as the layer has it.
    """
    if not parametrize.is_parametrized(linear, _WEIGHT):
        return linear.weight, None
    chain = linear.parametrizations[_WEIGHT]
    if len(chain) != 1 or type(chain[0]) is not MaskParametrization:
        return linear.weight, None
    return chain.original, chain[0].multiplier()


def unquantized_weight(linear: nn.Linear) -> Tensor:
    """Returns the weight as trained: masked, but without fake quantization.

    Args:
        linear: A linear layer, with or without mask and quantizer.

    Returns:
        [N, K] float32, detached.
    """
    if not parametrize.is_parametrized(linear, _WEIGHT):
        return linear.weight.detach()
    original: Tensor = linear.parametrizations[_WEIGHT].original.detach()
    found = find_mask(linear)
    return original if found is None else original * found.mask


def set_weight_(linear: nn.Linear, weight: Tensor) -> None:
    """Writes a layer's weight behind its mask and quantizer.

    Args:
        linear: A linear layer, with or without mask and quantizer.
        weight: [N, K]; 0 where the mask is False.
    """
    masked = parametrize.is_parametrized(linear, _WEIGHT)
    with torch.no_grad():
        (linear.parametrizations[_WEIGHT].original if masked else linear.weight).copy_(weight)


def remove_mask_(linear: nn.Linear) -> None:
    """Takes the mask off; the zeros stay in the plain weight. Other parametrizations must be gone already."""
    if find_mask(linear) is None:
        return
    if len(linear.parametrizations[_WEIGHT]) != 1:
        raise StructureError("A mask can be removed only after the weight's other parametrizations.")
    for hook in linear._secateur_mask_hooks:
        hook.remove()
    del linear._secateur_mask_hooks
    parametrize.remove_parametrizations(linear, _WEIGHT, leave_parametrized=True)


def sparsity_of(model_linears: Sequence[nn.Linear]) -> float:
    """Returns the fraction of zeros over all weights of these layers, as trained."""
    weights = [unquantized_weight(linear) for linear in model_linears]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    total = sum(int(weight.numel()) for weight in weights)
    return zeros / total


def _save_plain_names(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    index, found = _position(module)
    key = prefix + _ORIGINAL
    if key not in state:
        return
    original = state.pop(key)
    mask = state.pop(f"{prefix}parametrizations.weight.{index}.mask")
    with torch.no_grad():
        state[f"{prefix}weight"] = original * found.mask
    state[f"{prefix}weight_mask"] = mask


def _load_plain_names(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    index, _ = _position(module)
    if f"{prefix}weight" in state:
        state[prefix + _ORIGINAL] = state.pop(f"{prefix}weight")
    mask = state.pop(f"{prefix}weight_mask", None)
    if mask is not None:
        state[f"{prefix}parametrizations.weight.{index}.mask"] = mask
    elif prefix + _ORIGINAL in state:
        # A masked model that loads unmasked weights would keep its old mask and lose weights without a word.
        errors.append(f"{prefix}weight_mask is missing: the weights were saved without masks.")


def _position(module: nn.Module) -> tuple[int, MaskParametrization]:
    for index, candidate in enumerate(module.parametrizations[_WEIGHT]):
        if isinstance(candidate, MaskParametrization):
            return index, candidate
    raise StructureError("The weight has no mask.")
