"""Compresses with a Trainer of your own: one callback, then one export.

    python examples/own_trainer.py demo/dense assistant_intents my-compressed

`secateur compress` does the same with arguments that were tuned; this is for those who have a training script
and want to keep it.
"""

from __future__ import annotations

import copy
import sys
import tempfile

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import secateur
from secateur.data import load_splits
from secateur.export import export_checkpoint
from secateur.recipe import load_recipe


def main(model: str, data: str, out: str, recipe: str = "balanced", epochs: float = 10) -> None:
    """Trains and exports.

    Args:
        model: A fine-tuned BERT for sequence classification.
        data: What `secateur compress --data` takes.
        out: Folder to write.
        recipe: A built-in recipe or a YAML file; its epochs must fit into `epochs`.
        epochs: Passes over the training rows.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    student = AutoModelForSequenceClassification.from_pretrained(model)
    rows = [
        {**tokenizer(row.text, truncation=True), "labels": student.config.label2id[row.label]}
        for row in load_splits(data).train
    ]
    with tempfile.TemporaryDirectory() as work:
        trainer = Trainer(
            model=student,
            args=TrainingArguments(
                work,
                num_train_epochs=epochs,
                learning_rate=3e-4,
                per_device_train_batch_size=32,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[secateur.CompressionCallback(recipe, teacher=copy.deepcopy(student))],
        )
        trainer.train()
    export_checkpoint(student, tokenizer, out, load_recipe(recipe).to_yaml())
    print(secateur.read_checkpoint(out).quantization)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
