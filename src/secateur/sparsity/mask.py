"""Masks: the parametrization that holds one in a live model.

A mask is bool, True = keep, shaped like the weight it belongs to. A masked `nn.Linear` computes with
`weight * mask`; its state dict keeps the plain names `weight` (the effective weight) and `weight_mask`, so a
saved model loads into an unmasked one with no key missing, and a resumed run continues bit for bit. A mask
whose weights may come back saves what lies behind it as `weight_hidden`, and what it learns under names of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import StructureError

__all__ = [
    "MaskParametrization",
    "attach_mask_",
    "find_mask",
    "remove_mask_",
    "sparsity_of",
    "unmasked_weight",
    "unquantized_weight",
    "weight_and_mask",
]

_WEIGHT = "weight"


class MaskParametrization(nn.Module):  # type: ignore[misc]
    """Multiplies a weight by its mask.

    Args:
        mask: [N, K] bool, True = keep.
    """

    mask: Tensor
    revives: ClassVar[bool] = False  # whether the weights behind the mask may come back
    learnt: ClassVar[tuple[str, ...]] = ()  # names of what else is saved beside the mask

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


def attach_mask_(
    module: nn.Module,
    mask: Tensor | None = None,
    name: str = _WEIGHT,
    kind: Callable[[Tensor], MaskParametrization] = MaskParametrization,
) -> MaskParametrization:
    """Masks a weight from now on.

    Args:
        module: The layer; its weight must carry no parametrization yet.
        mask: Shaped like the weight, bool, True = keep; everything is kept where None.
        name: Which of its parameters: `weight` or `bias`.
        kind: Makes the parametrization from the mask.

    Returns:
        The parametrization; assign to its `mask` with `copy_`.

    Raises:
        StructureError: The weight is masked or parametrized already.
    """
    if parametrize.is_parametrized(module, name):
        raise StructureError(f"The {name} is parametrized already; attach the mask first, and once.")
    weight = getattr(module, name)
    if mask is None:
        mask = torch.ones_like(weight, dtype=torch.bool)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise StructureError(
            f"A mask must be bool and shaped like its {name} {tuple(weight.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}."
        )
    made = kind(mask)
    parametrize.register_parametrization(module, name, made, unsafe=True)
    # Hooks know the parameter by a partial, not by a closure: it survives copy.deepcopy and pickling.
    hooks = (
        module.register_state_dict_post_hook(partial(_save_plain_names, name)),
        module.register_load_state_dict_pre_hook(partial(_load_plain_names, name)),
    )
    module._secateur_mask_hooks = {**getattr(module, "_secateur_mask_hooks", {}), name: hooks}
    return made


def find_mask(module: nn.Module, name: str = _WEIGHT) -> MaskParametrization | None:
    """Returns the mask of a layer's weight or bias, or None where it has none."""
    if not parametrize.is_parametrized(module, name):
        return None
    for found in module.parametrizations[name]:
        if isinstance(found, MaskParametrization):
            return found
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


def unmasked_weight(module: nn.Module, name: str = _WEIGHT) -> nn.Parameter:
    """Returns the parameter that an optimizer trains: what stands behind the mask, where there is one."""
    if not parametrize.is_parametrized(module, name):
        return getattr(module, name)
    return module.parametrizations[name].original


def unquantized_weight(linear: nn.Module) -> Tensor:
    """Returns the weight as trained: masked, but without fake quantization.

    Args:
        linear: A linear layer or a table, with or without mask and quantizer.

    Returns:
        [N, K] float32, detached.
    """
    original = unmasked_weight(linear).detach()
    found = find_mask(linear)
    return original if found is None else original * found.mask


def remove_mask_(module: nn.Module, name: str = _WEIGHT) -> None:
    """Takes the mask off; the zeros stay in the plain weight. Other parametrizations must be gone already."""
    if find_mask(module, name) is None:
        return
    if len(module.parametrizations[name]) != 1:
        raise StructureError("A mask can be removed only after the weight's other parametrizations.")
    for hook in module._secateur_mask_hooks.pop(name):
        hook.remove()
    if not module._secateur_mask_hooks:
        del module._secateur_mask_hooks
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def sparsity_of(modules: Sequence[nn.Module]) -> float:
    """Returns the fraction of zeros over all weights of these layers, as trained."""
    weights = [unquantized_weight(module) for module in modules]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    total = sum(int(weight.numel()) for weight in weights)
    return zeros / total


def _save_plain_names(
    name: str, module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    index, found = _position(module, name)
    inner, plain = f"{prefix}parametrizations.{name}.", f"{prefix}{name}"
    if f"{inner}original" not in state:
        return
    original = state.pop(f"{inner}original")
    mask = state.pop(f"{inner}{index}.mask")
    with torch.no_grad():
        state[plain] = original * found.mask
        if found.revives:
            state[f"{plain}_hidden"] = original.masked_fill(found.mask, 0.0)
    state[f"{plain}_mask"] = mask
    for more in found.learnt:
        state[f"{plain}_{more}"] = state.pop(f"{inner}{index}.{more}")


def _load_plain_names(
    name: str,
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    index, found = _position(module, name)
    inner, plain = f"{prefix}parametrizations.{name}.", f"{prefix}{name}"
    if plain not in state:
        return
    weight, mask = state.pop(plain), state.pop(f"{plain}_mask", None)
    hidden = state.pop(f"{plain}_hidden", None)
    if mask is None:
        # A masked model that loads unmasked weights would keep its old mask and lose weights without a word.
        errors.append(f"{plain}_mask is missing: the weights were saved without masks.")
    else:
        state[f"{inner}{index}.mask"] = mask
    if found.revives and mask is not None:
        if hidden is None:
            errors.append(f"{plain}_hidden is missing: the weights were saved by a method that revives none.")
        else:
            weight = torch.where(mask, weight, hidden)
    state[f"{inner}original"] = weight
    for more in found.learnt:
        value = state.pop(f"{plain}_{more}", None)
        if value is None:
            errors.append(f"{plain}_{more} is missing: the weights were saved by another pruning method.")
        else:
            state[f"{inner}{index}.{more}"] = value


def _position(module: nn.Module, name: str) -> tuple[int, MaskParametrization]:
    for index, candidate in enumerate(module.parametrizations[name]):
        if isinstance(candidate, MaskParametrization):
            return index, candidate
    raise StructureError("The weight has no mask.")
