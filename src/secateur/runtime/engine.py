"""Token ids in, logits out, on the C++ engine."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint import Checkpoint, read_checkpoint
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.runtime.batch import Ids, ragged_batch
from secateur.runtime.lowering import lower
from secateur.runtime.threads import usable_threads

__all__ = ["Engine"]


class Engine:
    """A compressed model, ready to run. Safe to call from many threads at a time.

    Results do not depend on what else is in a batch, nor on the number of threads.

    Attributes:
        folder: Where the checkpoint lies.
        config: Its config.json.
        labels: The classes, in the order of the logits.
        max_length: Most tokens a sequence may have.
        vocab_size: Token ids must be smaller.
    """

    def __init__(
        self, checkpoint: Checkpoint, num_threads: int | None = None, isa: str | None = None
    ) -> None:
        """Builds the plan; see `from_pretrained` for the arguments."""
        if num_threads is None:
            num_threads, _ = usable_threads()
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= 1024:
            raise DataError(f"num_threads must be an integer from 1 to 1024, but is {num_threads!r}.")
        native = _native_module()
        try:
            chosen = native.resolve_isa(isa or "")
        except ValueError as error:
            raise UnsupportedError(f"{str(error).rstrip('.')}.") from None
        try:
            self._plan = native.Plan(lower(checkpoint), chosen, num_threads)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.folder} cannot be run: {str(error).rstrip('.')}.") from None
        checkpoint.release_pages_()  # all was read to check and to pack it; running touches little of it
        shape = checkpoint.shape
        self.folder = checkpoint.folder
        self.config = checkpoint.config
        self.labels = checkpoint.labels
        self.max_length = shape.max_positions
        self.vocab_size = shape.vocab_size
        self._num_token_types = shape.num_token_types

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], num_threads: int | None = None, isa: str | None = None
    ) -> Engine:
        """Loads a checkpoint.

        Args:
            folder: A folder that `secateur compress` wrote.
            num_threads: Threads that a call may use; None takes all CPUs that this process may use.
            isa: The instruction set to use, for example "avx2"; None takes the environment variable
                SECATEUR_ISA, else the best one of this CPU.

        Raises:
            CheckpointError: If the folder is no sound checkpoint.
            UnsupportedError: If this version, build or CPU cannot run what is asked for.
        """
        return cls(read_checkpoint(folder), num_threads, isa)

    def __call__(
        self, input_ids: Ids, token_type_ids: Ids | None = None, attention_mask: Ids | None = None
    ) -> NDArray[np.float32]:
        """Runs a batch.

        Args:
            input_ids: [B, S] integers, or B sequences of any lengths; these cost no padding.
            token_type_ids: Shaped like `input_ids`; None means 0 everywhere.
            attention_mask: Shaped like `input_ids`: 1 for tokens and then 0 for padding, which is dropped.

        Returns:
            [B, num_labels] float32 logits.

        Raises:
            DataError: If ids are out of range, a sequence is empty or too long, or the shapes differ.
        """
        batch = ragged_batch(
            input_ids,
            token_type_ids,
            attention_mask,
            vocab_size=self.vocab_size,
            num_token_types=self._num_token_types,
            max_length=self.max_length,
        )
        if len(batch.offsets) == 1:
            return np.zeros((0, len(self.labels)), np.float32)
        logits: NDArray[np.float32] = self._plan.run(*batch)
        return logits

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


def _native_module() -> Any:
    try:
        return import_module("secateur._engine")
    except ImportError as error:
        raise UnsupportedError(
            f"The engine of {Path(__file__).parents[1]} cannot be loaded ({error}): install Secateur with "
            f"`pip install secateur`, or in a clone run `make build`, which needs a C++20 compiler."
        ) from None
