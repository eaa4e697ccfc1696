"""The model that `config.json` describes: family, task head, sizes, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secateur.affine import SMALLEST_SCALE
from secateur.checkpoint.families import FAMILIES, Family, HeadNames, unsupported_family
from secateur.checkpoint.names import EmbeddingNames, LayerNames, embedding_names, linear_names
from secateur.errors import CheckpointError, UnsupportedError, problem_list

__all__ = ["ACTIVATIONS", "ModelShape", "Pooling", "parse_labels", "parse_shape"]

ACTIVATIONS = ("gelu", "gelu_new", "relu")
Pooling = Literal["mean", "cls", "max"]
_POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "max")

# Far above any model that exists; keeps a forged config from asking for billions of names.
_MAX_LAYERS = 1000
_MAX_LABELS = 1_000_000

_MIN_EPS = float(SMALLEST_SCALE)  # a smaller one is 0 to float32, and lets a norm divide by 0
_DEFAULT_EPS = 1e-12


@dataclass(frozen=True)
class ModelShape:
    """The sizes and the few switches of `config.json` that decide what the tensors must be.

    Attributes:
        family: `model_type`.
        architecture: The class of transformers that the model is one of.
        hidden_size: Features of a token between layers.
        intermediate_size: Features inside the feed-forward part.
        num_layers: Layers that run.
        num_heads: Attention heads of a layer.
        vocab_size: Rows of the word table.
        max_positions: Most tokens of a sequence.
        num_token_types: Rows of the token type table; 0 where the family has none.
        activation: Between the two halves of the feed-forward part.
        norm_eps: Of all norms.
        embedding_size: Features of the tables and of their norm.
        num_groups: Groups of layers that are stored; as many as layers where none is shared.
        layers_per_group: Layers in a group.
        padding_id: The id that has no position of its own, where the family counts positions from it.
        pooling: How a sentence embedding is made of the tokens; None for other heads.
        normalize: Whether a sentence embedding has length 1.
    """

    family: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_positions: int
    num_token_types: int
    activation: str
    norm_eps: float
    embedding_size: int
    num_groups: int
    layers_per_group: int
    padding_id: int | None
    pooling: Pooling | None
    normalize: bool

    @property
    def layout(self) -> Family:
        """How the family calls its modules."""
        return FAMILIES[self.family]

    @property
    def prefix(self) -> str:
        """The name under which the encoder hangs in a model with a task head."""
        return self.layout.prefix

    @property
    def head(self) -> HeadNames:
        """The task head."""
        return self.layout.architectures[self.architecture]

    @property
    def embeddings(self) -> EmbeddingNames:
        """The modules of the embeddings that the model has."""
        names = embedding_names(self.family)
        if self.layout.always_projects or self.embedding_size != self.hidden_size:
            return names
        return EmbeddingNames(names.word, names.position, names.token_type, names.norm, None)

    @property
    def table_rows(self) -> dict[str, int]:
        """Rows of each table of the embeddings, by kind."""
        rows = {
            "word": self.vocab_size,
            "position": self.first_position + self.max_positions,
            "token_type": self.num_token_types,
        }
        return {kind: rows[kind] for kind in self.embeddings.tables}

    @property
    def first_position(self) -> int:
        """The row of the position table that belongs to the first token."""
        return 0 if self.padding_id is None else self.padding_id + 1

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def stored_layers(self) -> list[LayerNames]:
        """The layers that the file holds, each once."""
        count = self.num_groups * self.layers_per_group
        return [linear_names(index, self.family, self.layers_per_group) for index in range(count)]

    @property
    def layers(self) -> list[LayerNames]:
        """The layers in the order they run; shared ones come more than once."""
        stored = self.stored_layers
        if self.layout.inner_layers is None:
            return stored
        rounds = self.num_layers // self.layers_per_group
        # As transformers computes it.
        groups = [int(index / (rounds / self.num_groups)) for index in range(rounds)]
        size = self.layers_per_group
        return [names for group in groups for names in stored[group * size : (group + 1) * size]]

    @property
    def head_size(self) -> int:
        """Features that the last layer of the task head reads."""
        return self.embedding_size if self.head.decoder is not None else self.hidden_size

    @property
    def num_outputs(self) -> int | None:
        """Outputs of the task head's last layer, where neither the labels nor the hidden size say it."""
        if self.head.head == "masked":
            return self.vocab_size
        return None if self.head.labels or self.head.output is None else 2  # start and end of an answer

    @property
    def needs_version_3(self) -> bool:
        """Whether versions 1 and 2 of the format have no such model."""
        return self.architecture != "BertForSequenceClassification"


