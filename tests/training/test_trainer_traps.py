"""Where the stock Trainer goes wrong without a word: each trap is closed, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import DISTILLATION, PRUNING, QUANTIZATION, recipe, rows, tiny_model, trainer
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from secateur.distillation import Lesson, StudentHook
from secateur.errors import DataError, RecipeError
from secateur.modeling import find_projections
from secateur.quantization import find_quantizers
from secateur.sparsity import PRUNERS, sparsity_of
from secateur.sparsity.magnitude import MagnitudePruner
from secateur.training import CompressionCallback, last_checkpoint

ALL = (PRUNING, DISTILLATION, QUANTIZATION)
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SAVING = {"save_strategy": "steps", "save_steps": 1}


def equal_states(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- gradient accumulation, checkpointing, autocast ----------------------------------------


def recompute_(model: Any, *, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})


def first_gradients(folder: Path, connect: bool, **arguments: Any) -> dict[str, torch.Tensor]:
    caught: dict[str, torch.Tensor] = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                if parameter.grad is not None and state.global_step == 0:
                    caught[name] = parameter.grad.clone()

    model = tiny_model(**STILL)
    callback = CompressionCallback(recipe(PRUNING, DISTILLATION), tiny_model(1))
    run = trainer(folder, model, callback, rows(10), (Catch(),), max_grad_norm=0.0, **arguments)
    if connect:
        callback.connect_(run)
    run.train()
    return caught


def test_accumulation_is_exact_when_the_last_batch_is_short(tmp_path: Path) -> None:
    whole = first_gradients(tmp_path, True, per_device_train_batch_size=10)
    parts = first_gradients(
        tmp_path, True, per_device_train_batch_size=4, gradient_accumulation_steps=3
    )  # batches of 4, 4 and 2 rows
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, parts[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_moves_no_range_twice(tmp_path: Path, reentrant: bool) -> None:
    models = []
    for checkpointing in (False, True):
        models.append(tiny_model())
        if checkpointing:
            recompute_(models[-1], reentrant=reentrant)
        trainer(tmp_path, models[-1], CompressionCallback(recipe(*ALL), tiny_model(1))).train()
    assert all(int(quantizer.batches) == 3 for quantizer in find_quantizers(models[1]).values())
    assert equal_states(*models)


@pytest.mark.parametrize("reentrant", [False, True])
def test_hidden_states_teach_through_gradient_checkpointing(reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model()
        if checkpointing:
            recompute_(model, reentrant=reentrant)
        StudentHook(Lesson(1.0, 2.0, hidden=1.0), tiny_model(1)).attach_(model.train())
        torch.manual_seed(0)
        model(input_ids=torch.randint(4, 30, (4, 6)), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 1.0
    for whole, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, recomputed, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_trains_and_ranges_stay_float32(tmp_path: Path) -> None:
    model = tiny_model()
    trainer(tmp_path, model, CompressionCallback(recipe(*ALL), tiny_model(1)), bf16=True).train()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(quantizer.scale.dtype == torch.float32 for quantizer in find_quantizers(model).values())
    assert all(bool(quantizer.frozen) for quantizer in find_quantizers(model).values())
    linears = [projection.linear for projection in find_projections(model)]
    assert sparsity_of(linears) == pytest.approx(0.75, abs=1e-3)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


# --- the best model, early stopping ----------------------------------------


class Worsening(TrainerCallback):
    """Makes every evaluation worse than the one before, so that the first that counts wins."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step

    def __call__(self, prediction: Any) -> dict[str, float]:
        return {"score": -float(self.step)}


def judged(folder: Path, *others: Any, stages: tuple[Any, ...] = ALL, **arguments: Any) -> Any:
    judge = Worsening()
    model = tiny_model()
    run = trainer(
        folder,
        model,
        CompressionCallback(recipe(*stages), tiny_model(1)),
        others=(judge, *others),
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        **(SAVING | arguments),
    )
    run.compute_metrics = judge
    run.train()
    return run


