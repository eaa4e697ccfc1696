"""The plots of a sweep: latency over length and sparsity, throughput over batch, the roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.bench.plots import COLOURS, Line, line_figure, log_axis, require_plotly, style
from secateur.bench.sweep import AXES

__all__ = ["sweep_figures"]

_NAMES = {
    "seq_len": ("length", "{} tokens"),
    "batch_size": ("batch", "batch {}"),
    "sparsity": ("zeros", "{:.0%} zeros"),
    "threads": ("threads", "{} threads"),
    "layers": ("layers", "{} layers"),
}


def sweep_figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Draws what a sweep measured: latency over length and sparsity, throughput over batch, the roofline.

    Args:
        results: What `Sweep.results` gives.

    Returns:
        Name to figure; those for which two points or more were measured.
    """
    about = results["about"]
    where = f"{about['cpu']}, {about['isa']}"
    figures = {}
    for name, axis, title, y_title in (
        ("latency_length", "seq_len", "Latency over length", "median latency of a call, ms"),
        ("latency_sparsity", "sparsity", "Latency over sparsity", "median latency of a call, ms"),
        ("throughput_batch", "batch_size", "Throughput over batch", "texts a second"),
    ):
        groups = _groups(results, axis)
        if not groups:
            continue
        shared, lines = _lines(groups, axis, "throughput" if name == "throughput_batch" else "latency_ms")
        ticks = sorted({x for line in lines for x in line.x})
        figures[name] = line_figure(
            title,
            f"{about['model']}, {shared}; {where}",
            lines,
            x_title={
                "seq_len": "tokens in the text",
                "sparsity": "zeros in the encoder's matrices",
                "batch_size": "texts in a call",
            }[axis],
            y_title=y_title,
            x_ticks=ticks,
            percent=axis == "sparsity",
            log_x=axis != "sparsity",
            log_y=axis == "seq_len",
        )
    roofline = _roofline(results, f"{about['model']}, one thread; {where}")
    if roofline is not None:
        figures["roofline"] = roofline
    return figures


def _groups(results: Mapping[str, Any], axis: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Rows that differ in `axis` alone, by what they share; threads and layers may differ from the base."""
    base = results["base"]
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in results["points"]:
        others = [name for name in AXES if name not in (axis, "threads", "layers")]
        if row[axis] is None or any(row[name] != base[name] for name in others):
            continue
        key = tuple(row[name] for name in AXES if name != axis)
        found.setdefault(key, []).append(row)
    return {key: sorted(rows, key=lambda row: row[axis]) for key, rows in found.items() if len(rows) > 1}


def _lines(
    groups: Mapping[tuple[Any, ...], Sequence[Mapping[str, Any]]], axis: str, value: str
) -> tuple[str, list[Line]]:
    """Makes a line of each group; returns what all have in common as words, too."""
    names = [name for name in AXES if name != axis]
    differing = [name for i, name in enumerate(names) if len({key[i] for key in groups}) > 1]
    first = next(iter(groups))
    shared = [_say(name, first[i]) for i, name in enumerate(names) if name not in differing]
    lines = []
    for key, rows in groups.items():
        own = [_say(name, key[i]) for i, name in enumerate(names) if name in differing]
        x = [row[axis] for row in rows]
        title = ", ".join(filter(None, own)) or "Secateur"
        if value == "throughput":
            lines.append(Line(title, x, [row["throughput"] for row in rows]))
        else:
            times = [row["latency_ms"] for row in rows]
            low, high = ([time[end] for time in times] for end in ("low", "high"))
            lines.append(Line(title, x, [time["median"] for time in times], low=low, high=high))
    return ", ".join(filter(None, shared)), lines


def _say(name: str, value: Any) -> str:
    if value is None:
        return ""
    said = _NAMES[name][1].format(value)
    return said.removesuffix("s") if value == 1 and name in ("threads", "layers") else said


def _roofline(results: Mapping[str, Any], subtitle: str) -> Any:
    """Draws the points of one thread under what one thread can do; None where there are none."""
    rows = [row for row in results["points"] if row["threads"] == 1 and row["work"]]
    roof = results["roof"]
    if not rows or not roof:
        return None
    base = results["base"]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        changed = [name for name in AXES if name != "threads" and row[name] != base[name]]
        kind = _NAMES[changed[0]][0] if len(changed) == 1 else "base case" if not changed else "several"
        kinds.setdefault(kind, []).append(row)

    require_plotly()
    import plotly.graph_objects as go

    figure = go.Figure()
    numbers = "f32" if results["about"]["quantized"] is False else "int8"
    peak, bandwidth = roof[f"{numbers}_gmacs"], roof["memory_gbs"]
    ridge = peak / bandwidth
    left = min([ridge / 2, *map(_intensity, rows)]) / 1.5
    right = max([ridge * 2, *map(_intensity, rows)]) * 1.5
    figure.add_trace(
        go.Scatter(
            x=[left, ridge, right],
            y=[left * bandwidth, peak, peak],
            mode="lines",
            name="roof, measured",
            line={"color": "#222", "width": 2},
        )
    )
    for x, text in (
        (ridge, f"{peak:.0f} GMAC/s {numbers} on registers"),
        (left, f"{bandwidth:.0f} GB/s from memory"),
    ):
        y = min(peak, x * bandwidth)
        figure.add_annotation(
            x=math.log10(x),
            y=math.log10(y),
            text=text,
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            xshift=12 if x == left else 0,
            yshift=2 if x == ridge else -14,
        )
    marks = _marks(kinds)
    for index, (kind, members) in enumerate(kinds.items()):
        figure.add_trace(
            go.Scatter(
                x=[_intensity(row) for row in members],
                y=[_speed(row) for row in members],
                mode="markers+text",
                name=kind if kind in ("base case", "several") else f"other {kind}",
                text=[marks.get(id(row), "") for row in members],
                hovertext=[", ".join(_say(name, row[name]) for name in AXES) for row in members],
                textposition="middle left" if kind == "zeros" else "top center",
                textfont={"size": 11, "color": COLOURS[index % len(COLOURS)]},
                marker={"size": 9, "color": COLOURS[index % len(COLOURS)]},
            )
        )
    style(figure, "Roofline", subtitle)
    figure.update_xaxes(log_axis([left, right]), title="executed MAC a byte of weights read")
    figure.update_yaxes(log_axis([*map(_speed, rows), peak]), title="executed GMAC/s")
    return figure


def _intensity(row: Mapping[str, Any]) -> float:
    """Multiplications for each byte of weights."""
    return float(row["work"]["gmac"] * 1e3 / row["work"]["weight_mb"])


def _speed(row: Mapping[str, Any]) -> float:
    """GMAC/s."""
    return float(row["work"]["gmac"] / row["latency_ms"]["median"] * 1e3)


def _marks(kinds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[int, str]:
    """What stands beside the points; of points that nearly meet only the first has its mark."""
    marks: dict[int, str] = {}
    placed: list[tuple[float, float]] = []
    for kind, rows in kinds.items():
        axis = next((name for name in AXES if _NAMES[name][0] == kind), None)
        for row in rows:
            x, y = math.log10(_intensity(row)), math.log10(_speed(row))
            near = any(abs(x - left) < 0.09 and abs(y - below) < 0.05 for left, below in placed)
            if axis is not None and not near:
                placed.append((x, y))
                marks[id(row)] = f"{row[axis]:.0%}" if axis == "sparsity" else f"{row[axis]}"
    return marks
