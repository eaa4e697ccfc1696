"""Each head's losses against sums written out, and against the stock model's own loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from secateur.distillation import Lesson, StudentHook, objective_of
from secateur.errors import DataError, UnsupportedError

LENGTHS = (7, 4, 5)  # real tokens of each row; the rest is padding
MASK = torch.tensor([[1] * length + [0] * (7 - length) for length in LENGTHS])
TOKENS = [(row, token) for row, length in enumerate(LENGTHS) for token in range(length)]


def model(head: type, seed: int, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.5,
        **changes,
    )
    return head(config)


def cases() -> dict[str, tuple[type, dict[str, Any], dict[str, Tensor]]]:
    ignored = torch.full((3, 7), -100)
    tags, masked = ignored.clone(), ignored.clone()
    for row, token, tag in ((0, 1, 2), (0, 3, 0), (0, 4, 3), (1, 1, 1), (2, 2, 2), (2, 3, 0)):
        tags[row, token] = tag
    for row, token, word in ((0, 2, 7), (0, 5, 11), (2, 1, 3)):
        masked[row, token] = word
    return {
        "single": (BertForSequenceClassification, {"num_labels": 4}, {"labels": torch.tensor([0, 3, 1])}),
        "several": (
            BertForSequenceClassification,
            {"num_labels": 4, "problem_type": "multi_label_classification"},
            {"labels": torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])},
        ),
        "value": (
            BertForSequenceClassification,
            {"num_labels": 1},
            {"labels": torch.tensor([0.3, -1.0, 4.0])},
        ),
        "tokens": (BertForTokenClassification, {"num_labels": 4}, {"labels": tags}),
        "spans": (
            BertForQuestionAnswering,
            {},
            {"start_positions": torch.tensor([2, 0, 3]), "end_positions": torch.tensor([5, 0, 3])},
        ),
        "masked": (BertForMaskedLM, {}, {"labels": masked}),
    }


def batch_of(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return {"input_ids": torch.randint(1, 20, (3, 7)) * MASK, "attention_mask": MASK, **targets}


def hooked(
    student: Any, hardness: float, temperature: float, teacher: Any = None, **more: Any
) -> StudentHook:
    hook = StudentHook(Lesson(hardness, temperature, **more), teacher)
    hook.attach_(student.train())
    return hook


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    raised = [math.exp((one - top) / temperature) for one in logits]
    return [one / sum(raised) for one in raised]


def divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    own, other = softmax(student, temperature), softmax(teacher, temperature)
    return temperature**2 * sum(p * (math.log(p) - math.log(q)) for p, q in zip(other, own, strict=True))


def yes_or_no(student: float, teacher: float, temperature: float) -> float:
    return divergence([student, 0.0], [teacher, 0.0], temperature)


def by_hand(
    kind: str, student: Any, teacher: Any, labels: Tensor | None, temperature: float
) -> tuple[float, int]:
    """Distance from the teacher in double precision, and the number of items, from whole outputs."""
    if kind == "spans":
        total = 0.0
        for row, length in enumerate(LENGTHS):
            for name in ("start_logits", "end_logits"):
                own, other = (
                    getattr(one, name)[row, :length].double().tolist() for one in (student, teacher)
                )
                total += divergence(own, other, temperature) / 2
        return total, 3
    own, other = student.logits.double(), teacher.logits.double()
    assert labels is not None
    if kind == "several":
        pairs = zip(own.flatten().tolist(), other.flatten().tolist(), strict=True)
        return sum(yes_or_no(a, b, temperature) for a, b in pairs), 12
    if kind == "value":
        return float(((own - other) ** 2).sum()), 3
    if kind == "single":
        return sum(divergence(own[i].tolist(), other[i].tolist(), temperature) for i in range(3)), 3
    chosen = [(row, token) for row, token in TOKENS if int(labels[row, token]) != -100]
    at = {place: divergence(own[place].tolist(), other[place].tolist(), temperature) for place in TOKENS}
    if kind == "masked":
        return sum(at[place] for place in chosen), len(chosen)
    total = 0.0
    for row, length in enumerate(LENGTHS):
        mean = sum(at[row, token] for token in range(length)) / length
        total += mean * sum(place[0] == row for place in chosen)
    return total, len(chosen)


@pytest.mark.parametrize("kind", cases())
def test_at_hardness_zero_the_loss_and_gradients_are_the_stock_models(kind: str) -> None:
    head, changes, targets = cases()[kind]
    stock, student = model(head, 0, **changes), model(head, 0, **changes)
    batch = batch_of(targets)
    expected = stock.train()(**batch).loss
    hooked(student, 0.0, 1.0)
    loss = student(**batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    loss.backward()
    for (name, one), other in zip(student.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", cases())
def test_the_distance_from_the_teacher_is_the_sum_written_out(kind: str, temperature: float) -> None:
    head, changes, targets = cases()[kind]
    student, teacher = model(head, 0, **changes), model(head, 1, **changes)
    batch = batch_of(targets)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        outputs = student.eval()(**inputs), teacher.eval()(**inputs)
        own = student(**batch).loss.item()
    total, items = by_hand(kind, *outputs, targets.get("labels"), temperature)
    hook = hooked(student, 1.0, temperature, teacher)
    assert student(**batch).loss.item() == pytest.approx(total / items, rel=1e-4)
    assert int(hook.count(student, [batch, batch])) == 2 * items
    assert student(**batch, num_items_in_batch=torch.tensor(50)).loss.item() == pytest.approx(
        total / 50, rel=1e-4
    )
    hook.follow_(Lesson(0.7, temperature))
    assert student(**batch).loss.item() == pytest.approx(0.3 * own + 0.7 * total / items, rel=1e-4)


@pytest.mark.parametrize("kind", cases())
def test_padding_and_accumulation_change_nothing(kind: str) -> None:
    head, changes, targets = cases()[kind]
    student, teacher = model(head, 0, **changes), model(head, 1, **changes)
    batch = batch_of(targets)
    hook = hooked(student, 1.0, 2.0, teacher, hidden=0.5)
    whole = student(**batch).loss
    whole.backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad()
    parts = []
    for rows, width in ((slice(0, 2), 7), (slice(2, 3), 5)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        parts.append({k: v[:, :width] if v.ndim == 2 and v.shape[1] == 7 else v for k, v in part.items()})
    count = hook.count(student, parts)
    total = 0.0
    for part in parts:
        loss = student(**part, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    again = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [name for name in cases() if name != "masked"])
def test_outputs_computed_before_are_the_same_as_a_teacher(kind: str) -> None:
    head, changes, targets = cases()[kind]
    student, teacher = model(head, 0, **changes), model(head, 1, **changes)
    batch = batch_of(targets)
    with torch.no_grad():
        output = teacher.eval()(input_ids=batch["input_ids"], attention_mask=MASK)
    known = objective_of(teacher, batch).outputs(output, batch)
    if kind in ("tokens", "spans"):
        known = known * MASK.unsqueeze(-1) + 7.0 * (1 - MASK).unsqueeze(
            -1
        )  # what stands on padding means nothing
    hook = hooked(student, 0.9, 3.0, teacher)
    expected = student(**batch).loss
    hook.detach_()
    hooked(student, 0.9, 3.0)
    assert torch.equal(student(**batch, teacher_logits=known).loss, expected)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_learn_the_direction_of_the_dense_models(pooling: str, normalize: bool) -> None:
    entry = {"pooling": pooling, "normalize": normalize}
    student, teacher = (model(BertModel, seed, sentence_embedding=entry) for seed in (0, 1))
    batch = batch_of({})
    vectors = []
    for one in (student, teacher):
        with torch.no_grad():
            states = one.eval()(**batch).last_hidden_state.double()
        made = {
            "mean": lambda row, length: row[:length].sum(0) / length,
            "cls": lambda row, length: row[0],
            "max": lambda row, length: torch.stack(list(row[:length])).max(0).values,
        }[pooling]
        vectors.append([made(row, length) for row, length in zip(states, LENGTHS, strict=True)])
    expected = sum(
        1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in zip(*vectors, strict=True)
    )
    hook = hooked(student, 1.0, 2.0, teacher)
    output = student(**batch)
    assert output.loss.item() == pytest.approx(expected / 3, rel=1e-4)
    assert output["loss"] is output.loss
    assert int(hook.count(student, [batch])) == 3
    assert not {name for name in student.state_dict() if "pool" in name} - {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    hook.follow_(Lesson(0.5, 2.0))
    with pytest.raises(DataError, match="have no labels to learn from"):
        student(**batch)


def test_a_masked_model_computes_no_logits_but_those_it_is_asked_for() -> None:
    student, teacher = model(BertForMaskedLM, 0), model(BertForMaskedLM, 1)
    batch = batch_of(cases()["masked"][2])
    hooked(student, 0.5, 2.0, teacher)
    assert student(**batch).logits.shape == (1, 3, 20)
    assert student.eval()(**batch).logits.shape == (3, 7, 20)
    assert teacher(input_ids=batch["input_ids"]).logits.shape == (3, 7, 20)
    batch["labels"] = torch.full((3, 7), -100)
    loss = student.train()(**batch).loss
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("kind", cases())
def test_autocast_and_checkpointing_keep_the_loss(kind: str) -> None:
    head, changes, targets = cases()[kind]
    student, teacher = model(head, 0, **changes), model(head, 1, **changes)
    batch = batch_of(targets)
    hook = hooked(student, 0.5, 2.0, teacher, hidden=0.5)
    expected = student(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = student(**batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05, abs=0.02)
    expected.backward()
    gradients = {name: one.grad.clone() for name, one in student.named_parameters() if one.grad is not None}
    student.zero_grad()
    enable = getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    again = student(**batch).loss
    again.backward()
    assert again.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, one in student.named_parameters():
        if name in gradients:
            torch.testing.assert_close(one.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)
    hook.detach_()


@pytest.mark.parametrize(
    ("kind", "targets", "sentence"),
    [
        ("single", {"labels": torch.tensor([0.0, 1.0, 2.0])}, "needs integer labels"),
        ("several", {"labels": torch.tensor([1, 0, 2])}, r"labels \(B, L\) of 0.0 and 1.0"),
        ("spans", {"labels": torch.tensor([1, 0, 2])}, "must bring 'start_positions'"),
        ("masked", {}, "must bring 'labels'"),
        ("tokens", {}, "must bring 'labels'"),
    ],
)
def test_targets_that_do_not_fit_are_refused(kind: str, targets: dict[str, Tensor], sentence: str) -> None:
    head, changes, _ = cases()[kind]
    if kind == "single":
        changes["problem_type"] = "single_label_classification"
    student = model(head, 0, **changes)
    hooked(student, 0.0, 1.0)
    with pytest.raises(DataError, match=sentence):
        student(**batch_of(targets))


def test_a_head_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="BertForMultipleChoice has no head that can be trained"):
        objective_of(model(BertForMultipleChoice, 0), {})
