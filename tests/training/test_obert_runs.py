"""Optimal BERT Surgeon in whole runs: recipes, resuming, loops of one's own, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import DISTILLATION, PRUNING, recipe, rows, tiny_model, trainer
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from secateur.errors import DataError, RecipeError
from secateur.modeling import find_projections
from secateur.sparsity import sparsity_of
from secateur.training import CompressionCallback
from secateur.training.encoding import Padder

OBERT = {**PRUNING, "method": "obert", "num_grads": 12, "fisher_block_size": 16, "damp": "auto"}
# While the ranges of activations are learnt, one update is still to come.
QUANTIZATION = {"type": "quantization", "start_epoch": 0.75, "freeze_epoch": 1.75}

_KNOWN = TrainingArguments.__dataclass_fields__
CHECKPOINTING = (
    "activation_checkpointing" if "activation_checkpointing" in _KNOWN else "gradient_checkpointing"
)


def saved_runs(folder: Path, *stages: dict[str, Any], **arguments: Any) -> Any:
    model = tiny_model()
    callback = CompressionCallback(recipe(*stages), tiny_model(1))
    trainer(folder, model, callback, save_strategy="steps", save_steps=1, **arguments).train()
    return model


def record(folder: Path, step: int) -> list[dict[str, float]]:
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    found: list[dict[str, float]] = state["stateful_callbacks"]["secateur"]["attributes"]["pruning"]
    return found


@pytest.mark.parametrize("method", ["obert", "taylor"])
def test_a_resumed_run_ends_bit_for_bit_where_the_whole_run_does(tmp_path: Path, method: str) -> None:
    pruning = OBERT if method == "obert" else {**PRUNING, "method": "taylor", "num_grads": 12}
    stages = (pruning, DISTILLATION, QUANTIZATION)
    whole = saved_runs(tmp_path, *stages)
    expected = whole.state_dict()
    assert sparsity_of([one.linear for one in find_projections(whole)]) == pytest.approx(0.75, abs=1e-3)
    for step in (1, 3):  # between updates; before the last one, while quantizing
        again = tiny_model(5)
        run = trainer(tmp_path / "again", again, CompressionCallback(recipe(*stages), tiny_model(1)))
        run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        state = again.state_dict()
        for name, value in expected.items():
            assert torch.equal(value, state[name]), (step, name)
        noted = run.state.stateful_callbacks["secateur"]["attributes"]["pruning"]
        assert noted == record(tmp_path, 8)


def test_what_every_update_chose_is_recorded(tmp_path: Path) -> None:
    stages = (OBERT, DISTILLATION)
    model = tiny_model()
    callback = CompressionCallback(recipe(*stages), tiny_model(1))
    trainer(tmp_path, model, callback, save_strategy="steps", save_steps=8).train()
    noted = record(tmp_path, 8)
    assert [one["step"] for one in noted] == [0, 1, 2, 3, 4]
    assert [one["sparsity"] for one in noted] == sorted(one["sparsity"] for one in noted)
    for one in noted[1:]:  # the first update removes nothing: its sparsity is 0
        assert one["damp"] > 0
        assert one["predicted_increase"] > 0
        assert one["held_out_loss"] > 0
    status = callback.status()
    assert status["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert status["damp"] == noted[-1]["damp"]


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    states = [
        saved_runs(tmp_path / str(on), OBERT, DISTILLATION, **{CHECKPOINTING: on}).state_dict()
        for on in (False, True)
    ]
    for name, value in states[0].items():
        if value.dtype == torch.bool:
            assert torch.equal(value, states[1][name]), name


def test_a_run_with_too_few_rows_is_refused_at_its_start(tmp_path: Path) -> None:
    callback = CompressionCallback(recipe({**OBERT, "num_grads": 30}))
    with pytest.raises(DataError, match="num_grads 30, and there are only 29 rows"):  # 3 of 32 are held out
        trainer(tmp_path, tiny_model(), callback).train()


def loop(batches: Any, seed: int = 0) -> Any:
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    callback = CompressionCallback(recipe(OBERT, DISTILLATION), tiny_model(1))
    callback.attach_(model, steps_per_epoch=4, total_steps=8, batches=batches, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    train = DataLoader(rows(), 8, collate_fn=Padder(0))
    for step, batch in enumerate([*train, *train], 1):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        callback.after_step(step)
    callback.finish_()
    return model


def test_a_loop_of_ones_own_gives_its_batches() -> None:
    def batches() -> Any:
        return DataLoader(rows(), 8, shuffle=True, collate_fn=Padder(0))

    first = loop(batches).state_dict()
    torch.rand(7)
    assert all(torch.equal(value, first[name]) for name, value in loop(batches).state_dict().items())
    other = loop(batches, seed=1).state_dict()
    assert not all(torch.equal(value, first[name]) for name, value in other.items())


def test_a_loop_without_batches_is_told_to_give_some() -> None:
    with pytest.raises(RecipeError, match="'obert' learns from gradients: give attach_ its batches"):
        loop(None)
