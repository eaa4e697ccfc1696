"""What lies within two models, compared by the hook on the student: layers, projections, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from plain_distances import by_hand_attention, squared
from torch import Tensor, nn

from secateur.distillation import Lesson, StudentHook, layer_pairs
from secateur.distillation.inner import PROJECTIONS
from secateur.errors import DataError, RecipeError, StructureError
from secateur.quantization import QuantScheme, attach_quantizers_


def network(member: str = "bert", seed: int = 0, layers: int = 2, **changes: Any) -> Any:
    name = "n_layers" if member == "distilbert" else "num_hidden_layers"
    model = tiny_models.tiny_model(member, seed=seed, **{name: layers}, **changes)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def batch_for(model: Any) -> dict[str, Tensor]:
    made = tiny_models.family_batch(model, [[5, 6, 7, 8, 9], [12, 11], [20, 21, 22]])
    return {**made, "labels": torch.tensor([0, 4, 2])}


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in batch.items() if name != "labels"}


EAGER = {"attn_implementation": "eager"}


@pytest.mark.parametrize("member", list(tiny_models.FAMILY_ROWS))
def test_the_hook_compares_what_transformers_gives(member: str) -> None:
    """Hidden states, embeddings and eager attention maps of transformers' own outputs, the same sums."""
    deep = 3 if member == "albert" else 4
    shallow = 3 if member == "albert" else 2
    student, teacher = network(member, 0, shallow), network(member, 1, deep)
    batch = batch_for(student)
    mask, kept = batch["attention_mask"], batch["attention_mask"].bool()
    outputs = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs.append(model(**inputs(batch), output_hidden_states=True, output_attentions=True))
    lesson = Lesson(
        1.0, 1.0, outputs=0.0, hidden=2.0, embeddings=3.0, attention=5.0, attention_of="probabilities"
    )
    StudentHook(lesson, teacher).attach_(student.train())
    found = student(**batch).loss.item() * 3  # rows
    expected = 0.0
    own, other = outputs
    for mine, theirs in layer_pairs("uniform", shallow, deep):
        for row in range(3):
            real = kept[row]
            a = own.hidden_states[mine + 1][row][real].double()
            b = other.hidden_states[theirs + 1][row][real].double()
            expected += 2.0 * float(((a - b) ** 2).mean())
            a, b = (one.attentions[layer][row].double() for one, layer in ((own, mine), (other, theirs)))
            length = int(mask[row].sum())
            expected += 5.0 * float(((a - b) ** 2)[:, :length, :length].mean())
    for row in range(3):
        a, b = (one.hidden_states[0][row][kept[row]].double() for one in outputs)
        expected += 3.0 * float(((a - b) ** 2).mean())
    assert found == pytest.approx(expected, rel=1e-4)


def test_padding_changes_nothing() -> None:
    student, teacher = network(seed=0), network(seed=1, layers=4)
    lesson = Lesson(0.5, 2.0, hidden=1.0, embeddings=1.0, attention=1.0)
    StudentHook(lesson, teacher).attach_(student.train())
    batch = batch_for(student)
    wider = {
        name: one if name == "labels" else torch.cat((one, torch.zeros(3, 4, dtype=torch.long)), 1)
        for name, one in batch.items()
    }
    assert student(**wider).loss.item() == pytest.approx(student(**batch).loss.item(), rel=1e-5)


