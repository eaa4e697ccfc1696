"""Methods that learn or rewind, on the stock Trainer: resumed, accumulated, quantized, checkpointed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from killed_run import SPLITS
from tiny_training import (
    DISTILLATION,
    QUANTIZATION,
    TASK,
    recipe,
    tiny_config,
    tiny_model,
    tiny_rows,
    tiny_tokenizer,
    trainer,
)
from torch import nn
from transformers import BertForSequenceClassification, BertModel

from secateur.checkpoint import read_checkpoint
from secateur.data import Splits
from secateur.errors import RecipeError
from secateur.modeling import find_projections
from secateur.recipe import BUILTIN_RECIPES, load_recipe
from secateur.sparsity import find_mask, sparsity_of
from secateur.training import CompressionCallback, compress, fine_tune, last_checkpoint

STAGES: dict[str, dict[str, Any]] = {
    "movement": {"method": "movement"},
    "soft-movement": {"method": "soft-movement", "pattern": "unstructured"},
    "soft-movement-by-threshold": {"method": "soft-movement", "threshold": 0.49},
    "lottery-ticket": {"method": "lottery-ticket", "rewind_epoch": "1 steps", "schedule": "geometric"},
    "random": {"method": "random", "seed": 3, "pattern": "2:4"},
    "with-all": {"method": "magnitude", "biases": True, "targets": ["encoder", "pooler", "embeddings"]},
    "steps": {"method": "magnitude", "schedule": [["2 steps", 0.4], [1, 0.5]], "pattern": "block:2x4"},
}


def pruning(name: str) -> dict[str, Any]:
    stage = {"type": "pruning", **STAGES[name]}
    if not isinstance(stage.get("schedule"), list):
        stage |= {"start_epoch": 0.25, "end_epoch": 1.25, "update_every": 0.25}
        stage.setdefault("pattern", "block4")
        if ":" not in stage["pattern"]:
            stage["sparsity"] = 0.6
    return stage


def linears(model: nn.Module) -> list[nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


def run(
    folder: Path, stages: tuple[dict[str, Any], ...], resume: Path | None = None, **arguments: Any
) -> tuple[Any, CompressionCallback]:
    model = tiny_model()
    callback = CompressionCallback(recipe(*stages), tiny_model(1))
    made = trainer(folder, model, callback, **arguments)
    callback.connect_(made)
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model, callback


@pytest.mark.parametrize("name", STAGES)
def test_a_run_that_is_resumed_ends_bit_equal(tmp_path: Path, name: str) -> None:
    stages = (pruning(name), DISTILLATION, {**QUANTIZATION, "start_epoch": 1.5})
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole, _ = run(tmp_path / "whole", stages, **saving)
    wanted = {key: value.clone() for key, value in whole.state_dict().items()}
    for step in (3, 6):  # in the middle of pruning, and after it
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed, _ = run(tmp_path / f"again{step}", stages, resume=checkpoint)
        assert resumed.state_dict().keys() == wanted.keys()
        for key, value in resumed.state_dict().items():
            assert torch.equal(value, wanted[key]), (step, key)


@pytest.mark.parametrize("name", ["movement", "soft-movement", "lottery-ticket"])
def test_a_finished_model_is_plain(tmp_path: Path, name: str) -> None:
    model, callback = run(tmp_path, (pruning(name),))
    assert callback.pruner is not None
    assert callback.pruner.sparsity == pytest.approx(0.6, abs=2e-3)
    keys = sorted(tiny_model().state_dict())
    callback.pruner.finalize_()
    assert sorted(model.state_dict()) == keys
    assert sparsity_of(linears(model)) == pytest.approx(0.6, abs=2e-3)


def scores_after(
    folder: Path, name: str, batch_size: int, accumulation: int, checkpointing: bool = False
) -> list[torch.Tensor]:
    """Returns the scores after a run with SGD, whose steps are as exact as their gradients."""
    torch.manual_seed(0)
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    callback = CompressionCallback(recipe(pruning(name), DISTILLATION), tiny_model(1))
    made = trainer(
        folder,
        model,
        callback,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
        optim="sgd",
    )
    callback.connect_(made)
    made.train()
    return [find_mask(linear).scores.detach().clone() for linear in linears(model)]


@pytest.mark.parametrize("name", ["movement", "soft-movement"])
def test_accumulated_scores_are_those_of_the_big_batch(tmp_path: Path, name: str) -> None:
    whole = scores_after(tmp_path / "whole", name, 16, 1)
    parts = scores_after(tmp_path / "parts", name, 4, 4)
    assert any(float(scores.abs().max()) > 0 for scores in whole)
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-3, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain = scores_after(tmp_path / "plain", "movement", 8, 1)
    checkpointed = scores_after(tmp_path / "checkpointed", "movement", 8, 1, checkpointing=True)
    for one, two in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["movement", "soft-movement"])
def test_scores_learn_through_fake_quantization(tmp_path: Path, name: str) -> None:
    stages = ({**pruning(name), "end_epoch": 1.5}, {**QUANTIZATION, "start_epoch": 0, "freeze_epoch": 1.75})
    model, callback = run(tmp_path, stages)
    assert callback.status()["quantized"] == 1.0
    for linear in linears(model):
        mask = find_mask(linear)
        assert float(mask.scores.detach().abs().max()) > 0
        assert torch.equal(linear.weight != 0, mask.mask & (linear.parametrizations.weight.original != 0))


def test_scores_have_their_own_group_and_rate(tmp_path: Path) -> None:
    model = tiny_model()
    callback = CompressionCallback(recipe({**pruning("movement"), "score_learning_rate": 0.05}))
    made = trainer(tmp_path, model, callback)
    callback.connect_(made)
    optimizer = made.create_optimizer()
    group = optimizer.param_groups[-1]
    assert {id(one) for one in group["params"]} == {id(find_mask(one).scores) for one in linears(model)}
    assert group["lr"] == 0.05
    assert group["weight_decay"] == 0.0


def test_a_trainer_that_is_not_connected_is_told(tmp_path: Path) -> None:
    callback = CompressionCallback(recipe(pruning("movement")))
    made = trainer(tmp_path, tiny_model(), callback)
    with pytest.raises(RecipeError, match=r"callback.connect_\(trainer\)"):
        made.train()


@pytest.mark.parametrize("name", ["movement", "lottery-ticket"])
def test_a_loop_that_shows_no_optimizer_is_told(name: str) -> None:
    callback = CompressionCallback(recipe(pruning(name)))
    callback.attach_(tiny_model(), steps_per_epoch=4, total_steps=8)
    with pytest.raises(RecipeError, match=r"callback.group_parameters_\(optimizer\)"):
        callback.after_step(1)


class Watcher(CompressionCallback):
    """Notes the state after every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = getattr(self, "before", [])
        self.after = getattr(self, "after", [])
        self.moments = getattr(self, "moments", [])
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.before.append({key: value.clone() for key, value in model.state_dict().items()})
        super().on_step_end(args, state, control, **kwargs)
        self.after.append({key: value.clone() for key, value in model.state_dict().items()})
        self.moments.append(max(float(one["exp_avg"].abs().max()) for one in optimizer.state.values()))