def parse_shape(config: Mapping[str, Any], subject: str) -> ModelShape:
    """Reads and checks family, task head and sizes of the model.

    Args:
        config: The parsed config.json.
        subject: The folder's name, for messages.

    Raises:
        UnsupportedError: If the model family, its class or one of its switches is not supported.
        CheckpointError: If a size is missing or impossible.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnsupportedError(unsupported_family(f"The model in {subject}", family))
    layout = FAMILIES[family]
    architecture = _architecture(config, layout, subject)
    _check_switches(config, layout, architecture, subject)
    problems: list[str] = []

    def size(name: str, high: int = 2**31 - 1, default: int | None = None, low: int = 1) -> int:
        key = layout.key(name)
        value = config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            problems.append(
                f"config.json: {key} must be an integer from {low} to {high}, but is {_short(value)}"
            )
            return 1
        return value

    hidden = size("hidden_size")
    layers = size("num_hidden_layers", _MAX_LAYERS)
    grouped = layout.inner_layers is not None
    groups = size("num_hidden_groups", layers, 1) if grouped else layers
    inner = size("inner_group_num", _MAX_LAYERS, 1) if grouped else 1
    if layers * inner > _MAX_LAYERS:
        problems.append(f"config.json: {layers} times {inner} layers are more than {_MAX_LAYERS}")
        inner = 1
    vocab_size, rows = size("vocab_size"), size("max_position_embeddings")
    padding = size("pad_token_id", min(vocab_size, rows) - 2, 1, low=0) if layout.counts_padding else None
    pooling, normalize = _sentence_embedding(config, layout.architectures[architecture], problems)
    shape = ModelShape(
        family=family,
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_layers=layers * inner,
        num_heads=size("num_attention_heads"),
        vocab_size=vocab_size,
        max_positions=max(1, rows - (0 if padding is None else padding + 1)),
        num_token_types=size("type_vocab_size") if "token_type" in layout.tables else 0,
        activation=str(config.get(layout.key("hidden_act"), layout.activation)),
        norm_eps=_norm_eps(config, layout, problems),
        embedding_size=hidden if layout.projection is None else size("embedding_size"),
        num_groups=groups,
        layers_per_group=inner,
        padding_id=padding,
        pooling=pooling,
        normalize=normalize,
    )
    if not problems and shape.hidden_size % shape.num_heads:
        problems.append(
            f"config.json: {layout.key('hidden_size')} {shape.hidden_size} is not a multiple of "
            f"{layout.key('num_attention_heads')} {shape.num_heads}"
        )
    if problems:
        raise CheckpointError(problem_list(subject, problems))
    return shape


def parse_labels(config: Mapping[str, Any], shape: ModelShape, subject: str) -> list[str]:
    """Reads the names of the outputs, in the order of the logits; none for heads that have no names.

    transformers leaves `id2label` out where it is the default, two classes named LABEL_0 and LABEL_1.

    Args:
        config: The parsed config.json.
        shape: What `parse_shape` made of it.
        subject: The folder's name, for messages.

    Raises:
        CheckpointError: If the names are not distinct strings numbered 0, 1, 2, ..., or a model that marks
            answers has another number of them than 2.
    """
    entry = config.get("id2label")
    if not shape.head.labels:
        if shape.num_outputs == 2 and isinstance(entry, dict) and len(entry) != 2:
            raise CheckpointError(
                f"{subject}: a model for question answering has 2 outputs, start and end, but id2label in "
                f"config.json has {len(entry)}."
            )
        return []
    if entry is None:
        return ["LABEL_0", "LABEL_1"]
    labels: list[str] = []
    if isinstance(entry, dict) and 1 <= len(entry) <= _MAX_LABELS:
        by_id = {str(key): value for key, value in entry.items()}
        labels = [by_id[str(i)] for i in range(len(by_id)) if isinstance(by_id.get(str(i)), str)]
    if not labels or not isinstance(entry, dict) or len(set(labels)) != len(entry):
        raise CheckpointError(
            f"{subject}: id2label in config.json must give the numbers 0, 1, 2, ... distinct names, "
            f"but is {_short(entry)}."
        )
    return labels


def _architecture(config: Mapping[str, Any], layout: Family, subject: str) -> str:
    """Returns the first class that is known; without any, BERT's classifier, as in version 1."""
    known = layout.architectures
    entry = config.get("architectures")
    if not isinstance(entry, list) and layout.class_name == "Bert":
        return "BertForSequenceClassification"
    named = list(map(str, entry)) if isinstance(entry, list) else []
    for name in named:
        if name in known:
            return name
    raise UnsupportedError(
        f"{subject} holds {', '.join(named) or 'no architecture'}; supported: {', '.join(known)}."
    )


