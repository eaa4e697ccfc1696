"""Labels texts with a compressed model, in a process that never imports PyTorch.

python examples/classify.py demo/compressed "book me a table for two tonight" "will it rain"
"""

from __future__ import annotations

import sys

import secateur


def main(folder: str, texts: list[str]) -> None:
    """Prints three labels for each text.

    Args:
        folder: What `secateur compress --out` wrote.
        texts: One or more.
    """
    classify = secateur.pipeline(folder, num_threads=1)
    for text, answers in zip(texts, classify(texts, top_k=3), strict=True):
        print(text)
        for answer in answers:
            print(f"  {answer['score']:.3f}  {answer['label']}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
