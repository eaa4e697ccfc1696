"""What does compression cost a training step? Masks, fake quantization and a teacher, against none of them.

    python benchmarks/step_cost.py                (about ten minutes; --lengths 12 --types float32 for a part)

One loop does what the stock Trainer does in a step: forward, backward, clipping of the gradient's norm,
fused AdamW, learning rate, zeroing; what the Trainer does besides is left out, so the ratios come out a
little high. The cases take turns, a step each, in one process on one thread; a ratio is taken between
neighbours of one round, and the JSON file holds the median of them and the middle half. Time is the
processor's, so that others who run beside it disturb less; wall time stands beside it. Peak memory is taken
in a process per case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from secateur.bench.machine import describe_machine, resident_memory_mb
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.results import write_results
from secateur.commands.console import print_table
from secateur.errors import SecateurError
from secateur.quantization import freeze_observers_
from secateur.recipe import Recipe
from secateur.training import CompressionCallback

ROOT = Path(__file__).parents[1]
BATCH, LABELS, SPARSITY = 32, 150, 0.8
CASES = {
    "plain": (),
    "masks": ("pruning",),
    "quantization": ("quantization",),
    "quantization, ranges frozen": ("quantization", "frozen"),
    "masks and quantization": ("pruning", "quantization"),
    "teacher's logits given": ("distillation", "given"),
    "teacher asked": ("distillation", "asked"),
}
TARGET = 1.15
_STEPS = 10_000  # an epoch of the pretended run
_WARM = 4


def main() -> int:
    """Measures, prints and writes.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[12, 64, 128], help="mean tokens a row")
    parser.add_argument(
        "--types", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"]
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of all cases; the built-in recipes have 0"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each length and type, at least 5 rounds"
    )
    parser.add_argument("--note", help="what the reader should know of the machine at that time")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/step_cost.json")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if options.peak is not None:
            print(
                json.dumps(peak_memory(options.peak, options.lengths[0], options.types[0], options.dropout))
            )
            return 0
        rows = []
        for dtype, length in itertools.product(options.types, options.lengths):
            rows += measure(options.cases, length, dtype, options.dropout, options.seconds)
        results = {
            "command": " ".join(["python", "benchmarks/step_cost.py", *sys.argv[1:]]),
            "model": "all-MiniLM-L6-v2",
            "batch": BATCH,
            "dropout": options.dropout,
            "sparsity": SPARSITY,
            "threads": 1,
            "load_average": os.getloadavg()[0],
            "note": options.note,
            "target_ratio": TARGET,
            "rows": rows,
            "machine": describe_machine(),
        }
        write_results(options.out, results)
        show(rows)
    except SecateurError as error:
        print(f"step_cost: {error}", file=sys.stderr)
        return 2
    return 0


def measure(
    cases: list[str], length: int, dtype: str, dropout: float, seconds: float
) -> list[dict[str, Any]]:
    """Measures the cases at one length.

    Args:
        cases: Keys of CASES.
        length: Mean tokens a row.
        dtype: `float32`, or `bfloat16` for autocast.
        dropout: Of hidden states and attention.
        seconds: To measure for.

    Returns:
        A row a case: `ms` (median, processor time), `ratio` (median of those to the plain step beside it),
        `ratio_middle_half`, `wall_ratio`, `ratio_of_fastest`, `rounds`, `peak_mb`.
    """
    names = ["plain", *(name for name in cases if name != "plain")]
    steps = {name: make_step(CASES[name], length, dtype, dropout) for name in names}
    for step in steps.values():
        for _ in range(_WARM):
            step()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(spent["plain"]) < 5:
        for name in names:
            wall, own = time.perf_counter(), time.thread_time()
            steps[name]()
            spent[name].append((time.thread_time() - own, time.perf_counter() - wall))
    del steps
    rows = []
    for name in names:
        pairs = list(zip(spent[name], spent["plain"], strict=True))
        ratios = [ours[0] / plain[0] for ours, plain in pairs]
        low, _, high = quantiles(ratios, n=4)
        rows.append(
            {
                "case": name,
                "length": length,
                "type": dtype,
                "ms": round(median(own for own, _ in spent[name]) * 1e3, 2),
                "ratio": round(median(ratios), 4),
                "ratio_middle_half": [round(low, 4), round(high, 4)],
                "wall_ratio": round(median(ours[1] / plain[1] for ours, plain in pairs), 4),
                "ratio_of_fastest": round(min(spent[name])[0] / min(spent["plain"])[0], 4),
                "rounds": len(ratios),
                **peak_in_own_process(name, length, dtype, dropout),
            }
        )
    return rows


