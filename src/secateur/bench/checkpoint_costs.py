"""What a checkpoint costs to store and to run: sizes of its parts, latency of one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from secateur.bench.inputs import case_input_ids
from secateur.bench.measure import interleave, take_turn
from secateur.bench.worker import Case
from secateur.checkpoint import read_checkpoint
from secateur.checkpoint.layout import part_of
from secateur.runtime.engine import Engine

__all__ = ["latencies", "part_sizes"]

LENGTHS = (32, 128)
_ROUNDS = 15
_SECONDS = 0.05


def part_sizes(folder: Path) -> dict[str, float]:
    """Returns the size of a checkpoint's `embeddings`, `encoder` and `head`, and of the `file`, in MB."""
    checkpoint = read_checkpoint(folder)
    sizes = {"embeddings": 0, "encoder": 0, "head": 0}
    for name, tensor in checkpoint.tensors.items():
        sizes[part_of(name, checkpoint.shape)] += tensor.nbytes
    sizes["file"] = (folder / "model.safetensors").stat().st_size
    return {part: round(size / 1e6, 3) for part, size in sizes.items()}


def latencies(
    folders: Mapping[str, Path], lengths: Sequence[int] = LENGTHS, rounds: int = _ROUNDS
) -> dict[str, dict[str, float | None]]:
    """Times one text in the engine on one thread; the checkpoints take turns.

    Args:
        folders: Name to checkpoint.
        lengths: Tokens of the text.
        rounds: Turns of each checkpoint.

    Returns:
        Name to length to the median in milliseconds; None where the model takes no text of that length.
    """
    engines = {name: Engine.from_pretrained(folder, num_threads=1) for name, folder in folders.items()}
    found: dict[str, dict[str, float | None]] = {name: {} for name in folders}
    for length in lengths:
        calls: dict[str, Callable[[], object]] = {
            name: partial(engine, case_input_ids(Case(length), engine.vocab_size))
            for name, engine in engines.items()
            if length <= engine.max_length
        }
        turns = {name: partial(take_turn, call, seconds=_SECONDS) for name, call in calls.items()}
        timed = interleave(turns, rounds=rounds) if turns else {}
        for name in folders:
            found[name][str(length)] = round(timed[name].median, 4) if name in timed else None
    return found
