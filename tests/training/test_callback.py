"""`CompressionCallback` on the stock Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import DISTILLATION, PRUNING, QUANTIZATION, recipe, rows, tiny_model, trainer
from transformers import BertForSequenceClassification

from secateur.errors import DataError, RecipeError, UnsupportedError
from secateur.modeling import find_projections
from secateur.quantization import find_quantizers
from secateur.sparsity import sparsity_of
from secateur.training import CompressionCallback


def linears(model: BertForSequenceClassification) -> list[torch.nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


class Watcher(CompressionCallback):
    """Notes what holds after every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        quantizers = list(find_quantizers(kwargs["model"]).values())
        self.seen = getattr(self, "seen", [])
        self.seen.append(
            (
                round(sparsity_of(linears(kwargs["model"])), 2),
                all(quantizer.enabled for quantizer in quantizers),
                all(bool(quantizer.frozen) for quantizer in quantizers),
            )
        )


def test_every_stage_comes_at_its_step(tmp_path: Path) -> None:
    model, teacher = tiny_model(), tiny_model(1)
    watcher = Watcher(recipe(PRUNING, DISTILLATION, QUANTIZATION), teacher)
    trainer(tmp_path, model, watcher).train()
    sparsities, enabled, frozen = zip(*watcher.seen, strict=True)
    assert list(sparsities) == [0.43, 0.66, 0.74, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert list(enabled) == [False] * 4 + [True] * 4  # with the first batch of the step after
    assert list(frozen) == [False] * 6 + [True] * 2


def gradients(folder: Path, batch_size: int, accumulation: int, use_teacher: bool) -> dict[str, torch.Tensor]:
    """Returns the gradients of the first optimizer step."""
    caught: dict[str, torch.Tensor] = {}

    class Catch(CompressionCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                if parameter.grad is not None and not caught.get(f"{name}!"):
                    caught.setdefault(name, parameter.grad.clone())

    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    stages = (PRUNING, DISTILLATION) if use_teacher else (PRUNING,)
    callback = Catch(recipe(*stages), tiny_model(1) if use_teacher else None)
    run = trainer(
        folder,
        model,
        callback,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
    )
    run.train()
    return caught


@pytest.mark.parametrize("use_teacher", [True, False])
def test_accumulated_gradients_equal_those_of_the_big_batch(tmp_path: Path, use_teacher: bool) -> None:
    whole = gradients(tmp_path / "whole", 16, 1, use_teacher)
    parts = gradients(tmp_path / "parts", 4, 4, use_teacher)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], rtol=1e-3, atol=1e-6), name


def test_a_resumed_run_ends_bit_for_bit_where_the_whole_run_does(tmp_path: Path) -> None:
    stages = recipe(PRUNING, DISTILLATION, QUANTIZATION)
    whole = tiny_model()
    trainer(
        tmp_path / "run",
        whole,
        CompressionCallback(stages, tiny_model(1)),
        save_strategy="steps",
        save_steps=1,
    ).train()
    expected = whole.state_dict()
    for step in (2, 6):  # while pruning; while quantizing
        again = tiny_model(5)
        run = trainer(tmp_path / "run", again, CompressionCallback(stages, tiny_model(1)))
        run.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        state = again.state_dict()
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(value, state[name]), (step, name)


def test_a_saved_model_opens_without_secateur(tmp_path: Path) -> None:
    model = tiny_model()
    run = trainer(tmp_path, model, CompressionCallback(recipe(PRUNING)))
    run.train()
    run.save_model(str(tmp_path / "saved"))
    plain, info = BertForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for saved, live in zip(linears(plain), linears(model), strict=True):
        assert torch.equal(saved.weight, live.weight)


def test_embeddings_and_dropout_follow_the_recipe(tmp_path: Path) -> None:
    model = tiny_model()
    before = model.bert.embeddings.word_embeddings.weight.detach().clone()
    attention = model.bert.encoder.layer[0].attention.self
    attention.dropout_prob = 0.5  # as in transformers 4.57
    trainer(
        tmp_path, model, CompressionCallback(recipe(PRUNING, freeze_embeddings=True, dropout=0.0))
    ).train()
    assert attention.dropout_prob == 0.0
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_logits_in_the_batch_take_the_teachers_place(tmp_path: Path) -> None:
    train = rows()
    train.teacher_outputs = list(torch.randn(len(train), 3))
    trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING, DISTILLATION)), train).train()


def test_a_missing_teacher_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no teacher"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING, DISTILLATION))).train()


def test_label_smoothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"label_smoothing_factor is 0\.1"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING)), label_smoothing_factor=0.1)


def test_a_loss_function_that_takes_the_labels_away_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING)))
    run.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()
    with pytest.raises(DataError, match="compute_loss_func"):
        run.train()


def test_a_run_shorter_than_the_recipe_is_refused(tmp_path: Path) -> None:
    callback = CompressionCallback(recipe(PRUNING, QUANTIZATION))
    with pytest.raises(RecipeError, match=r"freeze_epoch: 1\.75 lies after the end of the run, epoch 1"):
        trainer(tmp_path, tiny_model(), callback, num_train_epochs=1).train()


def test_a_run_of_too_few_steps_is_refused(tmp_path: Path) -> None:
    late = {**QUANTIZATION, "start_epoch": 1.9, "freeze_epoch": 2}
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING, late)), rows(8))
    with pytest.raises(RecipeError, match="A run of 2 steps is too short"):
        run.train()


def test_one_callback_serves_one_trainer_and_one_model(tmp_path: Path) -> None:
    callback = CompressionCallback(recipe(PRUNING))
    trainer(tmp_path, tiny_model(), callback)
    with pytest.raises(RecipeError, match="another Trainer"):
        trainer(tmp_path, tiny_model(), callback)
    model = tiny_model()
    with pytest.raises(RecipeError, match="one and the same model"):
        trainer(tmp_path, model, CompressionCallback(recipe(DISTILLATION), model))


def test_an_unknown_family_is_refused_when_the_trainer_is_made(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, num_labels=3, pad_token_id=0)
    with pytest.raises(UnsupportedError, match="gpt2"):
        trainer(tmp_path, GPT2ForSequenceClassification(config), CompressionCallback(recipe(PRUNING)))
