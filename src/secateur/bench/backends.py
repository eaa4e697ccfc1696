"""The candidates of a comparison behind one interface; those that compile for a shape stand in `compiled`.

Each class imports its library when it is made, so that a process that runs our engine imports nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateur.bench.compiled import DeepSparseBackend, OpenVinoBackend
from secateur.bench.inputs import batches, case_input_ids, onnx_inputs, padded, vocab_size
from secateur.bench.torch_forms import dynamic_int8, sparse_linears
from secateur.bench.worker import Case

__all__ = ["BACKENDS", "Backend", "case_input_ids"]


class Backend(Protocol):
    """A model that is ready to answer."""

    def prepare(self, case: Case) -> Callable[[], object]:
        """Makes a call of a given shape, with everything that is not inference done beforehand.

        Args:
            case: The shape of the request.

        Returns:
            What to time.
        """
        ...

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """Answers sequences of any length.

        Args:
            input_ids: Token ids, special tokens included.
            threads: Threads to use.

        Returns:
            [len(input_ids), num_labels] float32.
        """
        ...


class EngineBackend:
    """A Secateur checkpoint on our engine: one engine for each number of threads asked for.

    Args:
        folder: The checkpoint's folder.
        threads: Threads of the engine that is made first.
    """

    def __init__(self, folder: str, threads: int = 1) -> None:
        from secateur.runtime.engine import Engine

        self._folder = folder
        self._vocab_size = vocab_size(folder)
        self._engines = {threads: Engine.from_pretrained(folder, num_threads=threads)}

    def _engine(self, threads: int) -> Any:
        from secateur.runtime.engine import Engine

        if threads not in self._engines:
            self._engines[threads] = Engine.from_pretrained(self._folder, num_threads=threads)
        return self._engines[threads]

    def prepare(self, case: Case) -> Callable[[], object]:
        """See `Backend.prepare`."""
        return partial(self._engine(case.threads), case_input_ids(case, self._vocab_size).astype(np.int32))

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """See `Backend.logits`."""
        engine = self._engine(threads)
        return np.concatenate([engine(list(batch)) for batch in batches(input_ids)])


class TorchBackend:
    """A Hugging Face folder on PyTorch, in evaluation and inference mode, as its user would call it.

    Args:
        folder: A model's folder; of a Secateur checkpoint, with `compressed`.
        threads: Threads to load with.
        dtype: Name of a PyTorch dtype that the whole model is cast to.
        compressed: Whether the folder is a Secateur checkpoint: masks and fake quantization are attached.
        form: Makes another form of the model, or None.
    """

    def __init__(
        self,
        folder: str,
        threads: int = 1,
        *,
        dtype: str = "float32",
        compressed: bool = False,
        form: Callable[[Any], Any] | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        if compressed:
            import secateur.hf  # noqa: F401  (registers the quantizer with transformers)
        self._torch = torch
        torch.set_num_threads(threads)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        self._model = model.to(getattr(torch, dtype)).eval()
        if form is not None:
            self._model = form(self._model)
        self._vocab_size = int(model.config.vocab_size)

    def _run(self, inputs: dict[str, Any], threads: int) -> Any:
        if self._torch.get_num_threads() != threads:
            self._torch.set_num_threads(threads)
        with self._torch.inference_mode():
            return self._model(**inputs).logits

    def prepare(self, case: Case) -> Callable[[], object]:
        """See `Backend.prepare`."""
        ids = self._torch.from_numpy(case_input_ids(case, self._vocab_size))
        inputs = {"input_ids": ids, "attention_mask": self._torch.ones_like(ids)}
        return partial(self._run, inputs, case.threads)

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """See `Backend.logits`."""
        found = []
        for batch in batches(input_ids):
            ids, mask = padded(batch)
            inputs = {
                "input_ids": self._torch.from_numpy(ids),
                "attention_mask": self._torch.from_numpy(mask),
            }
            found.append(self._run(inputs, threads).float().numpy())
        return np.concatenate(found)


class OnnxBackend:
    """A model exported by `secateur.bench.peers` on ONNX Runtime's CPU provider, with its default options.

    Args:
        folder: The folder that the export wrote into.
        threads: Threads of the session that is made first.
        file: Which of its files to run.
    """

    def __init__(self, folder: str, threads: int = 1, *, file: str) -> None:
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._path = str(Path(folder) / file)
        self._vocab_size = vocab_size(folder)
        self._sessions = {threads: self._open(threads)}

    def _open(self, threads: int) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return self._onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def _session(self, threads: int) -> Any:
        if threads not in self._sessions:
            self._sessions[threads] = self._open(threads)
        return self._sessions[threads]

    def prepare(self, case: Case) -> Callable[[], object]:
        """See `Backend.prepare`."""
        ids = case_input_ids(case, self._vocab_size)
        return partial(self._session(case.threads).run, None, onnx_inputs(ids, np.ones_like(ids)))

    def logits(self, input_ids: Sequence[Sequence[int]], threads: int) -> NDArray[np.float32]:
        """See `Backend.logits`; one sequence a call: dynamic quantization looks at the whole batch."""
        session = self._session(threads)
        found = [session.run(None, onnx_inputs(*padded([ids])))[0] for ids in input_ids]
        return np.concatenate(found).astype(np.float32)


# Each is called with a folder and, if it likes, the threads to be ready for.
BACKENDS: dict[str, Callable[..., Backend]] = {
    "secateur": EngineBackend,
    "pytorch": TorchBackend,
    "pytorch-bf16": partial(TorchBackend, dtype="bfloat16"),
    "pytorch-int8": partial(TorchBackend, form=dynamic_int8),
    "pytorch-sparse": partial(TorchBackend, form=sparse_linears),
    "pytorch-compressed": partial(TorchBackend, compressed=True),
    "onnxruntime": partial(OnnxBackend, file="model.onnx"),
    "onnxruntime-int8": partial(OnnxBackend, file="model-int8.onnx"),
    "openvino": partial(OpenVinoBackend, file="model-plain.onnx"),
    "openvino-bf16": partial(OpenVinoBackend, file="model-plain.onnx", precision="bf16"),
    "openvino-int8": partial(OpenVinoBackend, file="model-openvino-int8.xml"),
    "openvino-int8-sparse": partial(OpenVinoBackend, file="model-openvino-int8.xml", sparse_rate=0.4),
    "deepsparse": partial(DeepSparseBackend, file="model-deepsparse.onnx"),
}
