"""Token ids in, outputs of the model's head out, on the C++ engine."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, UnsupportedError
from secateur.runtime.batch import Ids, flat_positions, ragged_batch
from secateur.runtime.loading import LoadedModel, load_model, native_module
from secateur.runtime.threads import usable_threads
from secateur.tasks.task import Head

__all__ = ["Engine"]


class Engine:
    """A compressed model, ready to run. Safe to call from many threads at a time.

    Results do not depend on what else is in a batch, nor on the number of threads.

    Attributes:
        folder: Where the checkpoint lies.
        config: Its config.json.
        labels: The classes, in the order of the logits; none where the outputs have no names.
        task_head: What the model gives: a row of logits a sequence ("sequence"), a token ("token") or a token
            over the vocabulary ("masked"), or a vector a sequence ("embedding").
        num_outputs: Values in a row of it.
        max_length: Most tokens a sequence may have, as far as the model goes.
        max_tokens: Most tokens that go through the layers at a time; None where no limit was given.
        vocab_size: Token ids must be smaller.
        num_token_types: Token types must be smaller; 0 where the model has none.
    """

    def __init__(
        self,
        model: LoadedModel,
        folder: str | os.PathLike[str],
        num_threads: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Starts threads for a model; see `from_pretrained`, which is what users call."""
        if num_threads is None:
            num_threads, _ = usable_threads()
        _check_count("num_threads", num_threads, 1024)
        if max_tokens is not None:
            _check_count("max_tokens", max_tokens, 2**31 - 1)
        try:
            self._plan = native_module().Plan(model.packed, num_threads, max_tokens)
        except RuntimeError as error:
            raise UnsupportedError(
                f"This engine cannot start: {error}; give a smaller num_threads."
            ) from None
        except MemoryError:
            raise UnsupportedError(
                "This engine cannot start: its memory is not there; lower max_tokens."
            ) from None
        self._model = model
        self.folder = Path(folder)
        self.config = deepcopy(dict(model.config))
        self.labels = list(model.labels)
        self.task_head: Head = model.shape.head.head
        self.num_outputs = int(self._plan.num_outputs)
        self.max_length = int(self._plan.max_sequence)
        self.max_tokens = max_tokens
        self.vocab_size = int(self._plan.vocab_size)
        self.num_token_types = int(self._plan.num_token_types)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        num_threads: int | None = None,
        isa: str | None = None,
        *,
        max_tokens: int | None = None,
    ) -> Engine:
        """Loads a checkpoint.

        Engines of one process share the packed weights of a checkpoint; a folder that was replaced or written
        to since is loaded anew, and engines that run keep what they have. Processes share them if they are
        forked after the load.

        Args:
            folder: A folder that `secateur compress` wrote.
            num_threads: Threads that a call may use; None takes all CPUs that this process may use.
            isa: The instruction set to use, for example "avx2"; None takes the environment variable
                SECATEUR_ISA, else the best one of this CPU.
            max_tokens: Most tokens that go through the layers at a time. Larger batches run in groups, with
                the same results; a longer sequence is an error. The memory for it is set aside at once, and
                calls need no more, apart from what they take and return. None sets nothing aside: groups
                have 256 tokens a thread, or one longer sequence.

        Raises:
            CheckpointError: If the folder is no sound checkpoint.
            UnsupportedError: If this version, build, machine or CPU cannot run what is asked for.
            DataError: If `num_threads` or `max_tokens` is out of range.
        """
        return cls(load_model(folder, isa), folder, num_threads, max_tokens)

    def __call__(
        self,
        input_ids: Ids,
        token_type_ids: Ids | None = None,
        attention_mask: Ids | None = None,
        *,
        positions: Ids | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Runs a batch.

        Args:
            input_ids: [B, S] integers, or B sequences of any lengths; these cost no padding.
            token_type_ids: Shaped like `input_ids`; None means 0 everywhere. Families without a table of
                token types, as DistilBERT, do not look at them.
            attention_mask: Shaped like `input_ids`: 1 for tokens and then 0 for padding, which is dropped.
            positions: For the heads "token" and "masked": which tokens of each sequence to give a row for, B
                ascending lists, some of which may be empty. None asks for all, which over a vocabulary is
                much work, and 4 bytes a word and token.

        Returns:
            For the heads "sequence" and "embedding" an array [B, num_outputs] float32. For "token" and
            "masked" a list of B arrays, [S_i, num_outputs] float32 without padding, or with `positions` one
            row for each.

        Raises:
            DataError: If ids or positions are out of range, a sequence is empty or too long, the shapes
                differ, or the head takes no positions.
            UnsupportedError: If the memory is not there, or in a forked child the threads.
        """
        shape = self._model.shape
        batch = ragged_batch(
            input_ids,
            token_type_ids if shape.num_token_types else None,
            attention_mask,
            vocab_size=self.vocab_size,
            num_token_types=self.num_token_types,
            max_length=self.max_length,
            max_tokens=self.max_tokens,
            padding_id=shape.padding_id,
        )
        every_token = bool(self._plan.every_token)
        bounds: NDArray[Any] = batch.offsets
        asked = None
        if positions is not None:
            if not every_token:
                raise DataError(
                    f"The {self.task_head} head of this model gives one row a sequence: leave positions out."
                )
            asked, bounds = flat_positions(positions, batch.offsets)
        if len(batch.offsets) == 1:
            return [] if every_token else np.zeros((0, self.num_outputs), np.float32)
        try:
            rows: NDArray[np.float32] = self._plan.run(*batch, asked)
        except RuntimeError as error:
            raise UnsupportedError(f"This engine cannot run here: {error}.") from None
        except MemoryError:
            raise UnsupportedError(
                "This batch needs more memory than there is: give fewer or shorter sequences, or positions "
                "where the head takes them."
            ) from None
        return np.split(rows, bounds[1:-1]) if every_token else rows

    def __repr__(self) -> str:
        return f"Engine({str(self.folder)!r}, num_threads={self.num_threads}, isa={self.isa!r})"

    @property
    def num_threads(self) -> int:
        """Threads that a call may use."""
        return int(self._plan.num_threads)

    @property
    def isa(self) -> str:
        """The instruction set of the kernels."""
        return str(self._plan.isa)

    def inspect(self) -> list[dict[str, Any]]:
        """Returns what runs: each step's name, kernel, sizes n and k, density, and mean ms if profiled."""
        return list(self._plan.steps())

    def profile(self, on: bool = True) -> None:
        """Starts to time the steps, from zero, or stops; `inspect` shows the times."""
        self._plan.profile(on)


def _check_count(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise DataError(f"{name} must be an integer from 1 to {most}, but is {value!r}.")
