"""The engine over lengths, batches, sparsities, threads and layers, on random weights of BERT-base.

    python benchmarks/sweep.py                    (--redraw draws the plots of the JSON file again)

The same as `secateur benchmark --sweep`, with a place for the JSON file and plots as PNG files. It goes on
where an earlier run stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from secateur.bench.plots import write_png
from secateur.bench.sweep_plots import sweep_figures
from secateur.bench.synthetic import SHAPES
from secateur.commands.sweep import AxisOptions, SweepModel, SweepRequest, run_sweep
from secateur.errors import SecateurError


def main() -> int:
    """Sweeps and draws.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bert-base", choices=list(SHAPES))
    parser.add_argument("--sparsity", type=float, default=0.8, help="of the base case")
    parser.add_argument("--threads", type=int, default=1, help="of the base case")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of timed calls at a point, over all rounds"
    )
    parser.add_argument("--time-limit", type=float, help="seconds after which no turn begins")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/sweep_MODEL.json")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    name = f"sweep_{options.model.replace('-', '_')}"
    out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    try:
        if not options.redraw:
            run_sweep(
                SweepModel(None, options.model, "block4", True, options.sparsity, None),
                AxisOptions(None, None, None, None, None),
                SweepRequest(
                    seq_len=128,
                    batch_size=1,
                    threads=options.threads,
                    isa=None,
                    seconds=options.seconds,
                    rounds=options.rounds,
                    grid=False,
                    time_limit=options.time_limit,
                ),
                out,
                None,
            )
        figures = sweep_figures(json.loads(out.read_text(encoding="utf-8")))
        print(*write_png(out.parent, {f"{out.stem}_{key}": figure for key, figure in figures.items()}))
    except SecateurError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
