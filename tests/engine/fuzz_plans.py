"""Damages plan descriptions and batches at the bindings: a plan runs, or it is a ValueError or a TypeError.

python tests/fuzzing.py plans --seconds 60 --seed 1
"""

from __future__ import annotations

from typing import Any

import numpy as np
from plan_description import as_bf16, as_dynamic, random_batch, random_description, share_layers
from plan_heads import HEADS

from secateur import _engine

ISAS = _engine.cpu_info()["isas"]
POSITIONS = 64
# What may be float32; the rest is int8.
FLOATS = (
    "query",
    "key",
    "value",
    "attention",
    "attn_out",
    "ffn_in",
    "ffn_out",
    "layer.0",
    "word",
    "position",
)

Record = dict[str, Any]
Generator = np.random.Generator

NUMBERS = [
    *(
        -1,
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        255,
        256,
        2**20,
        2**31 - 1,
        2**31,
        2**40,
        2**62,
        2**63,
        2**64,
        2**70,
        -(2**31),
    ),
    *(0.0, -1.0, 0.5, 1e-45, 1e-38, 1e30, 3e38, 1e300, float("nan"), float("inf"), -float("inf")),
]
STRINGS = [
    "",
    "query",
    "ffn_in",
    "linear",
    "embed",
    "head",
    "relu",
    "tanh",
    "first",
    "every",
    "mean",
    "max",
    "\udc80",
    "x" * 10000,
    "a\0b",
]
OTHERS = [None, True, b"query", [], {}, (), [1], object(), np.float32(1), np.int64(1)]
DTYPES = ["i1", "u1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", "c8", "?", "O", "U3", "V4"]
# Entries of a head and of embeddings: one that is there may be moved to the place of one that is not.
OPTIONAL = [
    *("rows", "dense_weight", "dense_bias", "dense_activation", "gamma", "beta", "weight", "weight_scale"),
    *("bias", "normalize", "token_type", "token_type_scale", "projection_weight", "projection_bias"),
    "dynamic",
]
SPECIALS = [0, 1, -1, 127, -127, -128, 255, 1e-45, 1e-38, 1e30, 3e38, np.nan, np.inf, -np.inf]


def fuzz_plan(rng: Generator) -> str:
    """One description, perhaps damaged, and batches, perhaps damaged, for the plan that it makes."""
    description = _description(rng)
    for _ in range(rng.integers(0, 4)):
        _damage(rng, description)
    try:
        plan = _plan(rng, description)
    except (ValueError, TypeError) as error:
        _must_say_something(error)
        return "plans refused"
    refused = 0
    for _ in range(3):
        batch = list(_batch(rng, plan.every_token))
        if rng.random() < 0.4:
            which = rng.integers(0, 4)
            batch[which] = _value(rng) if rng.random() < 0.3 else _damaged_array(rng, batch[which])
        try:
            outputs = plan.run(*batch)
        except (ValueError, TypeError) as error:
            _must_say_something(error)
            refused += 1
        else:
            rows = len(batch[2]) - 1
            if plan.every_token:
                rows = len(batch[0] if batch[3] is None else batch[3])
            assert outputs.shape == (rows, plan.num_outputs)
    return "plans that ran" if refused < 3 else "plans that refused every batch"


def _must_say_something(error: Exception) -> None:
    assert str(error).strip()


def _description(rng: Generator) -> Record:
    heads = int(rng.integers(1, 5))
    dense = [role for role in ("query", "value", "attn_out", "ffn_in", "ffn_out") if rng.random() < 0.3]
    f32 = [part for part in FLOATS if rng.random() < 0.3] if rng.random() < 0.6 else []
    bf16 = [part for part in FLOATS if rng.random() < 0.3] if rng.random() < 0.5 else []
    description = random_description(
        hidden=heads * 4 * int(rng.integers(1, 9)),
        heads=heads,
        inner=4 * int(rng.integers(1, 33)),
        layers=int(rng.integers(1, 3)),
        labels=int(rng.integers(1, 40)),
        positions=POSITIONS,
        density=float(rng.choice([0.0, 0.1, 0.5, 1.0])),
        dense_roles=tuple(dense),
        activation=str(rng.choice(["gelu", "gelu_new", "relu"])),
        seed=int(rng.integers(0, 1000)),
        f32=tuple(f32),
        embedding=4 * int(rng.integers(1, 12)) if rng.random() < 0.3 else None,
        token_types=bool(rng.random() < 0.8),
        head=str(rng.choice(list(HEADS))),
    )
    description = as_bf16(description, tuple(bf16))
    if rng.random() < 0.4:
        description = as_dynamic(description, tuple(part for part in FLOATS if rng.random() < 0.5))
    return share_layers(description) if rng.random() < 0.2 else description


