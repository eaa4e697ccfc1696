"""Fake quantization on every family: what is shared, what is attached where, padding, copies, training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import FAMILY_ROWS, HEADS, MEMBERS, family_batch, tiny_model, torch_outputs

from secateur.modeling import find_blocks
from secateur.quantization import (
    attach_quantizers_,
    calibrate_,
    enable_quantizers_,
    find_quantizers,
    freeze_observers_,
)
from secateur.quantization.qat import attention_quantizer, find_embeddings, idle_quantizers, rows_enabled

SEQUENCES = random_sequences(12)


def calibrated(member: str, end: str = "ForSequenceClassification", **changes: Any) -> Any:
    model = tiny_model(member, end, **changes)
    calibrate_(model, [family_batch(model, SEQUENCES)])
    return model


def flat(model: Any, sequences: list[list[int]] = SEQUENCES) -> np.ndarray:
    return np.concatenate([row.reshape(-1) for row in torch_outputs(model, sequences)])


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_everything_is_quantized_and_stays_close(member: str, end: str) -> None:
    model = tiny_model(member, end)
    before = flat(model)
    calibrate_(model, [family_batch(model, SEQUENCES)])
    assert idle_quantizers(model) == []
    blocks = find_blocks(model)
    assert len(find_quantizers(model)) == len(blocks) * (4 + 3)
    assert all(attention_quantizer(model, block) is not None for block in blocks)
    tables = find_embeddings(model)
    assert list(tables) == ["word", "position"] + ["token_type"] * ("distilbert" not in member)
    assert all(rows_enabled(table) for table in tables.values())
    difference = np.abs(flat(model) - before).mean()
    assert 0 < difference < 0.3 * before.std()
    enable_quantizers_(model, False)
    # Before transformers 5 ELECTRA's own attention sums in another order than the one that takes its place.
    np.testing.assert_allclose(flat(model), before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("member", MEMBERS)
def test_padding_does_not_change_answers(member: str) -> None:
    model = calibrated(member, "ForTokenClassification")
    together = torch_outputs(model, SEQUENCES)
    for sequence, row in zip(SEQUENCES, together, strict=True):
        np.testing.assert_allclose(torch_outputs(model, [sequence])[0], row, rtol=0, atol=2e-5)


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", FAMILY_ROWS)
def test_it_trains_copies_and_resumes(member: str, end: str) -> None:
    model = tiny_model(member, end, sparsity=0.5)
    attach_quantizers_(model)
    model.train()
    batch = family_batch(model, SEQUENCES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        result = model(**batch)
        first = getattr(result, "start_logits", None)
        output = result[0] if first is None else first + result.end_logits
        output.float().square().mean().backward()
        optimizer.step()
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name, _ in model.named_parameters()} - used <= {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "pooler.weight",
        "pooler.bias",
    }
    freeze_observers_(model)
    model.eval()
    before = flat(model)
    np.testing.assert_array_equal(flat(copy.deepcopy(model)), before)
    other = tiny_model(member, end, sparsity=0.0, seed=1)
    attach_quantizers_(other)
    missing, unexpected = other.load_state_dict(model.state_dict())
    assert not missing
    assert not unexpected
    np.testing.assert_array_equal(flat(other.eval()), before)


def test_layers_that_are_shared_have_one_range_over_all_their_passes() -> None:
    model = tiny_model("albert")
    attach_quantizers_(model)
    model.train()
    model(**family_batch(model, SEQUENCES))
    assert {int(quantizer.batches) for quantizer in find_quantizers(model).values()} == {3}


@pytest.mark.parametrize("member", FAMILY_ROWS)
def test_the_head_over_the_vocabulary_reads_the_rounded_table(member: str) -> None:
    model = calibrated(member, "ForMaskedLM")
    decoder, table = model.get_output_embeddings(), model.get_input_embeddings()
    x = torch.randn(3, table.embedding_dim)
    with torch.no_grad():
        rounded = table(torch.arange(table.num_embeddings))
        assert not torch.equal(rounded, table.weight)
        torch.testing.assert_close(decoder(x), x @ rounded.T + decoder.bias, rtol=0, atol=1e-5)
        enable_quantizers_(model, False)
        torch.testing.assert_close(decoder(x), x @ table.weight.T + decoder.bias, rtol=0, atol=1e-5)
