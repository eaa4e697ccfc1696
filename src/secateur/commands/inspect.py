"""`secateur inspect`: what a checkpoint is made of, and which kernel runs each part on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.bench.machine import engine_cpu_info
from secateur.checkpoint import (
    Checkpoint,
    decode_float_weight,
    decode_weight,
    find_int8_parts,
    read_checkpoint,
)
from secateur.checkpoint.found_pattern import find_pattern
from secateur.checkpoint.layout import expected_linears, part_of
from secateur.checkpoint.names import WEIGHT, WEIGHT_SUFFIXES, WEIGHT_VALUES, tensor_name
from secateur.commands.console import note, print_table, show_json
from secateur.tasks import task_of

__all__ = ["examine", "run"]


def run(model: Path, isa: str | None, json_file: Path | None) -> None:
    """Reads a checkpoint and prints what is in it.

    Args:
        model: The checkpoint's folder.
        isa: An instruction set to choose kernels for; None for the best.
        json_file: Where to write the same as JSON.

    Raises:
        SecateurError: The checkpoint is unsound, or the CPU lacks the instruction set.
    """
    found = examine(model, isa)
    if show_json(json_file, found):
        return
    shape = found["shape"]
    layers = f"{shape['num_layers']} layers"
    if found["stored_layers"] < shape["num_layers"]:
        layers += f" ({found['stored_layers']} stored, the others share them)"
    title = (
        f"{model}: {shape['family']} for {found['task']} ({found['outputs']}), {layers}, "
        f"hidden size {shape['hidden_size']}, {shape['num_heads']} heads, "
        f"at most {shape['max_positions']} tokens; {_described(found['numbers'])}, "
        f"{found['quantization']['pattern']}, "
        f"{found['quantization']['sparsity']:.1%} of the encoder's weights are zero"
    )
    sizes = found["size_mb"]
    rows = [(part, f"{sizes[part]:.3f}", f"{sizes[part] / sizes['file']:.1%}") for part in sizes]
    print_table(title, ("part", "MB", "share"), rows, numbers=2)
    said = _runs_as(found["pruned"], found["quantization"]["pattern"])
    if said:
        note(said)
    if not found["steps"]:
        note("The engine is not built, so no kernels are shown; see `secateur doctor`.")
        return
    steps = [
        (
            step["name"],
            step["kernel"],
            f"{step['n']} x {step['k']}" if step["n"] and step["k"] else "",
            f"{step['density']:.1%}" if step["n"] and step["k"] else "",
            f"{step['packed_bytes'] / 1e3:.1f}",
        )
        for step in found["steps"]
    ]
    title = f"Steps on {found['isa']}"
    print_table(title, ("step", "kernel", "size", "density", "kB packed"), steps, numbers=3)


def examine(model: Path, isa: str | None = None) -> dict[str, Any]:
    """Gathers what the command prints.

    Args:
        model: The checkpoint's folder.
        isa: An instruction set to choose kernels for; None for the best.

    Returns:
        `task`, `shape`, `stored_layers` (fewer than run where layers share weights), `outputs` (of the task
        head, in words), `labels`, `quantization`, `numbers` (`all`: int8, bfloat16, float32 or mixed;
        `int8_linears` and `bf16_linears` of how many `linears`, `int8_attentions` of how many `attentions`,
        `embeddings`),
        `pruned` (`pattern` that the zeros have, `stored`: part of the weights that the file keeps, zeros in
        blocks that are not empty among them), `size_mb` (`embeddings`, `encoder`, `head`, `file`), `isa` and
        `steps` (empty where the engine is not built).
    """
    checkpoint = read_checkpoint(model)
    steps: list[dict[str, Any]] = []
    chosen = None
    if engine_cpu_info() is not None:
        from secateur.runtime.engine import Engine

        engine = Engine.from_pretrained(model, num_threads=1, isa=isa)
        steps, chosen = engine.inspect(), engine.isa
    return {
        "task": task_of(checkpoint.config).name,
        "shape": vars(checkpoint.shape),
        "stored_layers": len(checkpoint.shape.stored_layers),
        "outputs": _outputs(checkpoint),
        "labels": checkpoint.labels,
        "quantization": checkpoint.quantization.model_dump(),
        "numbers": _numbers(checkpoint),
        "pruned": _pruned(checkpoint),
        "size_mb": _sizes(checkpoint),
        "isa": chosen,
        "steps": steps,
    }


def _numbers(checkpoint: Checkpoint) -> dict[str, Any]:
    parts = find_int8_parts(checkpoint.tensors, checkpoint.shape, checkpoint.quantization)
    return {
        "all": checkpoint.quantization.numbers,
        "int8_linears": len(parts.linears),
        "bf16_linears": len(parts.bf16),
        "linears": sum(1 for _ in expected_linears(checkpoint.shape)),
        "int8_attentions": len(parts.attention),
        "attentions": len(checkpoint.shape.stored_layers),
        "embeddings": "int8" if parts.embeddings else "float32",
    }


def _pruned(checkpoint: Checkpoint) -> dict[str, Any]:
    parts = find_int8_parts(checkpoint.tensors, checkpoint.shape, checkpoint.quantization)
    weights = []
    kept = total = 0
    for _, module, out_features, in_features in expected_linears(checkpoint.shape):
        stored = {
            suffix: checkpoint.tensors[name]
            for suffix in WEIGHT_SUFFIXES
            if (name := tensor_name(module, suffix)) in checkpoint.tensors
        }
        decode = decode_weight if module in parts.linears else decode_float_weight
        weights.append(decode(stored, in_features)[0])
        kept += stored[WEIGHT_VALUES if WEIGHT_VALUES in stored else WEIGHT].size
        total += out_features * in_features
    return {"pattern": find_pattern(weights), "stored": round(kept / total, 6)}


def _runs_as(pruned: Mapping[str, Any], stored: str) -> str:
    """Says what a pattern without kernels of its own runs as; nothing where it has some."""
    pattern = pruned["pattern"]
    if pattern in ("dense", stored):
        return ""
    return (
        f"Pruned as {pattern}, for which the engine has no kernel of its own: it runs as {stored}, the "
        f"nearest that contains it, and {pruned['stored']:.1%} of the weights are stored."
    )


def _outputs(checkpoint: Checkpoint) -> str:
    shape, count = checkpoint.shape, len(checkpoint.labels)
    if shape.head.head == "embedding":
        unit = ", of length 1" if shape.normalize else ""
        return f"{shape.pooling} of tokens, {shape.hidden_size} numbers{unit}"
    if shape.head.head == "masked":
        return f"{shape.vocab_size} words"
    return f"{count} label{'s' if count > 1 else ''}" if count else "start and end"


def _described(numbers: Mapping[str, Any]) -> str:
    if numbers["all"] != "mixed":
        return str(numbers["all"])
    bf16 = f"{numbers['bf16_linears']} bfloat16, " if numbers["bf16_linears"] else ""
    return (
        f"mixed (int8: {numbers['int8_linears']} of {numbers['linears']} matrices, {bf16}"
        f"{numbers['int8_attentions']} of {numbers['attentions']} attentions; "
        f"embeddings {numbers['embeddings']})"
    )


def _sizes(checkpoint: Checkpoint) -> dict[str, float]:
    sizes = {"embeddings": 0, "encoder": 0, "head": 0}
    for name, tensor in checkpoint.tensors.items():
        sizes[part_of(name, checkpoint.shape)] += tensor.nbytes
    sizes["file"] = (checkpoint.folder / "model.safetensors").stat().st_size
    return {part: round(size / 1e6, 6) for part, size in sizes.items()}
