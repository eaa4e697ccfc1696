"""A text with a masked word in; the words that fit out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, overload

from secateur.errors import DataError
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, counting_number, listed
from secateur.tasks.fill_mask import FillMask, Row, mask_token_id

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FillMaskPipeline"]

_ROWS = 256  # texts whose logits over the whole vocabulary are held at a time: 30 MB with BERT's


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
        self._mask_id = mask_token_id(self.tokenizer)
        self.mask_token = str(self.tokenizer.id_to_token(self._mask_id))

    @overload
    def __call__(self, texts: str, **options: Unpack[Options]) -> list[Any]: ...

    @overload
    def __call__(self, texts: Sequence[str], **options: Unpack[Options]) -> list[list[Any]]: ...

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Guesses.

        Args:
            texts: A text or several, each with `mask_token` in it.
            **options: `top_k`: how many words a mask, likeliest first; 5 where nobody says.
                `targets`: a word or several to which the answers are limited; each must be one token.

        Returns:
            For each text a list of `{"score", "token", "token_str", "sequence"}`: the probability among the
            whole vocabulary, the word's token id, the word, and the text with it. A text with several masks
            has such a list for each of them. For one text its list alone.

        Raises:
            DataError: A text is empty, not a string or has no mask, a target is not one token, or an option
                has an impossible value.
        """
        chosen = self._with(options)
        given = listed(texts)
        rows = [Row(checked_text(text, f"Text {place}")) for place, text in enumerate(given)]
        for place, row in enumerate(rows):
            if self.mask_token not in row.text:
                raise DataError(f"Text {place} has no {self.mask_token}: put it where a word is asked for.")
        targets = self._target_ids(chosen["targets"])
        found: list[Any] = []
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            encoded = self.encode_rows(part)
            outputs = self.outputs(encoded)
            masks = self.task.answers(part, encoded, outputs, top_k=chosen["top_k"], targets=targets)
            found += [one[0] if len(one) == 1 else one for one in masks]
        return found[0] if isinstance(texts, str) else found

    def _check(self, options: Mapping[str, Any]) -> None:
        counting_number("top_k", options["top_k"])
        self._target_ids(options["targets"])

    def _target_ids(self, targets: str | Sequence[str] | None) -> list[int] | None:
        """Returns the token of each target, or None where all words may be answers."""
        if targets is None:
            return None
        given = listed(targets)
        if not given:
            raise DataError("targets is empty: give a word or several, or None for all words.")
        return [self._target_id(target) for target in given]

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
