"""The model that each engine of a comparison runs, made from a checkpoint and its dense model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from secateur.bench.engines import ENGINES
from secateur.bench.environments import command
from secateur.bench.inputs import onnx_inputs
from secateur.checkpoint import read_checkpoint, tensor_name
from secateur.errors import DataError, UnsupportedError

__all__ = ["build_forms"]

_SAMPLES = 4


def build_forms(
    names: Iterable[str], checkpoint: Path, dense: Path | None, seq_len: int, work: Path
) -> dict[str, Path]:
    """Makes the model that each engine runs; what an earlier call has finished in `work` is taken as it is.

    Args:
        names: Keys of `ENGINES`.
        checkpoint: The compressed model.
        dense: The dense one, or None for random weights of the same shape.
        seq_len: Tokens to calibrate int8 with.
        work: A folder to write into.

    Returns:
        Engine to the folder that its backend opens.

    Raises:
        DataError: The folder holds the forms of another model.
        UnsupportedError: The model cannot be brought into the form that an engine needs.
    """
    from secateur.bench.peers import export_plain, fuse_for_onnx_runtime

    wanted = list(names)
    _claim(work, checkpoint, dense)
    onnx = work / "dense-onnx"
    environments = {ENGINES[name].environment for name in wanted}
    folders = {"secateur": checkpoint, "deepsparse": work / "sparse-onnx"}
    if any(ENGINES[name].dense for name in wanted):
        if dense is None:
            dense = work / "dense"
            _once(work, "dense", partial(_write_random, checkpoint, dense))
        folders |= {"pytorch": dense, "onnxruntime": onnx, "openvino": onnx}
        if environments & {"onnxruntime", "openvino"}:
            _once(work, "dense-onnx", partial(export_plain, dense, onnx))
    if "onnxruntime" in environments:
        _once(work, "onnxruntime", partial(fuse_for_onnx_runtime, onnx))
    if "openvino-int8" in wanted:
        _once(work, "openvino-int8", partial(_quantize_for_openvino, onnx, seq_len))
    if "deepsparse" in wanted:
        _once(work, "deepsparse", partial(_write_sparse, checkpoint, seq_len, folders["deepsparse"]))
    return {name: folders[ENGINES[name].environment] for name in wanted}


def _claim(work: Path, checkpoint: Path, dense: Path | None) -> None:
    """Notes whose forms a folder holds, or checks that they are ours."""
    source = {"checkpoint": _digest(checkpoint), "dense": None if dense is None else _digest(dense)}
    note = work / "source.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            note.write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--forms: {work} cannot be used ({error}): give another folder.") from error
    if found != source:
        raise DataError(f"--forms: {work} holds the forms of another model: give another folder.")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name == "config.json" or path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                for chunk in iter(partial(file.read, 1 << 20), b""):
                    digest.update(chunk)
    return digest.hexdigest()


def _once(work: Path, name: str, make: Callable[[], object]) -> None:
    """Makes a form, unless it was made whole before."""
    done = work / f"{name}.done"
    if not done.exists():
        make()
        done.touch()


def _empty_model(checkpoint: Path) -> Any:
    """Makes a dense BERT with random weights in the shape of a checkpoint."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for key in ("quantization_config", "architectures", "model_type"):
        config.pop(key, None)
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**config)).eval()


def _write_random(checkpoint: Path, out: Path) -> None:
    _empty_model(checkpoint).save_pretrained(out)


def _quantize_for_openvino(plain: Path, seq_len: int) -> None:
    python = ENGINES["openvino-int8"].python()
    done = subprocess.run(
        command(python, "secateur.bench.openvino_int8", os.fspath(plain), str(seq_len)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise UnsupportedError(f"NNCF could not quantize the model ({said[0]}): leave out openvino-int8.")


def _write_sparse(checkpoint: Path, seq_len: int, out: Path) -> None:
    """Writes `model-deepsparse.onnx`: the checkpoint's weights in the form that DeepSparse runs fastest."""
    import torch

    from secateur.bench.integer_graph import write_integer_graph
    from secateur.bench.peers import PLAIN, export_plain_model
    from secateur.hf import load_compressed

    compressed = load_compressed(checkpoint)
    model = _empty_model(checkpoint)
    with torch.no_grad():
        for name, module in model.named_modules():
            for suffix, parameter in module._parameters.items():
                if parameter is not None:
                    parameter.copy_(getattr(compressed.get_submodule(name), suffix))  # with its mask applied
    export_plain_model(model, out)
    (out / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    if _is_integer(checkpoint):
        random = np.random.default_rng(0)
        size = int(model.config.vocab_size)
        drawn = [random.integers(size // 2, size, (1, seq_len), dtype=np.int64) for _ in range(_SAMPLES)]
        samples = [onnx_inputs(ids, np.ones_like(ids)) for ids in drawn]
        write_integer_graph(out / PLAIN, out / "model-deepsparse.onnx", samples)
        (out / PLAIN).unlink()
    else:
        (out / PLAIN).rename(out / "model-deepsparse.onnx")


def _is_integer(folder: Path) -> bool:
    """Whether any matrix of the encoder is stored as int8."""
    checkpoint = read_checkpoint(folder)
    return any(
        tensor_name(module, "weight_scale") in checkpoint.tensors
        for layer in checkpoint.shape.stored_layers
        for module in layer.linears.values()
    )
