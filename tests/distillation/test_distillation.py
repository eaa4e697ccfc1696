"""The distillation loss against its formula, and the hook on the student."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from secateur.distillation import Lesson, StudentHook, hidden_state_loss
from secateur.distillation.losses import sigmoid_divergence, softmax_divergence
from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling.structure import find_blocks


def plain_formula(
    student: Tensor, teacher: Tensor, labels_loss: float, hardness: float, temperature: float
) -> float:
    def softmax(x: np.ndarray) -> np.ndarray:
        raised = np.exp(x - x.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    p = softmax(teacher.double().numpy() / temperature)
    q = softmax(student.double().numpy() / temperature)
    divergence = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    return (1 - hardness) * labels_loss + hardness * temperature**2 * divergence


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
def test_the_divergence_is_the_formula(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    found = softmax_divergence(student, teacher, temperature)
    assert found.shape == (5,)
    assert found.mean().item() == pytest.approx(
        plain_formula(student, teacher, 0.0, 1.0, temperature), rel=1e-5
    )


def test_no_gradient_reaches_the_teacher() -> None:
    for distance in (softmax_divergence, sigmoid_divergence):
        student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
        distance(student, teacher, 2.0).sum().backward()
        assert student.grad is not None
        assert teacher.grad is None


@pytest.fixture
def models() -> list[BertForSequenceClassification]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        made.append(BertForSequenceClassification(config))
    return made


@pytest.fixture
def batch() -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {"input_ids": torch.randint(0, 20, (6, 5)), "labels": torch.tensor([0, 1, 2, 3, 0, 1])}


def test_the_students_loss_is_replaced_only_while_it_trains(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    own = student.eval()(**batch).loss
    hook = StudentHook(Lesson(0.9, 2.0), teacher)
    hook.attach_(student)
    assert torch.equal(student(**batch).loss, own)
    output = student.train()(**batch)
    with torch.no_grad():
        teacher_logits = teacher(input_ids=batch["input_ids"]).logits
    expected = plain_formula(output.logits.detach(), teacher_logits, own.item(), 0.9, 2.0)
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert output["loss"] is output.loss
    hook.detach_()
    assert torch.equal(student(**batch).loss, own)


def test_precomputed_logits_are_the_same_as_a_teacher(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    with torch.no_grad():
        logits = teacher.eval()(input_ids=batch["input_ids"]).logits
    hook = StudentHook(Lesson(1.0, 3.0), teacher)
    hook.attach_(student.train())
    expected = student(**batch).loss
    hook.detach_()
    StudentHook(Lesson(1.0, 3.0)).attach_(student)
    assert torch.equal(student(**batch, teacher_logits=logits).loss, expected)


def test_the_sum_is_divided_by_the_trainers_number_of_items(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    StudentHook(Lesson(0.5, 2.0), teacher).attach_(student.train())
    whole = student(**batch).loss
    half = student(**batch, num_items_in_batch=torch.tensor(12)).loss
    assert half.item() == pytest.approx(whole.item() / 2, rel=1e-6)


def test_hardness_zero_is_cross_entropy_with_the_right_divisor(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student = models[0].train()
    StudentHook(Lesson(0.0, 1.0)).attach_(student)
    output = student(**batch, num_items_in_batch=24)
    expected = functional.cross_entropy(output.logits, batch["labels"], reduction="sum") / 24
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ignored_labels_take_no_part(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    StudentHook(Lesson(0.7, 2.0), teacher).attach_(student.train())
    short = {name: tensor[:4] for name, tensor in batch.items()}
    expected = student(**short).loss
    batch["labels"][4:] = -100
    assert student(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_training_without_labels_or_teacher_is_refused(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student = models[0].train()
    hook = StudentHook(Lesson(0.9, 2.0))
    hook.attach_(student)
    with pytest.raises(DataError, match="trained without labels"):
        student(input_ids=batch["input_ids"])
    with pytest.raises(RecipeError, match="there is no teacher"):
        student(**batch)
    with pytest.raises(StructureError, match="already"):
        hook.attach_(student)


def test_the_hidden_state_loss_is_a_mean_over_each_rows_own_tokens() -> None:
    torch.manual_seed(0)
    student = [torch.randn(2, 3, 4) for _ in range(2)]
    teacher = [torch.randn(2, 3, 4) for _ in range(2)]
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    expected = 0.0
    for a, b in zip(student, teacher, strict=True):
        expected += ((a[0] - b[0]) ** 2).mean().item() + ((a[1, 0] - b[1, 0]) ** 2).mean().item()
    assert hidden_state_loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5)
    twice = hidden_state_loss(student, teacher, mask, torch.tensor([2, 2]))
    assert twice.item() == pytest.approx(2 * expected, rel=1e-5)
    whole = hidden_state_loss(student, teacher, torch.ones_like(mask))
    assert hidden_state_loss(student, teacher, None).item() == pytest.approx(whole.item(), rel=1e-5)


def test_hidden_states_of_every_layer_take_part(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        states = [
            model.eval()(**inputs, output_hidden_states=True).hidden_states[1:]
            for model in (student, teacher)
        ]
    plain = StudentHook(Lesson(1.0, 2.0), teacher)
    plain.attach_(student.train())
    without = student(**batch).loss
    plain.detach_()
    hook = StudentHook(Lesson(1.0, 2.0, hidden=3.0), teacher)
    hook.attach_(student)
    student.eval()(**batch)  # an evaluation in between leaves nothing behind
    expected = without + 3.0 * hidden_state_loss(*states, batch["attention_mask"]) / 6
    assert student.train()(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    student(**batch).loss.backward()
    assert student.bert.encoder.layer[0].intermediate.dense.weight.grad is not None


def test_hidden_states_need_a_teacher_that_has_the_layers(
    models: list[BertForSequenceClassification],
) -> None:
    with pytest.raises(RecipeError, match="give CompressionCallback a teacher"):
        StudentHook(Lesson(1.0, 2.0, hidden=1.0)).attach_(models[0])
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    deeper = BertForSequenceClassification(config)
    with pytest.raises(
        RecipeError, match="The student has 2 layers and the teacher 1, so layer_map 'uniform'"
    ):
        StudentHook(Lesson(1.0, 2.0, hidden=1.0), models[0]).attach_(deeper)
    StudentHook(Lesson(1.0, 2.0, hidden=1.0), deeper).attach_(models[0])


def test_hidden_states_of_shared_layers_are_counted_by_passes() -> None:
    student, teacher = (tiny_models.tiny_model("albert-groups", seed=seed) for seed in (0, 1))
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 0, 0]])}
    inputs["attention_mask"] = (inputs["input_ids"] != 0).long()
    hook = StudentHook(Lesson(1.0, 2.0, hidden=3.0), teacher)
    hook.attach_(student.train())
    caught: list[Tensor] = []
    for block in find_blocks(student):
        block.ffn_norm.register_forward_hook(lambda module, args, output: caught.append(output))
    student(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert len(caught) == 8  # 4 layers of 2 each, through 4 modules
    other = tiny_models.tiny_model("albert-groups", num_hidden_layers=6)
    lesson = Lesson(1.0, 2.0, hidden=1.0, layer_map=tuple(range(6)))
    with pytest.raises(RecipeError, match="layer_map names 6 layers, but the student has 8"):
        StudentHook(lesson, other).attach_(tiny_models.tiny_model("albert-groups"))


def test_a_mask_given_by_its_place_counts(
    models: list[BertForSequenceClassification], batch: dict[str, Tensor]
) -> None:
    student, teacher = models
    mask = torch.ones_like(batch["input_ids"])
    mask[:, -1] = 0
    hook = StudentHook(Lesson(1.0, 2.0, hidden=3.0), teacher)
    hook.attach_(student.train())
    named = student(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    assert torch.equal(student(batch["input_ids"], mask, labels=batch["labels"]).loss, named)
