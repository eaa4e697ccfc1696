"""What matrices read: every family, padding left out, later layers behind what earlier ones became."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import HEADS, MEMBERS, family_batch, tiny_model
from torch import Tensor

from secateur.errors import DataError, StructureError
from secateur.modeling import find_blocks
from secateur.modeling.structure import Projection
from secateur.sparsity.hessian import InputMoments
from secateur.sparsity.layer_inputs import LayerInputs, inputs_by_layer, require_varied_inputs


def batches_of(model: Any, count: int = 3) -> list[dict[str, Tensor]]:
    """Returns padded batches."""
    sequences = random_sequences(4 * count, seed=5)
    return [family_batch(model, sequences[start : start + 4]) for start in range(0, len(sequences), 4)]


def read_plainly(model: Any, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns what each projection reads, by whole forward passes with a hook each."""
    found: dict[str, list[Tensor]] = {}
    handles = []
    real = torch.zeros(())
    for block in find_blocks(model):
        for projection in block.projections():

            def hook(module: Any, args: Any, name: str = projection.name) -> None:
                found.setdefault(name, []).append(args[0][real])

            handles.append(projection.linear.register_forward_pre_hook(hook))
    with torch.no_grad():
        for batch in batches:
            real = batch["attention_mask"].bool()
            model(**batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("member", MEMBERS)
def test_later_matrices_read_what_earlier_ones_became(member: str) -> None:
    model = tiny_model(member).train()
    batches = batches_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    seen = []
    for group, moments in inputs_by_layer(find_blocks(model), LayerInputs(model, batches), InputMoments):
        model.eval()
        expected = read_plainly(model, batches)[group[0].name]
        model.train()
        for other in group:
            torch.testing.assert_close(
                expected, read_plainly(model.eval(), batches)[other.name], rtol=0, atol=0
            )
        model.train()
        assert moments.tokens == len(expected)
        matrix = expected.double().t() @ expected.double() / len(expected)
        torch.testing.assert_close(moments.matrix(), matrix, rtol=1e-4, atol=1e-5)
        seen += [projection.name for projection in group]
        for projection in group:  # a change that every later matrix must see
            with torch.no_grad():
                projection.linear.weight.mul_(0.5)
    assert seen == [projection.name for block in find_blocks(model) for projection in block.projections()]
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    changed = {f"{name}.weight" for name in seen}
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items() if name not in changed
    )
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("end", HEADS)
def test_every_head_lets_calibration_through(end: str) -> None:
    model = tiny_model("bert", end)
    batches = batches_of(model, 1)
    groups = list(inputs_by_layer(find_blocks(model), LayerInputs(model, batches), InputMoments))
    assert len(groups) == 8
    assert all(moments.tokens == int(batches[0]["attention_mask"].sum()) for _, moments in groups)


def test_one_pass_shows_all_matrices_and_an_earlier_layer_starts_over() -> None:
    model = tiny_model("bert")
    batches = batches_of(model)
    expected = read_plainly(model, batches)
    source = LayerInputs(model, batches)

    def collect(wanted: set[str] | None = None) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}

        def visit(projection: Projection, x: Tensor, real: Tensor) -> None:
            found.setdefault(projection.name, []).append(x[real])

        source.inputs(visit, wanted)
        return {name: torch.cat(parts) for name, parts in found.items()}

    for wanted in (
        None,
        {"bert.encoder.layer.1.output.dense"},
        {"bert.encoder.layer.0.intermediate.dense"},
        None,
    ):
        found = collect(wanted)
        assert set(found) == (set(expected) if wanted is None else wanted)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_layers_are_whole_again_after_an_error() -> None:
    model = tiny_model("bert")
    batches = batches_of(model)
    expected = model(**batches[0]).logits

    def visit(projection: Projection, x: Tensor, real: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LayerInputs(model, batches).inputs(visit, {"bert.encoder.layer.1.output.dense"})
    assert torch.equal(model(**batches[0]).logits, expected)
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.modules())


def test_bad_input_is_one_sentence() -> None:
    model = tiny_model("bert")
    with pytest.raises(DataError, match="at least one batch"):
        LayerInputs(model, [])
    source = LayerInputs(model, batches_of(model, 1))
    with pytest.raises(StructureError, match="no projection 'nothing'"):
        source.inputs(lambda *given: None, {"nothing"})
    with torch.no_grad():
        find_blocks(model)[0].ffn_in.linear.bias.fill_(float("nan"))
    with pytest.raises(DataError, match=r"input of bert.encoder.layer.0.output.dense holds NaN"):
        list(inputs_by_layer(find_blocks(model), source, InputMoments))


def test_constant_inputs_are_named() -> None:
    model = tiny_model("bert")
    source = LayerInputs(model, batches_of(model, 1))
    require_varied_inputs(model, source)
    with torch.no_grad():
        find_blocks(model)[0].ffn_in.linear.weight.zero_()
    with pytest.raises(
        DataError, match=r"teach nothing.*: the input of bert.encoder.layer.0.output.dense is the"
    ):
        require_varied_inputs(model, source)
    assert len(list(inputs_by_layer(find_blocks(model), source, InputMoments))) == 8
    nothing = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.zeros(2, 3)}
    with pytest.raises(DataError, match=r"No token reached bert.encoder.layer.0.attention.self.query"):
        require_varied_inputs(model, LayerInputs(model, [nothing]))
