"""What a recipe does, as rows of a time line."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.recipe.plan import StepPlan
from secateur.recipe.pruning_methods import METHODS
from secateur.recipe.recipe import QuantizationStage
from secateur.recipe.spans import LearningRateSpan, PruningSpan
from secateur.recipe.stages import DistillationStage, LockStage

__all__ = ["Event", "time_line_table", "timeline"]

_ORDER = ("lock", "frozen", "learning rate", "distillation", "pruning", "quantization")


@dataclass(frozen=True)
class Event:
    """One thing that a recipe does from one step to another.

    Attributes:
        kind: `lock`, `frozen`, `learning rate`, `distillation`, `pruning` or `quantization`.
        start: Optimizer steps done when it begins.
        end: Optimizer steps done when it ends.
        what: How it is done.
        before: The value at the start, or nothing.
        after: The value at the end, or nothing.
    """

    kind: str
    start: int
    end: int
    what: str
    before: str = ""
    after: str = ""


def timeline(plan: StepPlan) -> list[Event]:
    """Returns what a recipe does, in the order of the run.

    Args:
        plan: The recipe on the run.
    """
    events = [*_locked(plan), *_frozen(plan), *_learning_rate(plan), *_distillation(plan), *_pruning(plan)]
    if plan.quantize_step is not None and plan.freeze_step is not None:
        stage = plan.recipe.stage(QuantizationStage)
        averaging = "" if stage is None else f" (averaging {stage.averaging:g})"
        learnt = f"int8 simulated, ranges learnt{averaging}"
        events.append(Event("quantization", plan.quantize_step, plan.freeze_step, learnt, "float32", "int8"))
        if plan.freeze_step < plan.total_steps:
            frozen = "int8 simulated, ranges frozen"
            events.append(Event("quantization", plan.freeze_step, plan.total_steps, frozen, "int8", "int8"))
    return sorted(events, key=lambda event: (event.start, _ORDER.index(event.kind), event.end))


def time_line_table(plan: StepPlan, rows: int | None) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Returns what a recipe does as a table.

    Args:
        plan: The recipe on the run.
        rows: Training rows; None leaves out steps, which are not real then.

    Returns:
        Its title, its columns and its rows.
    """
    in_steps = rows is not None
    columns = ("epochs", *(("steps",) if in_steps else ()), "what", "how", "from → to")
    return _title(plan, rows), columns, [_row(plan, event, in_steps) for event in timeline(plan)]


def _title(plan: StepPlan, rows: int | None) -> str:
    recipe = plan.recipe
    run = f"{recipe.name}: {recipe.training.epochs:.4g} epochs"
    if rows is not None:
        run += (
            f" of {plan.steps_per_epoch:,} steps, {plan.total_steps:,} in all "
            f"({rows:,} rows, {recipe.training.batch_size} a step)"
        )
    return run


def _row(plan: StepPlan, event: Event, in_steps: bool) -> tuple[str, ...]:
    epochs = f"{_epoch(event.start, plan)} – {_epoch(event.end, plan)}"
    steps = (f"{event.start:,} – {event.end:,}",) if in_steps else ()
    change = event.before if event.before == event.after else f"{event.before} → {event.after}"
    return (epochs, *steps, event.kind, event.what, change)


def _epoch(step: int, plan: StepPlan) -> str:
    return f"{step / plan.steps_per_epoch:.2f}".rstrip("0").rstrip(".")


def _locked(plan: StepPlan) -> list[Event]:
    return [
        Event("lock", 0, plan.total_steps, f"zeros of {', '.join(stage.targets)} stay")
        for stage in plan.recipe.stages_of(LockStage)
    ]


def _frozen(plan: StepPlan) -> list[Event]:
    events = [Event("frozen", span.start, span.end, ", ".join(span.stage.groups)) for span in plan.freezing]
    if plan.recipe.training.freeze_embeddings:
        events.append(Event("frozen", 0, plan.total_steps, "embeddings"))
    return events


def _learning_rate(plan: StepPlan) -> list[Event]:
    """Covers the whole run: stages, and the run's own schedule before, between and after them."""
    events = []
    at = 0
    for span in plan.learning_rate:
        events += _own_schedule(plan, at, span.start)
        events.append(_cycles(plan, span))
        at = span.end
    return events + _own_schedule(plan, at, plan.total_steps)


