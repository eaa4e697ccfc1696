"""A model of the engine on more threads than this machine has: what it predicts is modelled, not measured.

A call is a list of steps with a barrier after each. A step's work comes in equal units; the thread that gets
most of them sets the pace. No step is faster than its weights can be read. What the model leaves out: that
threads slow each other down (shared caches, clock frequency, several sockets) and that a cache line travels
further on a larger chip; its error at the largest measured number of threads is reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

__all__ = ["Machine", "Step", "barrier_ms", "call_ms", "step_costs", "step_ms", "units"]

# kTile, kRowBlock of engine/kernels/layout.h and kGroupTokens of engine/plan/plan.cc.
TILE, ROW_BLOCK, GROUP_TOKENS = 32, 64, 256


@dataclass(frozen=True)
class Step:
    """What the model knows of a step.

    Attributes:
        name: As `Engine.inspect` calls it.
        ms: Time on one thread, for a whole call.
        weight_mb: 10^6 bytes of weights that it reads.
        shared: What is given to threads: tiles of 32 tokens, heads of a tile, or sequences.
        parts: Blocks of rows (or heads) that each tile is divided into.
        first: Whether only the first token of each sequence is computed.
    """

    name: str
    ms: float
    weight_mb: float
    shared: Literal["tile", "head", "sequence"]
    parts: int = 1
    first: bool = False


@dataclass(frozen=True)
class Machine:
    """What sharing costs; measured on as many threads as there are.

    Attributes:
        barrier_ns: Of a barrier between two threads.
        call_ns: Of starting two threads that are awake.
        read_gbs: GB/s that one thread reads from memory.
        most_gbs: GB/s that all threads together read at most; None if it grows with the threads.
    """

    barrier_ns: float
    call_ns: float
    read_gbs: float
    most_gbs: float | None = None

    def bandwidth(self, threads: int) -> float:
        """GB/s of so many threads."""
        together = self.read_gbs * threads
        return together if self.most_gbs is None else min(together, self.most_gbs)


def units(step: Step, sequences: int, seq_len: int) -> int:
    """Counts the units of work of a step in one group.

    Args:
        step: The step.
        sequences: In the group.
        seq_len: Tokens in each.

    Returns:
        At least 1.
    """
    if step.shared == "sequence":
        return sequences
    if step.shared == "head":  # queries are cut at tiles, sequence by sequence
        return sequences * step.parts * (1 if step.first else -(-seq_len // TILE))
    tokens = sequences if step.first else sequences * seq_len
    return -(-tokens // TILE) * step.parts


def barrier_ms(machine: Machine, threads: int) -> float:
    """Time of a barrier: threads count themselves in one after another, so it grows as they do.

    Args:
        machine: What two threads need.
        threads: How many wait for each other.

    Returns:
        Milliseconds; 0 for one thread.
    """
    return 0.0 if threads == 1 else machine.barrier_ns * threads / 2 / 1e6


def step_ms(step: Step, machine: Machine, *, threads: int, sequences: int, of: int, seq_len: int) -> float:
    """Time of a step in one group, with the barrier behind it.

    Args:
        step: The step.
        machine: Where.
        threads: How many share it.
        sequences: In the group.
        of: Sequences in the whole call, which `step.ms` is the time of.
        seq_len: Tokens in each.

    Returns:
        Milliseconds.
    """
    alone = step.ms * sequences / of
    count = units(step, sequences, seq_len)
    shared = alone * -(-count // threads) / count
    reading = step.weight_mb / machine.bandwidth(threads) if threads > 1 else 0.0
    return max(shared, reading) + barrier_ms(machine, threads)


def call_ms(
    steps: Sequence[Step],
    machine: Machine,
    *,
    threads: int,
    batch_size: int,
    seq_len: int,
    alone_ms: float = 0.0,
) -> float:
    """Latency of a call.

    Args:
        steps: All of them.
        machine: Where.
        threads: How many.
        batch_size: Sequences in the call.
        seq_len: Tokens in each.
        alone_ms: Time outside the steps, which only the caller spends.

    Returns:
        Milliseconds.
    """
    most = max(1, GROUP_TOKENS * threads // seq_len)
    groups = [min(most, batch_size - first) for first in range(0, batch_size, most)]
    total = alone_ms
    for group in groups:
        total += 0.0 if threads == 1 else machine.call_ns * threads / 2 / 1e6
        for step in steps:
            total += step_ms(step, machine, threads=threads, sequences=group, of=batch_size, seq_len=seq_len)
    return total


def step_costs(
    profiled: Sequence[Sequence[Mapping[str, Any]]], *, batch_size: int, seq_len: int, num_heads: int
) -> list[Step]:
    """Makes the model's steps of profiles on one thread.

    Args:
        profiled: What `Engine.inspect` gave, once or more; times are the medians.
        batch_size: Sequences in the call, each longer than one token.
        seq_len: Tokens in each.
        num_heads: Attention heads of a layer.

    Returns:
        A step for each that ends at a barrier, in order.
    """
    by_step: dict[int, list[int]] = {}
    for index, row in enumerate(profiled[0]):
        by_step.setdefault(row["step"], []).append(index)
    steps = []
    for indices in by_step.values():
        rows = [profiled[0][index] for index in indices]
        kernel = str(rows[0]["kernel"])
        shared: Literal["tile", "head", "sequence"] = "tile"
        parts = 1
        if kernel.startswith(("spmm", "gemm", "dot")):
            parts = sum(-(-row["n"] // ROW_BLOCK) for row in rows)
        elif kernel.startswith("attention"):
            shared, parts = "head", num_heads
        elif kernel.startswith(("copy", "rows", "mean", "max")):
            shared = "sequence"
        steps.append(
            Step(
                name=str(rows[0]["name"]),
                ms=median(sum(once[index]["ms"] for index in indices) for once in profiled),
                weight_mb=sum(row["packed_bytes"] for row in rows) / 1e6,
                shared=shared,
                parts=parts,
                first=shared != "sequence" and rows[0]["tokens"] == batch_size and seq_len > 1,
            )
        )
    return steps
