"""Candidates that compile a model for one shape of request: OpenVINO and DeepSparse.

They may run in an environment of their own, where nothing of Secateur's is installed (see
`secateur.bench.environments`): this module and what it imports need numpy and nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.bench.inputs import case_input_ids, onnx_inputs, padded, vocab_size

if TYPE_CHECKING:
    from secateur.bench.worker import Case

__all__ = ["DeepSparseBackend", "OpenVinoBackend", "import_openvino"]


def import_openvino() -> Any:
    """Imports OpenVINO; its tools report their use to their makers if they can, so they cannot."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class OpenVinoBackend:
    """OpenVINO's CPU plugin, tuned for latency, with the shape of the request compiled in.

    Args:
        folder: The folder that the export wrote into.
        threads: Ignored: it is said when a shape is compiled.
        file: Which of its files to run.
        precision: `f32` or `bf16`: what its float operations compute in.
        sparse_rate: Weights with at least this fraction of zeros are kept packed, where the CPU has AMX
            (OpenVINO's option, experimental); None leaves it at its default.
    """

    def __init__(
        self,
        folder: str,
        threads: int = 1,
        *,
        file: str,
        precision: str = "f32",
        sparse_rate: float | None = None,
    ) -> None:
        self._core = import_openvino().Core()
        self._path = Path(folder) / file
        self._vocab_size = vocab_size(folder)
        self._precision = precision
        self.facts: dict[str, Any] = {}
        self._sparse_rate = sparse_rate
        self._core.read_model(self._path)

    def _compile(self, batch_size: int, seq_len: int, threads: int) -> Callable[[object], Any]:
        model = self._core.read_model(self._path)
        model.reshape({one.get_any_name(): [batch_size, seq_len] for one in model.inputs})
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self._precision,
        }
        if self._sparse_rate is not None:
            options["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = self._sparse_rate
        compiled = self._core.compile_model(model, "CPU", options)
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if self._precision == "bf16" and chosen != "bf16":
            raise RuntimeError(f"this CPU has no bf16: OpenVINO would compute in {chosen}")
        self.facts = {"precision": chosen}
        return compiled.create_infer_request().infer  # type: ignore[no-any-return]

    def prepare(self, case: Case) -> Callable[[], object]:
        """See `secateur.bench.backends.Backend.prepare`."""
        ids = case_input_ids(case, self._vocab_size)
        infer = self._compile(case.batch_size, case.seq_len, case.threads)
        return partial(infer, onnx_inputs(ids, np.ones_like(ids)))

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """See `secateur.bench.backends.Backend.logits`."""
        infer = {length: self._compile(1, length, threads) for length in {len(ids) for ids in input_ids}}
        found = [infer[len(ids)](onnx_inputs(*padded([ids])))[0] for ids in input_ids]
        return np.concatenate(found).astype(np.float32)


class DeepSparseBackend:
    """DeepSparse, with the shape of the request written into the graph.

    Args:
        folder: The folder that the export wrote into.
        threads: Ignored: it is said when a shape is compiled.
        file: Which of its files to run.
    """

    def __init__(self, folder: str, threads: int = 1, *, file: str) -> None:
        os.environ["NM_DISABLE_ANALYTICS"] = "1"
        import deepsparse
        import onnx

        self._onnx, self._deepsparse = onnx, deepsparse
        self.facts: dict[str, Any] = {}
        self._model = onnx.load(str(Path(folder) / file))
        self._vocab_size = vocab_size(folder)

    def _compile(self, batch_size: int, seq_len: int, threads: int) -> Callable[[list[Any]], Any]:
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        for one in model.graph.input:
            for dimension, size in zip(one.type.tensor_type.shape.dim, (batch_size, seq_len), strict=True):
                dimension.dim_value = size
        # DeepSparse's own option for shapes rewrites the user's file in place: it gets a copy.
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model.onnx"
            self._onnx.save(model, str(path))
            engine = self._deepsparse.Engine(str(path), batch_size=batch_size, num_cores=threads)
        # Less than 1: part of the graph runs outside of its fast path, and the row does it wrong.
        self.facts = {"supported_ops": engine.fraction_of_supported_ops, "vnni": bool(engine.cpu_vnni)}
        return engine.run  # type: ignore[no-any-return]

    def prepare(self, case: Case) -> Callable[[], object]:
        """See `secateur.bench.backends.Backend.prepare`."""
        ids = case_input_ids(case, self._vocab_size)
        run = self._compile(case.batch_size, case.seq_len, case.threads)
        return partial(run, list(onnx_inputs(ids, np.ones_like(ids)).values()))

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """See `secateur.bench.backends.Backend.logits`."""
        run = {length: self._compile(1, length, threads) for length in {len(ids) for ids in input_ids}}
        found = [run[len(ids)](list(onnx_inputs(*padded([ids])).values()))[0] for ids in input_ids]
        return np.concatenate(found).astype(np.float32)
