"""From which sparsity on zeros pay: sparse and dense candidates, and where one gets as fast as the other."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from secateur.bench.engines import ENGINES, why_missing
from secateur.bench.forms import build_forms
from secateur.bench.measure import Timing, speedup
from secateur.bench.synthetic import SHAPES, write_synthetic
from secateur.bench.worker import Worker
from secateur.errors import UnsupportedError

__all__ = ["F32", "INT8", "Candidate", "Models", "analyse", "candidates", "pays_from"]

F32, INT8 = "f32", "int8"


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        name: In tables and plots.
        precision: Of its products.
        start: Makes its process for a sparsity.
        sparse: Whether its time depends on the sparsity; dense ones are started once.
        ours: Instruction set where it is our engine, else None.
    """

    name: str
    precision: str
    start: Callable[[float], Worker]
    sparse: bool = True
    ours: str | None = None


class Models:
    """Writes the models that candidates run, each once.

    Args:
        work: A folder to write into.
        name: A key of `SHAPES`.
        layers: Encoder layers.
        seq_len: Tokens to calibrate with.
    """

    def __init__(self, work: Path, name: str, layers: int, seq_len: int) -> None:
        self._work, self._name, self._layers, self._seq_len = work, name, layers, seq_len

    def ours(self, pattern: str, sparsity: float, precision: str) -> Path:
        """A checkpoint of ours.

        Args:
            pattern: `block4`, `unstructured` or `dense`.
            sparsity: Fraction of zeros.
            precision: `int8` or `f32`.
        """
        folder = self._work / str(sparsity) / f"{pattern}-{precision}"
        if folder.exists():
            return folder
        return write_synthetic(
            folder,
            self._name,
            pattern=pattern,
            sparsity=sparsity,
            num_layers=self._layers,
            quantized=precision != F32,
        )

    def other(self, engine: str, checkpoint: Path, dense: Path | None = None) -> Path:
        """The form of a model that another engine runs.

        Args:
            engine: A key of `ENGINES`.
            checkpoint: Of ours.
            dense: The dense model, or None for random weights.
        """
        source = dense or checkpoint
        work = source.parent / f"forms-of-{source.name}"
        return build_forms([engine], checkpoint, dense, self._seq_len, work)[engine]

    def forget(self, sparsity: float) -> None:
        """Removes what was written for a sparsity: the forms of BERT-base take a gigabyte."""
        shutil.rmtree(self._work / str(sparsity), ignore_errors=True)

    def pruned(self, sparsity: float) -> Path:
        """A Hugging Face folder in float32 whose encoder matrices have the smallest weights set to zero."""
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        folder = self._work / str(sparsity) / "pruned"
        if folder.exists():
            return folder
        shape = SHAPES[self._name]
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.hidden_size,
                intermediate_size=shape.intermediate_size,
                num_hidden_layers=self._layers,
                num_attention_heads=shape.num_heads,
            )
        )
        with torch.no_grad():
            for module in model.bert.encoder.modules():
                if isinstance(module, torch.nn.Linear):
                    size = module.weight.abs().flatten()
                    smallest = size.kthvalue(max(1, round(sparsity * size.numel()))).values
                    module.weight.mul_(module.weight.abs() > smallest)
        model.save_pretrained(folder)
        return folder


def candidates(models: Models, isas: Sequence[str]) -> list[Candidate]:
    """Lists what is timed.

    Args:
        models: Where their models come from.
        isas: Instruction sets of our engine, best first.

    Returns:
        Dense ones, then sparse ones.
    """

    def ours(pattern: str, precision: str, isa: str, sparsity: float) -> Worker:
        folder = models.ours(pattern, 0.0 if pattern == "dense" else sparsity, precision)
        return Worker("secateur", folder, variables={"SECATEUR_ISA": isa})

    def other(engine: str, _: float) -> Worker:
        _need(engine)
        folder = models.other(engine, models.ours("dense", 0.0, INT8))
        return Worker(engine, folder, python=ENGINES[engine].python())

    def torch_form(backend: str, sparsity: float) -> Worker:
        _need("pytorch")
        return Worker(backend, models.pruned(sparsity), python=ENGINES["pytorch"].python())

    def openvino_sparse(sparsity: float) -> Worker:
        _need("openvino-int8")
        form = models.other("openvino-int8", models.ours("dense", 0.0, INT8), models.pruned(sparsity))
        return Worker("openvino-int8-sparse", form, python=ENGINES["openvino-int8"].python())

    def deepsparse(pattern: str, precision: str, sparsity: float) -> Worker:
        _need("deepsparse")
        form = models.other("deepsparse", models.ours(pattern, sparsity, precision))
        return Worker("deepsparse", form, python=ENGINES["deepsparse"].python())

    found = [
        Candidate(f"{engine}, {ENGINES[engine].form}", precision, partial(other, engine), sparse=False)
        for engine, precision in (
            *(("pytorch", F32), ("pytorch-bf16", "bf16"), ("onnxruntime", F32), ("onnxruntime-int8", INT8)),
            *(("openvino", F32), ("openvino-bf16", "bf16"), ("openvino-int8", INT8)),
        )
    ]
    found.append(
        Candidate(
            "pytorch-int8, dense int8, dynamic", INT8, partial(torch_form, "pytorch-int8"), sparse=False
        )
    )
    for isa in isas:
        for precision in (F32, INT8):
            title = f"Secateur {precision} dense, {isa}"
            found.append(Candidate(title, precision, partial(ours, "dense", precision, isa), False, isa))
    for isa in isas:
        for pattern, precision in (("block4", INT8), ("unstructured", INT8), ("unstructured", F32)):
            title = f"Secateur {precision} {pattern}, {isa}"
            found.append(Candidate(title, precision, partial(ours, pattern, precision, isa), ours=isa))
    return [
        *found,
        Candidate("torch.sparse f32 unstructured", F32, partial(torch_form, "pytorch-sparse")),
        Candidate("OpenVINO int8, sparse option", INT8, openvino_sparse),
        Candidate("DeepSparse int8 block4", INT8, partial(deepsparse, "block4", INT8)),
        Candidate("DeepSparse f32 unstructured", F32, partial(deepsparse, "unstructured", F32)),
    ]


