"""Altered rows stay rows: same length, special tokens in place, drawn from the data, the same by seed."""

from __future__ import annotations

from tiny_training import TASK, tiny_rows, tiny_tokenizer

from secateur.tasks import Encoded
from secateur.training.augmentation import AugmentingPadder
from secateur.training.encoding import Features, Padder, encode_rows


def rows() -> Features:
    return encode_rows(tiny_tokenizer(), TASK, tiny_rows(40, 0), 24)


def padder(train: Features, fraction: float, seed: int = 0) -> AugmentingPadder:
    return AugmentingPadder(0, train, range(4, 27), tiny_tokenizer().all_special_ids, fraction, seed)


def test_altered_rows_keep_their_frame() -> None:
    train = rows()
    items = [train[index] for index in range(len(train))]
    plain, altered = Padder(0)(items), padder(train, 1.0)(items)
    assert altered["input_ids"].shape == plain["input_ids"].shape
    assert altered["attention_mask"].equal(plain["attention_mask"])
    assert altered["labels"].equal(plain["labels"])
    special = plain["input_ids"] < 4
    assert altered["input_ids"][special].equal(plain["input_ids"][special])
    assert (altered["input_ids"][~special] >= 4).all()
    changed = (altered["input_ids"] != plain["input_ids"]).any(-1).float().mean()
    assert changed > 0.5
    assert items[0] == train[0]


def test_the_fraction_and_the_seed_decide() -> None:
    train = rows()
    items = [train[index] for index in range(len(train))]
    plain = Padder(0)(items)["input_ids"]
    assert padder(train, 0.0)(items)["input_ids"].equal(plain)
    assert padder(train, 1.0, 3)(items)["input_ids"].equal(padder(train, 1.0, 3)(items)["input_ids"])
    assert not padder(train, 1.0, 3)(items)["input_ids"].equal(padder(train, 1.0, 4)(items)["input_ids"])


def test_rows_without_words_are_left_alone() -> None:
    empty = Features(Encoded([[2, 3], [2, 3]], None, [0, 1]), [{}, {}])
    batch = padder(empty, 1.0)([empty[0], empty[1]])
    assert batch["input_ids"].tolist() == [[2, 3], [2, 3]]
