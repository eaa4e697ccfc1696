"""How far can a fine-tuned model be pruned without training? Score against sparsity, method by method.

    python benchmarks/one_shot.py --data ../shared/data/clinc150
    python benchmarks/one_shot.py --data ../shared/data/sst2 --model work/sst2/dense --methods wanda,sparsegpt
    python benchmarks/one_shot.py --data ../shared/data/sara --redraw      (draws the JSON file's plots again)

Each method goes from the dense model to the highest sparsity in as many steps as it recomputes what it goes
by (`obert-8` in 8, most in one), each step removing the same share of what is left. A reading at a sparsity
is the step at hand cut short there, after which the model is put back to where that step began: a method that
recomputes once prunes the dense model anew for every reading. Scores are those of the test rows, in float32,
with what part of the dense score is kept and a paired bootstrap interval over these rows.

Without --model all-MiniLM-L6-v2 is fine-tuned first, once. What is read is written at once; the state of a
trajectory lies under --work; the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from secateur.bench.kept import kept, row_sums
from secateur.bench.machine import describe_machine
from secateur.bench.plots import Line, line_figure, write_png
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.public_sets import group_of_rows, load_public
from secateur.bench.results import write_results
from secateur.commands.console import hush_libraries
from secateur.data import Splits
from secateur.errors import DataError, SecateurError
from secateur.modeling import find_projections
from secateur.sparsity import find_mask
from secateur.sparsity.mask import set_weight_, unquantized_weight
from secateur.training import fine_tune
from secateur.training.evaluation import predict
from secateur.training.one_shot import OneShot, Prepared, prepare
from secateur.training.run_folder import fingerprint

METHODS = ("random", "magnitude", "taylor", "wanda", "sparsegpt", "obert-1", "obert-8", "obert-32")
PATTERNS = ("unstructured", "block4")
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# What another run must have in common with this one for its readings to be gone on with.
_SAME = ("sparsities", "rows", "num_grads", "damp", "seed", "train_rows", "test_rows", "max_length")


@dataclass(frozen=True)
class Curve:
    """One method on one pattern.

    Attributes:
        pattern: What is removed together.
        name: In the legend, as `obert-8`.
    """

    pattern: str
    name: str

    @property
    def method(self) -> str:
        """The pruner."""
        return self.name.partition("-")[0]

    @property
    def recomputations(self) -> int:
        """Steps from the dense model to the highest sparsity."""
        return int(self.name.partition("-")[2] or 1)


def main() -> int:
    """Reads what is missing and draws.

    Returns:
        The exit status.
    """
    arguments = _arguments()
    hush_libraries()
    try:
        out = arguments.out or Path("benchmarks/results") / f"one_shot_{_name(arguments)}.json"
        results = json.loads(out.read_text(encoding="utf-8")) if arguments.redraw else run(arguments, out)
        drawn = figures(results)
        print(*write_png(out.parent, {f"{out.stem}_{key}": figure for key, figure in drawn.items()}))
    except SecateurError as error:
        print(f"one_shot: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Takes every reading that `out` does not have yet.

    Returns:
        What stands in `out` then.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    splits = load_public(arguments.data, arguments.task, arguments.train_rows, arguments.test_rows)
    # Nothing is chosen by these, and scoring them at every reading would take as long as the rest.
    splits = dataclasses.replace(splits, validation=[], out_of_scope=[])
    print(splits.describe(), flush=True)
    work = arguments.work / _name(arguments)
    model = arguments.model or _fine_tuned(splits, work / "dense", arguments)
    results = _begun(out, arguments, splits, model)
    for curve in (Curve(pattern, name) for pattern in arguments.patterns for name in arguments.methods):
        entry = _entry(results, curve)
        if len(entry["points"]) == len(arguments.sparsities):
            continue
        settings = settings_of(curve, arguments)
        ready = prepare(model, splits, settings)
        entry["settings"] = {"ranking": ready.pruner and ready.pruner.ranking, **settings.all_options()}
        score = _Score(ready)
        results["dense"] = score.dense
        folder = work / f"{curve.pattern}_{curve.name}"
        read = {point["sparsity"] for point in entry["points"]}
        left = [sparsity for sparsity in arguments.sparsities if sparsity not in read]
        for sparsity in trajectory(ready, curve.recomputations, max(arguments.sparsities), left, folder):
            point = {"sparsity": sparsity, **score.now()}
            entry["points"].append(point)
            write_results(out, results)
            print(f"{curve.pattern} {curve.name} {sparsity:.0%}: {point['score']:.4f}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return results


def settings_of(curve: Curve, arguments: argparse.Namespace) -> OneShot:
    """Returns how a curve's model is pruned."""
    options: dict[str, Any] = {}
    if curve.method == "obert":
        options = {"num_grads": arguments.num_grads, "damp": arguments.damp}
    elif curve.method == "taylor":
        options = {"num_grads": arguments.num_grads}
    return OneShot(
        method=curve.method,
        sparsity=max(arguments.sparsities),
        pattern=curve.pattern,
        options=options,
        rows=arguments.rows if curve.method in ("wanda", "sparsegpt") else None,
        seed=arguments.seed,
        max_length=arguments.max_length,
    )


