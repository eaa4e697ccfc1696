"""Texts in, tagged tokens or whole entities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.errors import DataError
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text
from secateur.runtime.pipelines.windows import Window, windows_of
from secateur.tasks.probability import softmax
from secateur.tasks.task import Encoded
from secateur.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TokenClassificationPipeline"]

STRATEGIES = ("none", "simple", "first", "average", "max")


class Options(TypedDict, total=False):
    """What a call may say."""

    aggregation_strategy: str
    ignore_labels: Sequence[str]
    stride: int | None


class _Token(TypedDict):
    """A token of the text, or a word of several."""

    word: str
    scores: NDArray[np.float32]  # [L] probabilities
    start: int
    end: int
    index: int
    is_subword: bool


class TokenClassificationPipeline(Pipeline[TokenClassification]):
    """Tags texts: names of persons and places, parts of speech. Safe to call from many threads at a time."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "aggregation_strategy": "none",
        "ignore_labels": ("O",),
        "stride": None,
    }

    # A str is a Sequence[str]: mypy takes the first that fits, which is the one meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, **options: Unpack[Options]
    ) -> list[dict[str, Any]]: ...

    @overload
    def __call__(self, texts: Sequence[str], **options: Unpack[Options]) -> list[list[dict[str, Any]]]: ...

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Tags the tokens of texts.

        Args:
            texts: A text or several.
            **options: `aggregation_strategy`: "none" gives tokens. "simple" joins neighbours of one entity,
                token by token. "first", "average" and "max" give each word one tag before that: its first
                token's, that of the largest mean probability, or its surest token's.
                `ignore_labels`: tags and entities that are left out, ["O"] where nothing is said.
                `stride`: reads a text that is too long in windows that share so many tokens, instead of
                cutting it; not with "none".

        Returns:
            For each text a list of `{"entity", "score", "index", "word", "start", "end"}`, or, joined, of
            `{"entity_group", "score", "word", "start", "end"}`; `text[start:end]` is what stands there. For
            one text its list alone.

        Raises:
            DataError: A text is empty or not a string, or an option has an impossible value.
        """
        chosen = self._with(options)
        given = [texts] if isinstance(texts, str) else list(texts)
        for place, text in enumerate(given):
            checked_text(text, f"Text {place}")
        made = windows_of(self.tokenizer, given, self.engine.max_length, chosen["stride"])
        if made.cut:
            self._say_cut(made.cut, len(given), self.engine.max_length, "texts")
        found: list[list[dict[str, Any]]] = [[] for _ in given]
        outputs = self._outputs(made.encoded(), _as_is)
        for row, window, logits in zip(made.rows, made.windows, outputs, strict=True):
            found[row] += self._entities(given[row], window, logits, chosen)
        several = np.bincount(made.rows, minlength=len(given)) > 1
        for row in np.flatnonzero(several):
            found[row] = _longest_of_overlapping(found[row])
        return found[0] if isinstance(texts, str) else found

    def _check(self, options: Mapping[str, Any]) -> None:
        strategy, stride, ignored = (
            options[name] for name in ("aggregation_strategy", "stride", "ignore_labels")
        )
        if strategy not in STRATEGIES:
            raise DataError(
                f"aggregation_strategy must be one of {', '.join(STRATEGIES)}, but is {strategy!r}."
            )
        if isinstance(ignored, str) or not all(isinstance(label, str) for label in ignored):
            raise DataError(f"ignore_labels must be a list of labels, but is {ignored!r}.")
        if stride is None:
            return
        most = self.engine.max_length - self.tokenizer.num_special_tokens_to_add(False) - 1
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride <= most:
            raise DataError(f"stride must be None or an integer from 0 to {most}, but is {stride!r}.")
        if strategy == "none":
            raise DataError("stride reads a text in windows: give an aggregation_strategy, too.")

    def _entities(
        self, text: str, window: Window, logits: NDArray[np.float32], options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        strategy = options["aggregation_strategy"]
        tokens = _tokens(self.tokenizer, self.unknown_id, text, window, softmax(logits))
        if strategy in ("none", "simple"):
            tagged = [self._tagged(token, token["scores"]) for token in tokens]
        else:
            tagged = [self._word(group, strategy) for group in _words(tokens)]
        if strategy != "none":
            tagged = [self._group(group) for group in _groups(tagged)]
        name = "entity" if strategy == "none" else "entity_group"
        return [entity for entity in tagged if entity[name] not in options["ignore_labels"]]

    def _tagged(self, token: _Token, scores: NDArray[np.float32]) -> dict[str, Any]:
        best = int(scores.argmax())
        return {
            "entity": self.labels[best],
            "score": float(scores[best]),
            "index": token["index"],
            "word": token["word"],
            "start": token["start"],
            "end": token["end"],
        }

    def _word(self, tokens: Sequence[_Token], strategy: str) -> dict[str, Any]:
        if strategy == "first":
            scores = tokens[0]["scores"]
        elif strategy == "max":
            scores = max(tokens, key=lambda token: float(token["scores"].max()))["scores"]
        else:
            scores = np.mean([token["scores"] for token in tokens], axis=0)
        word = _joined(self.tokenizer, [token["word"] for token in tokens])
        return self._tagged({**tokens[0], "word": word, "end": tokens[-1]["end"]}, scores)

    def _group(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([entity["score"] for entity in entities])),
            "word": _joined(self.tokenizer, [entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def _as_is(_: Encoded, __: int, output: NDArray[np.float32]) -> NDArray[np.float32]:
    return output


def _tokens(
    tokenizer: Tokenizer,
    unknown_id: int | None,
    text: str,
    window: Window,
    probabilities: NDArray[np.float32],
) -> list[_Token]:
    """Returns the tokens of a window that are not special, with whether each goes on with a word."""
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    found: list[_Token] = []
    for index, (token, sequence, (start, end)) in enumerate(
        zip(window.input_ids, window.sequences, window.offsets, strict=True)
    ):
        if sequence is None:
            continue
        word = str(tokenizer.id_to_token(token))
        if prefix:
            is_subword = len(word) != end - start
        else:  # as transformers does: there is no better sign that holds for every tokenizer
            is_subword = start > 0 and " " not in text[start - 1 : start + 1]
        if token == unknown_id:
            word, is_subword = text[start:end], False
        found.append(
            {
                "word": word,
                "scores": probabilities[index],
                "start": start,
                "end": end,
                "index": index,
                "is_subword": is_subword,
            }
        )
    return found


def _words(tokens: Sequence[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token["is_subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _groups(entities: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Joins neighbours of one entity; a tag that begins one, as B-PER, begins a new group."""
    groups: list[list[dict[str, Any]]] = []
    for entity in entities:
        begins, tag = _split(entity["entity"])
        if groups and not begins and tag == _split(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _split(tag: str) -> tuple[bool, str]:
    return (tag.startswith("B-"), tag[2:] if tag.startswith(("B-", "I-")) else tag)


def _joined(tokenizer: Tokenizer, tokens: list[str]) -> str:
    if tokenizer.decoder is None:
        return " ".join(tokens)
    return str(tokenizer.decoder.decode(tokens))


def _longest_of_overlapping(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keeps of entities that overlap, as windows see them twice, the longest, and of these the surest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _size(entity) > _size(kept[-1]):
            kept[-1] = entity
    return kept


def _size(entity: Mapping[str, Any]) -> tuple[int, float]:
    return (entity["end"] - entity["start"], entity["score"])
