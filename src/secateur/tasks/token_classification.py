"""Token classification: a tag for each word, and the entities that tags describe.

The words of a row are joined by single spaces and tokenized as that text, so that training and raw texts
give the same token ids. A token belongs to the word that holds its first character. A word's first token
carries its tag and gives its answer; its other tokens are neither trained nor asked. A row that is too long
becomes several features which overlap; a token is taken from the one in which it is farthest from an edge.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from secateur.errors import DataError
from secateur.tasks.balance import balance_lines, count_labels
from secateur.tasks.config_labels import label_config, labels_of_config
from secateur.tasks.entities import Join, Piece, entities_of, entity_scores
from secateur.tasks.label_kind import is_place, named_labels, sorted_labels
from secateur.tasks.label_scores import macro_f1
from secateur.tasks.probability import softmax
from secateur.tasks.tag_scheme import SCHEMES, bio_labels, scheme_of, to_bio
from secateur.tasks.task import IGNORED, Encoded, Outputs, Task
from secateur.tasks.tokenization import encodings
from secateur.tasks.windows import Frame, windows
from secateur.tasks.words import TextReader, Window, used_tokens

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Row", "TokenClassification", "row_of_text"]

_OVERLAP = 4  # a window shares a quarter of its tokens with the one before


class Row(NamedTuple):
    """Words with their tags.

    Attributes:
        tokens: The words.
        tags: A tag a word; None where nobody knows.
        text: What the words stand in, where it is more than the words joined by spaces.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    text: str | None = None


def row_of_text(text: str) -> Row:
    """Makes a row of a raw text: its words are what stands between white space."""
    return Row(tuple(text.split()), None, text)