def test_ignored_rows_take_no_part() -> None:
    student, teacher = network(seed=0), network(seed=1, layers=4)
    StudentHook(Lesson(0.5, 2.0, hidden=1.0, attention=1.0), teacher).attach_(student.train())
    batch = batch_for(student)
    short = {name: one[:2] for name, one in batch.items()}
    expected = student(**short).loss.item()
    batch["labels"][2] = -100
    assert student(**batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_give_the_gradient_of_the_big_one() -> None:
    gradients = []
    for sizes in ((3,), (1, 2)):
        student, teacher = network(seed=0), network(seed=1, layers=4, hidden_size=48)
        lesson = Lesson(0.5, 2.0, hidden=1.0, embeddings=1.0, attention=1.0)
        StudentHook(lesson, teacher).attach_(student.train())
        batch, start = batch_for(student), 0
        for size in sizes:
            part = {name: one[start : start + size] for name, one in batch.items()}
            student(**part, num_items_in_batch=3).loss.backward()
            start += size
        gradients.append(
            {name: one.grad.clone() for name, one in student.named_parameters() if one.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.startswith(PROJECTIONS) for name in gradients[0])
    for name, whole in gradients[0].items():
        assert torch.allclose(gradients[1][name], whole, rtol=1e-4, atol=1e-6), name


def watched(model: Any) -> tuple[list[Any], dict[str, list[Tensor]]]:
    """Returns handles, and what the query and key layers give, layer by layer."""
    caught: dict[str, list[Tensor]] = {"query": [], "key": []}

    def watch(kind: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda _, args, output: caught[kind].append(output))

    named = [(name.split(".")[-1], module) for name, module in model.named_modules()]
    return [
        watch(kind, module) for kind, module in named if kind in caught and isinstance(module, nn.Linear)
    ], caught


def test_attention_is_compared_while_quantization_attends_in_integers() -> None:
    student, teacher = network(seed=0), network(seed=1)
    attach_quantizers_(student, QuantScheme())
    batch = batch_for(student)
    StudentHook(Lesson(outputs=0.0, attention=1.0), teacher).attach_(student.train())
    assert student.config._attn_implementation == "secateur_int8"
    handles, own = watched(student)
    loss = student(**batch).loss
    for handle in handles:
        handle.remove()
    _, other = watched(teacher)
    with torch.no_grad():
        teacher(**inputs(batch))
    expected = 0.0
    for layer in range(2):
        for row, length in enumerate((5, 2, 3)):
            maps = []
            for caught in (own, other):
                q, k = (caught[name][layer][row].detach().double() for name in ("query", "key"))
                made = by_hand_attention(q, k, 4, length, False)
                maps.append([x for head in made for line in head for x in line])
            expected += squared(*maps)
    assert loss.item() * 3 == pytest.approx(expected, rel=1e-4)
    loss.backward()
    gradient = student.bert.encoder.layer[0].attention.self.query.weight.grad
    assert float(gradient.abs().max()) > 0


def test_a_narrower_student_learns_through_projections() -> None:
    student, teacher = network(seed=0), network(seed=1, layers=4, hidden_size=48)
    lesson = Lesson(outputs=0.0, hidden=1.0, embeddings=2.0)
    hook = StudentHook(lesson, teacher)
    hook.attach_(student.train())
    projections = getattr(student, PROJECTIONS)
    assert {name: tuple(one.weight.shape) for name, one in projections.items()} == {
        "hidden": (48, 32),
        "embeddings": (48, 32),
    }
    for one in projections.values():  # lengths and angles are kept at the start
        assert torch.allclose(one.weight.T @ one.weight, torch.eye(32), atol=1e-5)
    batch = batch_for(student)
    outputs = []
    for model in (student, teacher):
        model.eval()
        with torch.no_grad():
            outputs.append(model(**inputs(batch), output_hidden_states=True).hidden_states)
    expected = 0.0
    for name, weight, pairs in (("hidden", 1.0, [(1, 2), (2, 4)]), ("embeddings", 2.0, [(0, 0)])):
        matrix = projections[name].weight.detach().double()
        for mine, theirs in pairs:
            for row, length in enumerate((5, 2, 3)):
                a = outputs[0][mine][row, :length].double() @ matrix.T
                expected += weight * float((a - outputs[1][theirs][row, :length].double()).square().mean())
    loss = student.train()(**batch).loss
    assert loss.item() * 3 == pytest.approx(expected, rel=1e-4)
    loss.backward()
    (group,) = hook.parameter_groups()
    assert {id(one) for one in group["params"]} == {id(one.weight) for one in projections.values()}
    assert all(float(one.grad.abs().max()) > 0 for one in group["params"])
    with pytest.raises(StructureError, match="has a module 'distillation_projections' already"):
        StudentHook(lesson, teacher).attach_(student)
    hook.finish_()
    assert not [name for name in student.state_dict() if name.startswith(PROJECTIONS)]


def test_projections_take_nothing_from_the_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    student, teacher = network(seed=0), network(seed=1, hidden_size=48)
    torch.manual_seed(3)
    StudentHook(Lesson(hidden=1.0, embeddings=1.0), teacher).attach_(student)
    assert torch.equal(torch.rand(1), expected)


def test_heads_that_differ_are_refused_and_nothing_stays() -> None:
    student, teacher = network(seed=0), network(seed=1, num_attention_heads=8)
    with pytest.raises(RecipeError, match="layer 0 of the student has 4 heads and layer 0 of the teacher 8"):
        StudentHook(Lesson(attention=1.0), teacher).attach_(student)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    StudentHook(Lesson(hidden=1.0), teacher).attach_(student)  # nothing else minds


def test_what_lies_within_needs_no_labels_where_outputs_do_not_count() -> None:
    student, teacher = network(seed=0), network(seed=1, layers=4)
    hook = StudentHook(Lesson(outputs=0.0, hidden=1.0), teacher)
    hook.attach_(student.train())
    batch = batch_for(student)
    labelled = student(**batch).loss
    assert torch.equal(student(**inputs(batch)).loss, labelled)
    assert int(hook.count(student, [inputs(batch), batch])) == 6
    hook.follow_(Lesson(hidden=1.0))
    with pytest.raises(DataError, match="trained without labels"):
        student(**inputs(batch))


def test_hidden_states_teach_beside_labels_alone() -> None:
    student, teacher = network(seed=0), network(seed=1)
    hook = StudentHook(Lesson(hardness=0.0, hidden=2.0), teacher)
    hook.attach_(student.train())
    batch = batch_for(student)
    both = student(**batch).loss.item()
    hook.follow_(Lesson(hardness=0.0, outputs=0.0, hidden=2.0))
    within = student(**batch).loss.item()
    hook.follow_(Lesson(hardness=0.0))
    assert both == pytest.approx(within + student(**batch).loss.item(), rel=1e-5)


def test_outputs_weigh_labels_and_teacher_alike() -> None:
    student, teacher = network(seed=0), network(seed=1)
    hook = StudentHook(Lesson(0.3, 2.0), teacher)
    hook.attach_(student.train())
    batch = batch_for(student)
    once = student(**batch).loss.item()
    hook.follow_(Lesson(0.3, 2.0, outputs=2.5))
    assert student(**batch).loss.item() == pytest.approx(2.5 * once, rel=1e-5)


def recompute_(model: Any, *, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})


def test_reentrant_checkpointing_hides_attention_and_is_named() -> None:
    student, teacher = network(seed=0), network(seed=1)
    recompute_(student, reentrant=True)
    StudentHook(Lesson(attention=1.0), teacher).attach_(student.train())
    with pytest.raises(RecipeError, match="use_reentrant': False"):
        student(**batch_for(student))


def test_checkpointing_without_reentrance_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        student, teacher = network(seed=0), network(seed=1)
        if checkpointing:
            recompute_(student, reentrant=False)
        StudentHook(Lesson(hidden=1.0, embeddings=1.0, attention=1.0), teacher).attach_(student.train())
        student(**batch_for(student)).loss.backward()
        gradients.append([one.grad for one in student.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_under_autocast_what_lies_within_is_compared_in_float32() -> None:
    student, teacher = network(seed=0), network(seed=1, hidden_size=48)
    StudentHook(Lesson(outputs=0.0, hidden=1.0, embeddings=1.0, attention=1.0), teacher).attach_(
        student.train()
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = student(**batch_for(student)).loss
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_the_teacher_may_stay_on_another_device() -> None:
    student, teacher = network(seed=0), network(seed=1, layers=4)
    batch = batch_for(student)
    lesson = Lesson(0.5, 2.0, hidden=1.0, embeddings=1.0, attention=1.0)
    hook = StudentHook(lesson, teacher)
    hook.attach_(student.train())
    expected = student(**batch).loss.item()
    hook.detach_()
    StudentHook(lesson, teacher, teacher_device="cuda").attach_(student)
    assert student(**batch).loss.item() == pytest.approx(expected, rel=1e-3)
    assert {one.device.type for one in teacher.parameters()} == {"cuda"}


def test_a_teacher_gets_its_inputs_where_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second device: what is moved where, by the names of devices."""
    student, teacher = network(seed=0), network(seed=1)
    moved: list[tuple[str, str]] = []
    real = Tensor.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], torch.device):
            moved.append((str(args[0]), str(self.dtype)))
        return real(self, *args, **kwargs)

    hook = StudentHook(Lesson(hidden=1.0), teacher, teacher_device="cpu")
    hook.attach_(student.train())
    monkeypatch.setattr(Tensor, "to", to)
    student(**batch_for(student))
    assert ("cpu", "torch.int64") in moved  # inputs
    assert ("cpu", "torch.float32") in moved  # hidden states, back


def test_token_tags_may_learn_at_the_first_piece_of_each_word_only() -> None:
    end = "ForTokenClassification"
    student, teacher = (tiny_models.tiny_model("bert", end, seed=seed) for seed in (0, 1))
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = batch_for(student)
    labels = torch.full((3, 5), -100)
    labels[0, 1], labels[0, 3], labels[2, 1] = 2, 0, 4
    batch["labels"] = labels
    with torch.no_grad():
        logits = [model(**inputs(batch)).logits.double() for model in (student, teacher)]
    StudentHook(Lesson(1.0, 2.0, tokens="labelled"), teacher).attach_(student.train())
    expected = 0.0
    for row, token in ((0, 1), (0, 3), (2, 1)):
        q, p = (torch.softmax(one[row, token] / 2.0, -1) for one in logits)
        expected += 4.0 * float((p * (p.log() - q.log())).sum())
    assert student(**batch).loss.item() * 3 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("vectors", ["similarity", "both"])
def test_sentence_embeddings_may_learn_similarities(vectors: Any) -> None:
    student, teacher = (tiny_models.tiny_model("bert", "Model", seed=seed) for seed in (0, 1))
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = inputs(batch_for(student))
    pooled = []
    for model in (student, teacher):
        with torch.no_grad():
            states = model(**batch).last_hidden_state.double()
        weights = batch["attention_mask"].unsqueeze(-1).double()
        pooled.append((states * weights).sum(1) / weights.sum(1))
    unit = [one / one.norm(dim=-1, keepdim=True) for one in pooled]
    apart = (unit[0] @ unit[0].T - unit[1] @ unit[1].T).square().sum() / 2
    if vectors == "both":
        apart = apart + (1 - (unit[0] * unit[1]).sum(-1)).sum()
    StudentHook(Lesson(1.0, 1.0, vectors=vectors), teacher).attach_(student.train())
    assert student(**batch).loss.item() * 3 == pytest.approx(float(apart), rel=1e-4)


def test_similarities_need_no_equal_widths_but_cosines_do() -> None:
    student = tiny_models.tiny_model("bert", "Model")
    teacher = tiny_models.tiny_model("bert", "Model", hidden_size=48)
    batch = inputs(batch_for(student))
    hook = StudentHook(Lesson(1.0, 1.0, vectors="similarity"), teacher)
    hook.attach_(student.train())
    student(**batch).loss.backward()
    hook.follow_(Lesson(1.0, 1.0))
    with pytest.raises(DataError, match="or be equally wide"):
        student(**batch)
