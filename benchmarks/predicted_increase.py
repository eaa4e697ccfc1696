"""Does the loss grow as oBERT predicts? One shot at each sparsity: the quadratic form against what came.

    python benchmarks/predicted_increase.py MODEL DATA        (a fine-tuned classifier; a folder or its name)

Each text gets the label that the dense model itself would draw, so that the loss of the dense model is at its
least, the Fisher matrix is its curvature, and the growth of the loss is the divergence of the pruned model's
answers from the dense ones: neither gradient nor lack of training blurs the comparison. What is measured is
measured over texts that no gradient was taken of, by full distributions. Predicted is 1/2 d^T F d of all the
weights' changes d, without the damping; F knows no more than the blocks along its diagonal.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.bench.machine import describe_machine
from secateur.bench.plots import Line, line_figure, write_png
from secateur.bench.results import write_results
from secateur.commands.console import hush_libraries, print_table
from secateur.data import load_splits
from secateur.errors import SecateurError
from secateur.sparsity import MagnitudePruner, ObertPruner, Pattern
from secateur.tasks import task_named
from secateur.training.encoding import Features, Padder, encode_rows, pad_token_of
from secateur.training.evidence import TrainingEvidence
from secateur.training.loading import load_network, load_tokenizer, model_task

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_BATCH = 32


def main() -> int:
    """Measures, prints, writes and draws.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a fine-tuned text classifier")
    parser.add_argument("data", help="what secateur compress --data takes")
    parser.add_argument("--sparsities", type=float, nargs="+", default=list(SPARSITIES))
    parser.add_argument("--patterns", nargs="+", default=["unstructured", "block4"])
    parser.add_argument("--num-grads", type=int, default=1024, help="each of one text")
    parser.add_argument("--damp", type=float, default=1e-7)
    parser.add_argument("--texts", type=int, default=500, help="to measure on")
    parser.add_argument("--out", type=Path, default=RESULTS / "predicted_increase.json")
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args()
    hush_libraries()
    try:
        task = model_task(options.model, task_named("text-classification"))
        model, tokenizer = load_network(options.model, task), load_tokenizer(options.model)
        splits = load_splits(options.data, type(task))
        shown = encode_rows(tokenizer, task, splits.train, 128, model)
        other = encode_rows(tokenizer, task, (splits.validation or splits.train)[: options.texts], 128, model)
        pad = pad_token_of(model)
        rows = []
        for name in options.patterns:
            rows += measure(
                model,
                partial(drawn_labels, model, shown, pad),
                list(batches(other, pad, _BATCH, range(len(other)))),
                Pattern.parse(name),
                options.sparsities,
                num_grads=options.num_grads,
                damp=options.damp,
            )
        results = {
            "command": " ".join(["python", "benchmarks/predicted_increase.py", *sys.argv[1:]]),
            "model": Path(options.model).name,
            "data": splits.name,
            "num_grads": options.num_grads,
            "damp": options.damp,
            "texts": len(other),
            "rows": rows,
            "machine": describe_machine(),
        }
        write_results(options.out, results)
        show(rows)
        if not options.no_plot:
            write_png(options.out.parent, {options.out.stem: figure(results)})
    except SecateurError as error:
        print(f"predicted_increase: {error}", file=sys.stderr)
        return 2
    return 0


def measure(
    model: Any,
    source: Any,
    held: Sequence[dict[str, Tensor]],
    pattern: Pattern,
    sparsities: Sequence[float],
    **options: Any,
) -> list[dict[str, Any]]:
    """Prunes copies of a model in one shot.

    Args:
        model: A dense classifier.
        source: Called for one pass over batches of one text each, with labels drawn from the model.
        held: Batches to measure on.
        pattern: What is removed together.
        sparsities: Fractions of zeros.
        **options: Of `ObertPruner`.

    Returns:
        A row a sparsity: `predicted` and `measured` growth of the loss, and that of global magnitude.
    """
    dense = log_probabilities(model, held)
    rows = []
    for sparsity in sparsities:
        pruned, plain = copy.deepcopy(model), copy.deepcopy(model)
        pruner = ObertPruner(pattern, **options)
        pruner.attach_(pruned)
        pruner.step_(sparsity, TrainingEvidence(pruned, source))
        small = MagnitudePruner(pattern)
        small.attach_(plain)
        small.step_(sparsity)
        rows.append(
            {
                "pattern": pattern.name,
                "sparsity": sparsity,
                "predicted": pruner.notes()["predicted_increase"],
                "measured": divergence(dense, log_probabilities(pruned, held)),
                "magnitude": divergence(dense, log_probabilities(plain, held)),
            }
        )
    return rows


def batches(features: Features, pad: int, size: int, order: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Yields batches of features in an order."""
    collate = Padder(pad)
    for start in range(0, len(order), size):
        yield collate([features[place] for place in order[start : start + size]])


def drawn_labels(model: Any, features: Features, pad: int) -> Iterator[dict[str, Tensor]]:
    """Yields texts one by one in random order, each with a label drawn from what the model says of it."""
    for batch in batches(features, pad, 1, torch.randperm(len(features)).tolist()):
        (log_probability,) = log_probabilities(model, [batch])
        yield {**batch, "labels": torch.multinomial(log_probability.exp(), 1).flatten()}


def log_probabilities(model: Any, held: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """Returns the log-probabilities of a classifier, (B, L) a batch."""
    model.eval()
    with torch.no_grad():
        inputs = [{name: value for name, value in batch.items() if name != "labels"} for batch in held]
        return [model(**one).logits.double().log_softmax(-1) for one in inputs]


def divergence(dense: Sequence[Tensor], pruned: Sequence[Tensor]) -> float:
    """Returns the mean Kullback-Leibler divergence of the pruned model's answers from the dense ones."""
    rows = [(first.exp() * (first - second)).sum(-1) for first, second in zip(dense, pruned, strict=True)]
    return float(torch.cat(rows).mean())


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the figures."""
    print_table(
        "Growth of the loss, one shot",
        ["pattern", "sparsity", "predicted", "measured", "magnitude measured"],
        [
            [
                row["pattern"],
                f"{row['sparsity']:.0%}",
                f"{row['predicted']:.4g}",
                f"{row['measured']:.4g}",
                f"{row['magnitude']:.4g}",
            ]
            for row in rows
        ],
        numbers=4,
    )


def figure(results: dict[str, Any]) -> Any:
    """Draws predicted and measured growth against sparsity."""
    lines = []
    for name in dict.fromkeys(row["pattern"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["pattern"] == name]
        at = [row["sparsity"] for row in rows]
        lines += [
            Line(f"{name}, measured", at, [row["measured"] for row in rows]),
            Line(
                f"{name}, predicted", at, [row["predicted"] for row in rows], modelled=True, same_colour=True
            ),
        ]
    return line_figure(
        "What oBERT predicts, and what comes",
        f"{results['model']} on {results['data']}, one shot, {results['num_grads']} gradients; "
        f"{results['machine']['cpu']}",
        lines,
        x_title="zeros",
        y_title="growth of the loss (nats)",
        percent=True,
        log_y=True,
    )


if __name__ == "__main__":
    sys.exit(main())
