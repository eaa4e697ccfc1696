"""A run that is killed at any moment and resumed ends with the weights of the run that was not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_tasks
import torch
from killed_run import RECIPE, SPLITS
from safetensors.torch import load_file, save_file
from tiny_training import recipe

from secateur.errors import DataError, RecipeError
from secateur.tasks import TextClassification
from secateur.training import compress

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(model: Path, out: Path, moment: str, count: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(model), str(out), moment, str(count), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run(model: Path, out: Path, moment: str, count: int, *more: str) -> tuple[int, str]:
    process = start(model, out, moment, count, *more)
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


def resumed(model: Path, out: Path, resume: bool = True) -> bytes:
    folder = compress(model, SPLITS, RECIPE, out, seed=7, save_every=2, resume=resume, progress=False).folder
    assert not out.with_name(f"{out.name}.run").exists()
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.set_num_threads(1)  # sums depend on the number of threads
    return resumed(classifier_folder, tmp_path_factory.mktemp("whole") / "out", resume=False)


SOON = [("pruning", 4), ("save", 7)]
LATER = [
    *[("step", count) for count in (4, 9, 12)],
    *[("pruning", count) for count in (3, 6, 7)],
    *[
        ("save", count) for count in (5, 6, 8, 9, 16)
    ],  # training arguments, optimizer, scheduler, random numbers
    *[("weights", count) for count in (2, 4, 7)],
    ("export", 1),
]


def kill_and_resume(model: Path, out: Path, moment: str, count: int, expected: bytes) -> None:
    status, said = run(model, out, moment, count)
    assert status == -signal.SIGKILL, said
    assert not out.exists()
    assert resumed(model, out) == expected


@pytest.mark.parametrize(("moment", "count"), SOON)
def test_killed_and_resumed(
    classifier_folder: Path, tmp_path: Path, expected: bytes, moment: str, count: int
) -> None:
    kill_and_resume(classifier_folder, tmp_path / "out", moment, count, expected)


@pytest.mark.long
@pytest.mark.parametrize(("moment", "count"), LATER)
def test_killed_anywhere_and_resumed(
    classifier_folder: Path, tmp_path: Path, expected: bytes, moment: str, count: int
) -> None:
    kill_and_resume(classifier_folder, tmp_path / "out", moment, count, expected)


@pytest.mark.long
def test_killed_again_and_again_by_the_clock(
    classifier_folder: Path, tmp_path: Path, expected: bytes
) -> None:
    """Kills from outside, wherever the process is; each time a little later."""
    out = tmp_path / "out"
    state = out.with_name("out.run")
    kills = 0
    for delay in (0.0, 0.1, 0.3, 0.6, 1.0, 1.5):
        process = start(
            classifier_folder, out, "never", 0, *(["--resume"] if any(state.glob("*/checkpoint-*")) else [])
        )
        while process.poll() is None and not any(state.glob("*/checkpoint-*")):
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        if out.exists():
            break
    assert kills > 0
    found = (out / "model.safetensors").read_bytes() if out.exists() else resumed(classifier_folder, out)
    assert found == expected


@pytest.mark.parametrize("kind", ["tokens", "masked"])
def test_other_tasks_resume_too(tmp_path: Path, kind: str) -> None:
    model = tiny_tasks.untrained(kind, tmp_path / "model")
    weights = []
    for name in ("whole", "killed"):
        if name == "killed":
            status, said = run(model, tmp_path / name, "step", 7, "--kind", kind)
            assert status == -signal.SIGKILL, said
        folder = compress(
            model,
            tiny_tasks.splits(kind),
            RECIPE,
            tmp_path / name,
            seed=7,
            save_every=2,
            resume=name == "killed",
            progress=False,
        ).folder
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_ctrl_c_saves_and_says_how_to_resume(
    classifier_folder: Path, tmp_path: Path, expected: bytes
) -> None:
    out = tmp_path / "out"
    status, said = run(classifier_folder, out, "interrupt", 7)
    assert status == 130, said
    assert "Stopped after step 7." in said
    assert "--resume" in said
    assert (tmp_path / "out.run" / "compression" / "checkpoint-7").is_dir()
    with pytest.raises(RecipeError, match="holds an unfinished run: resume it"):
        resumed(classifier_folder, out, resume=False)
    other = recipe({"type": "distillation"}, epochs=1)
    with pytest.raises(RecipeError, match="was started with other recipe, seed"):
        compress(classifier_folder, SPLITS, other, out, seed=8, resume=True, progress=False)
    request = tmp_path / "out.run" / "request.json"
    said = request.read_text()
    request.write_text("[]")
    with pytest.raises(RecipeError, match=r"request\.json is damaged: delete the folder"):
        resumed(classifier_folder, out)
    request.write_text(said)
    labels = list(reversed(SPLITS.task.labels))  # the same rows, but logits of another order
    turned = dataclasses.replace(SPLITS, task=TextClassification(labels))
    with pytest.raises(RecipeError, match="was started with other labels"):
        compress(classifier_folder, turned, RECIPE, out, seed=7, resume=True, progress=False)
    assert resumed(classifier_folder, out) == expected


def test_a_full_disk_in_a_save_leaves_the_checkpoint_before_it(
    classifier_folder: Path, tmp_path: Path, expected: bytes
) -> None:
    out = tmp_path / "out"
    status, said = run(classifier_folder, out, "disk", 5)
    assert status == 2, said
    sentence = said.strip().splitlines()[-1]
    assert "checkpoint-6 could not be written" in sentence
    assert "that of step 4 is intact: make room, then resume with --resume" in sentence
    assert sorted(path.name for path in (tmp_path / "out.run" / "compression").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert resumed(classifier_folder, out) == expected


def test_there_must_be_something_to_resume(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="There is no unfinished run at"):
        resumed(classifier_folder, tmp_path / "out")
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="holds no run of ours"):
        resumed(classifier_folder, tmp_path / "out", resume=False)
    assert (tmp_path / "out.run" / "thesis.txt").read_text() == "mine"


def test_a_failed_start_leaves_nothing_behind(classifier_folder: Path, tmp_path: Path) -> None:
    rows = [row._replace(label=row.label.replace("music", "concert")) for row in SPLITS.train]
    labels = ["concert", "travel", "weather"]
    splits = dataclasses.replace(SPLITS, train=rows, validation=[], test=[], task=TextClassification(labels))
    with pytest.raises(DataError, match="does not know 'concert'"):
        compress(classifier_folder, splits, RECIPE, tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_trained_on_in_place_is_noticed(classifier_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(classifier_folder, model)
    status, said = run(model, tmp_path / "out", "step", 7)
    assert status == -signal.SIGKILL, said
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"] += 1.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="other model weights"):
        resumed(model, tmp_path / "out")
