"""Fine-tuning on rows of a file, as transformers' run_glue.py does it, with two lines changed to compress.

    python examples/glue_trainer.py --model_name_or_path demo/dense --recipe balanced \
        --train_file train.jsonl --validation_file validation.jsonl --test_file test.jsonl \
        --do_train --do_eval --do_predict --output_dir run \
        --num_train_epochs 10 --learning_rate 3e-4 --per_device_train_batch_size 32

All arguments of transformers' `TrainingArguments` work; the recipe's own `training` record is not used here.
The columns are `text`, for pairs also `text_pair`, and `label`: a name or whole number for classes, a number
with a point for regression. Give a fine-tuned model: the compressed one learns from it. The two lines are
marked with "Secateur"; without them, and with `trainer.save_model()` for the second, this is plain
fine-tuning.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

from secateur import CompressionCallback
from secateur.export import export_checkpoint


@dataclass
class ModelArguments:
    """Which model, and how it is compressed."""

    model_name_or_path: str = field(metadata={"help": "A folder, or a name on the Hugging Face hub."})
    recipe: str = field(default="balanced", metadata={"help": "A built-in recipe or a YAML file."})
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Where data and hub models are cached; default: transformers' place."},
    )


@dataclass
class DataArguments:
    """Which rows. JSON-lines, CSV; gzip-compressed files work too."""

    train_file: str = field(metadata={"help": "Rows to learn from."})
    validation_file: str = field(metadata={"help": "Rows that --do_eval scores."})
    test_file: str | None = field(default=None, metadata={"help": "Rows that --do_predict scores."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are cut to so many tokens."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Learn from the first rows only."})


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, scores and saves.

    Args:
        arguments: Instead of those of the process.
    """
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)

    files = {"train": data_args.train_file, "validation": data_args.validation_file}
    if data_args.test_file is not None:
        files["test"] = data_args.test_file
    suffix = Path(data_args.train_file.removesuffix(".gz")).suffix
    data = load_dataset(
        "csv" if suffix == ".csv" else "json", data_files=files, cache_dir=model_args.cache_dir
    )
    if data_args.max_train_samples is not None:
        data["train"] = data["train"].select(range(min(data_args.max_train_samples, len(data["train"]))))

    set_seed(training_args.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    config = AutoConfig.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    regression = data["train"].features["label"].dtype in ("float32", "float64")
    label_ids = {} if regression else _label_ids(config, data["train"].unique("label"))
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path,
        cache_dir=model_args.cache_dir,
        dtype="float32",
        ignore_mismatched_sizes=True,
        **(
            {"num_labels": 1, "problem_type": "regression"}
            if regression
            else {"label2id": label_ids, "id2label": {place: label for label, place in label_ids.items()}}
        ),
    )

    def encoded(rows: Mapping[str, list[Any]]) -> dict[str, Any]:
        pairs = (rows["text_pair"],) if "text_pair" in rows else ()
        length = data_args.max_seq_length or model.config.max_position_embeddings
        columns: dict[str, Any] = dict(tokenizer(rows["text"], *pairs, truncation=True, max_length=length))
        columns["labels"] = (
            rows["label"] if regression else [label_ids[str(label)] for label in rows["label"]]
        )
        return columns

    with training_args.main_process_first(desc="tokenizing"):
        data = data.map(encoded, batched=True, remove_columns=data["train"].column_names)

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=_correlation if regression else _accuracy,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[CompressionCallback(model_args.recipe, teacher=copy.deepcopy(model))],  # Secateur: added
    )
    if training_args.do_train:
        trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        export_checkpoint(model, tokenizer, f"{training_args.output_dir}/compressed")  # Secateur: changed
    if training_args.do_eval:
        trainer.log_metrics("eval", trainer.evaluate())
    if training_args.do_predict and "test" in data:
        trainer.log_metrics("test", trainer.predict(data["test"], metric_key_prefix="test").metrics)


def _label_ids(config: Any, labels: Sequence[Any]) -> dict[str, int]:
    """Returns label to id: the model's own where it knows exactly these labels, else by name."""
    found = sorted({str(label) for label in labels})
    known = {str(label): int(place) for label, place in (config.label2id or {}).items()}
    return known if sorted(known) == found else {label: place for place, label in enumerate(found)}


def _accuracy(outputs: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((outputs.predictions.argmax(axis=-1) == outputs.label_ids).mean())}


def _correlation(outputs: EvalPrediction) -> dict[str, float]:
    return {"pearson": float(np.corrcoef(outputs.predictions.reshape(-1), outputs.label_ids)[0, 1])}


if __name__ == "__main__":
    main()