def test_a_lottery_ticket_is_set_back_to_its_early_weights(tmp_path: Path) -> None:
    model = tiny_model()
    watcher = Watcher(recipe(pruning("lottery-ticket")))  # early after step 1, updates after 1, 2, 3, 4, 5
    made = trainer(tmp_path, model, watcher)
    watcher.connect_(made)
    made.train()
    early = watcher.before[0]
    for step in (2, 3, 4, 5):
        after = watcher.after[step - 1]
        for key, value in early.items():
            if key.endswith(("_mask", "_early")):
                continue
            mask = after.get(f"{key}_mask")
            assert torch.equal(after[key], value if mask is None else value * mask), (step, key)
        assert watcher.moments[step - 1] == 0.0
        # Chosen by the weights as trained, not by the early ones.
        trained = [watcher.before[step - 1][f"{name}.weight"] for name in names(model)]
        kept = torch.cat([after[f"{name}.weight_mask"].flatten() for name in names(model)])
        squares = torch.cat([(one**2).unflatten(-1, (-1, 4)).sum(-1).flatten() for one in trained])
        blocks = kept.unflatten(-1, (-1, 4)).any(-1)
        assert squares[blocks].min() >= squares[~blocks].max()
    assert not torch.equal(watcher.after[5]["classifier.weight"], early["classifier.weight"])


