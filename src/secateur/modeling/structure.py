"""A view of a live transformers encoder: which `nn.Linear` plays which part in which layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from secateur.checkpoint.families import FAMILIES, Family, unsupported_family
from secateur.errors import StructureError, UnsupportedError, problem_list

__all__ = [
    "ATTENTION_DROPOUT",
    "SUPPORTED_MODEL_TYPES",
    "EncoderBlock",
    "Projection",
    "find_architecture",
    "find_blocks",
    "find_module",
    "find_projections",
]

# The dropout of fused attention in transformers 4.57: a number beside the nn.Dropout, read once from it.
ATTENTION_DROPOUT = "dropout_prob"


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


SUPPORTED_MODEL_TYPES = tuple(FAMILIES)


def find_blocks(model: nn.Module) -> list[EncoderBlock]:
    """Finds the encoder layers of a transformers model.

    Args:
        model: A live model of a supported family, with or without a task head.

    Returns:
        One view per encoder layer, in order. Layers that run more than once, as ALBERT's, come once.

    Raises:
        UnsupportedError: The family is not known, or the model is a decoder or has cross attention.
        StructureError: The family is known, but modules are missing or have unexpected shapes.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedError(unsupported_family("This model", model_type or type(model).__name__))
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedError(
            f"This {model_type} model is a decoder (is_decoder or add_cross_attention is set in its config); "
            "only encoders can be compressed."
        )
    family = FAMILIES[model_type]
    problems: list[str] = []
    blocks = [
        block
        for name, layer in _find_layers(model, family)
        if (block := _block(layer, name, family, problems)) is not None
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


def find_architecture(model: nn.Module) -> str | None:
    """Returns which of its family's known classes a model is one of, or derived from; None for others.

    Args:
        model: A live model of a supported family.
    """
    known = FAMILIES[model.config.model_type].architectures
    return next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in known), None)


def find_module(model: nn.Module, name: str) -> nn.Module | None:
    """Returns a module by the name that it has in a model with a task head; None where there is none.

    Args:
        model: A live model of a supported family, with or without a task head.
        name: As in `secateur.checkpoint.families`.
    """
    prefix = FAMILIES[model.config.model_type].prefix
    modules = dict(model.named_modules())
    return modules.get(name, modules.get(name.removeprefix(f"{prefix}.")))


def _find_layers(model: nn.Module, family: Family) -> list[tuple[str, nn.Module]]:
    """Returns every stored layer with its full name; exactly one list of layers must exist."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and (name == family.layers or name.endswith(f".{family.layers}"))
    ]
    if len(found) != 1 or len(found[0][1]) == 0:
        what = "no encoder layers" if not found or len(found) == 1 else f"{len(found)} encoders"
        raise StructureError(f"Expected one encoder at '…{family.layers}' with layers in it, found {what}.")
    prefix, layers = found[0]
    named = [(f"{prefix}.{index}", layer) for index, layer in enumerate(layers)]
    if family.inner_layers is None:
        return named
    return [
        (f"{name}.{family.inner_layers}.{index}", layer)
        for name, group in named
        for index, layer in enumerate(getattr(group, family.inner_layers, ()))
    ]


# The parts of a block, by their roles in a checkpoint.
_PARTS = {
    "query": "q",
    "key": "k",
    "value": "v",
    "attn_out": "attn_out",
    "ffn_in": "ffn_in",
    "ffn_out": "ffn_out",
}


def _block(layer: nn.Module, prefix: str, family: Family, problems: list[str]) -> EncoderBlock | None:
    modules = dict(layer.named_modules())

    linears: dict[str, nn.Linear] = {}
    paths = {_PARTS[role]: path for role, path in family.linears.items()}
    for part, path in paths.items():
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

    attention = modules[paths["q"].rpartition(".")[0]]
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
                f"{prefix}.{paths[part]} is {linear.out_features} x {linear.in_features}, "
                f"expected {shape[0]} x {shape[1]}"
            )
    if head_dim <= 0 or attention_size % head_dim:
        problems.append(f"{prefix}: {attention_size} attention outputs, heads of {head_dim}: no whole number")
        return None
    projections = {
        part: Projection(linear, slice(0, linear.out_features), f"{prefix}.{paths[part]}")
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
