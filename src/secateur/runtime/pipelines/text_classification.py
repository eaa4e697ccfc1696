"""Texts or pairs of them in; labels with probabilities, or a number, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, counting_number, listed
from secateur.tasks.label_kind import Kind
from secateur.tasks.text_classification import Answer, Row, TextClassification

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TextClassificationPipeline"]

_BEST: Any = "the best one, without a list around it"  # what top_k is where nobody gives one

# What makes scores of logits, and the kind of task that does the same.
FUNCTIONS: dict[str, Kind] = {"softmax": "single-label", "sigmoid": "multi-label", "none": "regression"}

# A text, or a pair as {"text": ..., "text_pair": ...} or as a tuple.
Text = str | tuple[str, str] | Mapping[str, str]


class Options(TypedDict, total=False):
    """What a call may say."""

    top_k: int | None
    function_to_apply: str | None
    threshold: float | None


class TextClassificationPipeline(Pipeline[TextClassification]):
    """Classifies texts, or gives them a number. Safe to call from many threads at a time."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {"top_k": _BEST, "function_to_apply": None, "threshold": None}

    def __call__(self, texts: Text | Sequence[Text], **options: Unpack[Options]) -> Any:
        """Classifies.

        Args:
            texts: A text, a pair of texts as `{"text": ..., "text_pair": ...}` or as a tuple, or a list of
                either.
            **options: `top_k`: how many labels a text, best first; None for all of them.
                `function_to_apply`: "softmax", "sigmoid" or "none" on the logits, instead of what the model
                was trained for.
                `threshold`: for a multi-label model: all labels that are at least so probable.

        Returns:
            Where `top_k` or `threshold` is given, a list of answers for each text. Else the best answer for
            each text; for one text as a string, a list that holds it, as transformers has it. An answer is
            `{"label": ..., "score": ...}`; the score of a regression is the number itself.

        Raises:
            DataError: A text is empty or not a string, or an option has an impossible value.
        """
        chosen = self._with(options)
        rows, alone = self._rows(texts)
        if not rows:
            return []
        encoded = self.encode_rows(rows)
        outputs = self.outputs(encoded)
        function, top_k, threshold = chosen["function_to_apply"], chosen["top_k"], chosen["threshold"]
        task = self.task if function is None else TextClassification(self.labels, FUNCTIONS[function])
        best = top_k is _BEST and threshold is None
        if top_k is _BEST:
            top_k = "auto"
        found: list[list[Answer]] = task.answers(rows, encoded, outputs, top_k=top_k, threshold=threshold)
        if not alone:
            return [answers[0] for answers in found] if best else found
        return found[0][0] if best and isinstance(texts, Mapping) else found[0]

    def logits(self, texts: Text | Sequence[Text]) -> NDArray[np.float32]:
        """Returns the logits of texts.

        Args:
            texts: As in a call.

        Returns:
            [B, num_labels] float32.

        Raises:
            DataError: A text is empty or not a string, or longer than `max_tokens`.
        """
        outputs = self.outputs(self.encode_rows(self._rows(texts)[0]))
        return np.stack(outputs) if outputs else np.zeros((0, len(self.labels)), np.float32)

    def encode(self, texts: Text | Sequence[Text]) -> list[list[int]]:
        """Returns the token ids of texts, special tokens included, at most `engine.max_length` each.

        The first call that has to cut a text warns.

        Raises:
            DataError: A text is empty or not a string.
        """
        return self.encode_rows(self._rows(texts)[0]).input_ids

    def _rows(self, texts: Any) -> tuple[list[Row], bool]:
        """Returns rows, and whether it is one that came without a list."""
        if isinstance(texts, str):
            return [Row(checked_text(texts, "Text 0"))], True
        rows, alone = _rows(texts)
        if any(row.text_pair is not None for row in rows):
            add = self.tokenizer.num_special_tokens_to_add
            if add(True) <= add(False):
                raise DataError(
                    "The tokenizer of this model knows no pairs of texts: give single ones, or a model that "
                    "was trained on pairs."
                )
        return rows, alone

    def _check(self, options: Mapping[str, Any]) -> None:
        if options["top_k"] is not _BEST:
            counting_number("top_k", options["top_k"], none="all labels")
        function, threshold = options["function_to_apply"], options["threshold"]
        if function is not None and not (isinstance(function, str) and function in FUNCTIONS):
            raise DataError(
                f"function_to_apply must be one of {', '.join(FUNCTIONS)} or None (what the model was "
                f"trained for), but is {function!r}."
            )
        if threshold is None:
            return
        if self.task.kind != "multi-label":
            raise DataError(f"threshold is for multi-label models, and this one is {self.task.kind}.")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise DataError(f"threshold must lie between 0 and 1, but is {threshold!r}.")


def _rows(texts: Any) -> tuple[list[Row], bool]:
    """Returns rows, and whether it is one that came without a list."""
    alone = isinstance(texts, (str, Mapping)) or (
        isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
    )
    given = [texts] if alone else listed(texts)
    return [_row(text, place) for place, text in enumerate(given)], alone


def _row(text: object, place: int) -> Row:
    if isinstance(text, str):
        return Row(checked_text(text, f"Text {place}"))
    if isinstance(text, Mapping):
        extra = sorted(set(map(str, text)) - {"text", "text_pair"})
        if extra or "text" not in text:
            wrong = f"has {extra[0]!r}" if extra else "has no 'text'"
            raise DataError(f"Text {place} is a dictionary that {wrong}: give 'text' and maybe 'text_pair'.")
        first, second = text["text"], text.get("text_pair")
    elif isinstance(text, tuple) and len(text) == 2:
        first, second = text
    else:
        raise DataError(
            f"Text {place} must be a string, or a pair as a tuple or a dictionary with 'text' and "
            f"'text_pair', but is {type(text).__name__}."
        )
    what = f"Text {place}"
    if second is None:
        return Row(checked_text(first, what))
    return Row(checked_text(first, what), text_pair=checked_text(second, f"The second text of pair {place}"))
