"""Text classification: a text or a pair of texts to one label, several labels or a number.

Out-of-scope texts follow one rule. Where `oos` or `out_of_scope` is a trained label, accuracy counts the
rows of the other labels and `oos_recall` those of this one. Where such a label occurs in no training row, its
test rows are kept apart: they never enter accuracy, and `oos_auroc` says how well the largest probability
tells them from the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.errors import DataError, UnsupportedError
from secateur.tasks.balance import balance_lines, count_labels
from secateur.tasks.config_labels import label_config, labels_of_config
from secateur.tasks.correlation import pearson, spearman
from secateur.tasks.fields import optional_text, required_text
from secateur.tasks.label_kind import (
    KINDS,
    Label,
    as_labels,
    as_number,
    check_kind,
    guess_kind,
    is_place,
    named_labels,
    read_label,
    sorted_labels,
)
from secateur.tasks.label_scores import macro_f1, multi_label_scores, oos_auroc
from secateur.tasks.probability import sigmoid, softmax
from secateur.tasks.task import Encoded, Outputs, Task
from secateur.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OUT_OF_SCOPE_LABELS", "Answer", "Row", "TextClassification"]

OUT_OF_SCOPE_LABELS = frozenset({"oos", "out_of_scope"})

_TEXTS = (
    *("text", "sentence", "sentence1", "premise", "utterance", "query", "question", "question1"),
    "content",
)
_PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "passage"),
)
_PROBLEM_TYPES: dict[str, str] = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
_MAIN_METRICS: dict[str, str] = {
    "single-label": "accuracy",
    "multi-label": "micro_f1",
    "regression": "spearman",
}
_PROBABILITIES = {"single-label": softmax, "multi-label": sigmoid}
_THRESHOLD = 0.5  # a label of several is answered from this probability on, where scores are concerned


class Row(NamedTuple):
    """A text or a pair of them, and what is right: a label, several, a number; None where nobody knows."""

    text: str
    label: Label = None
    text_pair: str | None = None


class Answer(TypedDict):
    """One label with its probability, or the number of a regression."""

    label: str
    score: float


class TextClassification(Task):
    """A text, or a pair of texts, to one label, several labels or a number.

    Args:
        labels: Names of the outputs in the order of the logits.
        kind: What the labels mean.
        numbered: Whether integers in rows, where they are no labels, count places in `labels`.
    """

    name = "text-classification"
    head = "sequence"
    auto_class = "AutoModelForSequenceClassification"
    columns = {  # noqa: RUF012
        "text": _TEXTS,
        "text_pair": tuple(second for _, second in _PAIRS),
        "label": ("label", "labels", "intent", "category", "target", "class", "score", "similarity"),
    }
    optional = frozenset({"text_pair"})
    kinds = KINDS

    def __init__(self, labels: Sequence[str], kind: str = "single-label", *, numbered: bool = False) -> None:
        self.labels = list(labels)
        self.kind = kind
        self.main_metric = _MAIN_METRICS[kind]
        self.numbered = numbered
        self._places = {label: place for place, label in enumerate(self.labels)}

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Takes the kind from the form of the labels, and the labels in their order: see `Task`."""
        meant = guess_kind(row.label for row in rows) if kind is None else check_kind(kind)
        if meant == "regression":
            return cls(["score"], meant)
        if meant == "multi-label":
            found = {label for row in rows for label in as_labels(row.label, names)}
        else:
            found = {str(row.label) for row in rows if row.label not in (None, "")}
        labels, numbered = sorted_labels(found), False
        if names is not None:
            labels, numbered = named_labels(found, names)
        if len(labels) < 2:
            shown = f"the only label {labels[0]!r}" if labels else "no label"
            raise DataError(f"{len(rows)} training rows have {shown}; at least two labels are needed.")
        return cls(labels, meant, numbered=numbered)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes labels and kind from `id2label` and `problem_type`: see `Task`."""
        labels = labels_of_config(config)
        problem = config.get("problem_type")
        kind = next((kind for kind, name in _PROBLEM_TYPES.items() if name == problem), None)
        if problem is None:
            kind = "regression" if len(labels) == 1 else "single-label"
        if kind is None:
            raise UnsupportedError(
                f"The config's problem_type is {problem!r}; known are {', '.join(_PROBLEM_TYPES.values())}."
            )
        if kind == "regression" and len(labels) != 1:
            raise UnsupportedError(
                f"The config describes a regression with {len(labels)} numbers; one number is supported."
            )
        return cls(labels, kind, numbered=True)

    def config(self) -> dict[str, Any]:
        """Returns `id2label`, `label2id` and `problem_type`."""
        return {**label_config(self.labels), "problem_type": _PROBLEM_TYPES[self.kind]}

    # --- rows ------------------------------------------------------

    @classmethod
    def guess(cls, present: Sequence[str], named: Mapping[str, str] | None = None) -> dict[str, str]:
        """Finds the columns: a known pair of texts first, else one text. See `Task`.

        A text that is named stands alone, unless the second of its pair is named, too.
        """
        named = dict(named or {})
        found = super().guess(present, named)
        found.pop("text_pair", None)
        others = [column for role, column in named.items() if role not in ("text", "text_pair")]
        lowered = {name.lower(): name for name in reversed(present) if name not in others}
        for first, second in _PAIRS:
            if first in lowered and second in lowered and "text" not in named:
                pair = {"text": lowered[first], "text_pair": lowered[second]}
                if named.get("text_pair", pair["text_pair"]) == pair["text_pair"]:
                    found |= pair
                    break
        return found | named

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Row:
        """Makes a row: see `Task`."""
        text, pair = required_text(record, "text"), optional_text(record, "text_pair")
        return Row(text, read_label(record.get("label")), pair)

    def adapt(self, row: Row) -> Row:
        """Brings the label into the form of the kind, and integers to names: see `Task`."""
        if self.kind == "regression":
            return row._replace(label=as_number(row.label))
        if self.kind == "multi-label":
            labels = {self._named(label) for label in as_labels(row.label, self.labels)}
            return row._replace(label=tuple(sorted(labels, key=lambda one: (self._places.get(one, -1), one))))
        if isinstance(row.label, tuple):
            raise DataError(f"'label' must be one label, but is {list(row.label)!r}")
        if row.label in (None, ""):
            raise DataError("'label' is empty; fill it or delete the row")
        return row._replace(label=self._named(str(row.label)))

    @classmethod
    def key(cls, row: Row) -> str:
        """Returns the text, or both texts: see `Task`."""
        return row.text if row.text_pair is None else f"{row.text}\n{row.text_pair}"

    @classmethod
    def truth(cls, row: Row) -> Hashable:
        """Returns the label: see `Task`."""
        return row.label

    # --- rows to token ids -----------------------------------------

    def encode(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes texts, one feature a row: see `Task`."""
        texts = [row.text if row.text_pair is None else (row.text, row.text_pair) for row in rows]
        input_ids, token_types, cut = encode_texts(tokenizer, texts, max_length)
        return Encoded(input_ids, token_types, list(range(len(rows))), cut=cut)

    def targets(self, rows: Sequence[Row], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns a label's place, a 0 or 1.0 a label, or the number: see `Task`."""
        self._require_known(rows)
        if self.kind == "regression":
            return [{"labels": as_number(rows[row].label)} for row in encoded.rows]
        if self.kind == "multi-label":
            sets = self._sets(rows).astype(float).tolist()
            return [{"labels": sets[row]} for row in encoded.rows]
        return [{"labels": self._places[str(rows[row].label)]} for row in encoded.rows]

    # --- outputs to answers and scores -----------------------------

    def answers(
        self,
        rows: Sequence[Row],
        encoded: Encoded,
        outputs: Outputs,
        *,
        top_k: int | Literal["auto"] | None = "auto",
        threshold: float | None = None,
        **options: Any,
    ) -> list[Any]:
        """Turns logits into the likeliest labels.

        Args:
            rows: The rows.
            encoded: Their features.
            outputs: [B] logits [L].
            top_k: Most labels a text, best first; None for all. `auto` is 1, and all with `threshold`.
            threshold: Multi-label only: leaves out labels that are less probable; there may be none then.
            **options: There are no others.

        Returns:
            [B] lists of answers. Equal probabilities keep the order of the labels. The score of a regression
            is the number itself.

        Raises:
            DataError: An option is not known or out of range.
        """
        if options:
            raise DataError(f"text-classification has no option {sorted(options)[0]!r}.")
        if threshold is not None and (self.kind != "multi-label" or not 0.0 <= threshold <= 1.0):
            raise DataError(
                f"threshold must lie between 0 and 1 and is for multi-label models; given was {threshold!r} "
                f"for {self.kind}."
            )
        if top_k != "auto" and top_k is not None and (isinstance(top_k, bool) or top_k < 1):
            raise DataError(f"top_k must be a positive integer or None, but is {top_k!r}.")
        most = (1 if threshold is None else None) if top_k == "auto" else top_k
        logits = self._stacked(rows, outputs)
        scores = logits if self.kind == "regression" else _PROBABILITIES[self.kind](logits)
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :most]
        least = -np.inf if threshold is None else threshold
        return [
            [
                Answer(label=self.labels[place], score=float(row[place]))
                for place in best
                if row[place] >= least
            ]
            for row, best in zip(scores, order, strict=True)
        ]

    def score(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores logits against the rows' labels.

        Args:
            rows: [n] rows. Rows labelled out of scope, where that is no label of the task, are counted apart.
            encoded: Their features.
            outputs: [n] logits [L].

        Returns:
            One label: `accuracy` (fraction of the in-scope rows whose label comes first; None without such
            rows), `macro_f1` (mean over the labels that occur in the truth or in the answers), `n` (in-scope
            rows); with trained out-of-scope rows `oos_recall` and `n_oos`; with rows that are out of scope of
            the task `oos_auroc` and `n_oos`. Several labels: `micro_f1`, `macro_f1`, `subset_accuracy`, each
            label counted from a probability of 0.5 on, and `n`. A number: `spearman`, `pearson`, `rmse`, `n`.

        Raises:
            DataError: There is no row, a label is unknown or missing, or the sizes differ.
        """
        if not rows:
            raise DataError("There is no row to score: give data with a test split.")
        logits = self._stacked(rows, outputs)
        if self.kind == "regression":
            self._require_known(rows)
            truth = np.array([as_number(row.label) for row in rows])
            error = float(np.sqrt(np.mean((logits[:, 0] - truth) ** 2)))
            correlations = {
                "spearman": spearman(logits[:, 0], truth),
                "pearson": pearson(logits[:, 0], truth),
            }
            return {**correlations, "rmse": error, "n": len(rows)}
        if self.kind == "multi-label":
            self._require_known(rows)
            return {**multi_label_scores(self._sets(rows), sigmoid(logits) >= _THRESHOLD), "n": len(rows)}
        return self._score_single(rows, logits)

    def _score_single(self, rows: Sequence[Row], logits: NDArray[np.float32]) -> dict[str, Any]:
        apart = np.array([self.is_out_of_scope(row) for row in rows])
        scored = [row for row, out in zip(rows, apart, strict=True) if not out]
        if not scored:
            raise DataError("There is no row in scope to score: give data with a test split.")
        self._require_known(scored)
        predicted = logits[~apart]
        truth = np.array([self._places[str(row.label)] for row in scored])
        top = predicted.argmax(axis=-1)
        right = top == truth
        out_of_scope = np.array([row.label in OUT_OF_SCOPE_LABELS for row in scored])
        in_scope = ~out_of_scope
        result: dict[str, Any] = {
            "accuracy": float(right[in_scope].mean()) if in_scope.any() else None,
            "macro_f1": macro_f1(truth, top, len(self.labels)),
            "n": int(in_scope.sum()),
        }
        if out_of_scope.any():
            result |= {"oos_recall": float(right[out_of_scope].mean()), "n_oos": int(out_of_scope.sum())}
        if apart.any() and in_scope.any():
            result |= {"oos_auroc": oos_auroc(predicted[in_scope], logits[apart]), "n_oos": int(apart.sum())}
        return result

    def is_out_of_scope(self, row: Row) -> bool:
        """Says whether a row is labelled out of scope where that is no label of the task."""
        label = row.label
        return self.kind == "single-label" and label in OUT_OF_SCOPE_LABELS and label not in self._places

    # --- for people ------------------------------------------------

    def describe(self, rows: Sequence[Row]) -> list[str]:
        """Returns the kind, and how even the labels are: see `Task`."""
        if self.kind == "regression":
            values = np.array([as_number(row.label) for row in rows])
            spread = (
                f"{values.min():g} to {values.max():g}, mean {values.mean():.3g}" if len(rows) else "none"
            )
            return [f"kind {self.kind}: numbers from {spread}"]
        found = (row.label if isinstance(row.label, tuple) else [str(row.label)] for row in rows)
        counts = count_labels((label for labels in found for label in labels), self.labels)
        return [f"kind {self.kind}", *balance_lines(counts, "labels")]

    def unknown(self, rows: Iterable[Row]) -> list[str]:
        """Returns labels of rows that the task does not know, sorted: see `Task`."""
        if self.kind == "regression":
            return []
        found: set[str] = set()
        for row in rows:
            found.update(row.label if isinstance(row.label, tuple) else [str(row.label)])
        return sorted(found - self._places.keys())

    def _named(self, label: str) -> str:
        if self.numbered and label not in self._places and is_place(label, self.labels):
            return self.labels[int(label)]
        return label

    def _require_known(self, rows: Sequence[Row]) -> None:
        if any(row.label is None for row in rows):
            raise DataError("A row has no label: give data with labels.")
        unknown = self.unknown(rows)
        if unknown:
            raise DataError(
                f"The model does not know the label {unknown[0]!r} ({len(unknown)} such labels in the data): "
                f"use data with the labels it was trained on."
            )

    def _sets(self, rows: Sequence[Row]) -> NDArray[np.bool_]:
        """Returns [n, L]: which labels each row has."""
        sets = np.zeros((len(rows), len(self.labels)), np.bool_)
        for index, row in enumerate(rows):
            for label in as_labels(row.label, self.labels):
                sets[index, self._places[label]] = True
        return sets

    def _stacked(self, rows: Sequence[Row], outputs: Outputs) -> NDArray[np.float32]:
        """Returns [n, L] float32."""
        if not rows and not len(outputs):
            return np.zeros((0, len(self.labels)), np.float32)
        logits = np.asarray(outputs, np.float32).reshape(len(outputs), -1)
        if logits.shape != (len(rows), len(self.labels)):
            raise DataError(
                f"The logits are {list(logits.shape)}, but {len(rows)} rows and {len(self.labels)} labels "
                f"were given."
            )
        return logits
