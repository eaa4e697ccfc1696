"""Draws a recipe over its run: sparsity, learning rate, and what is at work when. Needs Plotly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from secateur.errors import MissingExtraError
from secateur.recipe.plan import StepPlan
from secateur.recipe.timeline import Event, timeline

__all__ = ["plot_page", "require_plotly"]

_COLOURS = {
    "pruning": "#0b6e4f",
    "learning rate": "#c8553d",
    "distillation": "#2f5d9f",
    "quantization": "#8c5e9c",
    "frozen": "#4a4a4a",
    "lock": "#6b8e23",
}
_PALE = {"masks stay": "#9cc5b7", "int8 simulated, ranges frozen": "#cbb3d4"}
_LANES = ("distillation", "pruning", "lock", "quantization", "frozen")
_POINTS = 3000  # of a curve; more cannot be told apart


def require_plotly() -> None:
    """Checks that Plotly is installed, without importing it.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("plotly") is None:
        raise MissingExtraError("Plots need plotly, which is not installed: pip install 'secateur[report]'.")


def plot_page(plan: StepPlan, in_steps: bool) -> str:
    """Returns one HTML page that needs nothing else, not even a network.

    Args:
        plan: The recipe on the run.
        in_steps: Whether the run's steps are real, so that they are shown beside the epochs.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    require_plotly()
    import plotly.io

    name = escape(plan.recipe.name)
    plot = plotly.io.to_html(
        _figure(plan, in_steps), full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    head = f'<meta charset="utf-8"><title>Recipe {name}</title>'
    return f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n{plot}\n</body></html>\n"


def _figure(plan: StepPlan, in_steps: bool) -> Any:
    from plotly.subplots import make_subplots

    lanes = _lanes(timeline(plan))
    heights = [3.0, 3.0, 0.62 * len(lanes) + 0.3]
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.06,
        row_heights=[height / sum(heights) for height in heights],
    )
    _draw_curve(figure, 1, plan, "pruning", plan.sparsity, "sparsity", ".1%", in_steps)
    _draw_curve(figure, 2, plan, "learning rate", plan.learning_rate_at, "learning rate", ".3g", in_steps)
    _draw_lanes(figure, plan, lanes, in_steps)
    description = escape(plan.recipe.description)
    run = f"{_epoch(plan, plan.total_steps):.4g} epochs"
    if in_steps:
        run += f" of {plan.steps_per_epoch:,} steps, {plan.total_steps:,} in all"
    figure.update_layout(
        title={
            "text": f"<b>Recipe {escape(plan.recipe.name)}</b>: {run}<br><sup>{description}</sup>",
            "x": 0.02,
            "y": 0.97,
            "yanchor": "top",
        },
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222"},
        margin={"l": 110, "r": 30, "t": 90, "b": 60},
        height=520 + 46 * len(lanes),
        showlegend=False,
        barmode="overlay",
        bargap=0.25,
        uniformtext={"minsize": 10, "mode": "hide"},  # what does not fit stands in the hover text
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(
        showline=True,
        linecolor="#444",
        ticks="outside",
        gridcolor="#e4e4e4",
        zeroline=False,
        range=[0, _epoch(plan, plan.total_steps)],
    )
    figure.update_yaxes(showline=True, linecolor="#444", gridcolor="#e4e4e4", zeroline=False)
    figure.update_xaxes(title="epochs", row=3, col=1)
    figure.update_yaxes(title="zeros", range=[-0.02, 1], tickformat=".0%", dtick=0.2, row=1, col=1)
    figure.update_yaxes(title="learning rate", rangemode="tozero", exponentformat="e", row=2, col=1)
    # An axis of names puts the first one at the bottom.
    order = {"categoryorder": "array", "categoryarray": list(lanes)[::-1], "showgrid": False}
    figure.update_yaxes(order, row=3, col=1)
    return figure


def _draw_curve(
    figure: Any,
    row: int,
    plan: StepPlan,
    kind: str,
    value: Callable[[int], float],
    what: str,
    form: str,
    in_steps: bool,
) -> None:
    import plotly.graph_objects as go

    steps = _sampled(plan)
    values = [value(step) for step in steps]
    stepwise = kind == "pruning"
    step_text = "<br>step %{customdata:,}" if in_steps else ""
    figure.add_trace(
        go.Scatter(
            x=[_epoch(plan, step) for step in steps],
            y=values,
            customdata=steps,
            mode="lines",
            line={
                "color": _COLOURS[kind],
                "width": 2,
                "shape": "hv" if stepwise else "linear",
                "simplify": False,
            },
            fill="tozeroy" if stepwise else "none",
            fillcolor="rgba(11,110,79,0.10)",
            hovertemplate=f"{what} %{{y:{form}}}<br>epoch %{{x:.3f}}{step_text}<extra></extra>",
        ),
        row=row,
        col=1,
    )
    if not stepwise:
        return
    for span in plan.pruning:
        figure.add_annotation(
            x=_epoch(plan, span.end),
            y=span.stage.sparsity,
            text=f"{100 * span.stage.sparsity:.4g} %",
            showarrow=False,
            yshift=12,
            xanchor="left",
            row=row,
            col=1,
        )


def _draw_lanes(figure: Any, plan: StepPlan, lanes: dict[str, list[Event]], in_steps: bool) -> None:
    import plotly.graph_objects as go

    for lane, events in lanes.items():
        lengths = [_epoch(plan, event.end) - _epoch(plan, event.start) for event in events]
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[lane] * len(events),
                x=lengths,
                base=[_epoch(plan, event.start) for event in events],
                text=[_short(event) for event in events],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={
                    "color": ["#222" if event.what in _PALE else "#fff" for event in events],
                    "size": 12,
                },
                marker={"color": [_PALE.get(event.what, _COLOURS[event.kind]) for event in events]},
                hovertext=[_told(plan, event, in_steps) for event in events],
                hoverinfo="text",
            ),
            row=3,
            col=1,
        )


def _lanes(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Returns the events by lane; what is frozen has a lane for each stage, because stages may overlap."""
    lanes: dict[str, list[Event]] = {}
    for kind in _LANES:
        for event in events:
            if event.kind == kind:
                lanes.setdefault(f"frozen: {event.what}" if kind == "frozen" else kind, []).append(event)
    return {_wrapped(lane): found for lane, found in lanes.items()}


