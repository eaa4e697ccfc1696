"""What test_two_processes.py runs, alone or under torchrun: trains a tiny model, writes what each has.

python several_processes.py trainer|loop OUT ROWS_OF_A_PROCESS [METHOD]
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_training import recipe, rows, tiny_model, trainer
from torch.utils.data import DataLoader

from secateur.training import CompressionCallback
from secateur.training.encoding import Padder

STAGES = (
    {"type": "pruning", "sparsity": 0.75, "start_epoch": 0, "end_epoch": 1, "update_every": 0.5},
    {"type": "distillation", "hardness": 0.9, "temperature": 2.0, "hidden": 0.5},
    {"type": "quantization", "start_epoch": 1, "freeze_epoch": 1.75},
)
LATER = {"start_epoch": 0.5}  # what learns scores needs time before it prunes
OBERT = {"method": "obert", "num_grads": 11, "fisher_block_size": 16, "damp": "auto", "recomputations": 2}

KEYS = {
    "obert": OBERT,
    "movement": {"method": "movement", **LATER},
    "soft-movement": {"method": "soft-movement", **LATER},
}


def main(way: str, out: Path, batch_size: int, method: str) -> None:
    torch.set_num_threads(1)
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # SGD: Adam makes steps of full size of gradients that are nothing but rounding, as those of key biases.
    stages = ({**STAGES[0], **KEYS.get(method, {"method": method})}, *STAGES[1:])
    callback = CompressionCallback(recipe(*stages, learning_rate=0.1), copy.deepcopy(tiny_model(1)))
    if way == "trainer":
        made = trainer(
            out,
            model,
            callback,
            rows(64),
            per_device_train_batch_size=batch_size,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
        )
        if method != "magnitude":
            callback.connect_(made)
        made.train()
    else:
        accelerator = Accelerator(cpu=True)
        loader = accelerator.prepare(DataLoader(rows(64), batch_size, collate_fn=Padder(0)))
        callback.attach_(
            model,
            steps_per_epoch=len(loader),
            total_steps=2 * len(loader),
            batches=lambda: DataLoader(rows(64), 8, shuffle=True, collate_fn=Padder(0)),
        )
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
        callback.group_parameters_(optimizer)
        wrapped = accelerator.prepare(model).train()
        step = 0
        for _ in range(2):
            for batch in loader:
                accelerator.backward(wrapped(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                callback.after_step(step)
        callback.finish_()
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, out / f"rank{os.environ.get('RANK', '0')}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:] or ["magnitude"])
