"""Writes the figures of README.md from the committed results, so that none is typed by hand.

    python benchmarks/readme_table.py            (--check only says whether README.md is up to date)

Reads benchmarks/results/accuracy_clinc150.json and minilm_latency.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: python benchmarks/readme_table.py -->", "<!-- end of figures -->"

# Engine in minilm_latency.json -> what it is called, and its row in accuracy_clinc150.json.
ROWS = {
    "pytorch": ("dense, PyTorch float32", ("dense", "pytorch")),
    "pytorch-bf16": ("dense, PyTorch bfloat16", None),
    "onnxruntime": ("dense, ONNX Runtime float32", None),
    "onnxruntime-int8": ("dense, ONNX Runtime dynamic int8", None),
    "secateur": ("**compressed, Secateur**", ("compressed", "secateur")),
}
CASES = ("s32_t1", "s128_t1", "s32_tall", "s128_tall")


def main() -> int:
    """Writes or checks the table.

    Returns:
        0, or 1 where `--check` finds another table.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = with_figures(old, *(_read(name) for name in ("accuracy_clinc150", "minilm_latency")))
    if options.check:
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


def with_figures(readme: str, accuracy: dict[str, Any], latency: dict[str, Any]) -> str:
    """Replaces what stands between the two markers.

    Args:
        readme: The text of README.md.
        accuracy: What `benchmarks/accuracy.py` wrote.
        latency: What `benchmarks/minilm_latency.py` wrote.

    Returns:
        The new text.
    """
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(accuracy, latency)}\n{END}{after}"


def table(accuracy: dict[str, Any], latency: dict[str, Any]) -> str:
    """Makes the table and the sentences under it, as Markdown.

    Args:
        accuracy: What `benchmarks/accuracy.py` wrote.
        latency: What `benchmarks/minilm_latency.py` wrote.

    Returns:
        Lines without a final line feed.
    """
    scored = {(row["model"], row["engine"]): row for row in accuracy["rows"]}
    machine = latency["machine"]
    threads = f"{machine['threads']} threads"
    lines = [
        f"| all-MiniLM-L6-v2 on clinc150 | accuracy | MB | 32 tokens, 1 thread | 128 tokens, 1 thread "
        f"| 32 tokens, {threads} | 128 tokens, {threads} |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in latency["rows"]:
        title, key = ROWS[row["engine"]]
        score = scored.get(key) if key else None
        cells = [f"{score['accuracy']:.1%}", f"{score['size_mb']:.1f}"] if score else ["", ""]
        cells += [f"{row['latency_ms'][case]:.2f} ms" for case in CASES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    ratios = {peer: cases["s128_t1"]["ratio"] for peer, cases in latency["speedup"].items()}
    alone = latency["engine_alone"]
    lines += [
        "",
        f"Median latency of one text; "
        f"accuracy on the {scored['dense', 'pytorch']['n']:,} in-scope test rows. "
        f"At 128 tokens on one thread that is {ratios['pytorch']:.1f} times as fast as PyTorch float32, "
        f"{ratios['pytorch-bf16']:.1f} times PyTorch bfloat16, "
        f"{ratios['onnxruntime']:.1f} times ONNX Runtime float32 and "
        f"{ratios['onnxruntime-int8']:.1f} times ONNX Runtime dynamic int8. "
        f"The checkpoint is ready after {alone['load_seconds']:.2f} s, "
        f"and the process stays under {_ceiling(alone['peak_memory_mb'])} MB.",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['isas'][0]}; "
        f"{_versions(machine['versions'])}. Made by `{accuracy['command']}` and `{latency['command']}`.",
    ]
    return "\n".join(lines)


def _ceiling(megabytes: float) -> int:
    return int(megabytes // 10 + 1) * 10


def _versions(versions: dict[str, str | None]) -> str:
    shown = {"torch": "PyTorch", "transformers": "transformers", "onnxruntime": "ONNX Runtime"}
    return ", ".join(f"{title} {versions[name]}" for name, title in shown.items() if versions.get(name))


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
