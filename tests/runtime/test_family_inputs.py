"""What families do with padding ids and token types, beside what transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import MAX_TOKENS, tiny_fast_tokenizer
from tiny_models import MEMBERS, tiny_model

from secateur.checkpoint import FAMILIES
from secateur.errors import DataError
from secateur.export import export_checkpoint
from secateur.runtime.engine import Engine

COUNTING = [member for member, (family, _) in MEMBERS.items() if FAMILIES[family].counts_padding]


@pytest.mark.parametrize("member", COUNTING)
def test_padding_at_the_end_is_dropped_and_elsewhere_refused(tmp_path: Path, member: str) -> None:
    """transformers gives a padding id inside a text the position of padding, and shifts what follows."""
    model = tiny_model(member)
    engine = Engine.from_pretrained(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    padding = model.config.pad_token_id
    ids = np.array([[7, 8, 9, padding, padding], [10, 11, 12, 13, 14]])
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
        inside = model(input_ids=torch.tensor([[7, padding, 9]])).logits.numpy()
        positions = torch.tensor([[padding + 1, padding, padding + 2]])
        explained = model(input_ids=torch.tensor([[7, padding, 9]]), position_ids=positions).logits.numpy()
    np.testing.assert_allclose(engine(ids, attention_mask=mask), expected, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(inside, explained)
    with pytest.raises(DataError, match=f"Sequence 1 holds the padding id {padding} among its tokens"):
        engine([[7, 8], [7, padding, 9]])
    with pytest.raises(DataError, match="give an attention_mask"):
        engine(ids)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_longest_text_is_as_long_as_in_transformers(tmp_path: Path, member: str) -> None:
    model = tiny_model(member)
    engine = Engine.from_pretrained(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    assert engine.max_length == MAX_TOKENS
    ids = [[7] * MAX_TOKENS]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)).logits.numpy()
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.tensor([[7] * (MAX_TOKENS + 1)]))
    np.testing.assert_allclose(engine(ids), expected, rtol=0, atol=2e-3)
    with pytest.raises(DataError, match=f"takes at most {MAX_TOKENS}"):
        engine([[7] * (MAX_TOKENS + 1)])


@pytest.mark.parametrize("member", ["bert", "electra", "albert", "roberta", "distilbert"])
def test_pairs_without_token_types(tmp_path: Path, member: str) -> None:
    model = tiny_model(member)
    engine = Engine.from_pretrained(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    ids, types = [[7, 8, 9, 10]], [[0, 0, 1, 1]]
    plain = engine(ids)
    np.testing.assert_array_equal(engine(ids, [[0, 0, 0, 0]]), plain)
    if member == "roberta":  # one row of types
        with pytest.raises(DataError, match="Token type 1 in sequence 0 is outside 0 to 0"):
            engine(ids, types)
    else:
        assert np.array_equal(engine(ids, types), plain) == (member == "distilbert")  # no row of types
