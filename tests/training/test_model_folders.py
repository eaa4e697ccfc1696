"""Models of sentence-transformers, lengths, missing weights, masks that a seed repeats, and the estimate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model as family_model
from tiny_training import recipe
from transformers import AutoModelForSequenceClassification

from secateur.errors import StructureError, UnsupportedError
from secateur.recipe.plan import StepPlan
from secateur.tasks import FillMask, SentenceEmbeddings, TextClassification, TokenClassification
from secateur.training.collation import padder_for, training_features
from secateur.training.estimate import estimate
from secateur.training.evaluation import predict
from secateur.training.lengths import max_tokens
from secateur.training.loading import has_head, load_network, load_tokenizer, model_task
from secateur.training.masking import MaskingPadder

PREFIX = "sentence_transformers.models."


def sentence_folder(folder: Path, pooling: dict[str, Any], *more: str) -> Path:
    inner = folder / "0_Transformer"
    tiny_tasks.encoder(inner)
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": false}')
    kinds = ["Transformer", "Pooling", *more]
    places = ["0_Transformer", "1_Pooling", *(f"{place}_{kind}" for place, kind in enumerate(more, 2))]
    modules = [{"type": f"{PREFIX}{kind}", "path": place} for kind, place in zip(kinds, places, strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("flags", "more", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, (), ("mean", False)),
        ({"pooling_mode_cls_token": True}, ("Normalize",), ("cls", True)),
        ({"pooling_mode_max_tokens": True, "word_embedding_dimension": 32}, (), ("max", False)),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, ("Normalize",), ("mean", True)),
    ],
)
def test_models_of_sentence_transformers_are_read(
    tmp_path: Path, flags: dict[str, Any], more: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    folder = sentence_folder(tmp_path, flags, *more)
    task = model_task(folder, SentenceEmbeddings)
    assert (task.pooling, task.normalize) == expected
    network = load_network(folder, task)
    plain = load_file(folder / "0_Transformer" / "model.safetensors")
    assert network.state_dict().keys() == plain.keys()
    assert not any(parameter.requires_grad for parameter in network.pooler.parameters())
    tokenizer = load_tokenizer(folder, embeddings=True)
    assert max_tokens(network, tokenizer, task) == 12
    encoded = task.encode(tokenizer.backend_tokenizer, tiny_tasks.splits("texts").test, 12)
    for ids, vector in zip(encoded.input_ids, predict(network, task, encoded), strict=True):
        with torch.no_grad():
            states = network(torch.tensor([ids])).last_hidden_state[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "max": states.max(0).values}[expected[0]]
        wanted = pooled / pooled.norm() if expected[1] else pooled
        torch.testing.assert_close(torch.from_numpy(vector), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "more", "sentence"),
    [
        ({"pooling_mode_mean_tokens": True}, ("Dense",), "made of Transformer, Pooling, Dense; supported is"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "pools by mean_sqrt_len_tokens; supported"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "pools by cls and mean"),
        ({}, (), "pools by nothing"),
    ],
)
def test_other_models_of_sentence_transformers_are_refused(
    tmp_path: Path, flags: dict[str, Any], more: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        has_head(sentence_folder(tmp_path, flags, *more), SentenceEmbeddings)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert"])
def test_only_weights_of_the_head_may_be_missing(tmp_path: Path, family: str) -> None:
    base = family_model(family, "Model")
    base.save_pretrained(tmp_path / "base")
    task = TextClassification(["a", "b", "c"])
    network = load_network(tmp_path / "base", task, new_head=True)
    assert network.config.id2label == {0: "a", 1: "b", 2: "c"}
    found = dict(network.base_model.named_parameters())
    for name, parameter in base.named_parameters():
        if "pooler" not in name:
            assert torch.equal(parameter, found[name]), name
    with pytest.raises(StructureError, match="weights are missing"):
        load_network(tmp_path / "base", task)
    shutil.copytree(tmp_path / "base", tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    lost = next(name for name in tensors if "layer" in name and name.endswith("weight"))
    del tensors[lost]
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StructureError, match=r"1 weights are missing"):
        load_network(tmp_path / "broken", task, new_head=True)


def test_positions_of_roberta_begin_after_its_padding(tmp_path: Path) -> None:
    network = family_model("roberta", "ForTokenClassification")
    limit = network.config.max_position_embeddings - network.config.pad_token_id - 1
    task = TokenClassification(["O", "B-a"])
    assert max_tokens(network, None, task) == limit
    network(torch.full((1, limit), 5))  # one more would have no position
    with pytest.raises(UnsupportedError, match=f"takes 8 to {limit} tokens"):
        max_tokens(network, None, task, limit + 1)


def test_a_head_of_another_kind_is_a_new_one(tmp_path: Path) -> None:
    folder = tiny_tasks.untrained("masked", tmp_path)
    assert has_head(folder, FillMask)
    assert has_head(folder, SentenceEmbeddings)
    assert not has_head(folder, TextClassification)
    network = load_network(folder, TextClassification(["a", "b"]), new_head=True)
    assert isinstance(network, AutoModelForSequenceClassification._model_mapping[type(network.config)])


def test_masks_follow_seed_and_rows() -> None:
    tokens = tiny_tasks.tokenizer()
    chunks = FillMask().chunks(tokens.backend_tokenizer, tiny_tasks.splits("masked").train, 32)
    rows = [{"input_ids": ids} for ids in chunks.input_ids]
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    padder = MaskingPadder(tokens, 0, seed=3)
    first, again = padder(rows[:8]), MaskingPadder(tokens, 0, seed=3)(rows[:8])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], MaskingPadder(tokens, 0, seed=4)(rows[:8])["labels"])
    assert not torch.equal(first["labels"], padder(rows[7::-1])["labels"].flip(0))
    whole = padder(rows)
    asked = whole["labels"] != -100
    assert 0.1 < asked.sum() / whole["attention_mask"].sum() < 0.2
    assert not (asked & (whole["attention_mask"] == 0)).any()
    hidden = whole["input_ids"] == tokens.mask_token_id
    assert 0.6 < (hidden & asked).sum() / asked.sum() < 0.95
    assert not (hidden & ~asked).any()
    assert not asked[:, 0].any()  # nobody asks for [CLS]


@pytest.mark.parametrize("kind", ["tokens", "masked"])
def test_an_estimate_leaves_weights_and_random_numbers_alone(tmp_path: Path, kind: str) -> None:
    folder = tiny_tasks.untrained(kind, tmp_path)
    splits = tiny_tasks.splits(kind)
    made = recipe(
        {"type": "distillation", "hidden": 1.0 if kind == "masked" else 0.0},
        {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 1},
        {"type": "quantization", "start_epoch": 1, "freeze_epoch": 2},
        epochs=3,
        batch_size=16,
    )
    network, tokens = load_network(folder, splits.task), load_tokenizer(folder)
    features = training_features(tokens, splits.task, splits.train, 32, network)
    padder = padder_for(tokens, splits.task, network, features, made, 0)
    plan = StepPlan.for_rows(made, len(features))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    found = estimate(
        network, features, padder, plan, tuning_steps=10, live_teacher=kind == "masked", scored_rows=36
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert not network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert 0 < found.compression < 5
    assert (found.teacher == 0) is (kind == "masked")
    assert found.minutes == found.fine_tuning + found.teacher + found.compression + found.scoring
