from __future__ import annotations

import math

import numpy as np
import pytest
from task_tokenizers import ALL, byte_pairs, word_pieces
from tokenizers import Tokenizer, models

from secateur.errors import DataError, UnsupportedError
from secateur.tasks.fill_mask import FillMask, Row, mask_token_id

TEXT = "john is in the new book " * 6


@pytest.mark.parametrize("kind", ALL)
def test_chunks_hold_every_token_once(kind: str) -> None:
    tokenizer = ALL[kind]()
    rows = [Row(TEXT.strip()), Row("book"), Row("👩‍👩‍👧 東京")]
    plain = FillMask().chunks(tokenizer, rows, 11)
    for number, row in enumerate(rows):
        whole = tokenizer.encode(row.text).ids
        pieces = [ids for owner, ids in zip(plain.rows, plain.input_ids, strict=True) if owner == number]
        assert [token for ids in pieces for token in ids[1:-1]] == whole[1:-1]
        assert all(len(ids) <= 11 and (ids[0], ids[-1]) == (whole[0], whole[-1]) for ids in pieces)


@pytest.mark.parametrize("kind", ALL)
def test_masks_depend_on_the_text_alone(kind: str) -> None:
    tokenizer = ALL[kind]()
    task = FillMask()
    rows = [Row(TEXT.strip()), Row("book"), Row("the new table")]
    encoded = task.encode(tokenizer, rows, 16)
    mask = mask_token_id(tokenizer)
    plain = task.chunks(tokenizer, rows, 16)
    assert encoded.rows == plain.rows
    assert encoded.positions is not None
    again = task.encode(tokenizer, rows[::-1], 16)
    assert sorted(again.input_ids) == sorted(encoded.input_ids)
    for ids, whole, places, target in zip(
        encoded.input_ids, plain.input_ids, encoded.positions, task.targets(rows, encoded), strict=True
    ):
        assert len(places) == max(1, round(0.15 * (len(ids) - 2)))
        assert places == sorted(set(places))
        assert 0 not in places
        assert len(ids) - 1 not in places
        for place, (token, right, label) in enumerate(zip(ids, whole, target["labels"], strict=True)):
            assert token == (mask if place in places else right)
            assert label == (right if place in places else -100)


def test_the_share_of_masks_spreads_over_a_text() -> None:
    task = FillMask(share=0.3)
    encoded = task.encode(word_pieces(), [Row(f"book {i} " + "table " * 38) for i in range(200)], 64)
    chosen = [place for places in encoded.positions or [] for place in places]
    counts = np.bincount(chosen, minlength=41)[1:41]
    assert counts.min() > 30
    assert counts.max() < 100


def test_outputs_shrink_to_likelihood_and_rank() -> None:
    task = FillMask()
    encoded = task.encode(word_pieces(), [Row("john is in the new book")], 16)
    vocabulary = word_pieces().get_vocab_size()
    rng = np.random.default_rng(0)
    output = rng.integers(-2, 3, (1, vocabulary)).astype(np.float32)
    (likelihood, rank) = task.reduce(encoded, 0, output)[0]
    (truth,) = encoded.details[0].truth
    probabilities = np.exp(output[0].astype(float)) / np.exp(output[0].astype(float)).sum()
    assert likelihood == pytest.approx(-math.log(probabilities[truth]), rel=1e-6)
    assert rank == list(np.argsort(-output[0], kind="stable")).index(truth)
    result = task.score([Row("")], encoded, [np.array([[math.log(4), 0], [math.log(16), 7]])])
    assert result == {"accuracy": 0.5, "perplexity": pytest.approx(8), "n": 2}


def test_a_text_with_masks_gets_the_likeliest_tokens() -> None:
    task = FillMask()
    tokenizer = word_pieces()
    rows = [Row("john is in [MASK]"), Row("[MASK] is the [MASK]")]
    encoded = task.encode(tokenizer, rows, 16)
    assert encoded.positions == [[4], [1, 4]]
    berlin, book = tokenizer.token_to_id("berlin"), tokenizer.token_to_id("book")
    outputs = []
    for places in encoded.positions or []:
        output = np.zeros((len(places), tokenizer.get_vocab_size()), np.float32)
        output[:, berlin], output[:, book] = 5, 4
        outputs.append(task.reduce(encoded, len(outputs), output))
    one, two = task.answers(rows, encoded, outputs, top_k=2)
    assert [answer["token_str"] for answer in one[0]] == ["berlin", "book"]
    assert one[0][0]["sequence"] == "john is in berlin"
    assert len(two) == 2
    assert "[MASK]" in two[0][0]["sequence"]
    assert 0 < one[0][1]["score"] < one[0][0]["score"] < 1
    (limited, _) = task.answers(rows, encoded, outputs, top_k=5, targets=[book])
    assert [answer["token"] for answer in limited[0]] == [book]
    with pytest.raises(DataError, match="nobody knows what they hide"):
        task.targets(rows, encoded)
    with pytest.raises(DataError, match="no text without masks"):
        task.score(rows, encoded, outputs)


def test_a_long_text_keeps_only_the_chunks_with_its_masks() -> None:
    row = Row("book " * 30 + "<mask>" + " new" * 30)
    encoded = FillMask().encode(byte_pairs(), [row], 40)
    assert len(encoded) == 1
    assert encoded.details[0].truth is None


def test_what_cannot_be_asked_is_refused() -> None:
    task = FillMask()
    encoded = task.encode(word_pieces(), [Row("the book")], 16)
    reduced = [np.zeros((1, 2), np.float32)]
    with pytest.raises(DataError, match="Text 0 holds no mask"):
        task.answers([Row("the book")], encoded, reduced)
    with pytest.raises(DataError, match="top_k must be"):
        task.answers([Row("the book")], encoded, reduced, top_k=True)
    with pytest.raises(UnsupportedError, match="no mask token"):
        task.encode(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), [Row("a")], 16)
