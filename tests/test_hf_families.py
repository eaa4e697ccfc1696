"""transformers opens every family with every task head after `import secateur.hf`, and none without."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_bert import random_sequences, tiny_fast_tokenizer
from tiny_models import FAMILY_ROWS, HEADS, MEMBERS, family_batch, tiny_model, torch_outputs

from secateur.checkpoint import FAMILIES
from secateur.errors import UnsupportedError
from secateur.export import export_checkpoint
from secateur.hf import load_compressed
from secateur.quantization import calibrate_

SEQUENCES = random_sequences(20)


def exported(folder: Path, member: str, end: str, numbers: str) -> tuple[Any, Path]:
    model = tiny_model(member, end, sparsity=0.5)
    if numbers == "int8":
        calibrate_(model, [family_batch(model, SEQUENCES)])
    return model, export_checkpoint(model, tiny_fast_tokenizer(), folder)


def equal(first: Any, second: Any) -> bool:
    pairs = zip(torch_outputs(first, SEQUENCES), torch_outputs(second, SEQUENCES), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("numbers", ["int8", "float32"])
@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_the_auto_class_gives_the_exported_model(tmp_path: Path, member: str, end: str, numbers: str) -> None:
    model, folder = exported(tmp_path / "out", member, end, numbers)
    auto_class = getattr(transformers, f"AutoModel{end.removeprefix('Model')}")
    loaded, info = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert type(loaded) is type(model)
    assert equal(loaded, model)
    again = export_checkpoint(loaded, tiny_fast_tokenizer(), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("member", [*FAMILY_ROWS])
def test_a_head_over_the_vocabulary_stays_tied_and_trains_on(tmp_path: Path, member: str) -> None:
    _, folder = exported(tmp_path / "out", member, "ForMaskedLM", "int8")
    model = load_compressed(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = model.get_input_embeddings().weight.detach().clone()
    model.train()
    batch = family_batch(model, SEQUENCES)
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.get_input_embeddings().weight, before)
    model.eval()
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    plain, info = transformers.AutoModelForMaskedLM.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(plain.get_output_embeddings().weight, model.get_input_embeddings().weight)
    copied = copy.deepcopy(model)
    assert equal(copied, model)


@pytest.mark.parametrize("member", [*FAMILY_ROWS])
def test_an_encoder_is_taken_out_of_any_checkpoint(tmp_path: Path, member: str) -> None:
    """A pooler that the file lacks is left out instead of random."""
    model, folder = exported(tmp_path / "out", member, "ForTokenClassification", "int8")
    bare = transformers.AutoModel.from_pretrained(folder)
    assert getattr(bare, "pooler", None) is None
    batch = family_batch(model, SEQUENCES)
    with torch.no_grad():
        expected = model.base_model(**batch).last_hidden_state
        assert torch.equal(bare(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("member", [*FAMILY_ROWS])
def test_another_head_is_refused_instead_of_random(tmp_path: Path, member: str) -> None:
    model = tiny_model(member, "ForTokenClassification", num_labels=2)
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    with pytest.raises(UnsupportedError, match=r"load it with AutoModelForTokenClassification, not as"):
        transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    with pytest.raises(UnsupportedError, match=r"ForTokenClassification, which has no"):
        transformers.AutoModelForMaskedLM.from_pretrained(folder)


_SCRIPT = """
import sys
import transformers
for argument in sys.argv[1:]:
    auto_class, folder = argument.split(":", 1)
    try:
        getattr(transformers, auto_class).from_pretrained(folder)
    except RuntimeError as error:
        assert "mismatch" in str(error), error
        continue
    print("LOADED", argument)
print("DONE")
"""


def test_without_the_import_none_of_them_loads(tmp_path: Path) -> None:
    arguments = []
    for member in FAMILIES:
        for end in HEADS:
            for numbers in ("int8", "float32"):
                _, folder = exported(tmp_path / f"{member}-{end}-{numbers}", member, end, numbers)
                arguments.append(f"AutoModel{end.removeprefix('Model')}:{folder}")
    arguments += [argument.replace(argument.split(":")[0], "AutoModel") for argument in arguments[2:-1:7]]
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.stdout.split() == ["DONE"], result.stdout + result.stderr[-2000:]
