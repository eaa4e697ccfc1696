"""How even labels are, in a few lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["balance_lines", "count_labels"]

_FEW = 10  # rows of a label from which little can be learnt
_SHOWN = 3


def count_labels(labels: Iterable[str], known: Sequence[str]) -> dict[str, int]:
    """Counts labels; those that occur nowhere have 0."""
    counts = dict.fromkeys(known, 0)
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return counts


def balance_lines(counts: dict[str, int], what: str, units: str = "rows") -> list[str]:
    """Returns lines on the number of labels, the most and least frequent ones, and those that have few rows.

    Args:
        counts: How often each label occurs, in the order of the labels.
        what: What the labels are, as `labels`.
        units: What was counted.
    """
    if not counts:
        return [f"no {what}"]
    ordered = sorted(counts, key=lambda label: -counts[label])
    least, most = counts[ordered[-1]], counts[ordered[0]]
    lines = [f"{len(counts)} {what}, {least} to {most} {units} each"]
    if least < most and len(ordered) <= 2 * _SHOWN:
        lines.append(f"by frequency: {', '.join(f'{label} ({counts[label]})' for label in ordered)}")
    elif least < most:
        ends = (("most", ordered[:_SHOWN]), ("least", ordered[-_SHOWN:]))
        for title, some in ends:
            lines.append(f"{title} frequent: {', '.join(f'{label} ({counts[label]})' for label in some)}")
    few = sum(count < _FEW for count in counts.values())
    if few and most:
        verb, them = ("has", "it") if few == 1 else ("have", "them")
        lines.append(f"{few} of the {what} {verb} under {_FEW} {units}: little can be learnt about {them}.")
    return lines
