"""Does the engine answer as the fake-quantized PyTorch model does, on every instruction set of this CPU?

    python benchmarks/agreement.py CHECKPOINT --data FOLDER --name clinc150

Writes benchmarks/results/agreement_<name>.json and exits with 1 where a bound is broken:
the top label may differ only in rows whose top two PyTorch logits lie within 2 % of that row's range, and in
at most 0.2 % of rows; logits differ by less than 1 % of their standard deviation on average; logits are equal
bit for bit over instruction sets, batch sizes and numbers of threads.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur import _engine
from secateur.bench.machine import describe_machine
from secateur.data import load_splits
from secateur.hf import load_compressed
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import pipeline
from secateur.tasks import Encoded, TextClassification
from secateur.training.evaluation import predict

MARGIN = 0.02  # of the row's range of PyTorch logits
MOST_DIFFERENT = 0.002  # of all rows
MOST_ERROR = 0.01  # of the logits' standard deviation


def compare(pytorch: NDArray[np.float32], engine: NDArray[np.float32]) -> dict[str, Any]:
    """Compares logits, both [rows, labels] float32, with the bounds above."""
    ordered = np.sort(pytorch, axis=1)
    margin = (ordered[:, -1] - ordered[:, -2]) / (ordered[:, -1] - ordered[:, 0])
    differs = pytorch.argmax(1) != engine.argmax(1)
    error = float(np.abs(pytorch - engine).mean() / pytorch.std())
    return {
        "rows": len(pytorch),
        "different_top_label": int(differs.sum()),
        "different_fraction": float(differs.mean()),
        "largest_margin_of_a_different_label": float(margin[differs].max()) if differs.any() else 0.0,
        "mean_abs_error_over_std": error,
        "max_abs_error_over_std": float(np.abs(pytorch - engine).max() / pytorch.std()),
        "holds": bool(
            differs.mean() <= MOST_DIFFERENT and not (margin[differs] >= MARGIN).any() and error < MOST_ERROR
        ),
    }


def one_by_one(engine: Engine, sequences: list[list[int]]) -> NDArray[np.float32]:
    """Runs each sequence as a batch of its own: [rows, labels] float32."""
    return np.concatenate([engine([ids]) for ids in sequences])


def main() -> int:
    """Measures, writes the result and says whether all bounds hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", required=True, help="of the data set, for the result's file")
    parser.add_argument("--isa", nargs="*", help="instruction sets to run; all that this CPU has by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()

    texts = [row.text for row in load_splits(arguments.data).test]
    isas = arguments.isa or _engine.cpu_info()["isas"]
    encoder = pipeline(arguments.checkpoint, "text-classification", num_threads=1)
    sequences = encoder.encode(texts)
    model = load_compressed(arguments.checkpoint)
    torch.set_num_threads(1)
    encoded = Encoded(sequences, None, list(range(len(sequences))))
    pytorch = np.stack(predict(model, TextClassification(encoder.labels), encoded))

    by_isa: dict[str, Any] = {}
    logits = {}
    for isa in isas:
        classify = pipeline(arguments.checkpoint, "text-classification", num_threads=2, isa=isa)
        logits[isa] = classify.logits(texts)
        by_isa[isa] = compare(pytorch, logits[isa])
        print(isa, json.dumps(by_isa[isa]), flush=True)
    best = isas[0]
    single = one_by_one(Engine.from_pretrained(arguments.checkpoint, 1, best), sequences[:500])
    result = {
        "question": "Does the engine answer as the fake-quantized PyTorch model does?",
        "command": shlex.join(["python", "benchmarks/agreement.py", *map(_portable, sys.argv[1:])]),
        "data": arguments.name,
        "bounds": {
            "margin": MARGIN,
            "different_fraction": MOST_DIFFERENT,
            "mean_abs_error_over_std": MOST_ERROR,
        },
        "isas": by_isa,
        "bit_equal": {
            "over_isas": all(np.array_equal(logits[best], logits[isa]) for isa in isas),
            "batch_1_one_thread_and_batched_two_threads": bool(np.array_equal(single, logits[best][:500])),
        },
        "machine": describe_machine(),
    }
    result["holds"] = all(row["holds"] for row in by_isa.values()) and all(result["bit_equal"].values())
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"agreement_{arguments.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'all bounds hold' if result['holds'] else 'A BOUND IS BROKEN'}; see {path.name}")
    return 0 if result["holds"] else 1


def _portable(argument: str) -> str:
    """Returns an argument without this machine's folders."""
    return Path(argument).name if "/" in argument else argument


if __name__ == "__main__":
    sys.exit(main())
