"""The axes of a roofline: what a call computes and reads, and the two roofs over it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.bench.profile import measure_peak

__all__ = ["call_work", "measure_roof", "memory_bandwidth", "weight_passes"]

# Tokens a thread that go through the layers together: kGroupTokens of engine/plan/plan.cc.
GROUP_TOKENS = 256
_BUFFER_BYTES = 128 << 20  # many times the last-level cache's share of a core
_READS = 5


def weight_passes(seq_len: int, batch_size: int, threads: int) -> int:
    """Counts how often a call reads the weights: a large batch goes through the layers in groups.

    Args:
        seq_len: Tokens in each sequence.
        batch_size: Sequences in the call.
        threads: Threads of the engine.

    Returns:
        The number of groups.
    """
    sequences = max(1, GROUP_TOKENS * threads // seq_len)
    return -(-batch_size // sequences)


def call_work(steps: Sequence[Mapping[str, Any]], passes: int) -> dict[str, float]:
    """Adds up the work of one call.

    Args:
        steps: What `Engine.inspect` gives after profiled calls of that shape.
        passes: How often a call reads the weights; see `weight_passes`.

    Returns:
        `gmac` (10^9 multiplications, those of stored weights and of attention) and `weight_mb` (10^6 bytes of
        packed weights read).
    """
    return {
        "gmac": round(sum(step["executed_macs"] for step in steps) / 1e9, 6),
        "weight_mb": round(sum(step["packed_bytes"] for step in steps) * passes / 1e6, 4),
    }


def memory_bandwidth() -> float:
    """Measures how fast one thread reads memory: the best of a few comparisons of two large buffers.

    Returns:
        GB/s (10^9 bytes).
    """
    first = bytes(_BUFFER_BYTES)
    second = bytearray(first)
    second[::4096] = first[::4096]  # pages of its own
    best = float("inf")
    for _ in range(_READS):
        start = time.perf_counter()
        equal = first == second
        best = min(best, time.perf_counter() - start)
        assert equal
    return 2 * _BUFFER_BYTES / best / 1e9


def measure_roof(isa: str) -> dict[str, float]:
    """Measures what limits one thread of this machine.

    Args:
        isa: Instruction set whose multiplications count.

    Returns:
        `int8_gmacs` and `f32_gmacs` (GMAC/s on registers), `memory_gbs` (GB/s read).
    """
    peaks = measure_peak(isa)
    return {
        "int8_gmacs": round(peaks["u8s8"], 2),
        "f32_gmacs": round(peaks["f32"], 2),
        "memory_gbs": round(memory_bandwidth(), 2),
    }
