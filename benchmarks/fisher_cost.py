"""What does oBERT's Fisher pass cost? Seconds and peak memory, beside the passes of the model that it needs.

    python benchmarks/fisher_cost.py            (hours; --shapes minilm --num-grads 64 --layers 1 for a part)

Random weights in the shape of a model, random texts. The passes alone come first: as many, forward and
backward, as gradients are asked for, those for groups of matrices counted, gradients dropped. Then one whole
update of oBERT: the same passes, the sums, the choice and the new weights. Each in a process of its own; time
is the processor's, so that others who run beside it disturb less, and wall time stands beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from secateur.bench.machine import describe_machine, resident_memory_mb
from secateur.bench.results import write_results
from secateur.bench.synthetic import SHAPES
from secateur.commands.console import hush_libraries, print_table
from secateur.errors import SecateurError
from secateur.sparsity import ObertPruner, Pattern
from secateur.training.evidence import TrainingEvidence

OUT = Path(__file__).parent / "results" / "fisher_cost.json"
SHAPE_NAMES = {"minilm": "minilm-l6", "bert-base": "bert-base"}
LABELS, TARGET = 150, 3.0


def main() -> int:
    """Measures, prints and writes.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPE_NAMES), choices=list(SHAPE_NAMES))
    parser.add_argument("--num-grads", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[32, 50, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=32, help="tokens a row")
    parser.add_argument("--max-memory-gb", type=float, default=4.0)
    parser.add_argument("--layers", type=int, help="fewer than the shape has, for a trial")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--note", help="what the reader should know of the machine at that time")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--part", choices=["passes", "update"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hush_libraries()
    try:
        if options.part is not None:
            print(json.dumps(measure(options)))
            return 0
        rows = []
        for shape, count, size in itertools.product(options.shapes, options.num_grads, options.block_sizes):
            rows.append(row_of(options, shape, count, size))
        results = {
            "command": " ".join(["python", "benchmarks/fisher_cost.py", *sys.argv[1:]]),
            "batch": options.batch,
            "length": options.length,
            "layers": options.layers,
            "max_memory_gb": options.max_memory_gb,
            "device": options.device,
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
        print(f"fisher_cost: {error}", file=sys.stderr)
        return 2
    return 0


def row_of(options: Any, shape: str, count: int, size: int) -> dict[str, Any]:
    """Measures one case, each part in a process of its own.

    Returns:
        What `measure` gives of the update, `passes_seconds` and `passes_wall_seconds` of the passes alone,
        and `ratio`, `wall_ratio` of the two.
    """
    found = {}
    for part in ("passes", "update"):
        command = [sys.executable, __file__, "--part", part, "--shapes", shape, "--device", options.device]
        command += ["--num-grads", str(count), "--block-sizes", str(size), "--batch", str(options.batch)]
        command += ["--length", str(options.length), "--max-memory-gb", str(options.max_memory_gb)]
        command += [] if options.layers is None else ["--layers", str(options.layers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 2:
            raise SecateurError(done.stderr.strip().removeprefix("fisher_cost: "))
        done.check_returncode()
        found[part] = json.loads(done.stdout.strip().splitlines()[-1])
    passes, update = found["passes"], found["update"]
    return {
        "shape": shape,
        "num_grads": count,
        "fisher_block_size": size,
        **update,
        "passes_seconds": passes["seconds"],
        "passes_wall_seconds": passes["wall_seconds"],
        "ratio": round(update["seconds"] / passes["seconds"], 3),
        "wall_ratio": round(update["wall_seconds"] / passes["wall_seconds"], 3),
    }


def measure(options: Any) -> dict[str, Any]:
    """Runs the passes alone, or an update.

    Returns:
        `seconds` of the processor, `wall_seconds`, `groups` of matrices, `sweeps` of gradients over a group,
        `loaded_mb` before and `peak_mb` of memory, on a GPU that of the GPU.
    """
    model = load(options.shapes[0], options.layers).to(options.device)
    size, count = options.block_sizes[0], options.num_grads[0]
    batch = random_batch(model, options.batch, options.length)
    pruner = ObertPruner(
        Pattern.parse("unstructured"),
        num_grads=count,
        fisher_block_size=size,
        max_memory_gb=options.max_memory_gb,
    )
    pruner.attach_(model)
    groups = pruner.groups()
    # One batch over and over: making batches is no part of what is asked.
    evidence = TrainingEvidence(model, lambda: itertools.repeat(batch))
    # The last group's sums are still there when the masks are chosen.
    order = [*groups, *groups[-2::-1]] if len(groups) > 1 else groups

    def passes() -> None:
        for group in order:
            for _ in evidence.gradients(count, matrices=group):
                pass

    loaded = memory(options.device)
    seconds = timed(passes if options.part == "passes" else lambda: pruner.step_(0.5, evidence))
    return {
        **seconds,
        "groups": len(groups),
        "sweeps": len(order),
        "loaded_mb": loaded,
        "peak_mb": memory(options.device, peak=True),
    }


def timed(act: Callable[[], None]) -> dict[str, float]:
    """Returns the `seconds` of the processor, and the `wall_seconds`, that something takes."""
    wall, own = time.perf_counter(), time.process_time()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {
        "seconds": round(time.process_time() - own, 3),
        "wall_seconds": round(time.perf_counter() - wall, 3),
    }


def memory(device: str, *, peak: bool = False) -> float | None:
    """Returns the megabytes that are taken now, or were at most."""
    if device == "cpu":
        return resident_memory_mb(peak=peak)
    taken: int = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    return round(taken / 1e6, 1)


def load(shape: str, layers: int | None) -> BertForSequenceClassification:
    """Returns a classifier with random weights."""
    torch.manual_seed(0)
    config = SHAPES[SHAPE_NAMES[shape]].config()
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    return BertForSequenceClassification(BertConfig(**config, num_labels=LABELS))


def random_batch(model: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Returns a batch of random tokens and labels."""
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, model.config.vocab_size, (rows, length), generator=draws)
    labels = torch.randint(0, LABELS, (rows,), generator=draws)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the figures."""
    print_table(
        f"An update of oBERT against its passes (at most {TARGET:g})",
        ["shape", "gradients", "block", "groups", "passes s", "update s", "ratio", "peak MB"],
        [
            [
                row["shape"],
                str(row["num_grads"]),
                str(row["fisher_block_size"]),
                str(row["groups"]),
                f"{row['passes_seconds']:.1f}",
                f"{row['seconds']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['peak_mb'] or 0:.0f}",
            ]
            for row in rows
        ],
        numbers=6,
    )


if __name__ == "__main__":
    sys.exit(main())
