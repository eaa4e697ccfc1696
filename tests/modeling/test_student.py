"""Students made of a model: which layers, heads and channels they keep, and that they still run."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor, nn

from secateur.errors import StructureError, UnsupportedError
from secateur.modeling import build_student, find_blocks, spread_layers


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**tiny_models.family_batch(model, [[5, 6, 7, 8], [9, 10]]))
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.mark.parametrize("end", ["ForSequenceClassification", "ForMaskedLM", "Model"])
@pytest.mark.parametrize("member", [*tiny_models.FAMILY_ROWS, "electra-wide", "albert-wide", "albert-groups"])
@pytest.mark.parametrize("weights", ["teacher", "random"])
def test_every_family_has_narrower_students(member: str, end: str, weights: Any) -> None:
    model = tiny_models.tiny_model(member, end)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    student = build_student(model, hidden_size=16, intermediate_size=24, heads=2, weights=weights)
    (block, *_) = find_blocks(student)
    assert (block.hidden_size, block.intermediate_size, block.num_heads, block.head_dim) == (16, 24, 2, 8)
    assert not student.training
    found = outputs(student)
    assert torch.isfinite(found).all()
    assert found.shape[:-1] == outputs(model).shape[:-1]
    assert student.config.to_dict() != model.config.to_dict()
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name])
    for name, one in student.state_dict().items():  # what is cut out is part of the model
        if weights == "teacher" and one.is_floating_point() and not _is_query(name):
            assert torch.isin(one, before[name]).all(), name


def _is_query(name: str) -> bool:
    return "query" in name or "q_lin" in name


def test_as_large_as_the_model_is_the_model() -> None:
    model = tiny_models.tiny_model("bert")
    student = build_student(model, layers=2, hidden_size=32, intermediate_size=64, heads=4)
    assert student is not model
    assert torch.equal(outputs(student), outputs(model))


def test_channels_that_nothing_reads_or_writes_are_the_first_to_go() -> None:
    """A model with dead channels, neurons and heads: the student computes what the model did."""
    model = tiny_models.tiny_model("bert")
    dead = torch.arange(16, 32)
    with torch.no_grad():
        for block in find_blocks(model):
            for one in (block.q, block.k, block.v, block.ffn_in):
                one.linear.weight[:, dead] = 0.0
            for one in (block.q, block.k, block.v):
                one.linear.weight[16:] = one.linear.bias[16:] = 0.0  # heads 2 and 3
            block.attn_out.linear.weight[:, 16:] = 0.0
            block.ffn_in.linear.weight[40:] = block.ffn_in.linear.bias[40:] = 0.0
            block.ffn_out.linear.weight[:, 40:] = 0.0
    student = build_student(model, intermediate_size=40)
    assert torch.allclose(outputs(student), outputs(model), atol=1e-5)
    narrow = build_student(model, hidden_size=16, intermediate_size=40, heads=2)
    for mine, theirs in zip(find_blocks(narrow), find_blocks(model), strict=True):
        assert torch.equal(mine.q.linear.weight, theirs.q.linear.weight[:16, :16])
        assert torch.equal(mine.ffn_out.linear.weight, theirs.ffn_out.linear.weight[:16, :40])


def test_scores_keep_their_scale_where_heads_get_narrower() -> None:
    model = tiny_models.tiny_model("bert")
    student = build_student(model, hidden_size=16, heads=4)  # heads of 4 channels instead of 8
    mine, theirs = find_blocks(student)[0], find_blocks(model)[0]
    ratio = mine.q.linear.weight.detach().unsqueeze(-1) / theirs.q.linear.weight.detach().flatten()
    wanted = (ratio - 0.5**0.5).abs().min(-1).values
    assert float(wanted.max()) < 1e-4


def test_layers_are_spread_counted_or_named() -> None:
    model = tiny_models.tiny_model("bert", num_hidden_layers=6)
    weights = [block.q.linear.weight for block in find_blocks(model)]

    def kept(layers: Any) -> list[int]:
        blocks = find_blocks(build_student(model, layers=layers))
        return [
            next(i for i, one in enumerate(weights) if torch.equal(one, block.q.linear.weight))
            for block in blocks
        ]

    assert kept(3) == kept("half") == [0, 2, 5]
    assert kept(1) == [0]
    assert kept((1, 4)) == [1, 4]
    assert spread_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert spread_layers(12, 3) == [0, 6, 11]


def test_frozen_parameters_stay_frozen_and_the_config_its_own() -> None:
    model = tiny_models.tiny_model("bert", "Model")
    model.pooler.requires_grad_(False)
    student = build_student(model, hidden_size=16)
    assert not any(one.requires_grad for one in student.pooler.parameters())
    assert student.encoder.layer[0].output.dense.weight.requires_grad
    assert student.config is not model.config
    assert student.config.sentence_embedding == model.config.sentence_embedding


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ({"layers": 3}, UnsupportedError, "The model has 2 layers, of which 3 cannot be kept: give 1 to 2"),
        ({"layers": (0, 2)}, StructureError, "ascending numbers from 0 to 1"),
        ({"hidden_size": 20}, UnsupportedError, "width 20 with 4 heads .* give hidden_size 16"),
        (
            {"hidden_size": 64},
            UnsupportedError,
            "hidden_size would be 64, more than the 32 .* weights: random",
        ),
        ({"intermediate_size": 65}, UnsupportedError, "intermediate_size would be 65, more than the 64"),
        ({"heads": 8}, UnsupportedError, "heads would be 8, more than the 4"),
        ({"heads": 2}, UnsupportedError, "the channels of a head would be 16, more than the 8"),
    ],
)
def test_what_cannot_be_made_is_refused(sizes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_student(tiny_models.tiny_model("bert"), **sizes)


def test_random_weights_follow_the_seed_and_may_be_wider() -> None:
    model = tiny_models.tiny_model("bert")
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        student = build_student(model, hidden_size=64, layers=1, weights="random")
        found.append(nn.utils.parameters_to_vector(student.parameters()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
