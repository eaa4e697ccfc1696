"""Rows of an accuracy table: means over seeds, and how they read in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from secateur.errors import DataError

__all__ = ["markdown", "merged", "scored_by_seed"]

_FACTS = ("minutes", "sparsity")


def scored_by_seed(model: str, engine: str, scores: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Makes a row of the scores of several seeds.

    Args:
        model: What was scored.
        engine: What ran it.
        scores: Seed to score, with `minutes` and `sparsity`.

    Returns:
        `model`, `engine`, the mean of every figure (that of `n` is `n`) and `by_seed`, the scores themselves.

    Raises:
        DataError: The seeds have no score.
    """
    if not scores:
        raise DataError("There is no seed to score: give --seeds 42.")
    first = next(iter(scores.values()))
    means: dict[str, Any] = {}
    for key, value in first.items():
        values = [score.get(key) for score in scores.values()]
        numbers = [one for one in values if isinstance(one, (int, float))]
        if value is None or len(numbers) < len(values):
            means[key] = None
        else:
            means[key] = value if all(one == value for one in numbers) else fmean(numbers)
    means = {key: value for key, value in means.items() if value is not None or key in _FACTS}
    return {
        "model": model,
        "engine": engine,
        **means,
        "by_seed": {str(s): dict(v) for s, v in scores.items()},
    }


def merged(row: Mapping[str, Any], dense: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Compares a row with the dense one where nothing is known row by row, so that there are no bounds.

    Args:
        row: What `scored_by_seed` returned.
        dense: The dense model's.
        metric: What to compare.

    Returns:
        As `secateur.bench.kept.kept`, `low` and `high` None.
    """
    seeds = dense["by_seed"]
    pairs = [(row["by_seed"].get(seed) or next(iter(row["by_seed"].values())), seeds[seed]) for seed in seeds]
    ratios = [own[metric] / theirs[metric] for own, theirs in pairs if theirs[metric]]
    if not ratios:
        return {"value": None, "low": None, "high": None, "by_seed": [], "spread": None}
    spread = max(ratios) - min(ratios) if len(ratios) > 1 else None
    return {"value": fmean(ratios), "low": None, "high": None, "by_seed": ratios, "spread": spread}


def markdown(results: Mapping[str, Any]) -> str:
    """Writes the table of a result.

    Args:
        results: What benchmarks/accuracy.py writes.
    """
    metric, seeds = results["metric"], results["seeds"]
    heads = [
        *("model", "engine", metric, "kept", "95 % interval", "sparsity", "minutes"),
        *("embeddings MB", "encoder MB", "file MB", "32 tokens", "128 tokens"),
    ]
    lines = [
        f"# {results['question']}",
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join(['---', '---', *['--:'] * (len(heads) - 2)])} |",
        *(f"| {' | '.join(_cells(row, metric))} |" for row in results["rows"]),
        "",
        f"{_seeds(seeds)}; {results['rows'][0]['n']:,} test rows, "
        f"{results['data']['train']:,} training rows. "
        "Kept: score / dense score, with the bounds of a paired bootstrap over test rows"
        f"{' and the distance between seeds' if len(seeds) > 1 else ''}. Latency: median of one text in our "
        "engine on one thread, tokenizing not counted; of a simple baseline, of one text of the data.",
        "",
        f"Machine: {results['machine']['cpu']}, {results['machine']['cores']} cores; made by "
        f"`{results['command']}`.",
    ]
    lines[-2:-2] = (
        [*(f"- {note}" for note in results["data"]["notes"]), ""] if results["data"]["notes"] else []
    )
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], metric: str) -> list[str]:
    kept, sizes, times = row["kept"], row.get("size_parts_mb") or {}, row["latency_ms"]
    value = "" if kept["value"] is None else f"{kept['value']:.1%}"
    if kept["spread"] is not None:
        value += f" (± {kept['spread'] / 2:.1%})"
    bounds = "" if kept["low"] is None else f"{kept['low']:.1%} to {kept['high']:.1%}"
    latency = [_shown(times.get(length), ".2f", " ms") for length in ("32", "128")]
    if "a text" in times:
        latency = [_shown(times["a text"], ".2f", " ms"), ""]
    return [
        row["model"],
        row["engine"],
        _shown(row[metric], ".4f"),
        value,
        bounds,
        _shown(row["sparsity"], ".1%"),
        _shown(row["minutes"], ".1f"),
        *(_shown(sizes.get(part), ".2f") for part in ("embeddings", "encoder")),
        _shown(row["size_mb"], ".2f"),
        *latency,
    ]


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _seeds(seeds: list[int]) -> str:
    return f"Seed {seeds[0]}" if len(seeds) == 1 else f"Means over the seeds {', '.join(map(str, seeds))}"
