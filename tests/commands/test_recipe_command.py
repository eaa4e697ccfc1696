"""`secateur recipe`: what it prints, and what it says of wrong recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Run

from secateur.recipe import Recipe
from secateur.recipe.schema import recipe_schema

pytest.importorskip("yaml")


def test_check_shows_epochs_and_with_rows_steps(run: Run) -> None:
    plain = run("recipe", "check", "balanced")
    assert plain.status == 0
    assert plain.out.startswith("balanced: 10 epochs\n")
    assert "0.2 – 5.5" in plain.out
    assert "steps " not in plain.out.splitlines()[2]
    assert "fewer than 3,809 rows" in plain.err
    known = run("recipe", "check", "balanced", "--rows", 15000)
    assert "10 epochs of 469 steps, 4,690 in all (15,000 rows, 32 a step)" in known.out
    assert "94 – 2,580" in known.out
    assert "30 % → 80 %" in known.out
    assert not known.err


def test_the_fewest_rows_that_are_not_stretched_are_said_right(run: Run) -> None:
    assert "so few" in run("recipe", "check", "balanced", "--rows", 3808).err
    assert "so few" not in run("recipe", "check", "balanced", "--rows", 3809).err


def test_check_carries_out_what_few_rows_change(run: Run) -> None:
    small = run("recipe", "check", "balanced", "--rows", 600)
    assert "39.47 epochs of 38 steps, 1,501 in all (600 rows, 16 a step)" in small.out
    assert "block4 by lamp" in small.out
    assert "goes from 10 to 39.47 epochs" in small.err
    # The user's batch size is the user's, also there.
    assert "(600 rows, 8 a step)" in run("recipe", "check", "balanced", "--rows", 600, "--batch-size", 8).out


def test_check_as_json(run: Run) -> None:
    shown = json.loads(run("recipe", "check", "balanced", "--rows", 15000, "--json", "-").out)
    assert shown["steps"] == 4690
    assert Recipe.model_validate(shown["recipe"]).name == "balanced"
    pruning = next(event for event in shown["timeline"] if event["kind"] == "pruning")
    assert (pruning["steps"], pruning["from"], pruning["to"]) == ([94, 2580], "30 %", "80 %")
    without = json.loads(run("recipe", "check", "balanced", "--json", "-").out)
    assert "steps" not in without
    assert all("steps" not in event for event in without["timeline"])


def test_check_draws(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    plot = tmp_path / "new" / "plot.html"
    outcome = run("recipe", "check", "balanced", "--rows", 15000, "--plot", plot)
    assert outcome.status == 0
    assert f"Drawn in {plot}" in outcome.out
    assert "4,690 in all" in plot.read_text()


def test_list_and_schema(run: Run) -> None:
    assert "balanced" in run("recipe", "list").out
    assert json.loads(run("recipe", "list", "--json", "-").out)["balanced"]["training"]["epochs"] == 10
    assert json.loads(run("recipe", "schema").out) == recipe_schema()
    assert "check" in run("recipe").out


def test_wrong_recipes_are_refused(refused: Run, tmp_path: Path) -> None:
    assert "Did you mean 'balanced'?" in refused("recipe", "check", "balancd").err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\ntraining:\n  epochs: 1\n  learning_rate: 0.1\n  epoch: 3\n")
    assert (
        "line 5: training: has the unknown key 'epoch' (did you mean 'epochs'?)"
        in refused("recipe", "check", wrong).err
    )


def test_a_recipe_in_steps_needs_the_rows(refused: Run, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "steps.yaml"
    path.write_text(
        "name: steps\ntraining: {epochs: 2, learning_rate: 0.1}\n"
        "stages: [{type: pruning, sparsity: 0.5, start_epoch: 0, end_epoch: 30 steps}]\n"
    )
    assert "give --rows N" in refused("recipe", "check", path).err
    assert "0 – 30" in run("recipe", "check", path, "--rows", 640).out
    assert (
        "30 steps lies after the end of the run, epoch 2"
        in refused("recipe", "check", path, "--rows", 320).err
    )


def test_a_plot_without_plotly_is_refused_before_anything_is_printed(
    refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.recipe.plot.find_spec", lambda name: None)
    plot = tmp_path / "plot.html"
    assert "secateur[report]" in refused("recipe", "check", "balanced", "--plot", plot).err
    assert not plot.exists()


def test_compress_refuses_a_recipe_that_does_not_fit_the_data_before_it_begins(
    refused: Run, classifier: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("secateur.training.trainer.load_network", begun)
    path = tmp_path / "late.yaml"
    path.write_text(
        "name: late\ntraining: {epochs: 1, learning_rate: 0.1, batch_size: 16}\n"
        "stages: [{type: pruning, sparsity: 0.5, start_epoch: 0, end_epoch: 30 steps}]\n"
    )
    arguments = ("compress", "--model", classifier, "--data", data, "--recipe", path)
    outcome = refused(*arguments, "--out", tmp_path / "out")
    assert "does not fit a run of 3 steps, which ends at epoch 1" in outcome.err
    assert "30 steps lies after the end of the run, epoch 1" in outcome.err
