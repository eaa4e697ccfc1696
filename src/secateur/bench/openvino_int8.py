"""OpenVINO's int8 form of a model: NNCF's post-training quantization on random token ids.

Run as a program in an environment that has openvino and nncf; see `secateur.bench.environments`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from secateur.bench.compiled import import_openvino
from secateur.bench.inputs import onnx_inputs, vocab_size

__all__ = ["SAMPLES", "main", "quantize"]

SAMPLES = 4


def quantize(folder: Path, seq_len: int) -> None:
    """Writes `model-openvino-int8.xml` (and `.bin`) beside `model-plain.onnx`.

    Args:
        folder: What `secateur.bench.peers.export_plain` wrote.
        seq_len: Tokens in each sample.
    """
    openvino = import_openvino()
    import nncf

    size = vocab_size(str(folder))
    random = np.random.default_rng(0)
    drawn = [random.integers(size // 2, size, (1, seq_len), dtype=np.int64) for _ in range(SAMPLES)]
    samples = [onnx_inputs(ids, np.ones_like(ids)) for ids in drawn]
    quantized = nncf.quantize(
        openvino.Core().read_model(folder / "model-plain.onnx"),
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=SAMPLES,
    )
    openvino.save_model(quantized, folder / "model-openvino-int8.xml", compress_to_fp16=False)


def main() -> None:
    """Takes the folder and the number of tokens from the command line."""
    quantize(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
