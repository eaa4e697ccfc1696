"""Plots of measured figures: one self-contained HTML page, or PNG files.

Needs the extra `report` (Plotly). PNG files also need kaleido: `pip install "plotly<7" kaleido==0.2.1` works
without a browser; kaleido 1 and newer need Chrome.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secateur.bench.results import write_text
from secateur.errors import MissingExtraError

__all__ = [
    "COLOURS",
    "Line",
    "line_figure",
    "log_axis",
    "require_plotly",
    "style",
    "write_page",
    "write_png",
]

COLOURS = (
    "#0b6e4f",
    "#c8553d",
    "#2f5d9f",
    "#8c5e9c",
    "#b8860b",
    "#4a4a4a",
    "#1aa6a6",
    "#d96fa8",
    "#6b8e23",
    "#ff9f1c",
    "#7a3b2e",
    "#5b5bd6",
)
_SIZE = {"width": 900, "height": 540}
_LONG_NAME = 45  # characters in a legend


class Line:
    """One line of a figure.

    Args:
        name: In the legend.
        x: Positions.
        y: Values.
        low: Lower ends of the error bars, or None.
        high: Upper ends of the error bars, or None.
        modelled: Whether it was computed, not measured: dashed, with open markers.
        same_colour: Whether it goes on from the line before.
        plain: Whether it is there for comparison only: thin, grey, without markers.
        dotted: The same in a colour of its own, dotted.
    """

    def __init__(
        self,
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        *,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        modelled: bool = False,
        same_colour: bool = False,
        plain: bool = False,
        dotted: bool = False,
    ) -> None:
        self.name, self.x, self.y = name, list(x), list(y)
        self.low, self.high = low, high
        self.modelled, self.same_colour = modelled, same_colour
        self.plain, self.dotted = plain, dotted


def require_plotly() -> None:
    """Checks that Plotly is installed, without importing it.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("plotly") is None:
        raise MissingExtraError('Plots need Plotly: pip install "secateur[report]", or leave out --plots.')


def line_figure(
    title: str,
    subtitle: str,
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[float] | None = None,
    percent: bool = False,
    log_x: bool = False,
    log_y: bool = False,
) -> Any:
    """Draws lines with markers.

    Args:
        title: What is shown.
        subtitle: What is the same for all lines, and the machine.
        lines: At least one.
        x_title: With unit.
        y_title: With unit.
        x_ticks: Where the x axis has ticks; None leaves it to Plotly.
        percent: Whether x is a fraction that the ticks shall show in percent.
        log_x: Logarithmic x axis.
        log_y: Logarithmic y axis.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    require_plotly()
    import plotly.graph_objects as go

    figure = go.Figure()
    index = -1
    for line in lines:
        index += not (line.same_colour or line.plain)
        colour = "#999" if line.plain else COLOURS[index % len(COLOURS)]
        errors = None
        if line.low is not None and line.high is not None:
            errors = {
                "type": "data",
                "symmetric": False,
                "array": [high - y for high, y in zip(line.high, line.y, strict=True)],
                "arrayminus": [y - low for low, y in zip(line.low, line.y, strict=True)],
                "thickness": 1,
                "width": 3,
            }
        figure.add_trace(
            go.Scatter(
                x=line.x,
                y=line.y,
                name=line.name,
                mode="lines" if line.plain or line.dotted else "lines+markers",
                line={
                    "color": colour,
                    "width": 1 if line.plain else 2,
                    "dash": "dot" if line.dotted else "dash" if line.modelled else "solid",
                },
                marker={"size": 7, "symbol": "circle-open" if line.modelled else "circle"},
                error_y=errors,
            )
        )
    style(figure, title, subtitle)
    figure.update_layout(showlegend=len(lines) > 1)
    if max(len(line.name) for line in lines) > _LONG_NAME:  # beside the plot they would leave it no room
        figure.update_layout(legend={"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"})
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear", zeroline=False)
    figure.update_yaxes(title=y_title)
    if log_y:
        figure.update_yaxes(log_axis([y for line in lines for y in line.y]))
    else:
        figure.update_yaxes(rangemode="tozero")
    if x_ticks is not None:
        ticks = list(x_ticks) if log_x else _apart(x_ticks)
        labels = [f"{tick:.0%}" if percent else f"{tick:g}" for tick in ticks]
        figure.update_xaxes(tickmode="array", tickvals=ticks, ticktext=labels, tickangle=0)
    elif percent:
        figure.update_xaxes(tickformat=".0%")
    return figure


def write_page(path: Path, title: str, figures: Mapping[str, Any]) -> None:
    """Writes figures as one HTML page that needs nothing else, not even a network.

    Args:
        path: The file.
        title: Of the page.
        figures: Name to figure.

    Raises:
        DataError: The file cannot be written.
    """
    require_plotly()
    import plotly.io

    parts = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0, div_id=name)
        for index, (name, figure) in enumerate(figures.items())
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>'
    body = "\n".join(parts) or "<p>Too few points were measured for a plot.</p>"
    page = (
        f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n<h1>{escape(title)}</h1>\n{body}</body></html>\n"
    )
    write_text(path, page)


def write_png(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    """Writes each figure as a PNG file.

    Args:
        folder: Where, made if missing.
        figures: Name of the file, without its ending, to figure.

    Returns:
        The files.

    Raises:
        MissingExtraError: kaleido is not installed, or finds no browser.
    """
    require_plotly()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                figure.write_image(path, scale=2, **_SIZE)
        except (ValueError, RuntimeError, ImportError) as error:
            raise MissingExtraError(
                'PNG files need kaleido: pip install "plotly<7" kaleido==0.2.1, or a newer one and Chrome '
                f"({str(error).strip().splitlines()[0]})."
            ) from None
        written.append(path)
    return written


def style(figure: Any, title: str, subtitle: str) -> None:
    """Gives a figure its titles and the looks that all of ours have.

    Args:
        figure: Changed.
        title: What is shown.
        subtitle: What is the same for all of it, and the machine.
    """
    figure.update_layout(
        title={"text": f"<b>{escape(title)}</b><br><sup>{escape(subtitle)}</sup>", "x": 0.02, "y": 0.95},
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222"},
        margin={"l": 80, "r": 30, "t": 90, "b": 70},
        legend={"bgcolor": "rgba(255,255,255,0.8)", "bordercolor": "#ccc", "borderwidth": 1},
        showlegend=True,
        **_SIZE,
    )
    axis = {"showline": True, "linecolor": "#444", "ticks": "outside", "gridcolor": "#e4e4e4"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Makes a logarithmic axis with ticks at 1, 2 and 5 of each decade, all spelt out.

    Args:
        values: What it shall show, above 0.

    Returns:
        Settings of a Plotly axis.
    """
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in (1, 2, 5)]
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _apart(ticks: Sequence[float]) -> list[float]:
    """Leaves out ticks whose labels would touch the one before."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick - kept[-1] >= 0.045 * (max(ticks) - min(ticks)):
            kept.append(tick)
    return kept
