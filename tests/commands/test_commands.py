"""What the commands do when all is well."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run
from tiny_checkpoint import Numbers, write_tiny_checkpoint

import secateur
from secateur import cli
from secateur.bench.engines import ENGINES


def test_a_model_is_compressed_scored_on_both_engines_and_asked(
    run: Run, classifier: Path, data: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compressed"
    arguments = ("compress", "--model", classifier, "--data", data, "--recipe", recipe, "--out", out)
    done = run(*arguments, "--seed", 7)
    assert done.status == 0, done.err
    assert "train 48, validation 9, test 12 rows" in done.err
    assert "80.0%" in done.out
    assert f"secateur predict {out}" in done.out
    assert json.loads((out / "metrics.json").read_text())["seed"] == 7

    scores = {}
    for engine in ("secateur", "pytorch"):
        scored = run("evaluate", out, "--data", data, "--engine", engine, "--json", "-")
        assert scored.status == 0, scored.err
        scores[engine] = json.loads(scored.out)
        assert scores[engine]["n"] == 12
    assert scores["secateur"]["accuracy"] == scores["pytorch"]["accuracy"]

    dense = run("evaluate", classifier, "--data", data, "--engine", "pytorch", "--split", "validation")
    assert dense.status == 0, dense.err
    assert "accuracy" in dense.out

    predicted = run("predict", out, "a table for two")
    assert predicted.status == 0, predicted.err
    assert "a table for two" in predicted.out


def test_predict_shows_the_likeliest_labels(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    done = run("predict", checkpoint, "book [me] a table", "--top-k", 2, "--json", file)
    assert done.status == 0, done.err
    assert "book [me] a table" in done.out
    (row,) = json.loads(file.read_text())["predictions"]
    assert [answer["label"] in ("alarm", "table", "time") for answer in row["answers"]] == [True, True]
    assert row["answers"][0]["score"] >= row["answers"][1]["score"]


def test_predict_reads_lines(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("book a table\n\nwhat is the time\n"))
    done = run("predict", checkpoint, "--json", "-")
    assert [row["text"] for row in json.loads(done.out)["predictions"]] == [
        "book a table",
        "what is the time",
    ]


def test_evaluate_prints_what_it_measured(run: Run, checkpoint: Path, data: Path) -> None:
    done = run("evaluate", checkpoint, "--data", data, "--threads", 1)
    assert done.status == 0, done.err
    assert "engine secateur" in done.out
    assert "accuracy" in done.out


def test_evaluate_refuses_a_split_that_is_none(run: Run, checkpoint: Path, data: Path) -> None:
    done = run("evaluate", checkpoint, "--data", data, "--split", "dev")
    assert done.status == 2
    assert "give one of train, validation, test" in done.err


def test_benchmark_of_a_checkpoint(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ("--seq-len", 8, "--batch-size", 2, "--threads", 1, "--isa", "reference", "--seconds", 0)
    done = run("benchmark", checkpoint, *arguments, "--profile", "--core-hour-price", 3.6, "--json", file)
    assert done.status == 0, done.err
    assert "batch 2, length 8, 1 thread, reference" in done.out
    assert "Step by step" in done.out
    assert "products at" in done.out
    figures = json.loads(file.read_text())
    assert figures["latency_ms"]["median"] <= figures["latency_ms"]["p95"]
    assert figures["throughput"] > 0
    assert figures["machine"]["cpu"]
    assert figures["engine"] == {"isa": "reference", "threads": 1}
    assert figures["cost_per_million"] == pytest.approx(1e6 / figures["throughput"] * 3.6 / 3600, rel=0.01)
    assert "per million texts" in done.out
    profile = figures["profile"]
    assert set(profile["peak_gmacs"]) == {"u8s8", "f32", "bf16"}
    assert profile["total"]["ms"] == pytest.approx(sum(step["ms"] for step in profile["steps"]))
    assert sum(profile["shares"].values()) == pytest.approx(1)
    products = [step for step in profile["steps"] if step["kind"] == "products"]
    assert products[0]["tile"] == [16, 32]
    assert all(step["gmacs_executed"] < step["gmacs_effective"] for step in products if step["density"] < 0.7)
    assert all(
        step["peak_share"] > 0 for step in profile["steps"] if step["kind"] in ("products", "attention")
    )


def test_engines_beside_each_other(run: Run, checkpoint: Path, classifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ("--dense", classifier, "--seq-len", 8, "--threads", 1, "--seconds", 0)
    done = run(
        *("benchmark", checkpoint, *arguments, "--engine", "pytorch,secateur"),
        *("--core-hour-price", 0.04, "--json", file),
    )
    assert done.status == 0, done.err
    assert "secateur is faster by" in done.out
    figures = json.loads(file.read_text())
    assert [row["engine"] for row in figures["rows"]] == ["pytorch", "secateur"]
    assert all(row["cost_per_million"] > 0 and row["peak_memory_mb"] for row in figures["rows"])
    assert set(figures["rows"][0]["versions"]) == {"torch", "transformers"}
    ratio = figures["speedup"]["pytorch"]
    assert figures["base"] == "secateur"
    assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
    medians = [row["latency_ms"]["median"] for row in figures["rows"]]
    assert ratio["ratio"] == pytest.approx(medians[0] / medians[1], rel=0.01)


def test_all_engines_are_those_that_are_there(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {name: f"{name} needs something" for name in ENGINES if name not in ("secateur", "pytorch")}
    monkeypatch.setattr("secateur.bench.engines.why_missing", gone.get)
    done = run("benchmark", checkpoint, "--engine", "all", "--seq-len", 8, "--seconds", 0, "--threads", 1)
    assert done.status == 0, done.err
    assert "Left out: onnxruntime needs something." in done.err
    assert "Left out: pytorch runs the dense model: give its folder with --dense." in done.err
    assert "the checkpoint" in done.out


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "dense"])
@pytest.mark.parametrize("quantized", [True, False])
def test_benchmark_of_random_weights(run: Run, pattern: str, quantized: bool) -> None:
    arguments = ["--synthetic", "minilm-l6", "--layers", 1, "--pattern", pattern, "--sparsity", 0.9]
    arguments += ["--quantized"] if quantized else []
    done = run("benchmark", *arguments, "--seq-len", 8, "--seconds", 0, "--json", "-")
    assert done.status == 0, done.err
    figures = json.loads(done.out)
    assert figures["model"]["name"] == "minilm-l6"
    tables = (30522 + 512 + 2) * 384 / 1e6  # MB where they are int8
    assert tables < figures["size_mb"] - (0 if quantized else 3 * tables) < 1.7 * tables + 4


FLOAT_RECIPE = """
name: float
training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 16}
stages:
  - {type: distillation}
  - {type: pruning, sparsity: 0.8, pattern: unstructured, start_epoch: 0, end_epoch: 0.5}
