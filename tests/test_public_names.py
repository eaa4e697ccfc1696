from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[1]


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_few_names_and_all_of_them_exist() -> None:
    pytest.importorskip("torch")
    assert len(secateur.__all__) <= 12
    assert set(secateur.__all__) <= set(dir(secateur))
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        secateur.nonsense  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{secateur.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_running_a_model_imports_nothing_of_training() -> None:
    code = """
import sys, secateur
assert not any(name.startswith("secateur.") for name in sys.modules), "import secateur must do no work"
secateur.Engine, secateur.pipeline, secateur.read_checkpoint, secateur.SecateurError
import secateur.data, secateur.tasks.text_classification
heavy = {"torch", "transformers", "accelerate", "datasets", "pandas", "yaml"} & set(sys.modules)
print(sorted(heavy))
"""
    assert _run(code).strip() == "[]"


def test_what_needs_torch_says_so() -> None:
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
import secateur
try:
    secateur.find_blocks
except secateur.SecateurError as error:
    print(error)
"""
    assert "pip install 'secateur[train]'" in _run(code)
