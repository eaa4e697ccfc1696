"""What docs/format.md adds in version 3: families, heads, shared layers, each broken in its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import family_config, tiny_tensors, tiny_tokenizer

from secateur.checkpoint import FAMILIES, read_checkpoint, write_checkpoint
from secateur.errors import CheckpointError, UnsupportedError

Tensors = dict[str, np.ndarray]
ENDS = tuple(FAMILIES["bert"].heads)


def written(folder: Path, family: str, end: str, change: Callable[[Tensors], Any], **changes: Any) -> Path:
    """Writes a sound checkpoint, and changes it behind the back of `write_checkpoint`."""
    config = family_config(family, end)
    tensors = tiny_tensors(config)
    write_checkpoint(folder, config, tensors, {"tokenizer.json": tiny_tokenizer()})
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def unchanged(tensors: Tensors) -> None:
    pass


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_may_be_missing(tmp_path: Path, family: str, end: str) -> None:
    """Each name in its turn; the one that is missing is named."""
    config = family_config(family, end)
    tensors = tiny_tensors(config, density=None)
    folder = write_checkpoint(tmp_path / "model", config, tensors, {})
    own = [name for name in tensors if ".layer" not in name and "_layers." not in name]
    assert own
    for name in own:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(rest, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"tensor {name.replace('.', '[.]')} is missing"):
            read_checkpoint(folder)
        rest[name] = tensors[name][..., :-1].copy() if tensors[name].size > 1 else np.zeros(2, np.float32)
        save_file(rest, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"tensor {name.replace('.', '[.]')} must be"):
            read_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "end", "name", "said"),
    [
        ("bert", "ForMaskedLM", "cls.predictions.decoder.weight", "is not part of the format"),
        ("bert", "ForMaskedLM", "bert.pooler.dense.weight", "is not part of the format"),
        ("bert", "Model", "bert.pooler.dense.weight", "is not part of the format"),
        ("roberta", "ForQuestionAnswering", "classifier.weight", "is not part of the format"),
        ("distilbert", "ForTokenClassification", "pre_classifier.weight", "is not part of the format"),
        (
            "distilbert",
            "Model",
            "distilbert.embeddings.token_type_embeddings.weight",
            "is not part of the format",
        ),
        ("electra", "ForMaskedLM", "generator_lm_head.weight", "is not part of the format"),
        (
            "albert",
            "Model",
            "albert.encoder.albert_layer_groups.2.albert_layers.0.ffn.bias",
            "is not part of the format",
        ),
    ],
)
def test_tensors_that_belong_elsewhere(tmp_path: Path, family: str, end: str, name: str, said: str) -> None:
    folder = written(tmp_path / "model", family, end, lambda t: t.update({name: np.zeros(4, np.float32)}))
    with pytest.raises(CheckpointError, match=f"tensor {name} {said}"):
        read_checkpoint(folder)


def test_a_projection_where_the_sizes_are_equal(tmp_path: Path) -> None:
    """ALBERT has one, ELECTRA has none."""
    config = family_config("albert", embedding_size=32)
    read_checkpoint(write_checkpoint(tmp_path / "albert", config, tiny_tensors(config), {}))
    config = family_config("electra", embedding_size=32)
    tensors = tiny_tensors(config)
    tensors["electra.embeddings_project.bias"] = np.zeros(32, np.float32)
    with pytest.raises(CheckpointError, match=r"embeddings_project\.bias is not part of the format"):
        write_checkpoint(tmp_path / "electra", config, tensors, {})


@pytest.mark.parametrize(
    ("family", "end", "changes", "said"),
    [
        ("roberta", "Model", {"pad_token_id": 25}, "pad_token_id must be an integer from 0 to 24"),
        ("roberta", "Model", {"pad_token_id": None}, "pad_token_id must be an integer from 0 to 24"),
        ("roberta", "Model", {"pad_token_id": True}, "pad_token_id must be an integer"),
        ("roberta", "Model", {"pad_token_id": -1}, "pad_token_id must be an integer"),
        ("electra", "Model", {"embedding_size": None}, "embedding_size must be an integer from 1"),
        ("electra", "Model", {"embedding_size": 23}, r"word_embeddings.weight must be int8 \[50, 23\]"),
        ("albert", "Model", {"num_hidden_groups": 5}, "num_hidden_groups must be an integer from 1 to 4"),
        ("albert", "Model", {"num_hidden_groups": 1}, "albert_layer_groups.1.* is not part of the format"),
        ("albert", "Model", {"num_hidden_groups": 4}, "albert_layer_groups.2.* is missing"),
        ("albert", "Model", {"inner_group_num": 0}, "inner_group_num must be an integer from 1"),
        ("albert", "Model", {"inner_group_num": 500}, "4 times 500 layers are more than 1000"),
        ("distilbert", "Model", {"dim": 31}, "dim 31 is not a multiple of n_heads 4"),
        ("distilbert", "Model", {"n_layers": None}, "n_layers must be an integer from 1 to 1000"),
        ("bert", "Model", {"sentence_embedding": None}, "sentence_embedding must be"),
        ("bert", "Model", {"sentence_embedding": {"pooling": "mean"}}, "sentence_embedding must be"),
        (
            "bert",
            "Model",
            {"sentence_embedding": {"pooling": "last", "normalize": True}},
            "sentence_embedding must be",
        ),
        (
            "bert",
            "Model",
            {"sentence_embedding": {"pooling": ["mean"], "normalize": 1}},
            "sentence_embedding must be",
        ),
        (
            "bert",
            "ForQuestionAnswering",
            {"id2label": {"0": "a", "1": "b", "2": "c"}},
            "2 outputs, start and end, but id2label in config.json has 3",
        ),
        (
            "bert",
            "ForTokenClassification",
            {"id2label": {"0": "O"}},
            r"classifier.bias must be float32 \[1\]",
        ),
        ("bert", "ForMaskedLM", {"vocab_size": 51}, r"cls.predictions.bias must be float32 \[51\]"),
    ],
)
def test_configs_that_do_not_fit(
    tmp_path: Path, family: str, end: str, changes: dict[str, Any], said: str
) -> None:
    folder = written(tmp_path / "model", family, end, unchanged, **changes)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "end", "changes", "said"),
    [
        ("roberta", "Model", {"architectures": ["BertModel"]}, "BertModel; supported: RobertaForSeq"),
        ("roberta", "Model", {"architectures": None}, "no architecture; supported: RobertaForSeq"),
        ("albert", "Model", {"hidden_act": "gelu_fast"}, "uses the activation 'gelu_fast'"),
        ("distilbert", "Model", {"activation": "silu"}, "uses the activation 'silu'"),
        ("bert", "ForMaskedLM", {"tie_word_embeddings": False}, "unties the word table"),
        ("electra", "Model", {"is_decoder": True}, "encoders only"),
        ("electra", "Model", {"position_embedding_type": "relative_key"}, "supported: absolute"),
    ],
)
def test_models_that_are_not_supported(
    tmp_path: Path, family: str, end: str, changes: dict[str, Any], said: str
) -> None:
    folder = written(tmp_path / "model", family, end, unchanged, **changes)
    with pytest.raises(UnsupportedError, match=said):
        read_checkpoint(folder)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("family", "end"), [("bert", "ForMaskedLM"), ("roberta", "ForSequenceClassification")]
)
def test_older_versions_know_one_model_only(tmp_path: Path, family: str, end: str, version: int) -> None:
    quantization = {**family_config(family, end)["quantization_config"], "format_version": version}
    folder = written(tmp_path / "model", family, end, unchanged, quantization_config=quantization)
    with pytest.raises(CheckpointError, match=f"format_version is {version}, but .* needs 3"):
        read_checkpoint(folder)
