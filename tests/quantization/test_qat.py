"""Fake quantization on a live model: masks, padding, sharing, saving, switching."""

import copy

import pytest
import torch
from tiny_bert import mixed_parts, padded, random_sequences, tiny_bert
from torch import nn
from transformers import BertForSequenceClassification, MPNetConfig, MPNetModel

from secateur.errors import SecateurError, StructureError, UnsupportedError
from secateur.modeling import find_blocks
from secateur.quantization import (
    QuantizedParts,
    QuantScheme,
    attach_quantizers_,
    enable_quantizers_,
    find_quantizers,
    freeze_observers_,
    is_quantized,
)
from secateur.quantization.qat import attention_quantizer, idle_quantizers, input_quantizer
from secateur.sparsity.mask import unquantized_weight

BATCH = padded(random_sequences(12))
LABELS = torch.arange(12) % 5


def trained(model: nn.Module, steps: int = 3, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
    """Trains in place for some steps, without dropout's randomness in the way of comparisons."""
    model.train()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        torch.manual_seed(step)
        model(**BATCH, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model: nn.Module, batch: dict[str, torch.Tensor] = BATCH) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def test_quantized_model_stays_close_to_the_float_model() -> None:
    model = tiny_bert()
    before = logits(model)
    attach_quantizers_(model)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(**BATCH)
    model.eval()
    difference = (logits(model) - before).abs().mean()
    assert 0 < difference < 0.1 * before.std()


def test_padding_does_not_change_answers() -> None:
    model = tiny_bert()
    attach_quantizers_(model)
    trained(model)
    sequences = random_sequences(12)
    alone = torch.cat([logits(model, padded([sequence])) for sequence in sequences])
    torch.testing.assert_close(logits(model), alone, rtol=0.0, atol=1e-5)


def test_masked_weights_stay_zero_and_the_others_train() -> None:
    model = tiny_bert(sparsity=0.8)
    attach_quantizers_(model)
    projections = [p for block in find_blocks(model) for p in block.projections()]
    before = [unquantized_weight(p.linear).clone() for p in projections]
    trained(model)
    for projection, old in zip(projections, before, strict=True):
        new = unquantized_weight(projection.linear)
        assert torch.equal(new == 0, old == 0), projection.name
        assert not torch.equal(new, old), projection.name


def test_every_parameter_gets_a_gradient() -> None:
    model = tiny_bert(sparsity=0.5)
    attach_quantizers_(model)
    model.train()
    model(**BATCH, labels=LABELS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_query_key_and_value_share_one_range_that_moves_once_a_batch() -> None:
    model = tiny_bert()
    attach_quantizers_(model)
    model.train()
    model(**BATCH)
    model(**BATCH)
    for block in find_blocks(model):
        shared = {id(input_quantizer(projection)) for projection in (block.q, block.k, block.v)}
        assert len(shared) == 1
    assert {int(quantizer.batches) for quantizer in find_quantizers(model).values()} == {2}
    assert len(find_quantizers(model)) == 2 * (4 + 3)


def test_a_resumed_run_is_bit_equal() -> None:
    straight = tiny_bert(sparsity=0.5)
    attach_quantizers_(straight)
    trained(straight)
    saved = {name: tensor.clone() for name, tensor in straight.state_dict().items()}
    resumed = tiny_bert(seed=9, sparsity=0.0)
    attach_quantizers_(resumed)
    missing, unexpected = resumed.load_state_dict(saved)
    assert not missing
    assert not unexpected
    assert torch.equal(logits(trained(straight)), logits(trained(resumed)))


def test_frozen_ranges_stay_while_weights_train() -> None:
    model = tiny_bert()
    attach_quantizers_(model, QuantScheme(averaging=0.5))
    trained(model)
    freeze_observers_(model)
    before = {name: quantizer.high.item() for name, quantizer in find_quantizers(model).items()}
    trained(model)
    assert before == {name: quantizer.high.item() for name, quantizer in find_quantizers(model).items()}


def test_freezing_before_the_first_batch_names_every_range() -> None:
    model = tiny_bert()
    attach_quantizers_(model)
    with pytest.raises(SecateurError, match="14 problems") as error:
        freeze_observers_(model)
    assert "bert.encoder.layer.1.output.dense" in str(error.value)
    with pytest.raises(SecateurError, match="never observed"):
        logits(model)


def test_switched_off_it_is_the_float_model() -> None:
    model = tiny_bert()
    before = logits(model)
    attach_quantizers_(model, enabled=False)
    assert torch.equal(logits(model), before)
    enable_quantizers_(model)
    model.train()
    model(**BATCH)
    assert not torch.equal(logits(model.eval()), before)
    enable_quantizers_(model, False)
    assert torch.equal(logits(model), before)


def test_copies_are_independent() -> None:
    model = tiny_bert(sparsity=0.5)
    attach_quantizers_(model)
    trained(model)
    before = logits(model)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), before)
    trained(copied)
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(copied), before)


