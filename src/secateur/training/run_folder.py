"""The folder of an unfinished run: checkpoints to resume from, Ctrl-C, and a disk that is full."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState

from secateur.checkpoint.replacement import replace_folder, sync_folder
from secateur.errors import CheckpointError, RecipeError
from secateur.training.conditions import is_whole, last_checkpoint, seed_length_groups_

__all__ = ["RunFolder", "SeededOrder", "fingerprint", "weights_fingerprint"]

_REQUEST = "request.json"
_STATE = "trainer_state.json"


class RunFolder:
    """Keeps what a killed run needs to go on, beside the output; deleted when the output is there.

    Args:
        out: The output folder; the run's folder is `<out>.run`.
        request: What was asked for, plain values; a resumed run must be asked for the same.
        resume: Goes on with the run that is there.
        save_every: Optimizer steps between two checkpoints; 0 saves only on Ctrl-C.

    Raises:
        RecipeError: There is nothing to resume, or it was asked for something else; or, without `resume`, an
            unfinished run lies there.
    """

    def __init__(self, out: Path, request: Mapping[str, Any], *, resume: bool, save_every: int) -> None:
        self.path = out.with_name(f"{out.name}.run")
        self.save_every = save_every
        self._wanted = threading.Event()
        self._made = [folder for folder in self.path.parents if not folder.exists()]
        if resume:
            self._require_same(request)
            return
        if self._has_progress():
            raise RecipeError(
                f"{self.path} holds an unfinished run: resume it (--resume, or resume=True), or delete it."
            )
        if self.path.exists() and not (self.path / _REQUEST).is_file() and any(self.path.iterdir()):
            raise RecipeError(f"{self.path} exists and holds no run of ours; it is left alone: move it away.")
        shutil.rmtree(self.path, ignore_errors=True)
        fresh = self.path.with_name(f".{self.path.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / _REQUEST).write_text(json.dumps(dict(request), indent=1, sort_keys=True), encoding="utf-8")
        replace_folder(fresh, self.path)

    def stage(self, name: str) -> Path:
        """Returns the folder of one stage of the run, `fine-tuning` or `compression`."""
        return self.path / name

    def arguments(self) -> dict[str, Any]:
        """Returns what a Trainer's arguments need so that it saves here."""
        if not self.save_every:
            return {"save_strategy": "no", "save_total_limit": 2}
        return {"save_strategy": "steps", "save_steps": self.save_every, "save_total_limit": 2}

    def train(self, trainer: Trainer) -> None:
        """Trains from the newest whole checkpoint on, or from the start; Ctrl-C saves first.

        Args:
            trainer: A Trainer whose `output_dir` is a stage's folder.

        Raises:
            CheckpointError: A checkpoint could not be written; the one before is intact.
            KeyboardInterrupt: Ctrl-C; says how to resume.
        """
        folder = Path(trainer.args.output_dir)
        for path in folder.glob("checkpoint-*"):
            if not is_whole(path):
                shutil.rmtree(path)
        newest = last_checkpoint(folder)
        trainer.add_callback(_Keeper(self._wanted, self.how_to_resume()))
        with self._stopping():
            if newest is not None and _has_ended(newest):
                self._take(trainer, newest)
                return
            try:
                trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
            except (OSError, RuntimeError, SafetensorError) as error:
                self._explain(error, folder / f"checkpoint-{trainer.state.global_step}")
                raise

    def how_to_resume(self) -> str:
        """Returns a sentence."""
        return (
            f"The run is kept in {self.path}; the same command with --resume (resume=True) goes on with it."
        )

    def discard(self) -> None:
        """Deletes the folder, and those around it that were made for it and are still empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def discard_if_empty(self) -> bool:
        """Deletes the folder where nothing in it is worth resuming; says whether it is still there."""
        if not self._has_progress():
            self.discard()
        return self.path.is_dir()

    def _has_progress(self) -> bool:
        stages = (self.stage(name) for name in ("fine-tuning", "compression"))
        return (self.path / "dense").is_dir() or any(last_checkpoint(stage) for stage in stages)

    def _require_same(self, request: Mapping[str, Any]) -> None:
        try:
            noted = json.loads((self.path / _REQUEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RecipeError(
                f"There is no unfinished run at {self.path}: run without --resume (resume=True)."
            ) from None
        if not isinstance(noted, dict):
            raise RecipeError(f"{self.path / _REQUEST} is damaged: delete the folder and start anew.")
        now = json.loads(json.dumps(dict(request)))
        differ = [key for key in now if noted.get(key) != now[key]]
        if differ:
            raise RecipeError(
                f"The unfinished run at {self.path} was started with other {', '.join(differ)}: "
                "give the same, or delete the folder and start anew."
            )

    @staticmethod
    def _take(trainer: Trainer, checkpoint: Path) -> None:
        """Takes the state of a run that has ended; a Trainer that resumed it would train one step more."""
        state = TrainerState.load_from_json(str(checkpoint / _STATE))
        trainer.model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
        trainer.state = state
        details = {"model": trainer.model, "train_dataloader": trainer.get_train_dataloader()}
        for callback in trainer.callback_handler.callbacks:
            take = getattr(callback, "take_ended_", None)
            if take is not None:
                take(trainer.args, state, **details)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Turns the first Ctrl-C into a wish to stop after the step at hand; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def wish(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self._wanted.set()

        signal.signal(signal.SIGINT, wish)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _explain(self, error: Exception, checkpoint: Path) -> None:
        """Raises CheckpointError where `error` came from writing this checkpoint."""
        if not checkpoint.exists() or is_whole(checkpoint):
            return
        shutil.rmtree(checkpoint)
        kept = last_checkpoint(checkpoint.parent)
        before = (
            f"that of step {kept.name.rpartition('-')[2]} is intact" if kept else "there is none before it"
        )
        free = shutil.disk_usage(checkpoint.parent).free / 1e6
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {checkpoint.name} could not be written to {checkpoint.parent} ({reason}; "
            f"{free:.0f} MB are free); {before}: make room, then resume with --resume."
        ) from error


class SeededOrder(TrainerCallback):  # type: ignore[misc]
    """Lets a run without CompressionCallback, too, resume in the middle of an epoch."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Seeds the order of the rows; called by the Trainer."""
        seed_length_groups_(train_dataloader, args.seed)


class _Keeper(TrainerCallback):  # type: ignore[misc]
    """Forces checkpoints to disk, and stops after one where somebody wishes to."""

    def __init__(self, wanted: threading.Event, how_to_resume: str) -> None:
        self._wanted = wanted
        self._how_to_resume = how_to_resume

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._wanted.is_set():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sync_folder(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if self._wanted.is_set():
            raise KeyboardInterrupt(f"Stopped after step {state.global_step}. {self._how_to_resume}")


def fingerprint(rows: Iterable[tuple[Any, ...]]) -> str:
    """Returns a short hash of rows, to know them again."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()[:16]


def weights_fingerprint(folder: Path) -> str:
    """Returns a short hash of a model folder's weights and config, to know a model that was trained on."""
    digest = hashlib.sha256()
    for pattern in ("config.json", "*.safetensors", "pytorch_model*.bin"):
        for path in sorted(folder.glob(pattern)):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def _has_ended(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])
