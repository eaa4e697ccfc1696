"""The engines that `benchmark --engine` knows: what each runs, what it needs, and in which environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.bench.environments import find_interpreter, lacking
from secateur.errors import DataError, MissingExtraError, UnsupportedError, problem_list

__all__ = ["ENGINES", "OURS", "PeerEngine", "check_dense", "choose_engines", "why_missing"]

OURS = "secateur"


@dataclass(frozen=True)
class PeerEngine:
    """One engine; its name is a key of `secateur.bench.backends.BACKENDS`.

    Attributes:
        form: The model that it runs, in words.
        environment: Name of the environment that it may have of its own.
        modules: What its own process imports.
        builders: What this process imports to make the form.
        install: How to get both.
        dense: Whether it runs the dense model, not the compressed one.
    """

    form: str
    environment: str
    modules: tuple[str, ...]
    builders: tuple[str, ...]
    install: str
    dense: bool = True

    def python(self) -> str | None:
        """See `secateur.bench.environments.find_interpreter`."""
        return find_interpreter(self.environment, self.modules)


_EXPORT = ("torch", "transformers", "onnx", "onnxruntime")
_ONNX = "pip install 'secateur[train,onnx]'"
_OPENVINO = "pip install 'secateur[train,peers]', or in a clone run benchmarks/peers/install.py openvino"
_TRAIN = "pip install 'secateur[train]'"

ENGINES = {
    OURS: PeerEngine("the checkpoint", "secateur", (), (), "", dense=False),
    "onnxruntime": PeerEngine("dense fp32, fused", "onnxruntime", ("onnxruntime",), _EXPORT, _ONNX),
    "onnxruntime-int8": PeerEngine("dense int8, dynamic", "onnxruntime", ("onnxruntime",), _EXPORT, _ONNX),
    "openvino": PeerEngine("dense fp32", "openvino", ("openvino",), _EXPORT, _OPENVINO),
    "openvino-bf16": PeerEngine("dense bf16", "openvino", ("openvino",), _EXPORT, _OPENVINO),
    "openvino-int8": PeerEngine("dense int8, NNCF", "openvino", ("openvino", "nncf"), _EXPORT, _OPENVINO),
    "pytorch": PeerEngine("dense fp32", "pytorch", ("torch", "transformers"), (), _TRAIN),
    "pytorch-bf16": PeerEngine("dense bf16", "pytorch", ("torch", "transformers"), (), _TRAIN),
    "deepsparse": PeerEngine(
        "the checkpoint's weights",
        "deepsparse",
        ("deepsparse",),
        _EXPORT,
        "pip install 'secateur[train,onnx]', and in a clone run benchmarks/peers/install.py deepsparse",
        dense=False,
    ),
}


def choose_engines(wanted: str) -> tuple[list[str], dict[str, str]]:
    """Reads the value of `--engine`.

    Args:
        wanted: Names with commas between them, or `all`.

    Returns:
        The engines to time, without repetition, and those that `all` leaves out, with the reason.

    Raises:
        UnsupportedError: A name is unknown.
        MissingExtraError: An engine that was asked for by name is not installed.
    """
    if wanted.strip() == "all":
        reasons = {name: why_missing(name) for name in ENGINES}
        missing = {name: reason for name, reason in reasons.items() if reason}
        return [name for name in ENGINES if name not in missing], missing
    names = list(dict.fromkeys(name.strip() for name in wanted.split(",")))
    unknown = [name for name in names if name not in ENGINES]
    if unknown:
        raise UnsupportedError(f"There is no engine {unknown[0]!r}; known are {', '.join(ENGINES)}, and all.")
    problems = [reason for name in names if (reason := why_missing(name))]
    if problems:
        raise MissingExtraError(problem_list("--engine", problems))
    return names, {}


def why_missing(name: str) -> str | None:
    """Says why an engine cannot run here.

    Args:
        name: A key of `ENGINES`.

    Returns:
        A clause that ends with what to do, without a full stop, or None where nothing is missing.
    """
    engine = ENGINES[name]
    python = engine.python()
    there = "" if python is None else f" in the environment of {python}"
    for modules, place in ((lacking(None, engine.builders), ""), (lacking(python, engine.modules), there)):
        if modules:
            verb = "is" if len(modules) == 1 else "are"
            return f"{name} needs {', '.join(modules)}, which {verb} not installed{place}: {engine.install}"
    return None


def check_dense(dense: Path, seq_len: int) -> None:
    """Checks the model that dense engines are to run.

    Args:
        dense: Its folder.
        seq_len: Tokens in each sequence.

    Raises:
        DataError: It is no folder of a model, or its positions do not reach.
        UnsupportedError: It is no BERT, or not dense.
    """
    path = dense / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--dense: {path} cannot be read ({error}): give a Hugging Face folder.") from error
    if "quantization_config" in config:
        raise UnsupportedError(f"--dense: {dense} is a compressed model: give the dense one it came from.")
    if config.get("model_type") != "bert":
        raise UnsupportedError(
            f"--dense: {dense} is a {config.get('model_type')!r} model: "
            "only BERT can be given to other engines."
        )
    if seq_len > int(config.get("max_position_embeddings", 512)):
        raise DataError(
            f"--seq-len is {seq_len}, but {dense} has {config['max_position_embeddings']} positions: "
            "give a smaller one."
        )
