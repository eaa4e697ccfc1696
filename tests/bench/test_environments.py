"""Peers in environments of their own: found, started without our packages, refused where they cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.bench import environments
from secateur.bench.environments import command, find_interpreter, lacking
from secateur.bench.worker import Worker, WorkerError
from secateur.errors import DataError


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter that sees nothing but the standard library and a stand-in for numpy."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "numpy").mkdir()
    (packages / "numpy" / "__init__.py").write_text("")
    (packages / "numpy" / "typing.py").write_text("NDArray = list")
    return str(python)


def test_our_modules_run_without_our_packages(bare: str, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"the openvino process failed: ModuleNotFoundError: .*openvino"):
        Worker("openvino", tmp_path, python=bare)
    with pytest.raises(WorkerError, match="No module named 'deepsparse'"):
        Worker("deepsparse", tmp_path, python=bare)


def test_a_foreign_interpreter_gets_its_arguments_and_not_our_path(
    bare: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "numpy.py").write_text("raise AssertionError('of the wrong environment')")
    done = subprocess.run(
        command(bare, "secateur.bench.openvino_int8", str(tmp_path), "8"), capture_output=True, text=True
    )
    assert "No module named 'openvino'" in done.stderr
    assert command(None, "secateur.bench.worker", "x") == [sys.executable, "-m", "secateur.bench.worker", "x"]


def test_modules_are_looked_for_where_they_would_run(bare: str) -> None:
    assert lacking(None, ("numpy", "no_such_module")) == ["no_such_module"]
    assert lacking(bare, ("json", "numpy", "safetensors")) == ["safetensors"]
    assert lacking("/no/such/python", ("json",)) == ["json"]


def test_the_variable_comes_first_then_this_environment_then_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SECATEUR_PEER_PYTHON", raising=False)
    made = tmp_path / "peer" / "bin" / "python"
    monkeypatch.setattr(environments, "PEERS_FOLDER", tmp_path)
    assert find_interpreter("peer", ("no_such_module",)) is None
    made.parent.mkdir(parents=True)
    made.symlink_to(sys.executable)
    assert find_interpreter("peer", ("no_such_module",)) == str(made)
    assert find_interpreter("peer", ("numpy",)) is None
    monkeypatch.setenv("SECATEUR_PEER_PYTHON", sys.executable)
    assert find_interpreter("peer", ("numpy",)) == sys.executable
    for wrong in (tmp_path, tmp_path / "nowhere"):
        monkeypatch.setenv("SECATEUR_PEER_PYTHON", str(wrong))
        with pytest.raises(DataError, match=r"SECATEUR_PEER_PYTHON is .*name a Python interpreter"):
            find_interpreter("peer", ())