def test_the_best_model_is_one_at_final_sparsity_and_quantized(tmp_path: Path) -> None:
    run = judged(tmp_path)
    assert run.state.best_model_checkpoint == str(
        tmp_path / "checkpoint-5"
    )  # quantized from the fifth step on
    linears = [projection.linear for projection in find_projections(run.model)]
    assert sparsity_of(linears) == pytest.approx(0.75, abs=1e-3)
    assert all(quantizer.enabled for quantizer in find_quantizers(run.model).values())
    assert all(bool(quantizer.frozen) for quantizer in find_quantizers(run.model).values())


def test_a_resumed_run_forgets_the_best_model_from_before_the_goal(tmp_path: Path) -> None:
    first = judged(tmp_path)
    expected = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    saved = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert saved["best_global_step"] is not None  # the Trainer took one that does not count
    for step in range(3, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    judge = Worsening()
    run = trainer(
        tmp_path,
        tiny_model(3),
        CompressionCallback(recipe(*ALL), tiny_model(1)),
        others=(judge,),
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        **SAVING,
    )
    run.compute_metrics = judge
    run.train(resume_from_checkpoint=True)
    assert run.state.best_global_step == 5
    assert all(torch.equal(tensor, expected[name]) for name, tensor in run.model.state_dict().items())


@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_counts_from_the_goal_on(tmp_path: Path, first: bool) -> None:
    stopper = EarlyStoppingCallback(early_stopping_patience=2)
    run = judged(tmp_path, stopper)
    if not first:  # whichever of the two callbacks hears of an evaluation first
        run = judged(tmp_path / "again", stopper)
        run.callback_handler.callbacks.reverse()
    assert run.state.global_step == 7  # the fifth is the best, then two that are worse
    assert all(bool(quantizer.frozen) for quantizer in find_quantizers(run.model).values())


def test_an_evaluation_right_before_quantization_starts_finds_the_float_model(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        tiny_model(),
        CompressionCallback(recipe(*ALL), tiny_model(1)),
        eval_strategy="epoch",
    )
    run.train()
    assert [round(log["epoch"]) for log in run.state.log_history if "eval_loss" in log] == [1, 2]


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 3


def test_a_run_that_something_stops_before_the_goal_is_an_error(tmp_path: Path) -> None:
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(*ALL), tiny_model(1)), others=(Stop(),))
    with pytest.raises(RecipeError, match="ended after step 3, but only from step 5 on"):
        run.train()


# --- resuming ----------------------------------------


def saved_run(folder: Path, **arguments: Any) -> Any:
    run = trainer(
        folder, tiny_model(), CompressionCallback(recipe(*ALL), tiny_model(1)), **(SAVING | arguments)
    )
    run.train()
    return run


@pytest.mark.parametrize(
    "lost", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors", "rng_state.pth"]
)
def test_a_checkpoint_written_in_part_is_passed_over(tmp_path: Path, lost: str) -> None:
    saved_run(tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-8" / lost).unlink()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-7"
    half = tmp_path / "checkpoint-7" / "trainer_state.json"
    half.write_bytes(half.read_bytes()[:100])
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_without_its_optimizer_is_refused(tmp_path: Path) -> None:
    saved_run(tmp_path, save_only_model=True)
    again = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(*ALL), tiny_model(1)))
    with pytest.raises(RecipeError, match=r"step 2 lacks the optimizer.s state.*save_only_model"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_training_a_second_time_is_refused(tmp_path: Path) -> None:
    run = saved_run(tmp_path)
    with pytest.raises(RecipeError, match="a second time"):
        run.train()


@pytest.mark.parametrize(
    ("stages", "arguments", "sentence"),
    [
        (({**PRUNING, "sparsity": 0.5}, DISTILLATION, QUANTIZATION), {}, "another recipe:"),
        (ALL, {"gradient_accumulation_steps": 2}, "another steps per epoch, 4 then and 2 now"),
        (ALL, {"num_train_epochs": 3}, "another total steps, 8 then and 12 now"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_resuming_another_run_is_refused(
    tmp_path: Path, stages: tuple[Any, ...], arguments: dict[str, Any], sentence: str
) -> None:
    saved_run(tmp_path)
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(*stages), tiny_model(1)), **arguments)
    with pytest.raises(RecipeError, match=sentence):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, tiny_model(), None, **SAVING).train()
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(*ALL), tiny_model(1)))
    with pytest.raises(RuntimeError, match="saved without masks"):
        run.train(resume_from_checkpoint=True)


