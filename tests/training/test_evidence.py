"""What pruning methods learn of a model in training, and that asking leaves no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import DISTILLATION, PRUNING, recipe, rows, tiny_model, trainer
from torch.utils.data import DataLoader

from secateur.distillation import Lesson, StudentHook
from secateur.errors import DataError, StructureError
from secateur.modeling import find_projections
from secateur.quantization import attach_quantizers_, find_quantizers
from secateur.sparsity import MagnitudePruner, Pattern
from secateur.training import CompressionCallback
from secateur.training.encoding import Padder
from secateur.training.evidence import TrainingEvidence, TrainingRows

BATCH = 4


def loader(count: int = 32) -> DataLoader[Any]:
    return DataLoader(rows(count), BATCH, shuffle=True, collate_fn=Padder(0))


def masked_model(hardness: float = 0.5, quantized: bool = False, sparsity: float = 0.5) -> Any:
    model = tiny_model()
    pruner = MagnitudePruner(Pattern.parse("unstructured"))
    pruner.attach_(model)
    pruner.step_(sparsity)
    if quantized:
        attach_quantizers_(model)
        model.train()
        model(**next(iter(loader())))
    StudentHook(Lesson(hardness, 2.0), tiny_model(1)).attach_(model)
    return model.train()


def evidence(model: Any, count: int = 32, step: int = 3) -> TrainingEvidence:
    return TrainingEvidence(model, lambda: loader(count), seed=1, step=step)


def checkpoint_(model: Any, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable(**{f"{enable.__name__.removesuffix('_enable')}_kwargs": {"use_reentrant": reentrant}})


def test_gradients_are_those_of_the_loss_without_dropout() -> None:
    model = masked_model()
    asked = evidence(model)
    found = list(asked.gradients(3))
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batches: list[Any] = []
    once = TrainingEvidence(model, lambda: _noted(loader(), batches), seed=1, step=3)
    list(once.gradients(3))
    for gradients, batch in zip(found, batches, strict=False):
        plain.zero_grad()
        plain(**batch).loss.backward()
        for gradient, projection in zip(gradients, find_projections(plain), strict=True):
            original = projection.linear.parametrizations.weight.original
            torch.testing.assert_close(gradient, original.grad)
            assert gradient.shape == projection.linear.weight.shape
            assert not gradient[projection.linear.weight == 0].any()
            assert gradient.any()


def test_fused_attention_of_transformers_4_drops_nothing_either() -> None:
    model = masked_model()
    attention = model.bert.encoder.layer[0].attention.self
    attention.dropout_prob = 0.5
    seen: list[float] = []
    attention.register_forward_pre_hook(lambda module, _: seen.append(module.dropout_prob))
    list(evidence(model).gradients(2))
    evidence(model).held_out_loss()
    assert seen
    assert not any(seen)
    assert attention.dropout_prob == 0.5


def _noted(batches: Any, into: list[Any]) -> Iterator[Any]:
    for batch in batches:
        into.append(batch)
        yield batch


def test_the_same_step_and_draw_give_the_same_bits_and_others_others() -> None:
    model = masked_model()
    first = [gradient.clone() for gradient in next(evidence(model).gradients(4))]
    torch.rand(5)
    for again in (next(evidence(model).gradients(4)), next(evidence(model).gradients(9))):
        assert all(map(torch.equal, again, first))
    for other in (evidence(model, step=4).gradients(4), evidence(model).gradients(4, draw=1)):
        assert not torch.equal(next(other)[0], first[0])


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_some_matrices_have_the_gradients_they_have_among_all(reentrant: bool | None) -> None:
    model = masked_model()
    if reentrant is not None:
        checkpoint_(model, reentrant)
    whole = list(evidence(model).gradients(3))
    chosen = [2, 5, 9]
    for some, every in zip(evidence(model).gradients(3, matrices=chosen), whole, strict=True):
        assert all(torch.equal(one, every[place]) for one, place in zip(some, chosen, strict=True))


@pytest.mark.parametrize("quantized", [False, True])
def test_asking_leaves_no_trace(quantized: bool) -> None:
    model = masked_model(quantized=quantized)
    model.bert.embeddings.requires_grad_(False)
    checkpoint_(model, True)
    model(**next(iter(loader()))).loss.backward()

    def state() -> list[Any]:
        return [
            torch.get_rng_state(),
            torch.tensor(np.random.get_state()[1].astype(np.int64)),
            torch.tensor(random.getstate()[1]),
            *(value.clone() for value in model.state_dict().values()),
            *(one.grad.clone() for one in model.parameters() if one.grad is not None),
            *(torch.tensor(one.requires_grad) for one in model.parameters()),
            *(torch.tensor(one.training) for one in model.modules()),
            *(torch.tensor(one.p) for one in model.modules() if isinstance(one, torch.nn.Dropout)),
            *(torch.tensor(one._seen) for one in find_quantizers(model).values()),
            *(torch.tensor(one._is_frozen) for one in find_quantizers(model).values()),
        ]

    functions = [getattr(one, "_gradient_checkpointing_func", None) for one in model.modules()]
    model.bert.encoder.eval()
    before = state()
    asked = evidence(model)
    stream = asked.gradients(5)
    next(stream)
    in_between = state()
    list(stream)
    asked.held_out_loss()
    asked.inputs(lambda projection, x, real: None)
    for after in (in_between, state()):
        assert len(after) == len(before)
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert functions == [getattr(one, "_gradient_checkpointing_func", None) for one in model.modules()]


def test_the_held_out_loss_is_one_number_at_every_step() -> None:
    model = masked_model()
    assert evidence(model).held_out_loss() == evidence(model, step=9).held_out_loss()
    before = evidence(model).held_out_loss()
    with torch.no_grad():
        model.classifier.weight.mul_(2.0)
    assert evidence(model).held_out_loss() != before


def test_inputs_are_what_the_layers_read() -> None:
    model = masked_model()
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    evidence(model).inputs(lambda one, x, real: seen.setdefault(one.name, []).append((x, real)))
    projections = list(find_projections(model))
    assert list(seen) == [projection.name for projection in projections]
    for projection in projections:
        assert len(seen[projection.name]) == 32 // BATCH
        for x, real in seen[projection.name]:
            assert x.shape == (len(real), projection.in_features)
            assert real.dtype == torch.bool
            assert real.any()
    q, k, v = (seen[one.name] for one in projections[:3])
    assert all(a[0] is b[0] is c[0] for a, b, c in zip(q, k, v, strict=True))


def test_held_out_rows_are_not_shown() -> None:
    class Numbers(list[int]):
        pass

    class Loader:
        dataset = Numbers(range(200))
        batch_size = 4
        collate_fn = staticmethod(lambda found: {"rows": torch.tensor(found)})

    made = TrainingRows(Loader(), 3)
    held = torch.cat([batch["rows"] for batch in made.held_out()])
    shown = torch.cat([batch["rows"] for batch in made.shuffled()])
    assert len(held) == 20
    assert len(shown) == len(made) == 180
    assert sorted([*held.tolist(), *shown.tolist()]) == list(range(200))
    assert torch.equal(held, torch.cat([batch["rows"] for batch in TrainingRows(Loader(), 3).held_out()]))
    assert not torch.equal(shown, torch.cat([batch["rows"] for batch in made.shuffled()]))


def test_too_few_rows_are_said() -> None:
    with pytest.raises(DataError, match="asks for 33 gradients, and there are only 32 rows"):
        list(evidence(masked_model()).gradients(33))


def test_a_gradient_that_is_not_finite_names_batch_and_layer() -> None:
    model = masked_model()
    batches = list(loader())
    batches[2]["input_ids"] = torch.full_like(batches[2]["input_ids"], 31)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[31] = torch.nan
    asked = TrainingEvidence(model, lambda: batches, seed=0, step=7)
    name = r"bert\.encoder\.layer\.0\.attention\.self\.query"
    with pytest.raises(
        StructureError, match=rf"{name} is not finite in mini-batch 2 of the 6 drawn after step 7"
    ):
        list(asked.gradients(6))


def test_a_run_that_asks_for_gradients_trains_as_one_that_does_not(tmp_path: Path) -> None:
    class Asking(MagnitudePruner):
        needs = frozenset({"gradients", "inputs"})

        def scores(self, evidence: Any) -> list[torch.Tensor]:
            assert len(list(evidence.gradients(5))) == 5
            evidence.held_out_loss()
            evidence.inputs(lambda projection, x, real: None)
            return super().scores(None)

    from secateur.sparsity import PRUNERS

    states = []
    for kind in (MagnitudePruner, Asking):
        PRUNERS["magnitude"] = kind
        try:
            model = tiny_model()
            run = trainer(
                tmp_path,
                model,
                CompressionCallback(recipe(PRUNING, DISTILLATION), tiny_model(1)),
                gradient_accumulation_steps=2,
            )
            run.train()
        finally:
            PRUNERS["magnitude"] = MagnitudePruner
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
