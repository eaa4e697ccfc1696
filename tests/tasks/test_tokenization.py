from __future__ import annotations

import random

import pytest
from task_tokenizers import ALL, ODD_WORDS, word_pieces

from secateur.errors import DataError
from secateur.tasks.tokenization import bare, encode_texts
from secateur.tasks.windows import Frame, windows


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("pair", [False, True])
def test_cutting_is_that_of_tokenizers(kind: str, pair: bool) -> None:
    tokenizer, cutting = ALL[kind](), ALL[kind]()
    rng = random.Random(0)
    for length in (9, 16, 33):
        cutting.enable_truncation(length, strategy="longest_first")
        texts = [" ".join(rng.choices(ODD_WORDS, k=rng.randint(1, 12))) for _ in range(60)]
        given = list(zip(texts, reversed(texts), strict=True)) if pair else texts
        expected = cutting.encode_batch(given)
        ids, types, cut = encode_texts(tokenizer, given, length)
        assert ids == [encoding.ids for encoding in expected]
        assert types == [one.type_ids for one in expected] or (
            types is None and not any(any(one.type_ids) for one in expected)
        )
        assert cut == sum(bool(encoding.overflowing) for encoding in expected) > 0


def test_a_tokenizer_that_pads_and_cuts_is_left_as_it_was() -> None:
    tokenizer = word_pieces()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    ids, _, cut = encode_texts(tokenizer, ["the book is in berlin", "book"], 64)
    assert [len(one) for one in ids] == [7, 3]
    assert cut == 0
    assert tokenizer.truncation["max_length"] == 5
    assert tokenizer.padding["length"] == 9
    plain = word_pieces()
    assert bare(plain) is plain


def test_impossible_texts_and_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be tokenized"):
        encode_texts(word_pieces(), ["\ud800"], 16)
    with pytest.raises(DataError, match="2 tokens leave no room"):
        encode_texts(word_pieces(), ["the book"], 2)
    with pytest.raises(DataError, match="2 tokens leave no room"):
        Frame(word_pieces().encode("the book")).room(2)


@pytest.mark.parametrize("stride", [0, 1, 3, 4, 9])
def test_windows_are_those_of_tokenizers(stride: int) -> None:
    for room in (1, 2, 5, 8):
        tokenizer = word_pieces()
        fitting = stride if stride < room else room // 2
        tokenizer.enable_truncation(room + 2, stride=fitting)
        for length in range(1, 30):
            encoding = tokenizer.encode(" ".join(["book"] * length))
            sizes = [len(one) - 2 for one in (encoding, *encoding.overflowing)]
            spans = windows(length, room, stride)
            assert [stop - start for start, stop in spans] == sizes
            assert sorted({place for span in spans for place in range(*span)}) == list(range(length))


def test_no_token_gives_one_empty_window() -> None:
    assert windows(0, 5, 2) == [(0, 0)]
