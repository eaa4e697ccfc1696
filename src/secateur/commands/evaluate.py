"""`secateur evaluate`: accuracy on labelled data, on our engine or on PyTorch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.commands.console import hush_libraries, print_table, show_json
from secateur.data import Row, Splits, load_splits
from secateur.errors import DataError, MissingExtraError
from secateur.runtime.pipelines import pipeline
from secateur.tasks import Encoded, TextClassification

__all__ = ["named_columns", "run"]


def run(
    model: Path,
    data: str,
    split: str,
    engine: str,
    text: str | None,
    label: str | None,
    threads: int | None,
    isa: str | None,
    json_file: Path | None,
) -> None:
    """Scores a model and prints the result.

    Args:
        model: A checkpoint's folder; on PyTorch also that of an uncompressed model.
        data: See `load_splits`.
        split: train, validation or test.
        engine: secateur or pytorch.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.
        threads: Threads to use; None for all.
        isa: An instruction set to force; None for the best.
        json_file: Where to write the result as JSON.

    Raises:
        SecateurError: The model or the data cannot be used.
    """
    splits = load_splits(data, TextClassification, named_columns(text, label))
    rows = _rows(splits, split)
    apart = splits.out_of_scope if split == "test" else []
    texts = [row.text for row in (*rows, *apart)]
    start = time.perf_counter()
    if engine == "pytorch":
        labels, logits = _pytorch_logits(model, texts, threads)
    else:
        classify = pipeline(model, num_threads=threads, isa=isa)
        labels, logits = classify.labels, classify.logits(texts)
    seconds = time.perf_counter() - start
    features = Encoded([], None, list(range(len(texts))))  # one a row: all that scoring logits needs
    scores = TextClassification(labels).score([*rows, *apart], features, list(logits))
    results: dict[str, Any] = {
        "model": str(model),
        "data": data,
        "split": split,
        "engine": engine,
        **scores,
        "seconds": round(seconds, 2),
    }
    if not show_json(json_file, results):
        _print(results)


def named_columns(text: str | None, label: str | None) -> dict[str, str]:
    """Returns the columns that the user names, by role."""
    return {role: column for role, column in (("text", text), ("label", label)) if column is not None}


def _rows(splits: Splits, split: str) -> list[Row]:
    by_name = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if split not in by_name:
        raise DataError(f"There is no split {split!r}: give one of {', '.join(by_name)}.")
    if not by_name[split]:
        raise DataError(f"The split {split} has no rows: give another --split.")
    return by_name[split]


def _pytorch_logits(
    model: Path, texts: list[str], threads: int | None
) -> tuple[list[str], NDArray[np.float32]]:
    hush_libraries()
    try:
        import torch

        from secateur.hf import load_compressed
        from secateur.training.encoding import encode_rows
        from secateur.training.evaluation import predict_logits
        from secateur.training.loading import labels_of, load_classifier, load_tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--engine pytorch needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    network: Any = load_compressed(model) if _is_compressed(model) else load_classifier(model)
    tokenizer = load_tokenizer(model)
    labels = labels_of(network.config)
    rows = [Row(text, labels[0]) for text in texts]  # the labels are compared afterwards
    encoded = encode_rows(tokenizer, rows, labels, network.config.max_position_embeddings)
    logits = predict_logits(network, encoded, pad_token_id=tokenizer.pad_token_id)
    return labels, logits.numpy()


def _is_compressed(model: Path) -> bool:
    try:
        config = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # the loader says what is wrong
    return isinstance(config, dict) and config.get("quantization_config") is not None


def _print(results: dict[str, Any]) -> None:
    named = {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "oos_recall": "recall of out-of-scope rows",
        "oos_auroc": "AUROC in scope against out of scope",
    }
    rows = [(title, f"{results[key]:.4f}") for key, title in named.items() if results.get(key) is not None]
    rows.append(("rows", str(results["n"])))
    if "n_oos" in results:
        rows.append(("out-of-scope rows", str(results["n_oos"])))
    rows.append(("seconds, loading included", f"{results['seconds']:.2f}"))
    title = f"{results['model']} on {results['data']} ({results['split']}), engine {results['engine']}"
    print_table(title, ("what", "measured"), rows, numbers=1)
