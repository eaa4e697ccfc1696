"""The model card of a checkpoint: what it is, how to run it, what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from secateur.checkpoint import FAMILIES, QuantizationConfig

__all__ = ["model_card"]

_DETAILS = ("quantization",)  # tensor by tensor: for metrics.json only


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """Returns the README.md of a checkpoint.

    Args:
        config: The content of config.json, with its `quantization_config`.
        metrics: What was measured; numbers and texts, possibly nested.

    Returns:
        Markdown with the YAML header that model hubs read.
    """
    quantization = QuantizationConfig.model_validate(config["quantization_config"])
    end, task = next(item for item in _TASKS.items() if config["architectures"][0].endswith(item[0]))
    size = _sizes(config)
    lines = [
        "---",
        "library_name: secateur",
        f"pipeline_tag: {task.tag}",
        f"tags: [secateur, {', '.join(_tags(quantization))}, cpu]",
        "---",
        "",
        f"# {task.title}",
        "",
        f"A {config['model_type']} model with {size('num_hidden_layers')} layers of width "
        f"{size('hidden_size')}, compressed by Secateur: {quantization.sparsity:.0%} of the encoder's "
        f"weights are zero (pattern `{quantization.pattern}`), {_numbers(quantization)}.",
        "",
        f"It {task.does(config)}.",
        "",
        "## Use",
        "",
        "```python",
        "import secateur",
        "",
        f'{task.verb} = secateur.pipeline("path/to/this/folder")',
        f"{task.verb}({task.example})",
        "```",
        "",
        "To go on training it in PyTorch, `import secateur.hf` and then call",
        f'`AutoModel{end.removeprefix("Model")}.from_pretrained("path/to/this/folder")`.',
        "",
    ]
    rows = list(_rows({key: value for key, value in (metrics or {}).items() if key not in _DETAILS}))
    if rows:
        lines += ["## Measured", "", "| what | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows]
        lines.append("")
    return "\n".join(lines)


def _sizes(config: Mapping[str, Any]) -> Callable[[str], Any]:
    family = FAMILIES[config["model_type"]]
    return lambda name: config[family.key(name)]


def _labels(config: Mapping[str, Any]) -> str:
    labels = list(config["id2label"].values())
    shown = ", ".join(f"`{label}`" for label in labels[:10])
    more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
    return f"{len(labels)} labels: {shown}{more}"


def _classifies(config: Mapping[str, Any]) -> str:
    kind = config.get("problem_type")
    if kind == "regression":
        return "answers with a number"
    if kind == "multi_label_classification":
        return f"answers with any of {_labels(config)}"
    return f"answers with one of {_labels(config)}"


def _embeds(config: Mapping[str, Any]) -> str:
    entry = config["sentence_embedding"]
    length = ", of length 1" if entry["normalize"] else ""
    return f"turns a text into a vector: the {entry['pooling']} of its tokens{length}".replace(
        "the cls of its tokens", "the state of its first token"
    )


class _Task(NamedTuple):
    tag: str
    title: str
    verb: str
    example: str
    does: Callable[[Mapping[str, Any]], str]


_TASKS = {
    "ForSequenceClassification": _Task(
        "text-classification", "Compressed text classifier", "classify", '["some text"]', _classifies
    ),
    "ForTokenClassification": _Task(
        "token-classification",
        "Compressed token classifier",
        "tag",
        '["some text"]',
        lambda config: f"gives every token one of {_labels(config)}",
    ),
    "ForQuestionAnswering": _Task(
        "question-answering",
        "Compressed question answering model",
        "answer",
        'question="some question", context="some text"',
        lambda config: "finds the answer to a question in a text",
    ),
    "ForMaskedLM": _Task(
        "fill-mask",
        "Compressed masked language model",
        "fill",
        'f"some {fill.mask_token} text"',
        lambda config: "fills in masked words",
    ),
    "Model": _Task("sentence-similarity", "Compressed sentence encoder", "embed", '["some text"]', _embeds),
}


def _tags(quantization: QuantizationConfig) -> list[str]:
    tags = [] if quantization.pattern == "dense" else ["sparse"]
    return [*tags, *(["int8", "float32"] if quantization.numbers == "mixed" else [quantization.numbers])]


def _numbers(quantization: QuantizationConfig) -> str:
    """Says what is int8 and what is not, as the end of a sentence."""
    if quantization.numbers == "int8" and quantization.activations != "u8_static":
        which = "in all layers" if quantization.activations == "s8_dynamic" else "in some layers"
        return (
            "weights, activations, attention and embeddings are 8-bit integers, and what the linear layers "
            f"read is scaled token by token {which}"
        )
    if quantization.numbers == "int8":
        return "weights, activations, attention and embeddings are 8-bit integers"
    if quantization.numbers == "bfloat16":
        return "weights are bfloat16 and so is what they multiply, attention and embeddings are float32"
    if quantization.numbers == "float32":
        return "weights, activations, attention and embeddings are float32"
    words = {"s8_per_row": "8-bit integers", "int8": "8-bit integers", "f32": "float32", "bf16": "bfloat16"}
    words["mixed"] = "8-bit integers in some layers and float32 in the others"
    weights = words[quantization.weights]
    if quantization.weights == "mixed" and quantization.format_version >= 3:  # the file says of which
        weights = "of different types in different layers"
    return (
        f"weights and activations are {weights}, attention is computed in "
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
