"""The recipes and rows of benchmarks/quantization.py; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from secateur.recipe import DistillationStage, PruningStage, QuantizationStage, load_recipe

Open = Callable[[str], ModuleType]


def test_every_row_has_a_place_of_its_own(open_script: Open) -> None:
    script = open_script("quantization")
    rows = [row for group in script.GROUPS.values() for row in group]
    assert len({script._file_name(row) for row in rows}) == len(rows) == len(set(rows))


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
def test_recipes_of_pruned_rows_differ_in_the_teacher_alone(open_script: Open, hardness: float) -> None:
    base = load_recipe("balanced")
    made = open_script("quantization").taught_recipe(base, hardness)
    taught = made.stages_of(DistillationStage)
    assert [stage.hardness for stage in taught] == ([hardness] if hardness else [])
    assert made.stages_of(PruningStage) == base.stages_of(PruningStage)
    assert made.stage(QuantizationStage) == base.stage(QuantizationStage)
    assert made.training == base.training
    assert made.small_data is not None
    assert (made.small_data.hidden, made.small_data.augmentation) == (None, None)
    stretched = made.stretched(50)
    assert [stage.hardness for stage in stretched.stages_of(DistillationStage)] == [
        stage.hardness for stage in taught
    ]


def test_recipes_of_qat_rows_prune_nothing(open_script: Open) -> None:
    script = open_script("quantization")
    for settings in script.QAT.values():
        made = script.qat_recipe(load_recipe("balanced"), 4.0, settings)
        stage = made.stage(QuantizationStage)
        assert not made.stages_of(PruningStage)
        assert made.training.epochs == 4.0
        assert stage is not None
        assert {key: getattr(stage, key) for key in settings} == settings
