"""What a task is to the rest of Secateur: its rows, their token ids, answers and scores. Numpy only.

PyTorch and the engine share one way: a task encodes rows, either of them gives an array of outputs for each
feature, and the task turns these into answers and scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IGNORED", "Encoded", "Head", "Outputs", "Task"]

# What a model gives for a feature of S tokens:
#   sequence   [L]     one row of logits (class, classes, value)
#   token      [S, L]  logits of every token (tags; start and end of an answer)
#   masked     [m, V]  logits over the vocabulary at the m positions in `Encoded.positions`
#   embedding  [H]     one vector
Head = Literal["sequence", "token", "masked", "embedding"]

Outputs = Sequence[NDArray[np.float32]]

IGNORED = -100  # the target of a token that is not asked for; PyTorch's cross entropy leaves it out


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids. A row may become several features, as windows of a long context do.

    Attributes:
        input_ids: [F] token ids of each feature, special tokens included, no padding.
        token_type_ids: [F] as long as `input_ids`; None where all of them are 0.
        rows: [F] the number of the row that a feature comes from, ascending.
        positions: [F] which tokens the head is asked for, ascending; None asks for what it always gives.
        details: [F] what else the task needs to turn outputs into answers, known to the task only.
        cut: How many rows lost text because they were too long.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    rows: list[int]
    positions: list[list[int]] | None = None
    details: list[Any] = field(default_factory=list)
    cut: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


class Task(ABC):
    """A task with what it learnt from its data, as its labels.

    Attributes:
        name: What users call it, as in `--task`.
        head: What its models give.
        auto_class: The class of transformers that loads its models.
        columns: Each role that a row has, and the names under which it is looked for, best first.
        optional: Roles that may be absent.
        main_metric: The entry of `score` by which models are chosen and compared; more is better.
        labels: Names of the outputs in the order of the logits; empty where they have none.
        kinds: Ways in which rows may be meant, where there are several; the first is the usual one.
        kind: One of `kinds`; empty where there are none.
    """

    name: ClassVar[str]
    head: ClassVar[Head]
    auto_class: ClassVar[str]
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    optional: ClassVar[frozenset[str]] = frozenset()
    kinds: ClassVar[tuple[str, ...]] = ()

    main_metric: str
    labels: list[str]
    kind: str = ""

    # --- where a task comes from -----------------------------------

    @classmethod
    def class_suffix(cls) -> str:
        """Returns how the names of its models' classes end, as `ForMaskedLM`; `Model` without a head."""
        return cls.auto_class.removeprefix("AutoModel") or "Model"

    @classmethod
    @abstractmethod
    def from_rows(
        cls, rows: Sequence[Any], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Learns what there is to learn, as labels and kind, from training rows.

        Args:
            rows: What `parse` made of training data.
            kind: One of `kinds`; None finds out.
            names: Labels in their order, where a manifest or a data set on the hub names them; integers in
                rows count places in it.

        Raises:
            DataError: Nothing can be learnt from these rows.
        """

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes what there is to know from a model's config.json.

        Raises:
            UnsupportedError: The config describes something that this task cannot do.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Returns the entries that a fine-tuned model's config gets: `id2label`, `problem_type` and so on."""

    # --- rows ------------------------------------------------------

    @classmethod
    def guess(cls, present: Sequence[str], named: Mapping[str, str] | None = None) -> dict[str, str]:
        """Finds the column of each role by its usual names, whatever their case.

        Args:
            present: The columns of a file.
            named: Role to column where the user says it; these columns serve no other role.

        Returns:
            Role to column, for the roles that were named or found.
        """
        found = dict(named or {})
        lowered = {name.lower(): name for name in reversed(present) if name not in found.values()}
        for role, usual in cls.columns.items():
            name = next((lowered[name] for name in usual if name in lowered), None)
            if role not in found and name is not None:
                found[role] = name
        return found

    @classmethod
    @abstractmethod
    def parse(cls, record: Mapping[str, Any]) -> Any:
        """Makes a row of what a file gives, by role.

        Args:
            record: Role to value; optional roles may be absent.

        Returns:
            A named tuple, hashable.

        Raises:
            DataError: A value is missing, empty or of a wrong type. The message is a clause that begins with
                the role in quotes; the reader puts file, line and column name in front.
        """

    def adapt(self, row: Any) -> Any:
        """Brings a row that `parse` made into the form of the task's kind, as "a|b" to ("a", "b").

        Raises:
            DataError: The row is not of this kind; a clause like that of `parse`.
        """
        return row

    @classmethod
    @abstractmethod
    def key(cls, row: Any) -> str:
        """Returns the text by which repeats and contradictions are found."""

    @classmethod
    def group(cls, row: Any) -> str:
        """Returns the text by which rows are split and leaks between splits are found; by default the key.

        Rows with the same text never part where a split is set apart.
        """
        return cls.key(row)

    @classmethod
    def truth(cls, row: Any) -> Hashable:
        """Returns what a row says is right, None where it says nothing.

        A string is a class: where a split is set apart, every class gives its share.
        """
        return None

    # --- rows to token ids -----------------------------------------

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, rows: Sequence[Any], max_length: int) -> Encoded:
        """Tokenizes rows, labelled or not.

        Args:
            tokenizer: Its own settings for padding and truncation are not used, and are left as they were.
            rows: What `parse` or a pipeline made.
            max_length: Most tokens of a feature.

        Raises:
            DataError: A text cannot be tokenized.
        """

    @abstractmethod
    def targets(self, rows: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns what the model shall learn of each feature, under the names of the model's arguments.

        Returns:
            [F] as `{"labels": 3}`, `{"labels": [-100, 2, 0, -100]}` or
            `{"start_positions": 5, "end_positions": 7}`; integers, floats and lists of them.

        Raises:
            DataError: A row has a label that the task does not know, or none.
        """

    # --- outputs to answers and scores -----------------------------

    def reduce(self, encoded: Encoded, index: int, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """Makes an output small right after the model gave it, where many of them would fill the memory.

        `answers` and `score` take reduced outputs.

        Args:
            encoded: The features.
            index: The feature.
            output: Its output, as the head gives it.
        """
        return output

    @abstractmethod
    def answers(self, rows: Sequence[Any], encoded: Encoded, outputs: Outputs, **options: Any) -> list[Any]:
        """Turns outputs into what a user of the model wants.

        Args:
            rows: The rows that were encoded.
            encoded: Their features.
            outputs: [F] reduced outputs, in the order of the features.
            **options: The task's own, as `top_k`.

        Returns:
            One answer a row: dictionaries with plain Python values.
        """

    @abstractmethod
    def score(self, rows: Sequence[Any], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores outputs against what the rows say.

        Returns:
            Figures by name, fractions rather than percent, `main_metric` and `n` among them.

        Raises:
            DataError: There is nothing to score.
        """

    # --- for people ------------------------------------------------

    @abstractmethod
    def describe(self, rows: Sequence[Any]) -> list[str]:
        """Returns a few lines on rows, as their number of labels and the balance between them."""

    def unknown(self, rows: Iterable[Any]) -> list[str]:
        """Returns the labels of rows that the task does not know, sorted; none by default."""
        return []
