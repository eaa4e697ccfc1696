"""Memory that steps share, against plain layers: inference mode, recomputing, shared layers, other types."""

import copy

import pytest
import tiny_models
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from secateur.quantization import attach_quantizers_, freeze_observers_
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.quantization.integer_linear import Memory, integer_linear
from secateur.sparsity.mask import attach_mask_, find_mask, weight_and_mask


def masked(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(seed)
    linear = nn.Linear(16, 16, dtype=dtype)
    attach_mask_(linear, torch.rand(16, 16) < 0.5)
    return linear


class Quantized(nn.Module):
    """A masked layer whose weight is quantized into memory that its steps share."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.memory = masked(), Memory()

    def forward(self, x: Tensor) -> Tensor:
        weight, mask = weight_and_mask(self.linear)
        return integer_linear(x, torch.tensor(0.1), weight, self.linear.bias, None, mask, self.memory)


def plain_quantized(layer: Quantized, x: Tensor, weight: Tensor) -> Tensor:
    """The same by autograd's own operations and in new memory; the gradient of integers is in real units."""
    mask = find_mask(layer.linear).mask
    real = x + (0.1 * x - x).detach()
    return functional.linear(real, fake_quantize_rows(weight * mask), layer.linear.bias)


@pytest.mark.parametrize("kind", [masked, Quantized])
def test_training_goes_on_after_an_evaluation_in_inference_mode(kind: type) -> None:
    layer = kind()
    x = torch.randn(3, 16)
    fresh = copy.deepcopy(layer)
    with torch.inference_mode():
        layer(x)
    for one in (layer, fresh):
        one(x).square().sum().backward()
    with torch.inference_mode():
        assert torch.equal(layer(x), fresh(x))
    for own, other in zip(layer.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_is_run_three_times_and_recomputed_has_the_plain_gradient(reentrant: bool) -> None:
    layer = Quantized()
    original = weight_and_mask(layer.linear)[0]
    for step in range(3):  # the later ones find memory to use again
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(step), requires_grad=True)
        y = x
        for _ in range(3):
            y = checkpoint(layer, y, use_reentrant=reentrant)
        layer.zero_grad()
        y.square().sum().backward()
        weight = original.detach().clone().requires_grad_()
        other = x.detach().clone().requires_grad_()
        y = other
        for _ in range(3):
            y = plain_quantized(layer, y, weight)
        y.square().sum().backward()
        torch.testing.assert_close(original.grad, weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            original.sub_(0.01 * original.grad)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_masked_layer_that_is_recomputed_has_the_plain_gradient(reentrant: bool) -> None:
    linear = masked()
    original, mask = weight_and_mask(linear)
    for _ in range(3):
        x = torch.randn(5, 16, requires_grad=True)
        y = x
        for _ in range(3):
            y = checkpoint(lambda one: linear(one).tanh(), y, use_reentrant=reentrant)
        linear.zero_grad()
        y.square().sum().backward()
        weight = original.detach().clone().requires_grad_()
        y = x.detach()
        for _ in range(3):
            y = functional.linear(y, weight * mask, linear.bias).tanh()
        y.square().sum().backward()
        torch.testing.assert_close(original.grad, weight.grad)
        with torch.no_grad():
            original.sub_(0.1 * original.grad)


def test_a_mask_that_lies_where_another_lay_is_read_anew() -> None:
    linear = masked()
    found = find_mask(linear)
    memory = torch.zeros(16, 16, dtype=torch.bool)
    # As after moves to a GPU and back: other tensors, each with a version of its own, at the same place.
    for keep in (True, False):
        memory.numpy()[:] = keep
        found.mask = torch.from_numpy(memory.numpy())
        assert bool(linear.weight.any()) is keep


def test_a_bfloat16_layer_stays_one() -> None:
    linear = masked(dtype=torch.bfloat16)
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    for _ in range(2):
        y = linear(x)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
    with torch.no_grad():
        assert torch.equal(linear(x), y)
    assert not linear.weight[~find_mask(linear).mask].any()


@pytest.mark.parametrize("member", ["albert", "albert-groups", "bert"])
def test_a_models_gradients_are_the_same_with_and_without_memory(
    member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for used_again in (True, False):
        if not used_again:
            monkeypatch.setattr(Memory, "give", lambda self, tensor: None)
        model = tiny_models.tiny_model(member, sparsity=0.5).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        attach_quantizers_(model)
        ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
        model(input_ids=ids)
        freeze_observers_(model)
        for _ in range(2):
            model.zero_grad()
            both = model(input_ids=ids).logits, model(input_ids=ids.flip(0)).logits
            (both[0].square().sum() + both[1].sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert gradients[0]
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)