def test_rows_grouped_by_length_resume_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    from secateur.training.arguments import grouped_by_length

    whole = saved_run(tmp_path, **grouped_by_length())
    for step in (2, 4, 6):
        again = trainer(
            tmp_path,
            tiny_model(4),
            CompressionCallback(recipe(*ALL), tiny_model(1)),
            **grouped_by_length(),
        )
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert equal_states(whole.model, again.model), step


# --- other ways to be wrong ----------------------------------------


def test_one_process_with_several_gpus_is_refused() -> None:
    callback = CompressionCallback(recipe(PRUNING))
    with pytest.raises(RecipeError, match="torchrun --nproc-per-node 2"):
        callback.on_init_end(
            SimpleNamespace(label_smoothing_factor=0.0, n_gpu=2), None, None, model=tiny_model()
        )


def test_a_teacher_that_cannot_speak_to_the_student_is_refused(tmp_path: Path) -> None:
    other = tiny_model(1)
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(RecipeError, match=r"another order .*label 0 is 'LABEL_0' to the student"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(DISTILLATION), other))
    other = tiny_model(1, vocab_size=40)
    with pytest.raises(RecipeError, match="vocabulary of 40 tokens, the student one of 32"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(DISTILLATION), other))
    number, other = tiny_model(num_labels=1), tiny_model(1, num_labels=1)
    other.config.id2label = {0: "stars"}  # one number means the same under any name
    trainer(tmp_path, number, CompressionCallback(recipe(DISTILLATION), other))


def test_teacher_logits_of_another_width_are_refused(tmp_path: Path) -> None:
    train = rows()
    train.teacher_outputs = list(torch.randn(len(train), 6))
    run = trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING, DISTILLATION)), train)
    with pytest.raises(DataError, match="must know the same labels"):
        run.train()


# --- logs, own parameters ----------------------------------------


class Reporter(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.seen.append(dict(logs))


def test_reporters_see_sparsity_and_quantization(tmp_path: Path) -> None:
    reporter = Reporter()
    callback = CompressionCallback(recipe(*ALL), tiny_model(1))
    run = trainer(
        tmp_path, tiny_model(), None, others=(reporter, callback), logging_strategy="steps", logging_steps=1
    )
    callback.connect_(run)
    run.train()
    steps = [log for log in reporter.seen if "loss" in log]
    assert [round(log["sparsity"], 2) for log in steps] == [0.43, 0.66, 0.74, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert [log["quantized"] for log in steps] == [0.0] * 4 + [1.0] * 4
    assert [log["ranges_frozen"] for log in steps] == [0.0] * 6 + [1.0] * 2
    assert "sparsity" in run.state.log_history[0]
    with pytest.raises(RecipeError, match="does not have this callback"):
        CompressionCallback(recipe(PRUNING)).connect_(run)


class ScoringPruner(MagnitudePruner):
    """Stands for methods that learn: a score for every weight, with a learning rate of its own."""

    def attach_(self, model: nn.Module) -> None:
        super().attach_(model)
        self.learnt = nn.Parameter(torch.zeros(4))
        model.register_parameter("scores", self.learnt)
        model.classifier.register_forward_hook(self._use)

    def _use(self, module: nn.Module, args: Any, output: Any) -> Any:
        return output * (1.0 + self.learnt.sum())

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.learnt], "lr": 0.5}]


def test_what_a_method_learns_gets_its_own_group_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRUNERS, "magnitude", ScoringPruner)
    with pytest.raises(RecipeError, match=r"call callback\.connect_\(trainer\)"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(PRUNING))).train()

    def connected(seed: int, **arguments: Any) -> Any:
        callback = CompressionCallback(recipe(PRUNING))
        run = trainer(tmp_path, tiny_model(seed), callback, **arguments)
        callback.connect_(run)
        return run

    whole = connected(0, **SAVING)
    whole.train()
    groups = whole.optimizer.param_groups
    assert [len(group["params"]) for group in groups][-1] == 1
    assert groups[-1]["params"][0] is whole.model.scores
    assert groups[-1]["weight_decay"] == 0.0
    assert groups[-1]["initial_lr"] == 0.5
    assert whole.model.scores.abs().max() > 0.3  # Adam moves it by about its own learning rate a step
    again = connected(2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert equal_states(whole.model, again.model)
