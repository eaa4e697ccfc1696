"""Ranges move as announced, stop when frozen, survive saving, and say so when they cannot be used."""

import pytest
import torch

from secateur.errors import SecateurError
from secateur.quantization import ActivationQuantizer


def quantizer(averaging: float = 0.1, symmetric: bool = False) -> ActivationQuantizer:
    return ActivationQuantizer("the input of layer 3", symmetric=symmetric, averaging=averaging)


def test_first_batches_count_equally_then_the_average_moves() -> None:
    observer = quantizer(averaging=0.25)
    highs = [4.0, 8.0, 6.0, 2.0, 10.0]
    for high in highs:
        observer(torch.tensor([-1.0, high]))
    mean = sum(highs[:4]) / 4
    assert observer.high.item() == pytest.approx(mean + 0.25 * (highs[4] - mean))
    assert observer.low.item() == -1.0
    assert observer.batches == 5


def test_averaging_of_zero_keeps_the_extremes() -> None:
    observer = quantizer(averaging=0.0)
    for values in ([-1.0, 2.0], [-3.0, 1.0], [0.0, 5.0]):
        observer(torch.tensor(values))
    assert (observer.low, observer.high) == (-3.0, 5.0)
    assert observer.scale == torch.tensor(8.0) / 255


def test_eval_and_frozen_ranges_stay() -> None:
    observer = quantizer()
    observer(torch.tensor([-1.0, 1.0]))
    observer.eval()
    observer(torch.tensor([-9.0, 9.0]))
    assert observer.high == 1.0
    observer.freeze_()
    observer.train()
    observer(torch.tensor([-9.0, 9.0]))
    assert observer.high == 1.0


def test_a_range_that_was_never_observed_is_named() -> None:
    with pytest.raises(SecateurError, match=r"the input of layer 3 was never observed: .*"):
        quantizer().eval()(torch.ones(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(SecateurError, match="the input of layer 3 holds NaN or infinity"):
        quantizer()(torch.tensor([1.0, bad, 2.0]))


def test_state_survives_saving() -> None:
    observer = quantizer()
    for values in ([-1.0, 2.0], [-3.0, 1.0]):
        observer(torch.tensor(values))
    resumed = quantizer()
    resumed.load_state_dict(observer.state_dict())
    for each in (observer, resumed):
        each(torch.tensor([-5.0, 7.0]))
    assert all(torch.equal(a, b) for a, b in zip(observer.buffers(), resumed.buffers(), strict=True))
    observer.freeze_()
    resumed.load_state_dict(observer.state_dict())
    resumed(torch.tensor([-50.0, 70.0]))
    assert torch.equal(resumed.high, observer.high)


def test_exact_parameters_can_be_set() -> None:
    observer = quantizer()
    observer.set_qparams_(0.0123, 77)
    assert observer.scale == torch.tensor(0.0123)
    assert observer.zero_point == 77
    q, _ = observer(torch.tensor([-100.0, 0.0, 100.0]))
    assert q.tolist() == [-77.0, 0.0, 178.0]


def test_symmetric_range_follows_the_larger_side() -> None:
    observer = quantizer(symmetric=True)
    q, scale = observer(torch.tensor([-2.54, 1.0]))
    assert scale == torch.tensor(2.54) / 127
    assert q[0] == -127


def test_integers_follow_autocast_but_ranges_stay_float32() -> None:
    observer = quantizer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, scale = observer(torch.randn(8).bfloat16())
    assert (q.dtype, scale.dtype, observer.high.dtype) == (torch.bfloat16, torch.float32, torch.float32)
