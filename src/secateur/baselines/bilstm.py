"""A small BiLSTM that learns from a fine-tuned network: what a simple network keeps of a big one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig, Trainer, set_seed

from secateur.baselines.baseline import measure
from secateur.baselines.bilstm_network import BiLstmNetwork, bilstm_for, known_pieces
from secateur.data import Splits
from secateur.distillation import Lesson, StudentHook
from secateur.errors import DataError, UnsupportedError
from secateur.export.onnx import require_onnx, to_onnx
from secateur.quantization.qat import find_embeddings
from secateur.tasks import Encoded, Outputs, Task
from secateur.training.arguments import LOG_EVERY, quiet_transformers, training_arguments
from secateur.training.augmentation import AugmentingPadder
from secateur.training.collation import can_be_altered
from secateur.training.connection import count_items_
from secateur.training.encoding import Features, Padder, pad_token_of
from secateur.training.evaluation import model_outputs
from secateur.training.fine_tuning import check_model_target
from secateur.training.lengths import max_tokens
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer
from secateur.training.progress import show_progress_

__all__ = ["BiLstm", "bilstm"]

_EPOCHS = 10.0
_LEAST_STEPS = 1500
_BATCH = 64
_LEARNING_RATE = 2e-3
_TEMPERATURE = 3.0
_ALTERED = 60_000  # altered copies, at least 4 and at most 30 of each row
_ROWS = 64  # asked at a time


class BiLstm:
    """A bidirectional LSTM of under a million parameters, distilled from a fine-tuned model.

    It learns what its teacher says of the rows and of altered copies of them (where rows can be altered), and
    no label. Answers come from onnxruntime where it is installed, else from PyTorch.

    Args:
        task: Text or token classification.
        teacher: Folder of a model that was fine-tuned for it.
        seed: Of everything random.
        epochs: Passes over rows and copies.
        min_steps: A run with fewer optimizer steps is stretched to this many.
        max_length: Most tokens of a text; None means all that the teacher can.
        progress: Shows a progress bar.

    Raises:
        UnsupportedError: The task has no such network, or the folder is no model.
        DataError: The teacher is not fine-tuned for the data.

    Source:
        Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks" (2019). Theirs
        learns logits by squared error, here distributions by KL at temperature 3; their altered rows have
        words masked or replaced and n-grams cut out, ours are `secateur.training.augmentation`'s.
    """

    name: ClassVar[str] = "BiLSTM, distilled"

    def __init__(
        self,
        task: Task,
        teacher: str | Path,
        seed: int = 42,
        *,
        epochs: float = _EPOCHS,
        min_steps: int = _LEAST_STEPS,
        max_length: int | None = None,
        progress: bool = False,
    ) -> None:
        if task.head not in ("sequence", "token") or not (task.labels or task.kind == "regression"):
            raise UnsupportedError(
                f"A BiLSTM does not answer {task.name}: only text- and token-classification."
            )
        if not has_head(teacher, type(task)):
            raise DataError(
                f"{teacher} is not fine-tuned for {task.name} and cannot teach a BiLSTM: give a model that "
                "is (compress keeps one with --dense-out)."
            )
        self.task = agreed_task(teacher, task)
        self.seed = seed
        self.network: BiLstmNetwork | None = None
        self.graph: bytes | None = None
        self.tokenizer = load_tokenizer(teacher)
        self._folder = Path(teacher)
        self._epochs = epochs
        self._min_steps = min_steps
        self._max_length = max_length
        self._longest = 0
        self._progress = progress
        self._run: Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]] | None = None
        self._engine = "PyTorch"

    @property
    def engine(self) -> str:
        """What answers: `onnxruntime` or `PyTorch`."""
        return self._engine

    @property
    def parameters(self) -> int:
        """Number of learnt parameters."""
        return sum(one.numel() for one in self._trained().parameters())

    def fit(self, train: Sequence[Any], validation: Sequence[Any]) -> None:
        """Learns what the teacher says of the training rows; validation rows choose nothing."""
        teacher = load_network(self._folder, self.task)
        self._longest = max_tokens(teacher, self.tokenizer, self.task, self._max_length)
        encoded = self.task.encode(self.tokenizer.backend_tokenizer, train, self._longest)
        targets = self.task.targets(train, encoded)
        pad = pad_token_of(teacher)
        copies = self._altered(encoded, pad) if can_be_altered(self.task, train) else []
        every = _joined(encoded, copies)
        features = Features(
            every, [targets[row % len(targets)] for row in range(len(every))], token_types=False
        )
        features.teacher_outputs = [
            torch.from_numpy(one) for one in model_outputs(teacher, self.task, every, batch_size=_ROWS)
        ]
        set_seed(self.seed)
        config = PretrainedConfig(**self.task.config(), vocab_size=teacher.config.vocab_size)
        config.problem_type = teacher.config.problem_type or config.problem_type
        pieces = known_pieces(every.input_ids, config.vocab_size, config.num_labels)
        network = bilstm_for(self.task.head, config, pieces, find_embeddings(teacher)["word"].weight)
        self._train(network, features, Padder(pad))
        self.network = network.eval()
        self._choose_engine()

    def outputs(self, rows: Sequence[Any]) -> tuple[Encoded, Outputs]:
        """Returns features of rows and what the head gives for each."""
        assert self._run is not None, "call fit first"
        encoded = self.task.encode(self.tokenizer.backend_tokenizer, rows, self._longest)
        order = sorted(range(len(encoded)), key=lambda index: -len(encoded.input_ids[index]))
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
        for start in range(0, len(order), _ROWS):
            numbers = order[start : start + _ROWS]
            logits = self._run(_batch([encoded.input_ids[number] for number in numbers]))
            for place, number in enumerate(numbers):
                one = logits[place]
                if self.task.head == "token":
                    one = one[: len(encoded.input_ids[number])]
                found[number] = self.task.reduce(encoded, number, one)
        return encoded, found

    def size_bytes(self) -> int:
        """Returns the size of the ONNX file, or of the parameters where none can be written."""
        return self.parameters * 4 if self.graph is None else len(self.graph)

    def save(self, out: Path, metrics: dict[str, Any]) -> None:
        """Writes `model.onnx` with config, tokenizer and metrics beside it.

        Raises:
            MissingExtraError: onnx is not installed.
            UnsupportedError: Something that is no model lies there.
        """
        require_onnx()
        assert self.graph is not None
        check_model_target(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            folder = Path(work) / out.name
            folder.mkdir()
            (folder / "model.onnx").write_bytes(self.graph)
            config = {"model_type": "bilstm", **self.task.config(), "max_length": self._longest}
            (folder / "config.json").write_text(json.dumps(config, indent=2, default=str), encoding="utf-8")
            (folder / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
            with quiet_transformers():
                self.tokenizer.save_pretrained(folder)
            if out.exists():
                os.replace(out, Path(work) / "older")
            shutil.move(folder, out)

    def _trained(self) -> BiLstmNetwork:
        assert self.network is not None, "call fit first"
        return self.network

    def _altered(self, encoded: Encoded, pad: int) -> list[list[int]]:
        """Returns altered copies of all rows, pass by pass."""
        features = Features(encoded, [{}] * len(encoded), token_types=False)
        passes = max(4, min(30, _ALTERED // max(len(encoded), 1)))
        special = self.tokenizer.all_special_ids
        made = []
        for number in range(passes):
            alter = AugmentingPadder(pad, features, (), special, 1.0, self.seed + number)
            made += [alter([{"input_ids": ids}])["input_ids"][0].tolist() for ids in encoded.input_ids]
        return made

    def _train(self, network: BiLstmNetwork, features: Features, padder: Padder) -> None:
        hook = StudentHook(Lesson(1.0, _TEMPERATURE))
        hook.attach_(network)
        steps = -(-len(features) // _BATCH)
        with tempfile.TemporaryDirectory() as work, quiet_transformers():
            trainer = Trainer(
                model=network,
                args=training_arguments(
                    Path(work),
                    epochs=max(self._epochs, self._min_steps / steps),
                    learning_rate=_LEARNING_RATE,
                    batch_size=_BATCH,
                    warmup_fraction=0.05,
                    weight_decay=0.01,
                    seed=self.seed,
                    logging_steps=LOG_EVERY if self._progress else 0,
                ),
                data_collator=padder,
                train_dataset=features,
            )
            count_items_(trainer, hook)
            show_progress_(trainer, "Teaching a BiLSTM" if self._progress else None, None)
            trainer.train()
        hook.detach_()
        network.cpu()

    def _choose_engine(self) -> None:
        network = self._trained()
        self._run, self._engine = _in_torch(network), "PyTorch"
        try:
            import onnx  # noqa: F401
        except ModuleNotFoundError:
            return
        self.graph = to_onnx(network.weights())
        try:
            self._run, self._engine = _in_onnxruntime(self.graph), "onnxruntime"
        except ModuleNotFoundError:
            return


def bilstm(
    model: str | Path,
    splits: Splits,
    out: str | Path | None = None,
    *,
    seed: int = 42,
    epochs: float = _EPOCHS,
    min_steps: int = _LEAST_STEPS,
    max_length: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Distils a fine-tuned model into a BiLSTM, measures it, and writes it as ONNX.

    Args:
        model: Folder of the fine-tuned model.
        splits: The data.
        out: Folder to write; None writes nothing.
        seed: Of everything random.
        epochs: See `BiLstm`.
        min_steps: See `BiLstm`.
        max_length: Most tokens of a text; None means all that the model can.
        progress: Shows a progress bar.

    Returns:
        As `secateur.baselines.measure`, and `engine` and `parameters`.

    Raises:
        SecateurError: Model or data cannot be used, or there is nothing to write ONNX with.
    """
    if out is not None:
        require_onnx()
        check_model_target(Path(out))
    options: dict[str, Any] = {"epochs": epochs, "min_steps": min_steps, "max_length": max_length}
    network = BiLstm(splits.task, model, seed, progress=progress, **options)
    agreed = Splits(
        splits.name, network.task, splits.train, splits.validation, splits.test, splits.out_of_scope
    )
    row = measure(network, agreed)
    row |= {"engine": network.engine, "parameters": network.parameters}
    if out is not None:
        network.save(Path(out), row)
    return row


def _joined(encoded: Encoded, copies: list[list[int]]) -> Encoded:
    """Returns the features, and after them copies without their details, each as often as it was altered."""
    if not copies:
        return encoded
    rows = [*encoded.rows, *(encoded.rows[index % len(encoded)] for index in range(len(copies)))]
    return Encoded([*encoded.input_ids, *copies], None, rows)


def _batch(rows: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate([np.asarray(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


def _in_torch(network: BiLstmNetwork) -> Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]]:
    def run(batch: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits = network(**{name: torch.from_numpy(one) for name, one in batch.items()}).logits
        array: NDArray[np.float32] = logits.numpy()
        return array

    return run


def _in_onnxruntime(graph: bytes) -> Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(batch: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        array: NDArray[np.float32] = session.run(["logits"], batch)[0]
        return array

    return run