def trajectory(
    ready: Prepared, steps: int, last: float, readings: Sequence[float], folder: Path
) -> Iterator[float]:
    """Prunes a model step by step, and yields where it stands at a reading.

    Args:
        ready: The model; its state is kept in `folder` after each step, and taken from there at the start.
        steps: How many times the method recomputes.
        last: The sparsity that the last step ends at.
        readings: Sparsities, rising, at most `last`.
        folder: Made where it is missing.

    Yields:
        Each reading, with the model pruned to it.
    """
    state = folder / "state.safetensors"
    done = _restored(ready, state) if state.is_file() else 0
    for reading in readings:
        while done + 1 < steps and _cut(done + 1, steps, last) < reading - 1e-9:
            done += 1
            ready.evidence.step = done
            ready.prune_(_cut(done, steps, last))
            folder.mkdir(parents=True, exist_ok=True)
            _save(ready, done, state)
        before = _state(ready)
        ready.evidence.step = done + 1
        ready.prune_(reading)
        yield reading
        _put(ready, before)


def _cut(step: int, steps: int, last: float) -> float:
    """Returns the sparsity after a step, each of which takes the same share of what is left."""
    return last if step == steps else 1.0 - (1.0 - last) ** (step / steps)


def _state(ready: Prepared) -> dict[str, torch.Tensor]:
    state = {}
    for projection in find_projections(ready.network):
        mask = find_mask(projection.linear)
        assert mask is not None
        state[f"{projection.name}.mask"] = mask.mask.clone()
        state[f"{projection.name}.weight"] = unquantized_weight(projection.linear).clone()
    return state


def _put(ready: Prepared, state: dict[str, torch.Tensor]) -> None:
    for projection in find_projections(ready.network):
        mask = find_mask(projection.linear)
        assert mask is not None
        with torch.no_grad():
            mask.mask.copy_(state[f"{projection.name}.mask"])
        set_weight_(projection.linear, state[f"{projection.name}.weight"])


def _save(ready: Prepared, done: int, path: Path) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _state(ready).items()}
    partial = path.with_suffix(".partial")
    save_file({**tensors, "done": torch.tensor(done)}, partial)
    os.replace(partial, path)


def _restored(ready: Prepared, path: Path) -> int:
    state = load_file(path)
    _put(ready, state)
    return int(state["done"])


class _Score:
    """Scores a model on the test rows, beside what it scored at first."""

    def __init__(self, ready: Prepared) -> None:
        self._ready = ready
        self._task, self._rows = ready.splits.task, ready.splits.test
        if not self._rows or not self._task.main_metric:
            raise DataError(f"{ready.splits.name} has no labelled test rows to score: give data that have.")
        self._encoded = self._task.encode(ready.tokenizer.backend_tokenizer, self._rows, ready.longest)
        self._groups = group_of_rows(ready.splits)
        self.dense, self._sums = self._measure()

    def now(self) -> dict[str, Any]:
        """Returns `achieved` sparsity, `score`, and what part of the dense score is `kept`."""
        score, sums = self._measure()
        pruner = self._ready.pruner
        assert pruner is not None
        found: dict[str, Any] = {"achieved": round(pruner.sparsity, 6), "score": score, **pruner.notes()}
        if self._sums is not None and sums is not None:
            bounds = kept([self._sums], [sums], self._groups)
            found["kept"] = {name: bounds[name] for name in ("value", "low", "high")}
        return found

    def _measure(self) -> tuple[float, Any]:
        outputs = predict(self._ready.network, self._task, self._encoded)
        score = self._task.score(self._rows, self._encoded, outputs)[self._task.main_metric]
        return float(score), row_sums(self._task, self._rows, self._encoded, outputs)


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """Returns a figure for each pattern that has readings: score against sparsity."""
    drawn = {}
    for pattern in dict.fromkeys(curve["pattern"] for curve in results["curves"]):
        lines = []
        for curve in results["curves"]:
            if curve["pattern"] == pattern and curve["points"]:
                points = sorted(curve["points"], key=lambda point: float(point["sparsity"]))
                places = [point["achieved"] for point in points]
                lines.append(Line(curve["name"], places, [point["score"] for point in points]))
        if not lines:
            continue
        ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
        lines.append(Line("dense", ends, [results["dense"]] * 2, plain=True))
        drawn[pattern.replace(":", "_")] = line_figure(
            f"Pruned without training: {results['data']['name']}, {pattern}",
            f"{results['model']}, {results['data']['test']} test rows, float32",
            lines,
            x_title="zeros in the encoder's matrices",
            y_title=results["metric"].replace("_", " "),
            x_ticks=results["request"]["sparsities"],
            percent=True,
        )
    return drawn