def names(model: nn.Module) -> list[str]:
    return [projection.name for projection in find_projections(model)]


def test_biases_pooler_and_word_table_are_pruned(tmp_path: Path) -> None:
    model, callback = run(tmp_path, (pruning("with-all"),))
    assert callback.pruner is not None
    assert callback.pruner.sparsity == pytest.approx(0.6, abs=2e-3)
    table, pooler = model.bert.embeddings.word_embeddings, model.bert.pooler.dense
    for module in (*linears(model), pooler, table):
        blocks = find_mask(module).mask.unflatten(-1, (-1, 4))
        assert torch.equal(blocks.any(-1), blocks.all(-1))
    total = sum(find_mask(one).mask.numel() for one in (*linears(model), pooler, table))
    kept = sum(int(find_mask(one).mask.sum()) for one in (*linears(model), pooler, table))
    assert 1 - kept / total == pytest.approx(0.6, abs=2e-3)
    biases = [one.bias for one in (*linears(model), pooler)]
    zeros = sum(int((bias == 0).sum()) for bias in biases) / sum(bias.numel() for bias in biases)
    assert zeros == pytest.approx(0.6, abs=5e-3)
    assert not find_mask(pooler).mask.all()
    assert not find_mask(table).mask.all()


def test_what_a_checkpoint_holds_resumes_with_last_checkpoint(tmp_path: Path) -> None:
    stages = (pruning("lottery-ticket"),)
    run(tmp_path, stages, save_strategy="steps", save_steps=2)  # right after updates, too
    found = last_checkpoint(tmp_path)
    assert found is not None
    run(tmp_path / "again", stages, resume=tmp_path / "checkpoint-2")


def test_fine_tuning_keeps_the_zeros_of_a_sparse_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(tiny_config())
    for linear in linears(model):
        linear.weight.data.view(-1)[::2].zero_()
    model.save_pretrained(tmp_path / "sparse")
    tiny_tokenizer().save_pretrained(tmp_path / "sparse")
    splits = Splits("tiny", TASK, tiny_rows(24, 0), tiny_rows(6, 1), tiny_rows(6, 2))
    fine_tune(tmp_path / "sparse", splits, tmp_path / "tuned", epochs=3, min_steps=0, progress=False)
    tuned = BertForSequenceClassification.from_pretrained(tmp_path / "tuned")
    for linear, old in zip(linears(tuned), linears(model), strict=True):
        assert torch.equal(linear.weight == 0, old.weight == 0)
        assert not torch.equal(linear.weight, old.weight)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in BUILTIN_RECIPES
        if name != "balanced" and any(stage.type == "pruning" for stage in load_recipe(name).stages)
    ],
)
def test_recipes_of_the_package_run(tmp_path: Path, name: str) -> None:
    read = load_recipe(name)
    epochs = read.training.epochs
    few = {"num_grads": 2}  # there are few rows
    stages = [stage.model_dump() for stage in read.stages]
    stages = [{**stage, **few} if "num_grads" in stage else stage for stage in stages]
    callback = CompressionCallback(recipe(*stages, epochs=epochs), tiny_model(1))
    model = tiny_model()
    made = trainer(tmp_path, model, callback, num_train_epochs=epochs)
    callback.connect_(made)
    made.train()
    assert callback.status()["sparsity"] == pytest.approx(0.8, abs=2e-3)
    assert callback.status()["quantized"] == callback.status()["ranges_frozen"] == 1.0
    assert sparsity_of(linears(model)) == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("name", ["soft-movement", "lottery-ticket", "with-all"])
def test_compress_estimates_and_runs(
    classifier_folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    read = recipe({**pruning(name), "start_epoch": 0.5}, DISTILLATION)
    done = compress(classifier_folder, SPLITS, read, tmp_path / "out", seed=1)
    assert "minutes" in capsys.readouterr().err.lower()
    saved = read_checkpoint(done.folder).quantization
    assert done.metrics["sparsity"] == pytest.approx(saved.sparsity, abs=1e-4)
    if name != "with-all":  # whose share of the encoder the ranking finds
        assert saved.sparsity == pytest.approx(0.6, abs=2e-3)
