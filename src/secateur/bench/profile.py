"""Where a call's time goes: the engine's steps beside what the processor could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

__all__ = ["explain", "measure_peak", "profile"]

# First word of a kernel's name -> what it is called in the sentence that says where the time goes.
_KINDS = {
    "spmm": "products",
    "gemm": "products",
    "round": "products",
    "quantize": "dynamic inputs",
    "attention": "attention",
    "layer": "norms",
    "embedding": "embeddings",
    "rows": "head",
    "mean": "head",
    "max": "head",
    "dot": "head",
    "l2": "head",
}


def measure_peak(isa: str) -> dict[str, float]:
    """Measures how fast one thread multiplies on registers; takes some 50 ms.

    Args:
        isa: The instruction set, for example "avx2".

    Returns:
        Type of the numbers (`u8s8`, `f32`) to GMAC/s.
    """
    from secateur import _engine

    return dict(_engine.measure_peak(isa))


def profile(steps: Sequence[Mapping[str, Any]], peak: Mapping[str, float], threads: int) -> dict[str, Any]:
    """Sets the time of each step against its work and against the peak.

    Args:
        steps: What `Engine.inspect` gives after calls with profiling on.
        peak: What `measure_peak` gives, of one thread.
        threads: Threads of the engine; the peak counts so many times.

    Returns:
        `peak_gmacs` (of one thread), `threads`, `steps`, `total` (like a step, without name and kernel) and
        `shares` (kind of step to its part of the time, largest first). A step has `name`, `kernel`, `kind`,
        `tile` ([tokens, rows] or None), `n`, `k`, `density` (None where it multiplies no stored weights),
        `ms`, `time_share`, `gmacs_effective` (all multiplications of the dense matrices), `gmacs_executed`
        (those of weights that are stored), `peak_share` (None where it multiplies nothing) and `floor_ms`
        (what the executed multiplications take at the peak).
    """
    rows = [_row(list(parts), peak, threads) for _, parts in groupby(steps, key=lambda step: step["step"])]
    spent = sum(row["ms"] for row in rows)
    shares: dict[str, float] = {}
    for row in rows:
        row["time_share"] = row["ms"] / spent if spent else 0.0
        shares[row["kind"]] = shares.get(row["kind"], 0.0) + row["time_share"]
    floor = sum(row["floor_ms"] for row in rows)
    total = {
        "ms": spent,
        "time_share": sum(shares.values()),
        **_rates(sum(step["macs"] for step in steps), sum(step["executed_macs"] for step in steps), spent),
        "peak_share": floor / spent if spent else None,
        "floor_ms": floor,
    }
    return {
        "peak_gmacs": dict(peak),
        "threads": threads,
        "steps": rows,
        "total": total,
        "shares": dict(sorted(shares.items(), key=lambda share: -share[1])),
    }


def explain(profiled: Mapping[str, Any], latency_ms: float) -> str:
    """Says in a sentence or two where the time goes.

    Args:
        profiled: What `profile` returned.
        latency_ms: Median latency of a call without profiling.

    Returns:
        Plain text.
    """
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in profiled["shares"].items() if share >= 0.005)
    total = profiled["total"]
    reached = [
        f"{kind} at {_kind_share(profiled, kind):.0%}"
        for kind in profiled["shares"]
        if _kind_share(profiled, kind)
    ]
    peaks = ", ".join(f"{rate:.0f} GMAC/s {name}" for name, rate in profiled["peak_gmacs"].items())
    threads = profiled["threads"]
    times = f" times {threads} threads" if threads > 1 else ""
    return (
        f"Of {total['ms']:.3f} ms in steps (a call without profiling: {latency_ms:.3f}): {shares}. "
        f"Of the measured peak ({peaks}{times}) they run: {', '.join(reached)}; at the peak the stored "
        f"multiplications would take {total['floor_ms']:.3f} ms."
    )


def _kind_share(profiled: Mapping[str, Any], kind: str) -> float:
    rows = [row for row in profiled["steps"] if row["kind"] == kind]
    spent = sum(row["ms"] for row in rows)
    return sum(row["floor_ms"] for row in rows) / spent if spent else 0.0


def _row(parts: list[Mapping[str, Any]], peak: Mapping[str, float], threads: int) -> dict[str, Any]:
    """Joins the rows of products that were timed together."""
    first = parts[0]
    stored = [part["n"] * part["k"] * part["density"] for part in parts]
    dense = sum(part["n"] * part["k"] for part in parts)
    time = sum(part["ms"] for part in parts)
    executed = sum(part["executed_macs"] for part in parts)
    rates = _rates(sum(part["macs"] for part in parts), executed, time)
    floor = 0.0
    for part, weights in zip(parts, stored, strict=True):
        if part["type"]:
            share = weights / sum(stored) if sum(stored) else 1 / len(parts)
            floor += share * executed / (peak[part["type"]] * threads * 1e6)
    tokens, rows = first["tile"]
    kernels = list(dict.fromkeys(part["kernel"] for part in parts))
    return {
        "name": " + ".join([first["name"], *(part["name"].rpartition(".")[2] for part in parts[1:])]),
        "kernel": " + ".join(kernels),
        "kind": _KINDS.get(first["kernel"].partition("_")[0], "other"),
        "tile": [min(tokens, round(first["tokens"])), rows] if rows else None,
        "n": sum(part["n"] for part in parts),
        "k": first["k"],
        "density": sum(stored) / dense if dense else None,
        "ms": time,
        **rates,
        "peak_share": floor / time if floor and time else None,
        "floor_ms": floor,
    }


def _rates(macs: float, executed: float, milliseconds: float) -> dict[str, float | None]:
    """Turns multiplications and milliseconds into GMAC/s; None where there are none."""
    scale = 1e-6 / milliseconds if milliseconds else 0.0
    return {
        "gmacs_effective": macs * scale if macs else None,
        "gmacs_executed": executed * scale if macs else None,
    }
