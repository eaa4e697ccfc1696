"""A text with a masked word in; the words that fit out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from secateur.errors import CheckpointError, DataError
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, counting_number
from secateur.runtime.pipelines.special_tokens import special_token_id
from secateur.runtime.pipelines.windows import windows_of
from secateur.tasks.fill_mask import FillMask
from secateur.tasks.probability import softmax
from secateur.tasks.task import Encoded

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FillMaskPipeline"]


class Options(TypedDict, total=False):
    """What a call may say."""

    top_k: int
    targets: str | Sequence[str] | None


class FillMaskPipeline(Pipeline[FillMask]):
    """Guesses the masked word of texts. Safe to call from many threads at a time.

    Attributes:
        mask_token: What stands for the word, as "[MASK]".
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {"top_k": 5, "targets": None}

    def __init__(self, engine: Engine, task: FillMask, **options: Any) -> None:
        """Finds the mask token; see `Pipeline`."""
        super().__init__(engine, task, **options)
        mask = special_token_id(engine.folder, self.tokenizer, "mask")
        if mask is None:
            raise CheckpointError(
                f"The tokenizer of {engine.folder} has no mask token: copy its tokenizer_config.json, too."
            )
        self._mask_id = mask
        self.mask_token = str(self.tokenizer.id_to_token(mask))

    # A str is a Sequence[str]: mypy takes the first that fits, which is the one meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, **options: Unpack[Options]
    ) -> list[dict[str, Any]]: ...

    @overload
    def __call__(self, texts: Sequence[str], **options: Unpack[Options]) -> list[list[dict[str, Any]]]: ...

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Guesses.

        Args:
            texts: A text or several, with `mask_token` once in each.
            **options: `top_k`: how many words a text, likeliest first; 5 where nobody says.
                `targets`: a word or several to which the answers are limited; each must be one token.

        Returns:
            For each text a list of `{"score", "token", "token_str", "sequence"}`: the probability among the
            whole vocabulary, the word's token id, the word, and the text with it. For one text its list alone.

        Raises:
            DataError: A text is empty, not a string or has not exactly one mask, a target is not one token, or
                an option has an impossible value.
        """
        chosen = self._with(options)
        given = [texts] if isinstance(texts, str) else list(texts)
        for place, text in enumerate(given):
            checked_text(text, f"Text {place}")
        made = windows_of(self.tokenizer, given, self.engine.max_length)
        if made.cut:
            self._say_cut(made.cut, len(given), self.engine.max_length, "texts")
        ids = [window.input_ids for window in made.windows]
        positions = [[self._mask_of(row, tokens)] for row, tokens in enumerate(ids)]
        targets = self._target_ids(chosen["targets"])

        def likeliest(_: Encoded, __: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            return _likeliest(logits[0], chosen["top_k"], targets)

        outputs = self._outputs(made.encoded(positions), likeliest)
        found = [
            [self._filled(tokens, place, int(token), float(score)) for token, score in best]
            for tokens, (place,), best in zip(ids, positions, outputs, strict=True)
        ]
        return found[0] if isinstance(texts, str) else found


    def _check(self, options: Mapping[str, Any]) -> None:
        counting_number("top_k", options["top_k"])
        self._target_ids(options["targets"])

    def _mask_of(self, row: int, tokens: Sequence[int]) -> int:
        count = tokens.count(self._mask_id)
        if count != 1:
            seen = f"{count} of them" if count else "none"
            raise DataError(
                f"Text {row} must have {self.mask_token} once within the {self.engine.max_length} tokens that "
                f"the model takes, but has {seen}."
            )
        return tokens.index(self._mask_id)

    def _target_ids(self, targets: str | Sequence[str] | None) -> NDArray[np.int64] | None:
        """Returns the token of each target, or None where all words may be answers."""
        if targets is None:
            return None
        given = [targets] if isinstance(targets, str) else list(targets)
        if not given:
            raise DataError("targets is empty: give a word or several, or None for all words.")
        return np.array(list(dict.fromkeys(self._target_id(target) for target in given)), np.int64)

    def _target_id(self, target: object) -> int:
        text = checked_text(target, "A target")
        known = self.tokenizer.token_to_id(text)
        if known is not None:
            return int(known)
        pieces = self.tokenizer.encode(text, add_special_tokens=False)
        if len(pieces) == 1 and pieces.ids[0] != self.unknown_id:
            return int(pieces.ids[0])
        split = "" if len(pieces) < 2 else f" (it is {len(pieces)} pieces: {' '.join(pieces.tokens[:8])})"
        raise DataError(f"The target {text!r} is not one word of the model's vocabulary{split}.")

    def _filled(self, tokens: Sequence[int], place: int, token: int, score: float) -> dict[str, Any]:
        return {
            "score": score,
            "token": token,
            "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
            "sequence": self.tokenizer.decode([*tokens[:place], token, *tokens[place + 1 :]]),
        }


def _likeliest(
    logits: NDArray[np.float32], top_k: int, targets: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Returns [k, 2]: token and probability, likeliest first; equal ones in the order of the vocabulary."""
    probabilities = softmax(logits)
    tokens = np.arange(len(probabilities)) if targets is None else np.sort(targets)
    scores = probabilities[tokens]
    if top_k < len(tokens):
        least = np.partition(scores, -top_k)[-top_k]
        tokens, scores = tokens[scores >= least], scores[scores >= least]
    order = np.argsort(-scores, kind="stable")[:top_k]
    return np.stack([tokens[order], scores[order]], axis=1).astype(np.float32)
