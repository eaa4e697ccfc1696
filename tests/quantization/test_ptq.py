"""Calibration: ranges without training."""

import pytest
import torch
from tiny_bert import padded, random_sequences, tiny_bert

from secateur.errors import DataError
from secateur.quantization import QuantScheme, calibrate_, find_quantizers

SEQUENCES = random_sequences(40)
BATCHES = [padded(SEQUENCES[start : start + 10]) for start in range(0, 40, 10)]


def test_calibrated_model_stays_close_to_the_float_model() -> None:
    model = tiny_bert()
    with torch.no_grad():
        before = torch.cat([model(**batch).logits for batch in BATCHES])
        calibrate_(model, BATCHES)
        after = torch.cat([model(**batch).logits for batch in BATCHES])
    assert 0 < (after - before).abs().mean() < 0.05 * before.std()
    assert not model.training


def test_ranges_are_the_extremes_and_frozen() -> None:
    model = tiny_bert()
    calibrate_(model, BATCHES)
    name = "bert.encoder.layer.0.attention.self.input_quantizer"
    with torch.no_grad():
        hidden = [model.bert.embeddings(batch["input_ids"]) for batch in BATCHES]
    quantizer = find_quantizers(model)[name]
    assert quantizer.low == min(x.min() for x in hidden)
    assert quantizer.high == max(x.max() for x in hidden)
    assert all(q.frozen and not q.observing for q in find_quantizers(model).values())


def test_another_scheme_averages() -> None:
    model = tiny_bert().train()
    calibrate_(model, BATCHES, QuantScheme(averaging=1.0))
    assert model.training
    last = tiny_bert()
    calibrate_(last, BATCHES[-1:])
    quantizers = zip(find_quantizers(model).values(), find_quantizers(last).values(), strict=True)
    first = next(iter(quantizers))
    assert first[0].high == first[1].high


def test_no_batch_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        calibrate_(tiny_bert(), [])
