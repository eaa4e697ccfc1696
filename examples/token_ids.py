"""Runs the engine on token ids, for those who have a tokenizer of their own.

    python examples/token_ids.py demo/compressed

Sequences of any lengths go into one call; nothing is padded, and an answer does not depend on what else is in
the batch.
"""

from __future__ import annotations

import sys

import numpy as np

import secateur


def main(folder: str) -> None:
    """Runs two sequences together and alone.

    Args:
        folder: What `secateur compress --out` wrote.
    """
    engine = secateur.Engine.from_pretrained(folder)
    short, long = [101, 2338, 102], [101, 2338, 2033, 1037, 2795, 2005, 2048, 102]
    together = np.asarray(engine([short, long]))  # [2, num_labels] float32
    print(engine)
    print([engine.labels[index] for index in together.argmax(axis=1)])
    assert np.array_equal(together[:1], engine([short]))


if __name__ == "__main__":
    main(sys.argv[1])
