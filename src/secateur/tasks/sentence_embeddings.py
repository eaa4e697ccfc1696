"""Sentence embeddings: a vector for each text, near each other where texts mean the same.

Rows are of one of three kinds: pairs of texts with a similarity, pairs of a query and a text that fits it, or
plain texts, which need no labels: a compressed model learns the vectors of the dense one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.errors import DataError, UnsupportedError
from secateur.tasks.correlation import pearson, spearman
from secateur.tasks.fields import optional_text, required_text
from secateur.tasks.label_kind import as_number, read_label
from secateur.tasks.task import Encoded, Outputs, Task
from secateur.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["POOLING_MODES", "Row", "SentenceEmbeddings", "cosines", "retrieval_scores"]

Kind = Literal["similarity", "pairs", "texts"]
KINDS: tuple[Kind, ...] = get_args(Kind)

POOLING_MODES = ("mean", "cls", "max")
_MAIN_METRICS = {"similarity": "spearman", "pairs": "mrr", "texts": ""}
_CHUNK = 1024  # queries compared with all texts at a time


class Row(NamedTuple):
    """A text; or two, with how similar they are, or such that the second fits the first."""

    text: str
    text_pair: str | None = None
    similarity: float | None = None


class SentenceEmbeddings(Task):
    """A vector for each text.

    Args:
        kind: What rows say.
        pooling: How a text's tokens become one vector: `mean`, `cls` (the first token's) or `max`.
        normalize: Whether vectors are scaled to length 1.
    """

    name = "sentence-embeddings"
    head = "embedding"
    auto_class = "AutoModel"
    columns = {  # noqa: RUF012
        "text": (
            *("text", "sentence1", "sentence", "anchor", "query", "question", "text1", "premise"),
            *("utterance", "content"),
        ),
        "text_pair": (
            *("text_pair", "sentence2", "positive", "answer", "passage", "text2", "hypothesis", "document"),
        ),
        "similarity": ("similarity", "similarity_score", "score", "label"),
    }
    optional = frozenset({"text_pair", "similarity"})
    kinds = KINDS

    def __init__(self, kind: str = "texts", *, pooling: str = "mean", normalize: bool = True) -> None:
        self.labels: list[str] = []
        self.kind = kind
        self.main_metric = _MAIN_METRICS[kind]
        self.pooling = pooling
        self.normalize = normalize

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Takes the kind from what rows hold: see `Task`."""
        if kind is not None and kind not in KINDS:
            raise DataError(f"The kind {kind!r} is not known to {cls.name}: give {', '.join(KINDS)}.")
        if kind is None:
            kind = "texts"
            if any(row.text_pair is not None for row in rows):
                kind = "similarity" if any(row.similarity is not None for row in rows) else "pairs"
        return cls(kind)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes pooling and normalizing from `sentence_embedding`: see `Task`.

        A config without it is read as mean pooling with vectors of length 1.
        """
        settings = config.get("sentence_embedding") or {}
        pooling, normalize = settings.get("pooling", "mean"), settings.get("normalize", True)
        if pooling not in POOLING_MODES or not isinstance(normalize, bool):
            raise UnsupportedError(
                f"The config's sentence_embedding is {dict(settings)!r}; pooling must be one of "
                f"{', '.join(POOLING_MODES)}, and normalize true or false."
            )
        return cls(pooling=pooling, normalize=normalize)

    def config(self) -> dict[str, Any]:
        """Returns `sentence_embedding`: see `Task`."""
        return {"sentence_embedding": {"pooling": self.pooling, "normalize": self.normalize}}

    # --- rows ------------------------------------------------------

    @classmethod
    def guess(cls, present: Sequence[str], named: Mapping[str, str] | None = None) -> dict[str, str]:
        """Finds the columns; a column of labels is a similarity only beside a pair. See `Task`.

        A text that is named stands alone, unless the second of its pair is named, too.
        """
        named = dict(named or {})
        found = super().guess(present, named)
        if "text" in named:
            found.pop("text_pair", None)
        if "text_pair" not in found | named:
            found.pop("similarity", None)
        return found | named

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Row:
        """Makes a row: see `Task`."""
        text, pair = required_text(record, "text"), optional_text(record, "text_pair")
        given = record.get("similarity")
        if given is None:
            return Row(text, pair)
        try:
            return Row(text, pair, as_number(read_label(given)))
        except DataError:
            raise DataError(f"'similarity' must be a number, but is {given!r}") from None

    def adapt(self, row: Row) -> Row:
        """Drops what the kind has no use for, and asks for what it needs: see `Task`."""
        if self.kind != "texts" and row.text_pair is None:
            raise DataError("'text_pair' is missing")
        if self.kind == "similarity" and row.similarity is None:
            raise DataError("'similarity' is missing")
        if self.kind == "texts":
            return Row(row.text)
        return row if self.kind == "similarity" else row._replace(similarity=None)

    @classmethod
    def key(cls, row: Row) -> str:
        """Returns the text, or both: see `Task`."""
        return row.text if row.text_pair is None else f"{row.text}\n{row.text_pair}"

    @classmethod
    def truth(cls, row: Row) -> Hashable:
        """Returns the similarity: see `Task`."""
        return row.similarity

    # --- rows to token ids -----------------------------------------

    def encode(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes each text for itself; a pair becomes two features: see `Task`."""
        texts: list[str] = []
        numbers: list[int] = []
        for number, row in enumerate(rows):
            both = [row.text] if row.text_pair is None else [row.text, row.text_pair]
            texts += both
            numbers += [number] * len(both)
        input_ids, token_types, cut = encode_texts(tokenizer, texts, max_length)
        return Encoded(input_ids, token_types, numbers, cut=cut)

    def targets(self, rows: Sequence[Row], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns nothing to learn: vectors are learnt from another model's. See `Task`."""
        return [{} for _ in encoded.input_ids]

    # --- outputs to answers and scores -----------------------------

    def answers(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs, **options: Any) -> list[Any]:
        """Returns vectors.

        Args:
            rows: The rows.
            encoded: Their features.
            outputs: [F] vectors [H].
            **options: There are none.

        Returns:
            A row: `embedding`; of a pair also `embedding_pair` and their `cosine`. Lists of H numbers.

        Raises:
            DataError: An option was given.
        """
        if options:
            raise DataError(f"{self.name} has no option {sorted(options)[0]!r}.")
        found: list[dict[str, Any]] = [{} for _ in rows]
        for number, output in zip(encoded.rows, outputs, strict=True):
            found[number]["embedding_pair" if found[number] else "embedding"] = output.tolist()
        for answer in found:
            if "embedding_pair" in answer:
                pair = np.array([answer["embedding"], answer["embedding_pair"]])
                answer["cosine"] = float(cosines(pair[:1], pair[1:])[0])
        return found

    def score(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores vectors.

        Returns:
            Pairs with a similarity: `spearman` and `pearson` of the cosine against it, `n` (pairs). Other
            pairs: `recall@1`, `recall@5`, `recall@10` and `mrr` of finding a query's text among all distinct
            second texts, `n` (queries).

        Raises:
            DataError: Plain texts have nothing to score by; or there is no row.
        """
        if not rows:
            raise DataError("There is no row to score: give data with a test split.")
        if any(row.text_pair is None for row in rows):
            raise DataError(
                "Plain texts have nothing to score vectors by: give pairs of texts, with a similarity or "
                "such that the second fits the first."
            )
        vectors = np.asarray(outputs, np.float32)
        first, second = vectors[0::2], vectors[1::2]
        known = [row.similarity for row in rows if row.similarity is not None]
        if not known:
            asked, right = [row.text for row in rows], [str(row.text_pair) for row in rows]
            return retrieval_scores(first, second, asked, right)
        if len(known) < len(rows):
            raise DataError("Some pairs have a similarity and some have none: give all of them one, or none.")
        found = cosines(first, second)
        return {"spearman": spearman(found, known), "pearson": pearson(found, known), "n": len(rows)}

    def describe(self, rows: Sequence[Row]) -> list[str]:
        """Returns the kind and its range: see `Task`."""
        known = [row.similarity for row in rows if row.similarity is not None]
        return [f"kind {self.kind}" + (f": from {min(known):g} to {max(known):g}" if known else "")]


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns [n] cosines between the rows of two arrays [n, H]; 0 where a vector is 0."""
    return np.asarray((_unit(first) * _unit(second)).sum(axis=1), np.float64)


def retrieval_scores(
    queries: NDArray[np.float32], texts: NDArray[np.float32], asked: Sequence[str], right: Sequence[str]
) -> dict[str, Any]:
    """Says how far in front a query finds its text, by cosine, among all distinct texts.

    A query that occurs with several texts is right with each of them. Texts that are as near as the right one
    count as if half of them came before it.

    Args:
        queries: [n, H] vectors.
        texts: [n, H] vectors of the texts that fit.
        asked: [n] the queries, to know those that occur several times.
        right: [n] the texts, to know those that occur several times.

    Returns:
        `recall@1`, `recall@5`, `recall@10`, `mrr` and `n`, over distinct queries.
    """
    first_at: dict[str, int] = {}
    for index, text in enumerate(right):
        first_at.setdefault(text, index)
    columns = {text: column for column, text in enumerate(first_at)}
    fits: dict[str, set[int]] = {}
    place_of: dict[str, int] = {}
    for index, (query, text) in enumerate(zip(asked, right, strict=True)):
        fits.setdefault(query, set()).add(columns[text])
        place_of.setdefault(query, index)
    corpus = _unit(texts[list(first_at.values())])
    names = list(fits)
    ranks: list[float] = []
    for start in range(0, len(names), _CHUNK):
        some = names[start : start + _CHUNK]
        similarities = _unit(queries[[place_of[name] for name in some]]) @ corpus.T
        for name, row in zip(some, similarities, strict=True):
            own = list(fits[name])
            best = row[own].max()
            others = np.delete(row, own)
            ranks.append(1 + float((others > best).sum()) + float((others == best).sum()) / 2)
    found = np.array(ranks)
    recalls = {f"recall@{k}": float((found <= k).mean()) for k in (1, 5, 10)}
    return {**recalls, "mrr": float((1 / found).mean()), "n": len(found)}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    given = np.asarray(vectors, np.float64)
    return np.asarray(given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-12))
