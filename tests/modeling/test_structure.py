"""`find_blocks` on live models, and on models that are not what they say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from secateur.errors import StructureError, UnsupportedError
from secateur.modeling import find_blocks, find_projections


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


def test_other_families_are_refused_by_name() -> None:
    model = DistilBertModel(DistilBertConfig(vocab_size=20, dim=32, n_layers=1, n_heads=4, hidden_dim=64))
    with pytest.raises(UnsupportedError, match=r"'distilbert' cannot be compressed yet; supported: bert"):
        find_blocks(model)
    with pytest.raises(UnsupportedError, match=r"'Linear' cannot be compressed yet"):
        find_blocks(nn.Linear(2, 2))


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
