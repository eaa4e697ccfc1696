"""The model card of a checkpoint: what it is, how to run it, what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from secateur.checkpoint import QuantizationConfig

__all__ = ["model_card"]


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """Returns the README.md of a checkpoint.

    Args:
        config: The content of config.json, with its `quantization_config`.
        metrics: What was measured; numbers and texts, possibly nested.

    Returns:
        Markdown with the YAML header that model hubs read.
    """
    quantization = QuantizationConfig.model_validate(config["quantization_config"])
    labels = list(config["id2label"].values())
    shown = ", ".join(f"`{label}`" for label in labels[:10])
    more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
    lines = [
        "---",
        "library_name: secateur",
        "pipeline_tag: text-classification",
        f"tags: [secateur, {', '.join(_tags(quantization))}, cpu]",
        "---",
        "",
        "# Compressed text classifier",
        "",
        f"A {config['model_type']} model with {config['num_hidden_layers']} layers of width "
        f"{config['hidden_size']}, compressed by Secateur: {quantization.sparsity:.0%} of the encoder's "
        f"weights are zero (pattern `{quantization.pattern}`), {_numbers(quantization)}.",
        "",
        f"It answers with one of {len(labels)} labels: {shown}{more}.",
        "",
        "## Use",
        "",
        "```python",
        "import secateur",
        "",
        'classify = secateur.pipeline("path/to/this/folder")',
        'classify(["some text"])',
        "```",
        "",
        "To go on training it in PyTorch, `import secateur.hf` and then call",
        '`AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")`.',
        "",
    ]
    rows = list(_rows(metrics or {}))
    if rows:
        lines += ["## Measured", "", "| what | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows]
        lines.append("")
    return "\n".join(lines)


def _tags(quantization: QuantizationConfig) -> list[str]:
    tags = [] if quantization.pattern == "dense" else ["sparse"]
    return [*tags, *(["int8", "float32"] if quantization.numbers == "mixed" else [quantization.numbers])]


def _numbers(quantization: QuantizationConfig) -> str:
    """Says what is int8 and what is not, as the end of a sentence."""
    if quantization.numbers == "int8":
        return "weights, activations, attention and embeddings are 8-bit integers"
    if quantization.numbers == "float32":
        return "weights, activations, attention and embeddings are float32"
    words = {"s8_per_row": "8-bit integers", "int8": "8-bit integers", "f32": "float32"}
    words["mixed"] = "8-bit integers in some layers and float32 in the others"
    return (
        f"weights and activations are {words[quantization.weights]}, attention is computed in "
        f"{words[quantization.attention]}, embeddings are {words[quantization.embeddings]}"
    )


def _rows(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in metrics.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _rows(value, f"{name}.")
        elif isinstance(value, float):
            yield name, f"{value:.4g}"
        elif isinstance(value, (int, str)):
            yield name, str(value).replace("|", "\\|").replace("\n", " ")
