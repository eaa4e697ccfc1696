"""Every family with every task head: exported, read again by numpy and by the engine, equal to PyTorch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reference_engine import reference_outputs
from tiny_bert import random_sequences, tiny_fast_tokenizer
from tiny_models import HEADS, MEMBERS, family_batch, tiny_model, token_types, torch_outputs

from secateur.checkpoint import find_int8_parts, read_checkpoint
from secateur.errors import StructureError, UnsupportedError
from secateur.export import export_checkpoint
from secateur.modeling import find_projections
from secateur.quantization import QuantizedParts, attach_quantizers_, calibrate_
from secateur.quantization.heads import simulate_head_
from secateur.quantization.simulation import gelu, simulate_activations_
from secateur.runtime.engine import Engine
from secateur.sparsity import sparsity_of

SEQUENCES = random_sequences(60)
POOLINGS = [(pooling, normalize) for pooling in ("mean", "cls", "max") for normalize in (False, True)]


def calibrated(member: str, end: str, **changes: Any) -> Any:
    model = tiny_model(member, end, **changes)
    calibrate_(model, [family_batch(model, SEQUENCES[:30])])
    return model


def exported(model: Any, folder: Path) -> Path:
    return export_checkpoint(model, tiny_fast_tokenizer(), folder)


def engine_outputs(model: Any, folder: Path) -> list[np.ndarray]:
    return list(Engine.from_pretrained(folder)(SEQUENCES, token_types(model, SEQUENCES)))


def flat(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([row.reshape(-1) for row in rows])


def with_the_engines_gelu(model: Any) -> Any:
    """Lets a float model use the engine's GELU, which is within 2e-4 of the true one."""
    gate = SimpleNamespace(enabled=True)
    simulate_activations_(model, gate)
    simulate_head_(model, gate)
    return model


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_numpy_agrees_with_a_float_model(tmp_path: Path, member: str, end: str) -> None:
    model = tiny_model(member, end, sparsity=0.5)
    checkpoint = read_checkpoint(exported(model, tmp_path / "out"))
    assert checkpoint.shape.architecture == type(model).__name__
    ours = reference_outputs(checkpoint, SEQUENCES, token_types(model, SEQUENCES))
    expected = torch_outputs(model, SEQUENCES)
    assert [row.shape for row in ours] == [row.shape for row in expected]
    np.testing.assert_allclose(flat(ours), flat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_numpy_agrees_with_a_quantized_model(tmp_path: Path, member: str, end: str) -> None:
    model = calibrated(member, end, sparsity=0.5)
    checkpoint = read_checkpoint(exported(model, tmp_path / "out"))
    assert checkpoint.quantization.numbers == "int8"
    ours = flat(reference_outputs(checkpoint, SEQUENCES, token_types(model, SEQUENCES), engines_gelu))
    expected = flat(torch_outputs(model, SEQUENCES))
    difference = np.abs(ours - expected)
    # The reference sums norms in another order: a few integers come out one apart, which moves their rows.
    assert difference.mean() < 0.01 * expected.std()
    assert np.median(difference) < 1e-5


def engines_gelu(x: np.ndarray, kind: str) -> np.ndarray:
    """The true one differs so much that each of the eight layers of an ALBERT rounds other integers."""
    return gelu(torch.from_numpy(np.ascontiguousarray(x, np.float32)), kind).numpy()


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_engine_agrees_with_a_float_model(tmp_path: Path, member: str, end: str) -> None:
    model = tiny_model(member, end, sparsity=0.5)
    ours = engine_outputs(model, exported(model, tmp_path / "out"))
    expected = torch_outputs(with_the_engines_gelu(model), SEQUENCES)
    assert [row.shape for row in ours] == [row.shape for row in expected]
    np.testing.assert_allclose(flat(ours), flat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_engine_agrees_with_a_quantized_model(tmp_path: Path, member: str, end: str) -> None:
    model = calibrated(member, end, sparsity=0.5)
    ours = engine_outputs(model, exported(model, tmp_path / "out"))
    # Only float sums run in another order: those of the head, and of the projection where there is one.
    expected = flat(torch_outputs(model, SEQUENCES))
    difference = np.abs(flat(ours) - expected)
    if find_projection(model):
        assert difference.mean() < 0.002 * expected.std()
        assert np.median(difference) < 1e-5
    else:
        assert difference.max() < 2e-5


def find_projection(model: Any) -> bool:
    """Says whether a float sum stands before the first integers, which rounds a few of them otherwise."""
    return any("embeddings_project" in name or "mapping_in" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("numbers", ["float32", "int8"])
@pytest.mark.parametrize(("pooling", "normalize"), POOLINGS)
def test_sentence_embeddings_are_pooled_as_the_config_says(
    tmp_path: Path, numbers: str, pooling: str, normalize: bool
) -> None:
    model = tiny_model("bert", "Model")
    model.config.sentence_embedding = {"pooling": pooling, "normalize": normalize}
    if numbers == "int8":
        calibrate_(model, [family_batch(model, SEQUENCES[:30])])
    folder = exported(model, tmp_path / "out")
    ours = flat(engine_outputs(model, folder))
    expected = flat(torch_outputs(with_the_engines_gelu(model) if numbers == "float32" else model, SEQUENCES))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("member", ["albert", "albert-groups"])
def test_shared_layers_are_stored_and_counted_once(tmp_path: Path, member: str) -> None:
    model = tiny_model(member, sparsity=0.7)
    linears = [projection.linear for projection in find_projections(model)]
    checkpoint = read_checkpoint(exported(model, tmp_path / "out"))
    stored = 1 if member == "albert" else 4
    assert len(linears) == 6 * stored
    assert checkpoint.quantization.sparsity == pytest.approx(sparsity_of(linears))
    assert checkpoint.quantization.sparsity == pytest.approx(0.7, abs=1e-3)
    assert sum(name.endswith(".weight_mask") for name in checkpoint.tensors) == 6 * stored
    assert checkpoint.shape.num_layers == (3 if member == "albert" else 8)


@pytest.mark.parametrize("member", ["distilbert", "albert-groups"])
def test_parts_may_be_float_in_every_family(tmp_path: Path, member: str) -> None:
    model = tiny_model(member, "ForTokenClassification")
    names = [projection.name for projection in find_projections(model)]
    attach_quantizers_(model, parts=QuantizedParts(names[1:3], (1,), False))
    calibrate_(model, [family_batch(model, SEQUENCES[:30])])
    checkpoint = read_checkpoint(exported(model, tmp_path / "out"))
    found = find_int8_parts(checkpoint.tensors, checkpoint.shape, checkpoint.quantization)
    assert found.linears == set(names[1:3])
    assert found.attention == {checkpoint.shape.stored_layers[1].attention}
    assert not found.embeddings


def test_a_decoder_of_its_own_is_refused(tmp_path: Path) -> None:
    model = tiny_model("bert", "ForMaskedLM")
    decoder = model.cls.predictions.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight + 1)
    with pytest.raises(UnsupportedError, match="is not the word table"):
        exported(model, tmp_path / "out")
    model = tiny_model("distilbert", "ForMaskedLM")
    model.config.tie_word_embeddings = False
    with pytest.raises(UnsupportedError, match="unties the word table"):
        exported(model, tmp_path / "out")


def test_a_decoder_that_lost_its_quantizer_is_refused(tmp_path: Path) -> None:
    model = calibrated("roberta", "ForMaskedLM")
    del model.lm_head.decoder.forward
    with pytest.raises(StructureError, match="row quantizer of the word table is no longer used"):
        exported(model, tmp_path / "out")


def test_an_encoder_that_does_not_say_how_it_pools_is_refused(tmp_path: Path) -> None:
    model = tiny_model("bert", "Model")
    del model.config.sentence_embedding
    with pytest.raises(
        UnsupportedError, match=r'set model\.config\.sentence_embedding = \{"pooling": "mean"'
    ):
        exported(model, tmp_path / "out")


def test_other_heads_are_refused(tmp_path: Path) -> None:
    from transformers import AlbertForMultipleChoice

    model = AlbertForMultipleChoice(tiny_model("albert").config)
    with pytest.raises(
        UnsupportedError, match="AlbertForMultipleChoice cannot be exported; supported: AlbertFor"
    ):
        exported(model, tmp_path / "out")
