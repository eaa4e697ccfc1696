"""The engine's outputs for every head, and which tokens it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_engine import reference_outputs
from tiny_checkpoint import QUANTIZATION, Numbers, write_tiny_checkpoint

from secateur import Engine
from secateur.checkpoint import read_checkpoint
from secateur.errors import DataError

pytest.importorskip("secateur._engine")

BERT: dict[str, dict[str, Any]] = {
    "sequence": {"architectures": ["BertForSequenceClassification"]},
    "token": {"architectures": ["BertForTokenClassification"]},
    "answer": {"architectures": ["BertForQuestionAnswering"], "id2label": {"0": "start", "1": "end"}},
    "masked": {"architectures": ["BertForMaskedLM"]},
    "embedding": {
        "architectures": ["BertModel"],
        "sentence_embedding": {"pooling": "mean", "normalize": True},
    },
}
LISTS = ("token", "answer", "masked")
heads = pytest.mark.parametrize("head", BERT)
lists = pytest.mark.parametrize("head", LISTS)


def write(folder: Path, head: str, numbers: Numbers = "int8", **changes: Any) -> Path:
    quantization = {**QUANTIZATION[numbers], "format_version": 3}
    config = {**BERT[head], "quantization_config": quantization, **changes}
    return write_tiny_checkpoint(folder, numbers=numbers, **config)


def _sequences(count: int, seed: int = 0, longest: int = 24) -> list[list[int]]:
    random = np.random.default_rng(seed)
    lengths = [1, longest, *random.integers(1, longest + 1, count - 2)]
    return [random.integers(0, 50, length).tolist() for length in lengths]


@heads
@pytest.mark.parametrize("numbers", ["int8", "float32"])
def test_outputs_are_those_of_the_numeric_law(tmp_path: Path, head: str, numbers: Numbers) -> None:
    folder = write(tmp_path / "model", head, numbers, hidden_act="relu")
    engine = Engine.from_pretrained(folder, num_threads=2)
    assert engine.task_head == ("token" if head == "answer" else head)
    sequences = _sequences(30)
    found = engine(sequences)
    expected = reference_outputs(read_checkpoint(folder), sequences)
    assert isinstance(found, list) == (head in LISTS)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == np.shape(theirs)
        assert ours.shape[-1] == engine.num_outputs
    close = [np.isclose(a, b, atol=1e-3).mean() for a, b in zip(found, expected, strict=True)]
    # A rounding to int8 that falls the other way moves a token, and all that attend to it, a little.
    assert np.mean(close) > (0.999 if numbers == "float32" else 0.5)
    spread = np.std(np.concatenate([np.ravel(row) for row in expected]))
    worst = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
    assert worst < (1e-3 if numbers == "float32" else 0.3 * spread)


@heads
def test_the_form_of_the_batch_does_not_matter(tmp_path: Path, head: str) -> None:
    engine = Engine.from_pretrained(write(tmp_path / "model", head), num_threads=1)
    sequences = _sequences(9)
    expected = engine(sequences)
    padded = np.full((9, 24), 49, np.int64)
    mask = np.zeros((9, 24), np.int64)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    for found in (engine(padded, attention_mask=mask), [engine([ids])[0] for ids in sequences]):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    bounded = Engine.from_pretrained(engine.folder, num_threads=2, max_tokens=24)
    for ours, theirs in zip(bounded(sequences), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    empty = engine([])
    assert empty == [] if head in LISTS else np.shape(empty) == (0, engine.num_outputs)


@lists
def test_positions_choose_tokens(tmp_path: Path, head: str) -> None:
    engine = Engine.from_pretrained(write(tmp_path / "model", head), num_threads=1)
    sequences = _sequences(40)
    everything = engine(sequences)
    random = np.random.default_rng(3)
    asked = [np.flatnonzero(random.random(len(ids)) < 0.2).tolist() for ids in sequences]
    assert [] in asked
    for given in (asked, [np.array(row, np.int64) for row in asked], [tuple(row) for row in asked]):
        found = engine(sequences, positions=given)
        for rows, wanted, whole in zip(found, asked, everything, strict=True):
            assert rows.shape == (len(wanted), engine.num_outputs)
            np.testing.assert_array_equal(rows, whole[wanted])
    nothing = engine(sequences, positions=[[]] * len(sequences))
    assert [rows.shape for rows in nothing] == [(0, engine.num_outputs)] * len(sequences)
    assert engine([], positions=[]) == []
    mask = np.zeros((2, 24), np.int64)
    mask[0, :3], mask[1, :5] = 1, 1
    padded = np.full((2, 24), 7)
    found = engine(padded, attention_mask=mask, positions=np.array([[0, 2], [1, 4]]))
    np.testing.assert_array_equal(found[1], engine([[7] * 5])[0][[1, 4]])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[0]], "are 1 for 2 sequences"),
        ([[0], [1], [2]], "are 3 for 2 sequences"),
        ([[0], [3]], "Position 3 of sequence 1 is outside 0 to 2"),
        ([[-1], [0]], "Position -1 of sequence 0 is outside 0 to 1"),
        ([[], [1, 0]], "positions of sequence 1 must ascend"),
        ([[1, 1], [0]], "positions of sequence 0 must ascend"),
        ([[0], [2**40]], "Position 1099511627776 of sequence 1"),
        ([[0], [2**70]], "positions must be integers"),
        ([[0.0], [1.0]], "positions must be integers, but is float64"),
        ([0, 1], "positions must be a batch"),
        ([[True, False], [True, False, False]], "is a mask"),
        (5, "positions must be a list of lists"),
    ],
)
def test_wrong_positions_are_refused(tmp_path: Path, positions: Any, message: str) -> None:
    engine = Engine.from_pretrained(write(tmp_path / "model", "token"), num_threads=1)
    with pytest.raises(DataError, match=message):
        engine([[1, 2], [3, 4, 5]], positions=positions)


def test_heads_over_sequences_take_no_positions(tmp_path: Path) -> None:
    for head in ("sequence", "embedding"):
        engine = Engine.from_pretrained(write(tmp_path / head, head), num_threads=1)
        with pytest.raises(DataError, match=f"The {head} head of this model gives one row a sequence: leave"):
            engine([[1, 2]], positions=[[0]])


def test_a_model_with_padding_positions_says_how_long_texts_may_be(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "model",
        "sequence",
        "float32",
        architectures=["RobertaForSequenceClassification"],
        model_type="roberta",
        max_position_embeddings=26,
        pad_token_id=1,
        type_vocab_size=1,
    )
    engine = Engine.from_pretrained(folder, num_threads=1)
    assert engine.max_length == 24
    sequences = [[token if token != 1 else 2 for token in ids] for ids in _sequences(12)]
    expected = reference_outputs(read_checkpoint(folder), sequences)
    for ours, theirs in zip(engine(sequences), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    with pytest.raises(DataError, match="Sequence 0 holds the padding id 1"):
        engine([[5, 1, 6]])
    with pytest.raises(DataError, match="takes at most 24"):
        engine([[5] * 25])
    with pytest.raises(DataError, match="Token type 1 in sequence 0 is outside 0 to 0"):
        engine([[5, 6]], [[0, 1]])
