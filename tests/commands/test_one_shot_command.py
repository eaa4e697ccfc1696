"""`secateur one-shot` from the shell: a checkpoint, a table, and one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run


def test_a_checkpoint_and_the_table(run: Run, classifier: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("one-shot", classifier, "--data", data, "--out", out, "--sparsity", 0.5, "--rows", 32)
    done = run(*arguments, "--quantize", "static", "--rounding", "gptq", "--option", "damp=1e-2")
    assert done.status == 0, done
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"{metrics['compressed']['test']['accuracy']:.4f}" in done.out
    assert f"{metrics['sparsity']:.1%}" in done.out
    assert metrics["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert metrics["calibration_rows"] == 32
    assert f"secateur predict {out} 'some text'" in done.out
    assert "Pruning 50% by sparsegpt (block4)" in done.err
    recipe = (out / "recipe.yaml").read_text()
    assert "damp: 0.01" in recipe
    assert "rounding: gptq" in recipe
    assert "quantization" in metrics
    card = (out / "README.md").read_text()
    assert "| compressed.test.accuracy |" in card
    assert "rounding" not in card
    answer = run("predict", out, "wake me at seven")
    assert answer.status == 0, answer


def test_json_instead_of_the_table(run: Run, classifier: Path, data: Path, tmp_path: Path) -> None:
    done = run(
        *("one-shot", classifier, "--data", data, "--out", tmp_path / "out"),
        *("--method", "magnitude", "--pattern", "2:4", "--json", "-"),
    )
    assert done.status == 0, done
    assert json.loads(done.out)["sparsity"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "nothing to do"),
        (("--sparsity", 1.5), "sparsity is 1.5, and must be 0 to below 1"),
        (("--method", "wanda"), "How sparse shall the model become"),
        (("--sparsity", 0.5, "--method", "movement"), "movement learns from training steps"),
        (("--sparsity", 0.5, "--option", "damp"), "--option damp is not KEY=VALUE"),
        (("--sparsity", 0.5, "--option", "damp=1", "--option", "damp=2"), "damp is given twice"),
        (("--sparsity", 0.5, "--option", "dump=1"), "unknown key 'dump'"),
        (("--sparsity", 0.5, "--rounding", "gptq"), "are of --quantize"),
        (("--quantize", "static", "--max-loss-increase", 0.1), "a bound for --quantize auto"),
        (("--sparsity", 0.5, "--rows", 49), "16 to 48 of the training rows"),
        (("--sparsity", 0.5, "--pattern", "block:3x1"), "do not divide into blocks of 3 rows"),
    ],
)
def test_mistakes(
    refused: Run, classifier: Path, data: Path, tmp_path: Path, given: tuple[object, ...], sentence: str
) -> None:
    out = tmp_path / "new" / "out"
    assert sentence in refused("one-shot", classifier, "--data", data, "--out", out, *given).err
    assert not out.parent.exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from secateur.cli import main\n"
        "main(['one-shot', '--help']); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