def test_autocast_trains_and_ranges_stay_float32() -> None:
    model = tiny_bert(sparsity=0.5)
    attach_quantizers_(model)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**BATCH, labels=LABELS).loss.backward()
        model.eval()
        rough = logits(model)
    assert all(q.scale.dtype == torch.float32 for q in find_quantizers(model).values())
    exact = logits(model)
    assert (rough - exact).abs().mean() < 0.1 * exact.std()


def test_attention_probabilities_can_be_looked_at() -> None:
    model = tiny_bert()
    attach_quantizers_(model)
    trained(model)
    with torch.no_grad():
        attentions = model(**BATCH, output_attentions=True).attentions
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones_like(attentions[0].sum(-1)))
    padding = BATCH["attention_mask"][:, None, None, :] == 0
    assert attentions[0].masked_select(padding.expand_as(attentions[0])).abs().max() == 0


def test_attaching_twice_is_refused() -> None:
    model = tiny_bert()
    assert not is_quantized(model)
    attach_quantizers_(model)
    assert is_quantized(model)
    with pytest.raises(StructureError, match="already"):
        attach_quantizers_(model)


def test_other_families_are_refused() -> None:
    model = MPNetModel(MPNetConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=50))
    with pytest.raises(UnsupportedError, match="mpnet"):
        attach_quantizers_(model)


def test_a_config_shared_with_a_float_model_is_an_error_not_a_silent_change() -> None:
    model = tiny_bert()
    other = BertForSequenceClassification(model.config).eval()
    attach_quantizers_(model)
    with pytest.raises(StructureError, match="give each model its own config"):
        other(**BATCH)


def test_a_head_is_not_needed() -> None:
    model = tiny_bert().bert
    attach_quantizers_(model)
    model.train()
    assert model(**BATCH).last_hidden_state.isfinite().all()


def test_scheme_checks_its_setting() -> None:
    with pytest.raises(SecateurError, match=r"averaging must lie between 0 and 1, but is 1\.5"):
        QuantScheme(averaging=1.5)


def test_parts_that_are_left_out_compute_in_float() -> None:
    """Quantized in one layer only, the model gives what it gives with that layer's modules quantized."""
    model = tiny_bert()
    blocks = find_blocks(model)
    attach_quantizers_(model, parts=QuantizedParts([blocks[1].ffn_out.name], (), False))
    assert list(find_quantizers(model)) == ["bert.encoder.layer.1.output.dense.input_quantizer"]
    assert model.config._attn_implementation == "sdpa"
    plain = tiny_bert()
    trained(model)
    trained(plain)
    difference = (logits(model) - logits(plain)).abs().mean()
    assert 0 < difference < 0.02 * logits(plain).std()


def test_mixed_models_train_save_and_resume() -> None:
    model = tiny_bert(sparsity=0.5)
    attach_quantizers_(model, parts=mixed_parts(model))
    trained(model)
    assert idle_quantizers(model) == []
    copied = copy.deepcopy(model)
    assert idle_quantizers(copied) == []
    assert torch.equal(logits(copied), logits(model))
    other = tiny_bert(seed=1, sparsity=0.5)
    attach_quantizers_(other, parts=mixed_parts(other))
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))
    blocks = find_blocks(model)
    assert [attention_quantizer(model, block) is not None for block in blocks] == [True, False]
    assert input_quantizer(blocks[0].q) is None
    assert input_quantizer(blocks[0].k) is input_quantizer(blocks[0].v) is not None
    enable_quantizers_(model, False)
    for linear in (projection.linear for block in blocks for projection in block.projections()):
        linear.__dict__.pop("forward", None)
    assert len(idle_quantizers(model)) == 5  # of inputs; the attention's own three are still read


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (QuantizedParts(["bert.nowhere"], (), False), "not all that shall be quantized: bert.nowhere"),
        (QuantizedParts((), (0, 7), False), "attention of layer 7"),
        (QuantizedParts((), (), False), "nothing to quantize"),
    ],
)
def test_parts_that_are_not_there_are_refused(parts: QuantizedParts, said: str) -> None:
    model = tiny_bert()
    with pytest.raises(StructureError, match=said):
        attach_quantizers_(model, parts=parts)
    assert not is_quantized(model)
