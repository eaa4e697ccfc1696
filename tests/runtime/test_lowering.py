from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import Numbers, family_config, int8_parts, tiny_tensors, write_tiny_checkpoint

from secateur.checkpoint import FAMILIES, linear_names, read_checkpoint, write_checkpoint
from secateur.runtime.lowering import lower

QUANTIZES = {"scale", "input_scale", "input_zero_point"}
ATTENDS = {"query_scale", "query_zero_point", "key_scale", "value_scale"}


@pytest.mark.parametrize("density", [0.5, None])
@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed", "dynamic", "mixed inputs"])
def test_each_part_is_described_by_its_own_numbers(
    tmp_path: Path, numbers: Numbers, density: float | None
) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path / "model", density=density, numbers=numbers))
    parts = int8_parts(numbers)
    steps = lower(checkpoint)["steps"]
    linears = {step["name"]: step for step in steps if step["op"] == "linear"}
    assert list(linears) == [module for layer in (0, 1) for module in linear_names(layer).linears.values()]
    for name, step in linears.items():
        int8 = name in parts.linears
        own = {"op", "name", "role", "n", "k", "bias"} | (
            {"activation"} if step["role"] == "ffn_in" else set()
        )
        own |= {"weight"} if density is None else {"values", "mask"}
        quantizes = {"scale", "dynamic"} if name in parts.dynamic else QUANTIZES
        assert step.keys() == own | (quantizes if int8 else set())
        assert step.get("dynamic", True) is True
        n, k = step["n"], step["k"]
        stored = step["weight" if density is None else "values"]
        assert stored.dtype == (np.int8 if int8 else np.float32)
        assert step["bias"].dtype == np.float32
        if density is None:
            assert stored.shape == (n, k)
        else:
            assert step["mask"].shape == (n, -(-k // (32 if int8 else 8)))
            kept = int(np.unpackbits(step["mask"]).sum())
            assert stored.shape == ((kept, 4) if int8 else (kept,))
    for step in (step for step in steps if step["op"] == "attention"):
        own = {"op", "name", "num_heads", "head_dim"}
        assert step.keys() == own | (ATTENDS if step["name"] in parts.attention else set())
    embed = steps[0]
    for kind in ("word", "position", "token_type"):
        assert embed[kind].dtype == (np.int8 if parts.embeddings else np.float32)
        assert (f"{kind}_scale" in embed) == parts.embeddings


def test_arrays_are_the_checkpoints_own(tmp_path: Path) -> None:
    """A plan is built without a second copy of a float model in memory."""
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path / "model", numbers="float32"))
    owned = [tensor.__array_interface__["data"][0] for tensor in checkpoint.tensors.values()]
    for step in lower(checkpoint)["steps"]:
        for value in step.values():
            if isinstance(value, np.ndarray):
                assert value.__array_interface__["data"][0] in owned


@pytest.mark.parametrize("numbers", ["int8", "float32"])
@pytest.mark.parametrize("end", FAMILIES["bert"].heads)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_head_is_described(tmp_path: Path, family: str, end: str, numbers: Numbers) -> None:
    config = family_config(family, end, numbers)
    tensors = tiny_tensors(config, numbers=numbers)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "model", config, tensors, {}))
    plan = lower(checkpoint)
    embed, *layers, head = plan["steps"]
    layout = FAMILIES[family]
    own = {"op", "gamma", "beta", *layout.tables} | (
        {f"{kind}_scale" for kind in layout.tables} if numbers == "int8" else set()
    )
    wide = 32
    if layout.projection is not None:
        wide = 24
        own |= {"projection_weight", "projection_bias"}
        assert embed["projection_weight"].shape == (32, wide)
        assert embed["projection_bias"].shape == (32,)
    assert embed.keys() == own
    assert embed["gamma"].shape == embed["beta"].shape == (wide,)
    assert embed["word"].shape == (50, wide)
    assert plan["max_tokens"] == 24
    first = 2 if layout.counts_padding else 0
    table = checkpoint.tensors[f"{layout.prefix}.embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(embed["position"], table[first:])
    assert len(embed["position"]) == 24
    assert len(layers) == 9 * (4 if family == "albert" else 2)

    said = {"op", "rows", "normalize"}
    if layout.heads[end].dense is not None:
        said |= {"dense_weight", "dense_bias", "dense_activation"}
    if end == "ForMaskedLM":
        said |= {"gamma", "beta"} | ({"weight_scale"} if numbers == "int8" else set())
        assert head["weight"] is checkpoint.tensors[f"{layout.prefix}.embeddings.word_embeddings.weight"]
        assert head["dense_weight"].shape == (wide, 32)
    said |= set() if end == "Model" else {"weight", "bias"}
    assert head.keys() == said
    rows = {"ForSequenceClassification": "first", "Model": "mean"}.get(end, "every")
    assert (head["rows"], head["normalize"]) == (rows, end == "Model")
    outputs = {"ForQuestionAnswering": 2, "ForMaskedLM": 50}.get(end, 3)
    assert end == "Model" or (len(head["weight"]), len(head["bias"])) == (outputs, outputs)


def test_activations_of_heads(tmp_path: Path) -> None:
    expected = {
        "bert": ("tanh", "relu"),
        "roberta": ("tanh", "gelu"),
        "distilbert": ("relu", "relu"),
        "electra": ("gelu", "gelu"),
        "albert": ("tanh", "relu"),
    }
    for family, activations in expected.items():
        found = []
        for end in ("ForSequenceClassification", "ForMaskedLM"):
            config = family_config(family, end, **{FAMILIES[family].key("hidden_act"): "relu"})
            folder = write_checkpoint(tmp_path / f"{family}{end}", config, tiny_tensors(config), {})
            found.append(lower(read_checkpoint(folder))["steps"][-1]["dense_activation"])
        assert tuple(found) == activations, family


def test_shared_layers_are_the_same_objects(tmp_path: Path) -> None:
    config = family_config("albert")  # 4 layers in 2 groups
    folder = write_checkpoint(tmp_path / "model", config, tiny_tensors(config), {})
    layers = lower(read_checkpoint(folder))["steps"][1:-1]
    for step in range(9):
        assert layers[step] is layers[9 + step]
        assert layers[18 + step] is layers[27 + step]
        assert layers[step] is not layers[18 + step]
