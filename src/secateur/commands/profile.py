"""What `secateur benchmark --profile` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.bench.profile import explain
from secateur.commands.console import output, print_table

__all__ = ["print_profile"]

_COLUMNS = (
    *("step", "kernel", "tile", "density", "ms", "of the time"),
    *("GMAC/s effective", "executed", "of the peak"),
)


def print_profile(profiled: Mapping[str, Any], latency_ms: float) -> None:
    """Prints the steps, their sum, and where the time goes.

    Args:
        profiled: What `secateur.bench.profile.profile` returned.
        latency_ms: Median latency of a call without profiling.
    """
    rows = [
        (
            step["name"].rpartition(".encoder.")[2],
            step["kernel"],
            "{} x {}".format(*step["tile"]) if step["tile"] else "",
            _percent(step["density"]),
            *_figures(step),
        )
        for step in profiled["steps"]
    ]
    rows.append(("total", "", "", "", *_figures(profiled["total"])))
    print_table("Step by step; a tile is tokens x rows", _COLUMNS, rows, numbers=7)
    output().print(explain(profiled, latency_ms), markup=False, highlight=False)


def _figures(step: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{step['ms']:.4f}",
        _percent(step["time_share"]),
        _rate(step["gmacs_effective"]),
        _rate(step["gmacs_executed"]),
        _percent(step["peak_share"]),
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1f}"
