"""Observers that clip: over all batches, batch by batch, resumed, in several processes, in training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_bert import padded, random_sequences, tiny_bert

from secateur.errors import RecipeError, SecateurError
from secateur.quantization import (
    ActivationQuantizer,
    QuantScheme,
    attach_quantizers_,
    calibrate_,
    find_quantizers,
)
from secateur.quantization.ranges import count_values, least_error_ends, percentile_ends, reach_of
from secateur.quantization.scheme import Observer

BATCHES = [torch.randn(200, generator=torch.Generator().manual_seed(seed)) * 3**seed for seed in range(4)]
BATCH = padded(random_sequences(12))


def quantizer(observer: Observer, averaging: float, symmetric: bool = False) -> ActivationQuantizer:
    return ActivationQuantizer("the input of layer 3", symmetric, averaging, observer, 98.0)


def ends_of(x: torch.Tensor, observer: str, symmetric: bool) -> tuple[float, float]:
    reach = reach_of(float(x.abs().max()))
    counts, ends = count_values(x, reach), (float(x.min()), float(x.max()))
    if observer == "percentile":
        return percentile_ends(counts, reach, ends, 98.0, symmetric)
    return least_error_ends(counts, reach, ends, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_without_averaging_all_batches_are_one(observer: Observer, symmetric: bool) -> None:
    low, high = ends_of(torch.cat(BATCHES), observer, symmetric)
    for batches in (BATCHES, BATCHES[::-1], [torch.cat(BATCHES)]):
        seen = quantizer(observer, 0.0, symmetric)
        for batch in batches:
            seen(batch)
        assert seen.low.item() == pytest.approx(low, rel=1e-6)
        assert seen.high.item() == pytest.approx(high, rel=1e-6)
    if observer == "percentile":
        assert seen.high < torch.cat(BATCHES).abs().max()


@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_with_averaging_the_ranges_of_batches_are_averaged(observer: Observer) -> None:
    seen = quantizer(observer, 0.5)
    for batch in BATCHES[:3]:
        seen(batch)
    highs = [ends_of(batch, observer, False)[1] for batch in BATCHES[:3]]
    expected = ((highs[0] + highs[1]) / 2 + highs[2]) / 2
    assert seen.high.item() == pytest.approx(expected, rel=1e-6)
    assert "counts" not in seen.state_dict()


def test_minmax_keeps_extremes_whatever_the_averaging() -> None:
    seen = quantizer("minmax", 0.5)
    for batch in BATCHES[::-1]:
        seen(batch)
    assert seen.high == torch.cat(BATCHES).max()


@pytest.mark.parametrize("averaging", [0.0, 0.1])
@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_a_resumed_observer_is_bit_equal(observer: Observer, averaging: float) -> None:
    straight = quantizer(observer, averaging)
    for batch in BATCHES[:2]:
        straight(batch)
    resumed = quantizer(observer, averaging)
    resumed.load_state_dict(straight.state_dict())
    for batch in BATCHES[2:]:
        for each in (straight, resumed):
            each(batch)
    pairs = zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_values_that_are_not_finite_have_the_tensor_named(observer: Observer, bad: float) -> None:
    with pytest.raises(SecateurError, match="the input of layer 3 holds NaN or infinity"):
        quantizer(observer, 0.0)(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("x", [torch.zeros(5), torch.full((5,), -2.0), torch.full((1,), 7.5)])
@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_odd_tensors_have_a_range(observer: Observer, x: torch.Tensor) -> None:
    q, scale = quantizer(observer, 0.0)(x)
    torch.testing.assert_close(q * scale, x, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_a_model_trains_and_resumes_with_every_observer(observer: Observer) -> None:
    def train(model: torch.nn.Module, steps: int) -> None:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(steps):
            torch.manual_seed(0)
            model(**BATCH, labels=torch.arange(12) % 5).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    models = []
    for seed in (0, 1):
        model = tiny_bert(seed)
        attach_quantizers_(model, QuantScheme(observer=observer, averaging=0.0, percentile=99.0))
        models.append(model)
    straight, resumed = models
    train(straight, 2)
    missing, unexpected = resumed.load_state_dict(straight.state_dict())
    assert not missing
    assert not unexpected
    for model in models:
        train(model, 2)
    for (name, one), two in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert {one.observer for one in find_quantizers(straight).values()} == {observer}


def test_calibration_takes_every_observer() -> None:
    highs = {}
    for observer in ("minmax", "percentile", "mse"):
        model = tiny_bert()
        calibrate_(model, [BATCH], QuantScheme(observer=observer, averaging=0.0, percentile=95.0))
        highs[observer] = torch.stack([one.high for one in find_quantizers(model).values()])
    assert (highs["percentile"] < highs["minmax"]).all()
    assert not torch.equal(highs["mse"], highs["minmax"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observer": "median"}, "observer must be one of minmax, moving_average, percentile, mse"),
        ({"percentile": 50.0}, "percentile must lie above 50"),
        ({"percentile": 101.0}, "percentile must lie above 50"),
    ],
)
def test_what_a_scheme_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        QuantScheme(**settings)


SHARED = """
import sys, torch
from torch import distributed
from secateur.quantization import ActivationQuantizer
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
found = {}
for observer in ("minmax", "percentile", "mse"):
    for averaging in (0.0, 0.3):
        one = ActivationQuantizer("x", False, averaging, observer, 98.0)
        one.shared = True
        for seed in range(3):
            x = torch.randn(400, generator=torch.Generator().manual_seed(seed)) * 3**seed
            one(x.view(2, -1)[rank])
        found[f"{observer} {averaging}"] = one.state_dict()
torch.save(found, f"{folder}/rank{rank}")
"""


def test_two_processes_find_the_range_of_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    ranks = [torch.load(tmp_path / f"rank{rank}") for rank in (0, 1)]
    for key, state in ranks[0].items():
        observer, averaging = key.split()
        alone = quantizer(observer, float(averaging))
        for seed in range(3):
            alone(torch.randn(400, generator=torch.Generator().manual_seed(seed)) * 3**seed)
        for name, tensor in alone.state_dict().items():
            assert torch.equal(tensor, state[name]), (key, name)
            assert torch.equal(ranks[1][key][name], state[name]), (key, name)
