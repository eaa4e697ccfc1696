"""The plot of a recipe: one page whose curves are the plan's."""

from __future__ import annotations

import re

import pytest

from secateur.errors import MissingExtraError
from secateur.recipe import Recipe
from secateur.recipe.plan import StepPlan
from secateur.recipe.plot import _figure, plot_page

STAGES = [
    {"type": "distillation", "hardness": 0.5},
    {"type": "learning_rate", "cycles": 2, "end_epoch": 2},
    {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 1},
    {"type": "pruning", "sparsity": 0.8, "start_epoch": 1, "end_epoch": 2},
    {"type": "freezing", "groups": ["embeddings", "layers.0"], "start_epoch": 3},
    {"type": "quantization", "start_epoch": 2, "freeze_epoch": 3},
]


def plan(name: str = "test", steps_per_epoch: int = 10) -> StepPlan:
    training = {"epochs": 4, "learning_rate": 1e-3, "warmup": 0}
    recipe = Recipe.model_validate({"name": name, "training": training, "stages": STAGES})
    return StepPlan.of(recipe, steps_per_epoch, 4 * steps_per_epoch)


def test_curves_are_those_of_the_plan() -> None:
    pytest.importorskip("plotly")
    sparsity, rate, *lanes = _figure(plan(), in_steps=True).data
    assert list(sparsity.customdata) == list(range(41))
    assert list(sparsity.y) == [plan().sparsity(step) for step in range(41)]
    assert list(rate.x) == [step / 10 for step in range(41)]
    assert list(rate.y) == [plan().learning_rate_at(step) for step in range(41)]
    bars = {lane.y[0]: list(zip(lane.base, lane.x, lane.text, strict=True)) for lane in lanes}
    assert bars == {
        "distillation": [(0, 4, "hardness 0.5, temperature 2")],
        "pruning": [(0, 1, "0 % → 50 %"), (1, 1, "50 % → 80 %"), (2, 2, "masks stay")],
        "quantization": [(2, 1, "ranges learnt"), (3, 1, "frozen")],
        "frozen<br>embeddings, layers.0": [(3, 1, "")],
    }


def test_a_long_run_is_drawn_with_few_points_that_keep_every_jump() -> None:
    pytest.importorskip("plotly")
    long = plan(steps_per_epoch=100_003)
    _, rate, *_ = _figure(long, in_steps=True).data
    assert len(rate.x) < 5000
    middle = long.learning_rate[0].end // 2
    assert {middle - 1, middle} <= set(rate.customdata)


def test_the_page_stands_alone_and_escapes_names() -> None:
    pytest.importorskip("plotly")
    page = plot_page(plan("<script>alert(1)</script>"), in_steps=False)
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "step %{customdata" not in page
    assert "step %{customdata" in plot_page(plan(), in_steps=True)


def test_a_missing_plotly_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.recipe.plot.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"secateur\[report\]"):
        plot_page(plan(), in_steps=True)