def _own_schedule(plan: StepPlan, start: int, end: int) -> list[Event]:
    events = []
    rise = min(plan.warmup_steps, end)
    falling = plan.recipe.training.schedule.removesuffix("_with_warmup")
    for first, last, what in ((start, rise, "warm-up"), (max(start, rise), end, falling)):
        if first < last:
            before, after = plan.run_learning_rate_at(first), plan.run_learning_rate_at(last)
            events.append(Event("learning rate", first, last, what, _rate(before), _rate(after)))
    return events


def _cycles(plan: StepPlan, span: LearningRateSpan) -> Event:
    stage = span.stage
    peak = plan.recipe.training.learning_rate * stage.peak
    count = len(span.starts)
    what = [stage.schedule if count == 1 else f"{count} {stage.schedule} cycles"]
    if stage.cycles == "pruning":
        what[0] += ", one from each pruning on"
    if stage.warmup > 0.0:
        what.append(f"warm-up over {_percent(stage.warmup)}")
    if count == 1:
        end = peak if stage.schedule == "constant" else peak * stage.final
        return Event("learning rate", span.start, span.end, ", ".join(what), _rate(peak), _rate(end))
    if stage.schedule != "constant":
        what.append(f"falling to {_percent(stage.final)}")
    last = peak * stage.rewind ** (count - 1)
    what.append("peaks" if stage.rewind == 1.0 else f"peaks at {_percent(stage.rewind)} of the one before")
    return Event("learning rate", span.start, span.end, ", ".join(what), _rate(peak), _rate(last))


def _rate(value: float) -> str:
    return f"{value:.3g}"


def _distillation(plan: StepPlan) -> list[Event]:
    return [Event("distillation", span.start, span.end, lesson(span.stage)) for span in plan.distillation]


def lesson(stage: DistillationStage) -> str:
    """Says how a distillation stage teaches."""
    parts = []
    if stage.outputs > 0.0:
        parts += [f"hardness {stage.hardness:g}", f"temperature {stage.temperature:g}"]
        parts += [f"outputs × {stage.outputs:g}"] if stage.outputs != 1.0 else []
    cosine = " by cosine" if stage.hidden_distance == "cosine" else ""
    named = {
        f"hidden states{cosine}": stage.hidden,
        "embeddings": stage.embeddings,
        f"attention {stage.attention_of}": stage.attention,
    }
    parts += [f"{name} × {weight:g}" for name, weight in named.items() if weight > 0.0]
    if stage.looks_inside and stage.layer_map != "uniform":
        parts.append(f"layer map {_map(stage.layer_map)}")
    if stage.augmentation > 0.0:
        parts.append(f"{_percent(stage.augmentation)} of the rows altered")
    return ", ".join(parts)


def _map(layer_map: str | tuple[int | None, ...]) -> str:
    if isinstance(layer_map, str):
        return layer_map
    return " ".join("-" if layer is None else str(layer) for layer in layer_map)


def _pruning(plan: StepPlan) -> list[Event]:
    events = []
    for span, after in zip(plan.pruning, (*plan.pruning[1:], None), strict=False):
        first, last = plan.sparsity(span.start), plan.sparsity(span.end)
        events.append(Event("pruning", span.start, span.end, _updates(span), _percent(first), _percent(last)))
        until = plan.total_steps if after is None else after.start
        if until > span.end:
            events.append(Event("pruning", span.end, until, "masks stay", _percent(last), _percent(last)))
    return events


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _updates(span: PruningSpan) -> str:
    stage = span.stage
    count = len(span.updates)
    what = f"{stage.pattern} by {stage.method}"
    if stage.ranking == "matrix" and ":" not in stage.pattern.removeprefix("block:"):
        what += " in each matrix"
    if stage.targets != ("encoder",):
        what += f" of {', '.join(stage.targets)}"
    if stage.biases:
        what += " with biases"
    defaults = METHODS[stage.method]()
    own = [
        f"{key} {value:g}" if isinstance(value, (int, float)) else f"{key} {value}"
        for key, value in stage.options
        if value != getattr(defaults, key)
    ]
    several = "s" if count > 1 else ""
    if not isinstance(stage.schedule, str):
        updates = f"{count} step{several}"
    else:
        updates = f"{stage.schedule}, {count} update{several}"
        if count > 1 and stage.update_every is not None:
            every = stage.update_every
            updates += f", one every {every if isinstance(every, str) else f'{every:.4g} epochs'}"
    return ", ".join([what, updates, *own])
