"""transformers opens a checkpoint after `import secateur.hf`, exactly, and refuses it without."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bert import mixed_parts, padded, random_sequences, tiny_bert, tiny_fast_tokenizer
from tiny_checkpoint import Numbers, int8_parts, write_tiny_checkpoint
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from secateur.checkpoint import linear_names, read_checkpoint
from secateur.errors import CheckpointError, UnsupportedError
from secateur.export import export_checkpoint
from secateur.hf import SecateurConfig, SecateurQuantizer, load_compressed
from secateur.modeling import find_blocks
from secateur.quantization import attach_quantizers_, calibrate_, find_quantizers, is_quantized
from secateur.quantization.qat import attention_quantizer, find_embeddings, input_quantizer, rows_enabled
from secateur.sparsity.mask import find_mask

BATCH = padded(random_sequences(20))


def exported(folder: Path, numbers: Numbers = "int8", pattern: str = "block4") -> tuple[Any, Path]:
    model = tiny_bert(sparsity=0.7, pattern=pattern)
    with torch.no_grad():  # a row that is pruned away whole
        model.bert.encoder.layer[0].output.dense.parametrizations.weight.original[3] = 0.0
    if numbers == "mixed":
        attach_quantizers_(model, parts=mixed_parts(model))
    if numbers != "float32":
        calibrate_(model, [BATCH])
    return model, export_checkpoint(model, tiny_fast_tokenizer(), folder)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [*product(("int8", "float32"), ("block4", "unstructured")), ("mixed", "block4")],
)
def test_reproduces_the_exported_model_bit_for_bit(tmp_path: Path, numbers: Numbers, pattern: str) -> None:
    model, folder = exported(tmp_path / "out", numbers, pattern)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [("int8", "block4"), ("float32", "block4"), ("float32", "unstructured"), ("mixed", "block4")],
)
def test_exporting_it_again_gives_the_same_bytes(tmp_path: Path, numbers: Numbers, pattern: str) -> None:
    _, folder = exported(tmp_path / "out", numbers, pattern)
    again = export_checkpoint(load_compressed(folder), tiny_fast_tokenizer(), tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_training_goes_on_with_masks_kept(tmp_path: Path, numbers: Numbers) -> None:
    _, folder = exported(tmp_path / "out", numbers)
    model = load_compressed(folder)
    before = logits(model)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": index % 5}
        for index, (ids, mask) in enumerate(zip(*BATCH.values(), strict=True))
    ]
    arguments = TrainingArguments(
        tmp_path / "run", max_steps=2, save_steps=2, learning_rate=1e-2, report_to=[], use_cpu=True
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    model.eval()
    assert not torch.equal(logits(model), before)
    masks = [
        find_mask(projection.linear) for block in find_blocks(model) for projection in block.projections()
    ]
    assert all(mask is not None for mask in masks)
    final = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "final")
    old, new = (read_checkpoint(path) for path in (folder, final))
    assert old.tensors.keys() == new.tensors.keys()
    for name in old.tensors:
        if name.endswith((".weight_mask", ".input_scale")):
            np.testing.assert_array_equal(old.tensors[name], new.tensors[name])


def test_ranges_are_frozen(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out")
    assert all(quantizer.frozen for quantizer in find_quantizers(load_compressed(folder)).values())


@pytest.mark.parametrize("numbers", ["float32", "mixed"])
def test_quantizers_stand_only_where_it_is_int8(tmp_path: Path, numbers: Numbers) -> None:
    _, folder = exported(tmp_path / "out", numbers)
    model = load_compressed(folder)
    parts = int8_parts(numbers)
    for index, block in enumerate(find_blocks(model)):
        for projection in block.projections():
            assert find_mask(projection.linear) is not None
            assert (input_quantizer(projection) is not None) == (projection.name in parts.linears)
        attends = attention_quantizer(model, block) is not None
        assert attends == (linear_names(index).attention in parts.attention)
    for table in find_embeddings(model).values():
        assert rows_enabled(table) is (True if parts.embeddings else None)
    assert is_quantized(model) == (numbers == "mixed")


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_a_model_without_head_loads_too(tmp_path: Path, numbers: Numbers) -> None:
    model, folder = exported(tmp_path / "out", numbers)
    bare = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        expected = model.bert(**BATCH).pooler_output
        assert torch.equal(bare(**BATCH).pooler_output, expected)


def test_another_head_is_refused_instead_of_random(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out")
    with pytest.raises(UnsupportedError, match=r"load it with AutoModelForSequenceClassification"):
        AutoModelForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize("numbers", ["int8", "float32"])
def test_half_precision_is_not_taken(tmp_path: Path, numbers: Numbers) -> None:
    model, folder = exported(tmp_path / "out", numbers)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(logits(loaded), logits(model))


def test_scales_that_no_training_writes_are_refused(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out")
    tensors = dict(read_checkpoint(folder).tensors)
    name = "bert.embeddings.position_embeddings.weight"
    tensors[name] = np.clip(tensors[name], -100, 100)
    from safetensors.numpy import save_file

    copied = {key: np.array(tensor) for key, tensor in tensors.items()}
    save_file(copied, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match=r"position_embeddings has rows .* the engine can run"):
        load_compressed(folder)


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_dense_matrices_load_without_masks(tmp_path: Path, numbers: Numbers) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny", density=None, numbers=numbers)
    model = load_compressed(folder)
    assert find_mask(next(iter(find_blocks(model))).q.linear) is None


def test_a_damaged_checkpoint_says_what_is_wrong(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_compressed(folder)
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_compressed(tmp_path / "nowhere")


def test_compressing_while_loading_is_refused(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "float")
    with pytest.raises(UnsupportedError, match=r"use secateur\.compress"):
        AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "float", quantization_config=SecateurConfig()
        )


def test_transformers_is_told_that_it_can_be_trained() -> None:
    quantizer = SecateurQuantizer(SecateurConfig(format_version=1), pre_quantized=True)
    assert quantizer.is_qat_trainable
    assert quantizer.is_trainable
    assert quantizer.is_serializable()


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_without_the_import_loading_fails(tmp_path: Path, numbers: Numbers) -> None:
    _, folder = exported(tmp_path / "out", numbers)
    script = (
        "import sys\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print('LOADED')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.returncode != 0
    assert "LOADED" not in result.stdout
    assert "mismatch" in result.stderr
