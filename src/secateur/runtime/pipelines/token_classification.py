"""Texts in, tagged tokens or whole entities out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, overload

from secateur.errors import DataError
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, listed
from secateur.tasks.entities import AGGREGATIONS
from secateur.tasks.token_classification import TokenClassification, row_of_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TokenClassificationPipeline"]


class Options(TypedDict, total=False):
    """What a call may say."""

    aggregation_strategy: str
    ignore_labels: Sequence[str]


class TokenClassificationPipeline(Pipeline[TokenClassification]):
    """Tags texts: names of persons and places, parts of speech. Safe to call from many threads at a time."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {"aggregation_strategy": "none", "ignore_labels": ("O",)}

    # A str is a Sequence[str]: mypy takes the first that fits, which is the one meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, **options: Unpack[Options]
    ) -> list[dict[str, Any]]: ...

    @overload
    def __call__(self, texts: Sequence[str], **options: Unpack[Options]) -> list[list[dict[str, Any]]]: ...

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Tags the tokens of texts. A text that is too long is read in windows that overlap; none is cut.

        Args:
            texts: A text or several.
            **options: `aggregation_strategy`: "none" gives tokens. "simple" joins neighbours of one entity,
                token by token. "first", "average" and "max" give each word one tag before that: its first
                token's, that of the largest mean probability, or its surest token's.
                `ignore_labels`: tags and entities that are left out, ["O"] where nothing is said.

        Returns:
            For each text a list of `{"entity", "score", "index", "word", "start", "end"}`, or, joined, of
            `{"entity_group", "score", "word", "start", "end"}`; `text[start:end]` is what stands there. For
            one text its list alone.

        Raises:
            DataError: A text is empty or not a string, or an option has an impossible value.
        """
        chosen = self._with(options)
        given = listed(texts)
        rows = [row_of_text(checked_text(text, f"Text {place}")) for place, text in enumerate(given)]
        encoded = self.encode_rows(rows)
        answers = self.task.answers(
            rows,
            encoded,
            self.outputs(encoded),
            aggregation=chosen["aggregation_strategy"],
            ignore_labels=chosen["ignore_labels"],
        )
        found = [answer["entities"] for answer in answers]
        return found[0] if isinstance(texts, str) else found

    def _check(self, options: Mapping[str, Any]) -> None:
        strategy, ignored = options["aggregation_strategy"], options["ignore_labels"]
        if strategy not in AGGREGATIONS:
            raise DataError(
                f"aggregation_strategy must be one of {', '.join(AGGREGATIONS)}, but is {strategy!r}."
            )
        given = [] if isinstance(ignored, str) or not isinstance(ignored, Collection) else ignored
        if given is not ignored or not all(isinstance(label, str) for label in given):
            raise DataError(f"ignore_labels must be a list of labels, but is {ignored!r}.")
