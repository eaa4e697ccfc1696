"""How fast is a GPU at the same request? BERT-base in fp16, one text of 128 tokens.

    python benchmarks/gpu.py

PyTorch as it is, compiled, and captured in a CUDA graph, taking turns in one process; the answer is copied
back in every call. Without a GPU nothing is measured and the exit status is 2; `--published` prints the
figures that NVIDIA published for T4 and V100, which are not measured by us.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from secateur.bench.comparison import latency_columns
from secateur.bench.machine import describe_machine
from secateur.bench.measure import interleave, take_turn
from secateur.bench.results import write_results
from secateur.commands.console import hush_libraries, print_table
from secateur.errors import SecateurError, UnsupportedError

SEQ_LEN = 128
_FASTER_TRANSFORMER = (
    "NVIDIA, FasterTransformer BERT, Performance, tables 'BERT performance on T4 and PyTorch' and "
    "'... on V100 and PyTorch': https://github.com/NVIDIA/FasterTransformer/blob/"
    "4c014fba0f1bad9b5078eb1b29d163b87749a470/docs/bert_guide.md"
)
_TENSORRT = (
    "NVIDIA, BERT Inference Using TensorRT, table 'NVIDIA T4 (16GB), BERT Base', average: "
    "https://github.com/NVIDIA/TensorRT/blob/007c34702bc7878285e3123eb39829a1f9aef3f0/demo/BERT/README.md"
)
# BERT-base, batch 1, 128 tokens, fp16. FasterTransformer's tables are of the twelve layers; TensorRT's times
# leave out the copies to and from the device.
PUBLISHED = (
    ("T4", "PyTorch, TorchScript", 10.51, _FASTER_TRANSFORMER),
    ("T4", "FasterTransformer", 2.05, _FASTER_TRANSFORMER),
    ("T4", "TensorRT", 1.95, _TENSORRT),
    ("V100", "PyTorch, TorchScript", 6.99, _FASTER_TRANSFORMER),
    ("V100", "FasterTransformer", 1.59, _FASTER_TRANSFORMER),
)


def main() -> int:
    """Measures, prints and writes.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="of timed calls in a turn")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/gpu.json")
    parser.add_argument("--published", action="store_true", help="only print what others published")
    options = parser.parse_args()
    hush_libraries()
    try:
        if options.published:
            show_published()
            return 0
        results = measure(options.rounds, options.seconds)
        write_results(options.out, results)
    except SecateurError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    rows = [
        (row["form"], f"{row['latency_ms']['b1_s128']:.3f}", f"{row['latency_p95_ms']['b1_s128']:.3f}")
        for row in results["rows"]
    ]
    print_table(f"BERT-base, fp16, one text, {results['gpu']['name']}", ("form", "ms", "95 %"), rows, 2)
    show_published()
    return 0


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Times the three forms in turns.

    Args:
        rounds: Turns of each.
        seconds: Least time of timed calls in a turn.

    Returns:
        What goes into the JSON file.

    Raises:
        UnsupportedError: There is no GPU that PyTorch can use.
    """
    torch = gpu_torch()
    calls = forms(torch)
    check(calls)
    turns = {
        name: partial(take_turn, call, calls=10, seconds=seconds, warm_up=3) for name, call in calls.items()
    }
    timings = interleave(turns, rounds=rounds)
    properties = torch.cuda.get_device_properties(0)
    return {
        "rows": [
            {"form": name, "kind": "measured", **latency_columns({"b1_s128": timing})}
            for name, timing in timings.items()
        ],
        "published": [
            {"gpu": gpu, "form": form, "ms": ms, "source": source, "kind": "published, not measured by us"}
            for gpu, form, ms, source in PUBLISHED
        ],
        "gpu": {
            "name": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
        },
        "request": {"model": "bert-base", "dtype": "float16", "batch_size": 1, "seq_len": SEQ_LEN},
        "rounds": rounds,
        "seconds_a_turn": seconds,
        "machine": describe_machine(),
        "command": "python benchmarks/gpu.py",
    }


def gpu_torch() -> Any:
    """Imports PyTorch where it has a GPU.

    Raises:
        UnsupportedError: It is not installed, or has none.
    """
    try:
        import torch
    except ImportError:
        raise UnsupportedError("PyTorch is not installed: pip install 'secateur[train]'.") from None
    if not torch.cuda.is_available():
        raise UnsupportedError(
            f"PyTorch {torch.__version__} finds no CUDA GPU here, so nothing is measured: run this where "
            "there is one, with a CUDA build of PyTorch; --published shows what others measured."
        )
    return torch


def forms(torch: Any) -> dict[str, Callable[[], Any]]:
    """Makes the calls to time; each returns logits on the CPU, so that it has ended when it returns.

    Args:
        torch: The module.

    Returns:
        Name to call.
    """
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig()).half().cuda().eval()
    ids = torch.randint(1000, model.config.vocab_size, (1, SEQ_LEN))
    mask = torch.ones_like(ids).cuda()
    pinned = ids.pin_memory()

    def run(network: Any) -> Any:
        with torch.inference_mode():
            return network(input_ids=pinned.to("cuda", non_blocking=True), attention_mask=mask).logits.cpu()

    compiled = torch.compile(model, fullgraph=True, mode="max-autotune-no-cudagraphs")
    return {
        "eager": partial(run, model),
        "compiled": partial(run, compiled),
        "CUDA graph": captured(torch, model, pinned, mask),
        "compiled, CUDA graph": captured(torch, compiled, pinned, mask),
    }


def captured(torch: Any, network: Any, pinned: Any, mask: Any) -> Callable[[], Any]:
    """Captures a network in a CUDA graph.

    Args:
        torch: The module.
        network: Runs `input_ids` and `attention_mask` on the GPU.
        pinned: [1, S] int64 ids in pinned memory.
        mask: [1, S] int64 ones on the GPU.

    Returns:
        Copies the ids, replays the graph and copies the logits back.
    """
    with torch.inference_mode():
        static = pinned.cuda()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is allocated and tuned at the first calls must not be captured
            for _ in range(5):
                network(input_ids=static, attention_mask=mask)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = network(input_ids=static, attention_mask=mask).logits

    def replay() -> Any:
        with torch.inference_mode():
            static.copy_(pinned, non_blocking=True)
            graph.replay()
            return logits.cpu()

    return replay


def check(calls: dict[str, Callable[[], Any]]) -> None:
    """Makes sure that all forms compute the same.

    Args:
        calls: Name to call, the first is the model as it is.

    Raises:
        RuntimeError: One of them does not.
    """
    expected, *others = ((name, call().float()) for name, call in calls.items())
    for name, logits in others:
        difference = (logits - expected[1]).abs().max().item()
        if not difference < 0.05:
            raise RuntimeError(f"{name} differs from {expected[0]} by {difference:.2g}")


def show_published() -> None:
    """Prints the figures that others published, with their sources."""
    rows = [(gpu, form, f"{ms:.2f}") for gpu, form, ms, _ in PUBLISHED]
    title = "BERT-base, batch 1, 128 tokens, fp16: published, not measured by us"
    print_table(title, ("GPU", "form", "ms"), rows, 1)
    for source in dict.fromkeys(source for *_, source in PUBLISHED):
        print(source)


if __name__ == "__main__":
    sys.exit(main())
