"""Texts to encodings, cut to a length, whatever the tokenizer's own file says about padding and cutting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

from secateur.errors import DataError

__all__ = ["bare", "encode_texts", "encodings", "kept_tokens"]

_CHUNK = 1024  # encodings are some hundred bytes a token, so they live in chunks only

Text = str | tuple[str, str]


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """Returns the tokenizer, or a copy where it would pad or cut by itself.

    A tokenizer is never changed in place: another thread may be using it. Whoever encodes often hands over
    one that neither pads nor cuts, and no copy is made.
    """
    if tokenizer.padding is None and tokenizer.truncation is None:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def encodings(tokenizer: Tokenizer, texts: Sequence[Text], *, offsets: bool = True) -> Iterator[Encoding]:
    """Tokenizes texts, or pairs of them, whole and with special tokens.

    Args:
        tokenizer: See `bare`.
        texts: A text or a pair of texts each.
        offsets: Whether the encodings shall tell which characters a token comes from; slower.

    Yields:
        An encoding a text, in their order.

    Raises:
        DataError: A text is no string, or cannot be tokenized.
    """
    plain = bare(tokenizer)
    encode = plain.encode_batch if offsets else plain.encode_batch_fast
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        try:
            yield from encode(chunk)
        except (TypeError, UnicodeError) as error:
            raise DataError(f"The texts cannot be tokenized: {error}.") from None


def kept_tokens(encoding: Encoding, max_length: int) -> list[int] | None:
    """Says which tokens stay where an encoding is too long; special tokens always do.

    Texts are cut at their end. Of a pair the longer text is cut until both are equally long, then both: the
    strategy `longest_first` of tokenizers.

    Args:
        encoding: Of a text or a pair, special tokens included.
        max_length: Most tokens.

    Returns:
        The indices of the tokens that stay, ascending; None where all do.

    Raises:
        DataError: Not even the special tokens fit.
    """
    if len(encoding) <= max_length:
        return None
    places = encoding.sequence_ids
    sizes = [places.count(0), places.count(1)]
    room = max_length - (len(encoding) - sum(sizes))
    if room < 1:
        raise DataError(f"{max_length} tokens leave no room for text: allow more.")
    shorter, longer = sorted(sizes)
    if shorter + min(longer, max(shorter, room - shorter)) > room:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = room - shorter
    left = [shorter, longer] if sizes[0] <= sizes[1] else [longer, shorter]
    if sizes[1] == 0:
        left = [room, 0]
    kept = []
    for index, place in enumerate(places):
        if place is not None:
            left[place] -= 1
            if left[place] < 0:
                continue
        kept.append(index)
    return kept


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[Text], max_length: int
) -> tuple[list[list[int]], list[list[int]] | None, int]:
    """Tokenizes texts and cuts those that are too long.

    Args:
        tokenizer: See `bare`.
        texts: A text or a pair of texts each.
        max_length: Most tokens, special tokens included.

    Returns:
        Token ids; token types of the same lengths, or None where all are 0; how many texts were cut.

    Raises:
        DataError: A text cannot be tokenized.
    """
    input_ids: list[list[int]] = []
    token_types: list[list[int]] = []
    cut = 0
    for encoding in encodings(tokenizer, texts, offsets=False):
        kept = kept_tokens(encoding, max_length)
        ids, types = encoding.ids, encoding.type_ids
        if kept is not None:
            cut += 1
            ids, types = [ids[index] for index in kept], [types[index] for index in kept]
        input_ids.append(ids)
        token_types.append(types)
    return input_ids, token_types if any(map(any, token_types)) else None, cut