def _need(engine: str) -> None:
    """Refuses an engine that is not installed.

    Args:
        engine: A key of `ENGINES`.

    Raises:
        UnsupportedError: It is not.
    """
    reason = why_missing(engine)
    if reason:
        raise UnsupportedError(f"{reason}.")


def analyse(timings: Mapping[float, Mapping[str, Timing]], timed: Sequence[Candidate]) -> dict[str, Any]:
    """Makes figures of timings.

    Args:
        timings: Sparsity to candidate to timing, of one interleaved run a sparsity.
        timed: The candidates; one that failed at a later sparsity may be missing in some.

    Returns:
        `candidates`, `speedup` and `pays_from` (sparse to dense to figures) and `int8_over_f32`.
    """

    def ratios(base: str, other: str) -> dict[float, Any]:
        return {
            sparsity: speedup(found[base], found[other])
            for sparsity, found in timings.items()
            if base in found and other in found
        }

    sparse = [one for one in timed if one.sparse]
    dense = [one for one in timed if not one.sparse]
    pairs = {one.name: {other.name: ratios(other.name, one.name) for other in dense} for one in sparse}
    int8_over_f32: dict[str, Any] = {}
    for one in timed:
        for other in timed:
            same = one.ours is not None and one.ours == other.ours and one.sparse == other.sparse
            if same and (one.precision, other.precision) == (INT8, F32):
                int8_over_f32[f"{one.name} over {other.name}"] = _rounded(ratios(other.name, one.name))
    return {
        "candidates": {
            one.name: {
                "precision": one.precision,
                "sparse": one.sparse,
                "isa": one.ours,
                "latency_ms": {
                    str(sparsity): round(found[one.name].median, 4)
                    for sparsity, found in timings.items()
                    if one.name in found
                },
            }
            for one in timed
        },
        "speedup": {
            name: {other: _rounded(found) for other, found in others.items()}
            for name, others in pairs.items()
        },
        "pays_from": {
            name: {
                other: pays_from({sparsity: one.ratio for sparsity, one in found.items()})
                for other, found in others.items()
                if found
            }
            for name, others in pairs.items()
        },
        "int8_over_f32": int8_over_f32,
    }


def _rounded(found: Mapping[float, Any]) -> dict[str, dict[str, float]]:
    return {
        str(sparsity): {"ratio": round(one.ratio, 3), "low": round(one.low, 3), "high": round(one.high, 3)}
        for sparsity, one in found.items()
    }


def pays_from(speedups: Mapping[float, float]) -> dict[str, Any]:
    """Finds the sparsity from which on a sparse engine is at least as fast as a dense one.

    Between two measured sparsities the logarithm of the ratio is taken to be straight.

    Args:
        speedups: Sparsity to the ratio dense time / sparse time, measured side by side.

    Returns:
        `sparsity` (None where zeros do not pay at the largest one measured) and `how`: `interpolated`,
        `at the first measured` (it may be less) or `never`.

    Raises:
        ValueError: There is no ratio, or one is not positive.
    """
    if not speedups or any(not ratio > 0 for ratio in speedups.values()):
        raise ValueError("speed-ups must be positive, and one at least")
    ordered = sorted(speedups.items())
    losing = [index for index, (_, ratio) in enumerate(ordered) if ratio < 1]
    if not losing:
        return {"sparsity": ordered[0][0], "how": "at the first measured"}
    last = losing[-1]
    if last == len(ordered) - 1:
        return {"sparsity": None, "how": "never"}
    (below, slower), (above, faster) = ordered[last], ordered[last + 1]
    share = -math.log(slower) / (math.log(faster) - math.log(slower))
    return {"sparsity": round(below + share * (above - below), 4), "how": "interpolated"}
