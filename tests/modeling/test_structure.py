"""`find_blocks` on live models, and on models that are not what they say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import FAMILY_ROWS, HEADS, MEMBERS, family_batch, tiny_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertModel,
    MPNetConfig,
    MPNetModel,
)

from secateur.errors import StructureError, UnsupportedError
from secateur.modeling import find_blocks, find_projections
from secateur.modeling.structure import find_architecture


def tiny_config(**changes: object) -> BertConfig:
    values = {
        "vocab_size": 20,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    }
    return BertConfig(**(values | changes))


def test_the_view_holds_the_live_modules_and_their_sizes() -> None:
    model = BertForSequenceClassification(tiny_config())
    blocks = find_blocks(model)
    assert [block.prefix for block in blocks] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    layer = model.bert.encoder.layer[1]
    block = blocks[1]
    assert block.q.linear is layer.attention.self.query
    assert block.v.linear is layer.attention.self.value
    assert block.attn_out.linear is layer.attention.output.dense
    assert block.ffn_in.linear is layer.intermediate.dense
    assert block.ffn_out.linear is layer.output.dense
    assert block.attn_norm is layer.attention.output.LayerNorm
    assert block.ffn_norm is layer.output.LayerNorm
    assert (block.hidden_size, block.intermediate_size, block.num_heads, block.head_dim) == (32, 64, 4, 8)
    assert (block.ffn_in.out_features, block.ffn_in.in_features) == (64, 32)
    for projection in block.projections():
        assert model.get_submodule(projection.name) is projection.linear


def test_a_model_without_a_head_has_the_same_blocks_under_its_own_names() -> None:
    names = [projection.name for projection in find_projections(BertModel(tiny_config()))]
    assert len(names) == 12
    assert names[0] == "encoder.layer.0.attention.self.query"


def test_other_families_are_refused_by_name_and_reason() -> None:
    model = MPNetModel(MPNetConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=4))
    with pytest.raises(
        UnsupportedError, match=r"'mpnet' \(its attention adds a bias .*\); supported: bert, rob"
    ):
        find_blocks(model)
    with pytest.raises(UnsupportedError, match=r"of the family 'Linear'; supported: bert"):
        find_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_every_family_has_its_blocks(member: str, end: str) -> None:
    model = tiny_model(member, end)
    blocks = find_blocks(model)
    distinct = {"albert": 1, "albert-wide": 1, "albert-groups": 4}.get(member, 2)
    assert len(blocks) == distinct
    linears = [projection.linear for projection in find_projections(model)]
    assert len({id(linear) for linear in linears}) == 6 * distinct
    for block in blocks:
        sizes = (block.hidden_size, block.intermediate_size, block.num_heads, block.head_dim)
        assert sizes == (32, 64, 4, 8)
        for projection in block.projections():
            assert model.get_submodule(projection.name) is projection.linear
        norms = [
            module
            for module in model.get_submodule(block.prefix).modules()
            if isinstance(module, nn.LayerNorm)
        ]
        assert {id(norm) for norm in norms} == {id(block.attn_norm), id(block.ffn_norm)}
    assert find_architecture(model) == type(model).__name__


@pytest.mark.parametrize("member", FAMILY_ROWS)
def test_blocks_are_in_the_order_in_which_data_pass(member: str) -> None:
    """A role that stands for another matrix would still have the right shape."""
    model = tiny_model(member, "Model")
    seen: list[str] = []
    for projection in find_projections(model):
        projection.linear.register_forward_hook(lambda *_, name=projection.name: seen.append(name))
    with torch.no_grad():
        model(**family_batch(model, [[5, 6, 7]]))
    names = [projection.name for projection in find_projections(model)]
    assert seen == names * (3 if member == "albert" else 1)


def test_a_derived_class_is_what_it_derives_from() -> None:
    class Encoder(BertModel):
        pass

    assert find_architecture(Encoder(tiny_config())) == "BertModel"
    assert find_architecture(BertForMultipleChoice(tiny_config())) is None


def test_decoders_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="decoder"):
        find_blocks(BertModel(tiny_config(is_decoder=True)))


def test_every_module_out_of_place_is_named() -> None:
    model = BertModel(tiny_config())
    model.encoder.layer[0].output.dense = nn.Identity()
    model.encoder.layer[1].intermediate.dense = nn.Linear(32, 48)
    with pytest.raises(StructureError) as caught:
        find_blocks(model)
    message = str(caught.value)
    assert "encoder.layer.0.output.dense is Identity, expected nn.Linear" in message
    assert "encoder.layer.1.output.dense is 32 x 64, expected 32 x 48" in message


def test_no_layers_is_a_structure_error() -> None:
    model = nn.Module()
    model.config = SimpleNamespace(model_type="bert")
    with pytest.raises(StructureError, match="found no encoder layers"):
        find_blocks(model)