def _plan(rng: Generator, description: Record) -> Any:
    isa: Any = ISAS[rng.integers(0, len(ISAS))] if rng.random() < 0.9 else _value(rng)
    threads: Any = int(rng.choice([1, 1, 1, 1, 1, 1, 1, 2, 3]))
    if rng.random() < 0.05:
        threads = [0, -1, 1025, 2**31, 2**70, 1.5, None, "2"][rng.integers(0, 8)]
    max_tokens: Any = None
    if rng.random() < 0.5:
        max_tokens = (
            int(rng.integers(1, 200)) if rng.random() < 0.9 else NUMBERS[rng.integers(0, len(NUMBERS))]
        )
    if rng.random() < 0.5:
        return _engine.Plan(description, isa, threads, max_tokens)
    return _engine.Plan(_engine.Model(description, isa), threads, max_tokens)


def _batch(rng: Generator, every_token: bool) -> tuple[Any, Any, Any, Any]:
    lengths = rng.integers(1, POSITIONS + 1, rng.integers(1, 8)).tolist()
    ids, types, offsets = random_batch(lengths, seed=int(rng.integers(0, 1000)))
    positions = None
    if rng.random() < (0.6 if every_token else 0.1):
        positions = np.flatnonzero(rng.random(len(ids)) < rng.random()).astype(np.int32)
    return ids, (types if rng.random() < 0.5 else None), offsets, positions


def _damage(rng: Generator, description: Record) -> None:
    steps = description.get("steps")
    if not isinstance(steps, list) or not steps or rng.random() < 0.1:
        _damage_record(rng, description)
        return
    at = int(rng.integers(0, len(steps)))
    kind = rng.random()
    if kind < 0.05:
        del steps[at]
    elif kind < 0.1:
        steps.insert(at, steps[rng.integers(0, len(steps))])
    elif kind < 0.15:
        other = rng.integers(0, len(steps))
        steps[at], steps[other] = steps[other], steps[at]
    elif kind < 0.2:
        steps[at] = _value(rng)
    elif isinstance(steps[at], dict):
        steps[at] = dict(steps[at])
        _damage_record(rng, steps[at])


def _damage_record(rng: Generator, record: Record) -> None:
    keys = list(record)
    if not keys:
        return
    key = keys[rng.integers(0, len(keys))]
    kind = rng.random()
    if kind < 0.1:
        del record[key]
    elif kind < 0.2:
        record[key] = record[keys[rng.integers(0, len(keys))]]
    elif kind < 0.25:
        record["mask" if rng.random() < 0.5 else "weight"] = record[key]
    elif kind < 0.3:
        record[OPTIONAL[rng.integers(0, len(OPTIONAL))]] = record[key]
    elif isinstance(record[key], np.ndarray) and kind < 0.9:
        record[key] = _damaged_array(rng, record[key])
    elif isinstance(record[key], (int, float)) and kind < 0.9:
        record[key] = NUMBERS[rng.integers(0, len(NUMBERS))]
    else:
        record[key] = _value(rng)


def _value(rng: Generator) -> Any:
    pool = (NUMBERS, STRINGS, OTHERS)[rng.integers(0, 3)]
    return pool[rng.integers(0, len(pool))]


def _damaged_array(rng: Generator, given: Any) -> Any:
    """Another array than the one given: of another type, shape, layout or content."""
    if not isinstance(given, np.ndarray) or given.nbytes > 2**24:
        return _value(rng)
    array = given.copy()
    kind = rng.integers(0, 11)
    if kind == 0:
        with np.errstate(all="ignore"):
            return array.astype(DTYPES[rng.integers(0, len(DTYPES))])
    if kind == 1:
        return array[: rng.integers(0, len(array) + 1)]
    if kind == 2:
        return np.concatenate([array, array[: rng.integers(1, 6)]])
    if kind == 3:
        return array.T if array.ndim > 1 else array[::-1]
    if kind == 4:
        return array.reshape(-1) if array.ndim > 1 else array[None]
    if kind == 5:  # not where numbers of this type may lie
        raw = np.zeros(array.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
        return raw[1:].view(array.dtype).reshape(array.shape)
    if kind == 6:
        shape = [(0,), (0, 4), (0, 2**40), (2**40, 0), (2**60, 0), ()][rng.integers(0, 6)]
        return np.zeros(shape, array.dtype)
    if kind == 7 and array.size:  # large without taking memory
        return np.broadcast_to(array.reshape(-1)[:1], (int(rng.integers(1, 2**40)), *array.shape[1:]))
    if kind == 8:
        array.flags.writeable = False
        return array
    flat = array.reshape(-1)
    if flat.size:
        places = rng.integers(0, flat.size, rng.integers(1, 4)) if kind == 9 else slice(None)
        special = SPECIALS[rng.integers(0, len(SPECIALS))]
        with np.errstate(all="ignore"):
            flat[places] = np.array(special, np.float64).astype(array.dtype)
    return array
