"""What test_resume.py runs: compresses a tiny model, and kills itself at a named moment.

    python killed_run.py MODEL OUT MOMENT COUNT [--resume]

`step`: before the COUNT-th optimizer step. `pruning`: in the COUNT-th choice of masks, when half of them
are written. `save`: in the COUNT-th file that a checkpoint writes with torch.save, half written. `weights`:
in the COUNT-th weight file. `export`: when the run is done. `interrupt` sends SIGINT in the COUNT-th step,
`disk` lets no file grow past 60 kB from the COUNT-th step on, as a full disk does, `never` does nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import transformers.modeling_utils
from tiny_training import TASK, recipe, tiny_rows

import secateur.sparsity.pruner
import secateur.training.trainer
from secateur.data import Splits
from secateur.errors import SecateurError
from secateur.training import compress

STAGES = (
    {"type": "distillation", "hardness": 1.0, "temperature": 2.0, "hidden": 0.5, "augmentation": 0.3},
    {"type": "pruning", "sparsity": 0.6, "start_epoch": 0, "end_epoch": 1.2, "update_every": 0.2},
    {"type": "quantization", "start_epoch": 1.4, "freeze_epoch": 1.9},
)
RECIPE = recipe(*STAGES, epochs=2.5, learning_rate=2e-3, batch_size=16)
SPLITS = Splits("tiny", TASK, tiny_rows(96, 0), tiny_rows(12, 1), tiny_rows(12, 2))

left = 0


def due() -> bool:
    global left
    left -= 1
    return left == 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, act: Any) -> None:
    real = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, replaced)


def arm(moment: str) -> None:
    if moment == "step":
        before(torch.optim.AdamW, "step", lambda *_, **__: die() if due() else None)
    elif moment == "pruning":
        chosen = secateur.sparsity.pruner.choose_masks

        def half(*args: Any) -> Any:
            masks = chosen(*args)
            if not due():
                return masks
            masks[len(masks) // 2] = _Deadly()
            return masks

        secateur.sparsity.pruner.choose_masks = half
    elif moment == "save":

        def in_half(value: Any, path: Any, *_: Any, **__: Any) -> None:
            if due():
                Path(path).write_bytes(b"PK" * 500)
                die()

        before(torch, "save", in_half)
    elif moment == "weights":

        def in_half_of_weights(tensors: Any, path: Any, *_: Any, **__: Any) -> None:
            if due():
                Path(path).write_bytes(b"\0" * 500)
                die()

        before(transformers.modeling_utils, "safe_save_file", in_half_of_weights)
    elif moment == "export":
        before(secateur.training.trainer, "export_checkpoint", lambda *_, **__: die())
    elif moment == "interrupt":
        before(
            torch.optim.AdamW, "step", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT) if due() else None
        )
    elif moment == "disk":
        limits = (60_000, resource.RLIM_INFINITY)
        before(
            torch.optim.AdamW,
            "step",
            lambda *_, **__: resource.setrlimit(resource.RLIMIT_FSIZE, limits) if due() else None,
        )


class _Deadly:
    """Stands where a mask should: kills when it is copied."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> None:
        die()


def main(model: str, out: str, moment: str, count: int, resume: bool) -> int:
    global left
    left = count
    torch.set_num_threads(1)
    arm(moment)
    try:
        compress(model, SPLITS, RECIPE, out, seed=7, save_every=2, resume=resume, progress=False)
    except SecateurError as error:
        print(error)
        return 2
    except KeyboardInterrupt as error:
        print(error)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), "--resume" in sys.argv))
