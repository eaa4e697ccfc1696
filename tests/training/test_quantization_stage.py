"""The quantization stage of a recipe: observers, activations and attention as it asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import recipe, rows, tiny_model, tiny_tokenizer, trainer

from secateur.errors import RecipeError
from secateur.export import export_checkpoint
from secateur.modeling import find_blocks
from secateur.quantization import DynamicQuantizer, find_quantizers
from secateur.quantization.qat import attention_quantizer, input_quantizer
from secateur.recipe import Recipe
from secateur.runtime.engine import Engine
from secateur.training import CompressionCallback

STAGE = {"type": "quantization", "start_epoch": 0.5, "freeze_epoch": 1.5}


def trained(out: Path, settings: dict[str, Any], **options: Any) -> Any:
    model = tiny_model(0)
    trainer(out, model, CompressionCallback(recipe({**STAGE, **settings})), rows(64), **options).train()
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"observer": "minmax"},
        {"observer": "percentile", "percentile": 99.0, "averaging": 0.0},
        {"observer": "mse", "averaging": 0.1},
        {"attention": "float"},
    ],
    ids=str,
)
def test_a_run_trains_as_it_is_told_and_the_engine_agrees(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = trained(tmp_path / "run", settings)
    quantizers = find_quantizers(model).values()
    assert {one.observer for one in quantizers} == {settings.get("observer", "moving_average")}
    assert all(one.frozen for one in quantizers)
    floating = settings.get("attention") == "float"
    for block in find_blocks(model):
        assert (attention_quantizer(model, block) is None) == floating
    folder = export_checkpoint(model, tiny_tokenizer(), tmp_path / "out")
    ids = [features["input_ids"] for features in rows(64)][:20]
    engine = Engine.from_pretrained(folder)(ids)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([one])).logits[0].numpy() for one in ids]
    assert np.abs(engine - np.stack(logits)).mean() < 0.01 * np.std(logits)


def test_dynamic_activations_have_no_ranges_but_attention_has(tmp_path: Path) -> None:
    model = trained(tmp_path / "run", {"activations": "dynamic"})
    assert len(find_quantizers(model)) == 2 * 3
    for block in find_blocks(model):
        assert all(isinstance(input_quantizer(one), DynamicQuantizer) for one in block.projections())


@pytest.mark.parametrize("averaging", [0.0, 0.1])
def test_a_run_with_histograms_resumes_bit_equal(tmp_path: Path, averaging: float) -> None:
    settings = {"observer": "mse", "averaging": averaging}
    straight = trained(tmp_path / "straight", settings, save_strategy="steps", save_steps=10)
    # 64 rows of 8 are 8 steps an epoch: int8 runs from step 4 on, and the ranges stay from step 12 on.
    model = tiny_model(5)
    resumed = trainer(
        tmp_path / "straight", model, CompressionCallback(recipe({**STAGE, **settings})), rows(64)
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-10"))
    state = model.state_dict()
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert any(name.endswith("counts") for name in state) == (averaging == 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observer": "best"}, "observer"),
        ({"percentile": 40.0}, "percentile"),
        ({"activations": "u8"}, "activations"),
        ({"attention": "bf16"}, "attention"),
    ],
)
def test_what_a_stage_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_values(
            {
                "name": "test",
                "training": {"epochs": 2, "learning_rate": 1e-3},
                "stages": [{**STAGE, **settings}],
            }
        )