def _check_switches(config: Mapping[str, Any], layout: Family, architecture: str, subject: str) -> None:
    """Refuses what would silently change the numbers."""
    activation = config.get(layout.key("hidden_act"), layout.activation)
    if activation not in ACTIVATIONS:
        raise UnsupportedError(
            f"{subject} uses the activation {_short(activation)}; supported: {', '.join(ACTIVATIONS)}."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedError(
            f"{subject} has position embeddings of type {_short(config['position_embedding_type'])}; "
            f"supported: absolute."
        )
    for switch in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if config.get(switch):
            raise UnsupportedError(f"{subject} sets {switch}; Secateur runs encoders only.")
    if config.get("pruned_heads"):
        raise UnsupportedError(f"{subject} has pruned heads, which this version cannot run.")
    tied = layout.architectures[architecture].decoder is not None
    if tied and not config.get("tie_word_embeddings", True):
        raise UnsupportedError(
            f"{subject} unties the word table from the output (tie_word_embeddings is false); "
            f"supported: models that share it."
        )


def _norm_eps(config: Mapping[str, Any], layout: Family, problems: list[str]) -> float:
    if layout.norm_eps is not None:
        return layout.norm_eps
    eps = config.get("layer_norm_eps", _DEFAULT_EPS)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not _MIN_EPS <= eps < 1:
        problems.append(
            f"config.json: layer_norm_eps must lie between {_MIN_EPS:.2g} and 1, but is {_short(eps)}"
        )
        return _DEFAULT_EPS
    return float(eps)


def _sentence_embedding(
    config: Mapping[str, Any], head: HeadNames, problems: list[str]
) -> tuple[Pooling | None, bool]:
    if head.head != "embedding":
        return None, False
    entry = config.get("sentence_embedding")
    if isinstance(entry, dict) and entry.keys() == {"pooling", "normalize"}:
        for pooling in _POOLINGS:
            if entry["pooling"] == pooling and isinstance(entry["normalize"], bool):
                return pooling, entry["normalize"]
    problems.append(
        "config.json: a model without a task head is one for sentence embeddings, so sentence_embedding must "
        'be {"pooling": "mean", "cls" or "max", "normalize": true or false}, '
        f"but is {_short(entry)}"
    )
    return None, False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
