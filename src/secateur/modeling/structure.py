"""A view of a live transformers encoder: which `nn.Linear` plays which part in which layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from secateur.errors import StructureError, UnsupportedError, problem_list

__all__ = ["SUPPORTED_MODEL_TYPES", "EncoderBlock", "Projection", "find_blocks", "find_projections"]


@dataclass(frozen=True)
class Projection:
    """One projection of an encoder layer: some output rows of a linear layer.

    Attributes:
        linear: The module; `linear.weight` is [N, K] float32.
        row_slice: The rows of `linear.weight` that belong to this projection (all of them where a family has
            one linear layer for each of query, key and value).
        name: Full module name, for example `bert.encoder.layer.0.attention.self.query`.
    """

    linear: nn.Linear
    row_slice: slice
    name: str

    @property
    def out_features(self) -> int:
        """Number of output rows (N)."""
        return len(range(*self.row_slice.indices(self.linear.out_features)))

    @property
    def in_features(self) -> int:
        """Number of inputs (K)."""
        return int(self.linear.in_features)


@dataclass(frozen=True)
class EncoderBlock:
    """One encoder layer, by parts. It holds references: what is changed here changes the model."""

    q: Projection
    k: Projection
    v: Projection
    attn_out: Projection
    ffn_in: Projection
    ffn_out: Projection
    attn_norm: nn.LayerNorm
    ffn_norm: nn.LayerNorm
    hidden_size: int
    intermediate_size: int
    num_heads: int
    head_dim: int
    prefix: str

    def projections(self) -> tuple[Projection, ...]:
        """Returns q, k, v, attn_out, ffn_in, ffn_out."""
        return (self.q, self.k, self.v, self.attn_out, self.ffn_in, self.ffn_out)


@dataclass(frozen=True)
class _Family:
    """Where a model family keeps its encoder layers and what the parts of a layer are called."""

    layers: str
    linears: dict[str, str]
    norms: dict[str, str]
    attention: str


_FAMILIES = {
    "bert": _Family(
        layers="encoder.layer",
        linears={
            "q": "attention.self.query",
            "k": "attention.self.key",
            "v": "attention.self.value",
            "attn_out": "attention.output.dense",
            "ffn_in": "intermediate.dense",
            "ffn_out": "output.dense",
        },
        norms={"attn_norm": "attention.output.LayerNorm", "ffn_norm": "output.LayerNorm"},
        attention="attention.self",
    ),
}

SUPPORTED_MODEL_TYPES = tuple(_FAMILIES)


def find_blocks(model: nn.Module) -> list[EncoderBlock]:
    """Finds the encoder layers of a transformers model.

    Args:
        model: A live model of a supported family, with or without a task head.

    Returns:
        One view per encoder layer, in order.

    Raises:
        UnsupportedError: The family is not known, or the model is a decoder or has cross attention.
        StructureError: The family is known, but modules are missing or have unexpected shapes.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type not in _FAMILIES:
        raise UnsupportedError(
            f"Models of the family {model_type or type(model).__name__!r} cannot be compressed yet; "
            f"supported: {', '.join(SUPPORTED_MODEL_TYPES)}."
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedError(
            f"This {model_type} model is a decoder (is_decoder or add_cross_attention is set in its config); "
            "only encoders can be compressed."
        )
    family = _FAMILIES[model_type]
    prefix, layers = _find_layers(model, family)
    problems: list[str] = []
    blocks = [
        block
        for index, layer in enumerate(layers)
        if (block := _block(layer, f"{prefix}.{index}", family, problems)) is not None
    ]
    if problems:
        raise StructureError(problem_list(f"This {model_type} model is not laid out as expected", problems))
    return blocks


def find_projections(model: nn.Module) -> Iterator[Projection]:
    """Yields the linear layers that are pruned and quantized: six of each encoder layer, in order.

    Args:
        model: A live model of a supported family.

    Raises:
        UnsupportedError: See `find_blocks`.
        StructureError: See `find_blocks`.
    """
    for block in find_blocks(model):
        yield from block.projections()


def _find_layers(model: nn.Module, family: _Family) -> tuple[str, nn.ModuleList]:
    """Returns the full name of the list of layers and the list; exactly one must exist."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and (name == family.layers or name.endswith(f".{family.layers}"))
    ]
    if len(found) != 1 or len(found[0][1]) == 0:
        what = "no encoder layers" if not found or len(found) == 1 else f"{len(found)} encoders"
        raise StructureError(f"Expected one encoder at '…{family.layers}' with layers in it, found {what}.")
    return found[0]


def _block(layer: nn.Module, prefix: str, family: _Family, problems: list[str]) -> EncoderBlock | None:
    modules = dict(layer.named_modules())

    linears: dict[str, nn.Linear] = {}
    for part, path in family.linears.items():
        linear = modules.get(path)
        if isinstance(linear, nn.Linear):
            linears[part] = linear
        else:
            problems.append(f"{prefix}.{path} is {_described(linear)}, expected nn.Linear")
    norms: dict[str, nn.LayerNorm] = {}
    for part, path in family.norms.items():
        norm = modules.get(path)
        if isinstance(norm, nn.LayerNorm):
            norms[part] = norm
        else:
            problems.append(f"{prefix}.{path} is {_described(norm)}, expected nn.LayerNorm")
    if len(linears) != len(family.linears) or len(norms) != len(family.norms):
        return None

    attention = modules[family.attention]
    head_dim = int(getattr(attention, "attention_head_size", 0))
    attention_size = linears["q"].out_features
    hidden_size = linears["q"].in_features
    intermediate_size = linears["ffn_in"].out_features
    expected = {
        "q": (attention_size, hidden_size),
        "k": (attention_size, hidden_size),
        "v": (attention_size, hidden_size),
        "attn_out": (hidden_size, attention_size),
        "ffn_in": (intermediate_size, hidden_size),
        "ffn_out": (hidden_size, intermediate_size),
    }
    for part, shape in expected.items():
        linear = linears[part]
        if (linear.out_features, linear.in_features) != shape:
            problems.append(
                f"{prefix}.{family.linears[part]} is {linear.out_features} x {linear.in_features}, "
                f"expected {shape[0]} x {shape[1]}"
            )
    if head_dim <= 0 or attention_size % head_dim:
        problems.append(f"{prefix}: {attention_size} attention outputs, heads of {head_dim}: no whole number")
        return None
    projections = {
        part: Projection(linear, slice(0, linear.out_features), f"{prefix}.{family.linears[part]}")
        for part, linear in linears.items()
    }
    return EncoderBlock(
        **projections,
        **norms,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=attention_size // head_dim,
        head_dim=head_dim,
        prefix=prefix,
    )


def _described(module: nn.Module | None) -> str:
    return "missing" if module is None else type(module).__name__