def make_step(parts: tuple[str, ...], length: int, dtype: str, dropout: float) -> Callable[[], None]:
    """Builds a model with its callback and optimizer.

    Args:
        parts: A value of CASES.
        length: Mean tokens a row.
        dtype: `float32` or `bfloat16`.
        dropout: Of hidden states and attention.

    Returns:
        What runs one optimizer step.
    """
    model = load(dropout)
    callback = None
    if parts:
        teacher = load(0.0) if "asked" in parts else None
        callback = CompressionCallback(recipe_of(parts), teacher)
        callback.attach_(model, steps_per_epoch=_STEPS, total_steps=3 * _STEPS)
    else:
        for name, parameter in model.named_parameters():  # as the recipes do
            if name.endswith("embeddings.weight"):
                parameter.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-5, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3 * _STEPS)
    source = itertools.cycle(list(batches(length, "given" in parts)))
    count = itertools.count(1 if callback is None or "pruning" not in parts else _STEPS)
    model.train()
    if callback is not None:
        callback.after_step(next(count))  # at the end of the pruning stage the masks are full

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(**next(source)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if callback is not None:
            done = next(count)
            callback.after_step(done)
            if "frozen" in parts and not callback.status()["ranges_frozen"]:
                freeze_observers_(model)

    return step


def recipe_of(parts: tuple[str, ...]) -> Recipe:
    """Returns a recipe that does these parts, its updates of masks over after one epoch."""
    stages: list[dict[str, Any]] = []
    if "distillation" in parts:
        stages.append({"type": "distillation", "hardness": 1.0, "temperature": 3.0})
    if "pruning" in parts:
        stages.append({"type": "pruning", "sparsity": SPARSITY, "start_epoch": 0, "end_epoch": 1})
    if "quantization" in parts:
        stages.append(
            {"type": "quantization", "start_epoch": 1 if "pruning" in parts else 0, "freeze_epoch": 2.9}
        )
    training = {"epochs": 3, "learning_rate": 1e-4, "freeze_embeddings": True}
    return Recipe.model_validate({"name": "step-cost", "training": training, "stages": stages})


def load(dropout: float) -> Any:
    """Loads MiniLM with a new head."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        str(packaged_minilm()),
        num_labels=LABELS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def batches(length: int, logits: bool) -> Iterator[dict[str, Tensor]]:
    """Yields four batches of random tokens, rows as long as `length` on average, half to one and a half."""
    generator = torch.Generator().manual_seed(length)
    for _ in range(4):
        lengths = torch.randint(length // 2, length + length // 2 + 1, (BATCH,), generator=generator)
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        batch = {
            "input_ids": torch.randint(1000, 20000, mask.shape, generator=generator) * mask,
            "attention_mask": mask,
            "labels": torch.randint(0, LABELS, (BATCH,), generator=generator),
        }
        if logits:
            batch["teacher_logits"] = torch.randn(BATCH, LABELS, generator=generator)
        yield batch


def peak_in_own_process(name: str, length: int, dtype: str, dropout: float) -> dict[str, Any]:
    """Runs `peak_memory` in a process that runs nothing else."""
    command = [sys.executable, __file__, "--peak", name, "--dropout", str(dropout)]
    command += ["--lengths", str(length), "--types", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_memory(name: str, length: int, dtype: str, dropout: float) -> dict[str, Any]:
    """Returns `peak_mb`, the most memory of this process over a few steps, and `loaded_mb`, before them."""
    step = make_step(CASES[name], length, dtype, dropout)
    before = resident_memory_mb()
    for _ in range(_WARM):
        step()
    return {"loaded_mb": before, "peak_mb": resident_memory_mb(peak=True)}


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the figures."""
    print_table(
        "A training step against one without us",
        ["type", "tokens", "case", "ms", "ratio", "middle half", "peak MB"],
        [
            [
                row["type"],
                str(row["length"]),
                row["case"],
                f"{row['ms']:.0f}",
                f"{row['ratio']:.3f}",
                "{:.3f} - {:.3f}".format(*row["ratio_middle_half"]),
                f"{row['peak_mb']:.0f}",
            ]
            for row in rows
        ],
        numbers=4,
    )


if __name__ == "__main__":
    sys.exit(main())