def _wrapped(lane: str) -> str:
    return escape(lane).replace(": ", "<br>")


def _short(event: Event) -> str:
    """Returns what a bar says; the whole stands in its hover text."""
    if event.kind == "pruning" and event.before != event.after:
        return f"{event.before} → {event.after}"
    if event.kind == "quantization":
        return "frozen" if event.what in _PALE else "ranges learnt"
    if event.kind == "frozen":
        return ""
    return ", ".join(event.what.split(", ")[:2])


def _told(plan: StepPlan, event: Event, in_steps: bool) -> str:
    lines = [f"<b>{event.kind}</b>", escape(event.what)]
    if event.before != event.after:
        lines.append(f"{event.before} → {event.after}")
    lines.append(f"epochs {_epoch(plan, event.start):.4g} to {_epoch(plan, event.end):.4g}")
    if in_steps:
        lines.append(f"steps {event.start:,} to {event.end:,}")
    return "<br>".join(lines)


def _sampled(plan: StepPlan) -> list[int]:
    """Returns the steps at which curves are drawn: evenly, and wherever something changes at once."""
    stride = max(1, plan.total_steps // _POINTS)
    steps = set(range(0, plan.total_steps + 1, stride)) | {plan.warmup_steps, plan.total_steps}
    for span in plan.pruning:
        steps |= {span.start, span.end, *(span.updates if span.steps is not None else ())}
    for rate in plan.learning_rate:
        for edge in (*rate.starts, rate.end):
            steps |= {edge - 1, edge}
    return sorted(step for step in steps if 0 <= step <= plan.total_steps)


def _epoch(plan: StepPlan, step: int) -> float:
    return step / plan.steps_per_epoch