"""


def test_a_recipe_without_quantization_gives_a_float_model_that_runs(
    run: Run, classifier: Path, data: Path, tmp_path: Path
) -> None:
    recipe, out = tmp_path / "float.yaml", tmp_path / "compressed"
    recipe.write_text(FLOAT_RECIPE)
    done = run("compress", "--model", classifier, "--data", data, "--recipe", recipe, "--out", out)
    assert done.status == 0, done.err
    scores = {}
    for engine in ("secateur", "pytorch"):
        scored = run("evaluate", out, "--data", data, "--engine", engine, "--json", "-")
        assert scored.status == 0, scored.err
        scores[engine] = json.loads(scored.out)["accuracy"]
    assert scores["secateur"] == scores["pytorch"]
    predicted = run("predict", out, "a table for two")
    assert predicted.status == 0, predicted.err


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("int8", "int8, block4, 50.0%"),
        ("float32", "float32, unstructured, 50.0%"),
        ("dynamic", "int8, block4, 50.0%"),
        ("dynamic", "12 of 12 int8 matrices quantize their input dynamically. That costs a second pass"),
        ("mixed inputs", "6 of 12 int8 matrices quantize their input dynamically."),
        (
            "mixed",
            "mixed (int8: 8 of 12 matrices, 1 of 2 attentions; embeddings int8), unstructured, 50.0%",
        ),
    ],
)
def test_inspect_says_what_a_checkpoint_is(run: Run, tmp_path: Path, numbers: Numbers, said: str) -> None:
    done = run("inspect", write_tiny_checkpoint(tmp_path / "model", numbers=numbers))
    assert done.status == 0, done.err
    assert said in " ".join(done.out.split())


def test_inspect_tells_embeddings_from_the_encoder(run: Run, checkpoint: Path) -> None:
    done = run("inspect", checkpoint)
    assert done.status == 0, done.err
    for part in ("embeddings", "encoder", "head", "layer.1.output.dense", "block4", "64 x 32"):
        assert part in done.out
    found = json.loads(run("inspect", checkpoint, "--json", "-").out)
    sizes = found["size_mb"]
    assert sizes["embeddings"] + sizes["encoder"] + sizes["head"] < sizes["file"]
    assert sizes["embeddings"] == pytest.approx((50 + 24 + 2) * (32 + 4) / 1e6 + 2 * 32 * 4 / 1e6)
    assert {step["k"] for step in found["steps"] if step["name"].endswith("1.output.dense")} == {64}


def test_doctor_describes_the_machine(run: Run) -> None:
    done = run("doctor")
    assert done.status == 0, done.err
    assert "reference" in done.out
    assert "int8, bfloat16, float32 and mixed; format 1 and 2" in done.out
    found = json.loads(run("doctor", "--json", "-").out)
    assert found["engine"]["isa"] in found["machine"]["isas"]
    assert found["engine"]["threads"] >= 1


def test_doctor_names_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_ISA", "altivec")
    assert "altivec" in run("doctor").out
    monkeypatch.setattr("secateur.commands.doctor.engine_cpu_info", lambda: None)
    monkeypatch.setattr("secateur.commands.doctor._EXTRAS", {"train": ("no-such-distribution",)})
    done = run("doctor")
    assert done.status == 0
    assert "The engine is not built" in done.out
    assert "no-such-distribution is not installed" in done.out


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"secateur {secateur.__version__}\n"
    shown = run()
    assert shown.status == 0
    for command in ("compress", "evaluate", "predict", "benchmark", "inspect", "doctor"):
        assert command in shown.out
        assert run(command, "--help").status == 0


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from secateur.cli import main
assert main(["--help"]) == 0
print({"torch", "transformers", "numpy", "tokenizers", "pydantic"} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "set()"


def test_running_a_checkpoint_imports_no_torch(checkpoint: Path, data: Path) -> None:
    code = f"""
import sys
from secateur.cli import main
assert main(["predict", {str(checkpoint)!r}, "a table"]) == 0
assert main(["evaluate", {str(checkpoint)!r}, "--data", {str(data)!r}]) == 0
assert main(["inspect", {str(checkpoint)!r}]) == 0
assert main(["benchmark", {str(checkpoint)!r}, "--seq-len", "4", "--seconds", "0"]) == 0
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ZeroDivisionError("division by zero"), 1, "This is a bug in Secateur"),
        (PermissionError(13, "Permission denied", "some/file"), 2, "some/file: Permission denied."),
    ],
)
def test_exit_statuses(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, said: str
) -> None:
    def fail(json_file: object) -> None:
        raise raised

    monkeypatch.setattr("secateur.commands.doctor.run", fail)
    done = run("doctor")
    assert done.status == status
    assert said in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(json_file: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("SECATEUR_DEBUG", "")
    monkeypatch.setattr("secateur.commands.doctor.run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "doctor"])