def _fine_tuned(splits: Splits, folder: Path, arguments: argparse.Namespace) -> Path:
    if not folder.is_dir():
        fine_tune(packaged_minilm(), splits, folder, seed=arguments.seed, max_length=arguments.max_length)
    return folder


def _begun(out: Path, arguments: argparse.Namespace, splits: Splits, model: Path) -> dict[str, Any]:
    """Returns the results so far, or empty ones."""
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    request = {name: getattr(arguments, name) for name in _SAME}
    request = json.loads(json.dumps({**request, "model": weights, "test": fingerprint(splits.test)}))
    if out.is_file():
        results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        differ = [name for name, value in request.items() if results.get("request", {}).get(name) != value]
        if differ:
            raise DataError(
                f"{out} holds readings made with other {', '.join(differ)}: move it away, or give another "
                "--out (and --work)."
            )
        return results | {"machine": describe_machine()}
    return {
        "question": f"How far can a model of {_name(arguments)} be pruned without training?",
        "command": _command(arguments),
        "request": request,
        "model": "all-MiniLM-L6-v2, fine-tuned" if arguments.model is None else model.name,
        "data": {
            "name": _name(arguments),
            "task": splits.task.name,
            "train": len(splits.train),
            "test": len(splits.test),
            "labels": len(splits.labels),
            "notes": splits.notes,
        },
        "metric": splits.task.main_metric,
        "dense": None,
        "curves": [],
        "machine": describe_machine(),
    }


def _entry(results: dict[str, Any], curve: Curve) -> dict[str, Any]:
    known: dict[str, Any]
    for known in results["curves"]:
        if (known["pattern"], known["name"]) == (curve.pattern, curve.name):
            return known
    made = {
        "pattern": curve.pattern,
        "name": curve.name,
        "method": curve.method,
        "recomputations": curve.recomputations,
        "points": [],
    }
    results["curves"].append(made)
    return made


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that makes these figures anew, without the places of this machine."""
    words = ["python", "benchmarks/one_shot.py", "--data", os.path.relpath(arguments.data)]
    for name in ("rows", "num_grads", "damp", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return shlex.join(words)


def _name(arguments: argparse.Namespace) -> str:
    return Path(arguments.data).name.split(".")[0]


def _listed(allowed: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(given: str) -> list[Any]:
        try:
            return [allowed(part) for part in given.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _method(name: str) -> str:
    base, _, steps = name.partition("-")
    if name not in METHODS and not (base == "obert" and steps.isdigit() and int(steps) > 0):
        raise ValueError(f"{name!r} is no method: {', '.join(METHODS)}")
    return name


def _sparsities(given: str) -> list[float]:
    values: list[float] = sorted(_listed(float)(given))
    if not all(0.0 < value < 1.0 for value in values):
        raise argparse.ArgumentTypeError("sparsities lie between 0 and 1, as 0.3,0.8")
    return values


def _damp(given: str) -> float | str:
    return given if given == "auto" else float(given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="see secateur.bench.public_sets")
    parser.add_argument("--task", help="default: what the data look like")
    parser.add_argument("--model", type=Path, help="fine-tuned on the data; default: made under --work")
    parser.add_argument("--methods", type=_listed(_method), default=list(METHODS))
    parser.add_argument("--patterns", type=_listed(str), default=list(PATTERNS))
    parser.add_argument("--sparsities", type=_sparsities, default=list(SPARSITIES))
    parser.add_argument("--rows", type=int, default=512, help="calibration texts of wanda and sparsegpt")
    parser.add_argument("--num-grads", type=int, default=1024, help="of taylor and obert")
    parser.add_argument("--damp", type=_damp, default=1e-7, help="of obert: a number, or auto")
    parser.add_argument("--train-rows", type=int, default=0, help="take so many only")
    parser.add_argument("--test-rows", type=int, default=0, help="score so many only")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path("build/one_shot"), help="what a run goes on from")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/one_shot_DATA.json")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
