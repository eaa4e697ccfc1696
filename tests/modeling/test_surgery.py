"""What is left of a model computes what those layers computed in the whole one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from secateur.errors import StructureError, UnsupportedError
from secateur.modeling import SUPPORTED_MODEL_TYPES, find_blocks, half_depth_layers, keep_layers_

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 6,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
# What a family calls otherwise, or needs beside it.
OTHERWISE: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0, "attention_dropout": 0.0},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8, "num_hidden_groups": 3},
}
FAMILIES = SUPPORTED_MODEL_TYPES


def whole(family: str, auto: Any = AutoModelForSequenceClassification, **changes: Any) -> Any:
    torch.manual_seed(0)
    values = {**SIZES, **OTHERWISE.get(family, {}), **changes}
    if family == "distilbert":
        values = {key: value for key, value in values.items() if not key.startswith(("hidden_", "num_att"))}
    return auto.from_config(AutoConfig.for_model(family, **values)).eval()


def layers_of(family: str, model: Any) -> list[nn.Module]:
    """Returns the module that runs as layer i, for every i."""
    lists = {name.rpartition(".")[2]: found for name, found in model.named_modules()}
    if family == "albert":
        groups = lists["albert_layer_groups"]
        return [groups[index * len(groups) // 6] for index in range(6)]
    return list(lists["layer"])


def skipping(family: str, model: Any, kept: list[int]) -> None:
    """Makes all layers but `kept` hand on what came in."""
    passes = {"count": 0}

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        layer = passes["count"]
        passes["count"] = (layer + 1) % 6
        if layer in kept:
            return output
        came_in = args[0] if args else kwargs["hidden_states"]
        return (came_in, *output[1:]) if isinstance(output, tuple) else came_in

    for layer in dict.fromkeys(layers_of(family, model)):
        layer.register_forward_hook(hook, with_kwargs=True)


def logits(model: Any) -> Tensor:
    ids = torch.arange(5, 41).reshape(3, 12)
    mask = (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask)
    found: Tensor = output[0]
    return found


@pytest.mark.parametrize("kept", [[0, 2, 4], [1, 3, 5]])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kept_layers_compute_what_they_did(family: str, kept: list[int]) -> None:
    model = whole(family)
    expected = copy.deepcopy(model)
    before = logits(model)
    skipping(family, expected, kept)
    keep_layers_(model, kept)
    assert torch.equal(logits(model), logits(expected))
    assert not torch.equal(logits(model), before)
    assert len(find_blocks(model)) == model.config.num_hidden_layers == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_is_saved_and_loaded_whole(family: str, tmp_path: Path) -> None:
    model = whole(family, AutoModelForTokenClassification)
    keep_layers_(model, [0, 2, 4])
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(logits(loaded.eval()), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_can_be_trained(family: str) -> None:
    model = whole(family).train()
    keep_layers_(model, [0, 2, 4])
    assert all(block.q.linear.training for block in find_blocks(model))
    model(input_ids=torch.arange(12).reshape(1, 12), labels=torch.tensor([1])).loss.backward()
    assert all(block.ffn_out.linear.weight.grad is not None for block in find_blocks(model))


def test_a_bare_encoder_has_layers_too() -> None:
    model = whole("bert", AutoModel)
    keep_layers_(model, [5])
    assert [block.prefix for block in find_blocks(model)] == ["encoder.layer.0"]


def test_heads_that_were_pruned_move_with_their_layer() -> None:
    model = whole("bert")
    model.config.pruned_heads = {1: [0], 4: [1]}
    keep_layers_(model, [0, 2, 4])
    assert model.config.pruned_heads == {2: [1]}


@pytest.mark.parametrize("layers", [[], [6], [-1], [2, 1], [1, 1]])
def test_layers_that_cannot_be_kept(layers: list[int]) -> None:
    model = whole("bert")
    with pytest.raises(StructureError, match="ascending numbers from 0 to 5"):
        keep_layers_(model, layers)
    assert len(find_blocks(model)) == 6


def test_shared_layers_are_repeated_less_often() -> None:
    model = whole("albert", num_hidden_groups=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    keep_layers_(model, half_depth_layers(6))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert (model.config.num_hidden_layers, model.config.num_hidden_groups) == (3, 1)


def test_groups_that_a_config_cannot_say() -> None:
    model = whole("albert")
    with pytest.raises(UnsupportedError, match=r"groups \[0, 1, 1\]"):
        keep_layers_(model, [1, 2, 3])
    assert model.config.num_hidden_layers == 6


def test_half_of_the_layers() -> None:
    assert half_depth_layers(12) == [0, 2, 4, 7, 9, 11]
    assert half_depth_layers(6) == [0, 2, 5]
    assert half_depth_layers(2) == half_depth_layers(3) == [0]
    for count in range(4, 49):
        kept = half_depth_layers(count)
        assert kept == sorted(set(kept))
        assert (len(kept), kept[0], kept[-1]) == (count // 2, 0, count - 1)
    with pytest.raises(UnsupportedError, match="1 layer has no half"):
        half_depth_layers(1)