class TokenClassification(Task):
    """A tag for each word.

    Args:
        labels: Tags in the order of the logits.
        numbered: Whether integers in rows, where they are no tags, count places in `labels`.
    """

    name = "token-classification"
    head = "token"
    auto_class = "AutoModelForTokenClassification"
    columns = {  # noqa: RUF012
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags", "labels", "ner", "pos_tags", "chunk_tags"),
    }
    kinds = SCHEMES

    def __init__(self, labels: Sequence[str], *, numbered: bool = False) -> None:
        self.labels = list(labels)
        self.numbered = numbered
        self.kind = scheme_of(self.labels)
        self.main_metric = "f1" if self.kind == "bio" else "accuracy"
        self._places = {label: place for place, label in enumerate(self.labels)}
        self._outside = self._places.get("O", 0)

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Takes the tags of the rows: see `Task`."""
        if kind is not None and kind not in SCHEMES:
            raise DataError(f"The kind {kind!r} is not known to {cls.name}: give {', '.join(SCHEMES)}.")
        found = {tag for row in rows for tag in row.tags or ()}
        numbers = bool(found) and all(tag.isascii() and tag.isdecimal() for tag in found)
        if numbers and names is None:
            raise DataError(
                'The tags are numbers without names: write a manifest.json with {"labels": [...]} beside the '
                "data, in the order of the numbers."
            )
        if numbers and names is not None:
            task = cls([to_bio(name) for name in named_labels(found, names)[0]], numbered=True)
        elif (kind or scheme_of(found)) == "plain":
            task = cls(sorted_labels(found) if names is None else named_labels(found, names)[0])
        else:
            if names is not None:
                named_labels(found, names)
            task = cls(bio_labels(to_bio(tag) for tag in (*found, *(names or ()))))
        if len(task.labels) < 2:
            raise DataError(f"{len(rows)} training rows have {len(found)} tags; at least two are needed.")
        if kind is not None and kind != task.kind:
            raise DataError(f"The kind {kind!r} does not fit the tags, as {sorted(found)[0]!r}.")
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes the tags from `id2label`: see `Task`."""
        return cls(labels_of_config(config), numbered=True)

    def config(self) -> dict[str, Any]:
        """Returns `id2label` and `label2id`."""
        return label_config(self.labels)

    # --- rows ------------------------------------------------------

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Row:
        """Makes a row: see `Task`."""
        tokens, tags = record.get("tokens"), record.get("tags")
        if not isinstance(tokens, (list, tuple)) or not all(isinstance(token, str) for token in tokens):
            raise DataError("'tokens' must be a list of strings")
        if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, (str, int)) for tag in tags):
            raise DataError("'tags' must be a list of strings or of integers")
        if not any(token.strip() for token in tokens):
            raise DataError("'tokens' holds no word; fill it or delete the row")
        if len(tokens) != len(tags):
            raise DataError(f"'tags' has {len(tags)} entries for {len(tokens)} words")
        return Row(tuple(tokens), tuple(str(tag).strip() for tag in tags))

    def adapt(self, row: Row) -> Row:
        """Brings tags into BIO, and integers to names: see `Task`."""
        if row.tags is None:
            return row
        named = (
            self.labels[int(tag)]
            if self.numbered and tag not in self._places and is_place(tag, self.labels)
            else tag
            for tag in row.tags
        )
        return row._replace(
            tags=tuple(tag if tag in self._places or self.kind != "bio" else to_bio(tag) for tag in named)
        )

    @classmethod
    def key(cls, row: Row) -> str:
        """Returns the words joined: see `Task`."""
        return " ".join(row.tokens)

    @classmethod
    def truth(cls, row: Row) -> Hashable:
        """Returns the tags: see `Task`."""
        return row.tags

    # --- rows to token ids -----------------------------------------

    def encode(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes rows; long ones become several features that overlap: see `Task`."""
        texts = [" ".join(row.tokens) if row.text is None else row.text for row in rows]
        read = TextReader(tokenizer)
        input_ids: list[list[int]] = []
        token_types: list[list[int]] = []
        numbers: list[int] = []
        details: list[Any] = []
        for number, encoding in enumerate(encodings(tokenizer, texts)):
            frame = Frame(encoding)
            room = frame.room(max_length)
            spaced = rows[number].text is None
            text = read(texts[number], rows[number].tokens if spaced else None, encoding, frame.tokens)
            spans = windows(len(frame.tokens), room, room // _OVERLAP)
            for span, used in zip(spans, used_tokens(spans), strict=True):
                ids, types = frame.feature(*span)
                input_ids.append(ids)
                token_types.append(types)
                numbers.append(number)
                details.append(Window(frame.first, span[0], used, text))
        types_or_none = token_types if any(map(any, token_types)) else None
        return Encoded(input_ids, types_or_none, numbers, details=details)

    def targets(self, rows: Sequence[Row], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns the tag's place at the first token of each word, -100 elsewhere: see `Task`."""
        self._require_known(rows)
        found = []
        for number, ids, window in zip(encoded.rows, encoded.input_ids, encoded.details, strict=True):
            labels = [IGNORED] * len(ids)
            tags = rows[number].tags or ()
            for token in range(*window.used):
                word = window.text.words[token]
                if word >= 0:
                    labels[window.first + token - window.start] = self._places[tags[word]]
            found.append({"labels": labels})
        return found

    # --- outputs to answers and scores -----------------------------

    def answers(
        self,
        rows: Sequence[Row],
        encoded: Encoded,
        outputs: Outputs,
        *,
        aggregation: str = "simple",
        ignore_labels: Sequence[str] = ("O",),
        **options: Any,
    ) -> list[Any]:
        """Turns logits into tags and entities.

        Args:
            rows: The rows.
            encoded: Their features.
            outputs: [F] logits [S, L].
            aggregation: How tokens become entities; see `entities_of`.
            ignore_labels: Tags or types that are no entities.
            **options: There are no others.

        Returns:
            A row: `tags` (one a word) and `entities` (see `entities_of`; characters count in the row's text,
            which is the words joined by spaces unless the row has a text of its own).

        Raises:
            DataError: An option is not known.
        """
        if options:
            raise DataError(f"{self.name} has no option {sorted(options)[0]!r}.")
        tags = self._tags(rows, encoded, outputs)
        pieces: list[list[Piece]] = [[] for _ in rows]
        joins: dict[int, Join] = {}
        for number, window, output in zip(encoded.rows, encoded.details, outputs, strict=True):
            text = window.text
            joins[number] = text.join
            scores = softmax(output)
            for token in range(*window.used):
                start, end = text.offsets[token]
                at = window.first + token - window.start
                pieces[number].append(
                    Piece(
                        text.pieces[token], start, end, text.indices[token], text.subword[token], scores[at]
                    )
                )
        return [
            {
                "tags": given,
                "entities": entities_of(found, self.labels, joins[number], aggregation, ignore_labels),
            }
            for number, (given, found) in enumerate(zip(tags, pieces, strict=True))
        ]

    def score(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores the tags of words.

        Returns:
            BIO tags: `f1`, `precision` and `recall` over whole entities (seqeval, not strict, as conlleval),
            `f1_by_type`, `accuracy` over words and `n` (rows). Plain tags: `accuracy`, `macro_f1`, `n`.

        Raises:
            DataError: There is no row, or a row has no tags or unknown ones.
            MissingExtraError: seqeval is not installed.
        """
        if not rows:
            raise DataError("There is no row to score: give data with a test split.")
        self._require_known(rows)
        truth = [list(row.tags or ()) for row in rows]
        given = self._tags(rows, encoded, outputs)
        pairs = [pair for one, two in zip(truth, given, strict=True) for pair in zip(one, two, strict=True)]
        accuracy = sum(right == tag for right, tag in pairs) / len(pairs)
        if self.kind == "bio":
            return {**entity_scores(truth, given), "accuracy": accuracy, "n": len(rows)}
        places = np.array([[self._places[right], self._places[tag]] for right, tag in pairs])
        macro = macro_f1(places[:, 0], places[:, 1], len(self.labels))
        return {"accuracy": accuracy, "macro_f1": macro, "n": len(rows)}

    # --- for people ------------------------------------------------

    def describe(self, rows: Sequence[Row]) -> list[str]:
        """Returns the number of entities of each type, or of each tag: see `Task`."""
        tags = [tag for row in rows for tag in row.tags or ()]
        if self.kind == "plain":
            return balance_lines(count_labels(tags, self.labels), "tags", "words")
        types = list(dict.fromkeys(label[2:] for label in self.labels if label != "O"))
        counts = count_labels((tag[2:] for tag in tags if tag.startswith("B-")), types)
        outside = sum(tag == "O" for tag in tags) / max(len(tags), 1)
        lines = balance_lines(counts, "entity types", "entities")
        return [*lines, f"{len(tags)} words, {outside:.1%} of them outside entities"]

    def unknown(self, rows: Iterable[Row]) -> list[str]:
        """Returns tags of rows that the task does not know, sorted: see `Task`."""
        return sorted({tag for row in rows for tag in row.tags or ()} - self._places.keys())

    def _require_known(self, rows: Sequence[Row]) -> None:
        if any(row.tags is None for row in rows):
            raise DataError("A row has no tags: give data with tags.")
        unknown = self.unknown(rows)
        if unknown:
            raise DataError(
                f"The model does not know the tag {unknown[0]!r} ({len(unknown)} such tags in the data): "
                f"use data with the tags it was trained on."
            )

    def _tags(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> list[list[str]]:
        """Returns a tag a word; where a word has no token O, or the first tag if there is no O."""
        tags = [[self.labels[self._outside]] * len(row.tokens) for row in rows]
        for number, window, output in zip(encoded.rows, encoded.details, outputs, strict=True):
            best = np.asarray(output).argmax(axis=-1)
            for token in range(*window.used):
                word = window.text.words[token]
                if word >= 0:
                    tags[number][word] = self.labels[best[window.first + token - window.start]]
        return tags
