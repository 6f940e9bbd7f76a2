"""Time per anchor from a thousand anchors to billions, into a given tensor, beside `fill_` of the same tensor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from device_times import between_events
from rivals import CONSTANT, anchors_at
from timing import interleaved, turn_by_turn

import anchor_ext

CPU_COUNTS = [10**exponent for exponent in range(3, 10)]
CUDA_COUNTS = [*CPU_COUNTS, 3 * 10**9]
QUICK_COUNTS = CPU_COUNTS[:3]


def available_bytes(device: torch.device) -> int:
    """What a tensor may take of the memory that is free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(0.9 * torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    return kib * 1024 * 3 // 4


def square_of(count: int) -> tuple[int, int]:
    """An image of about so many anchors: 9 by 1/64 + 1/256 + ... a pixel are 3/16."""
    side = math.isqrt(count * 16 // 3)
    return side, side


def check(shape: tuple[int, int], boxes: torch.Tensor) -> None:
    """A thousand anchors at the start, at the end, and at ten places between."""
    last = boxes.shape[1] - 1000
    between = torch.randint(last + 1, (10,), generator=torch.Generator().manual_seed(0)).tolist()
    for start in (0, *between, last):
        if not torch.equal(boxes[0, start : start + 1000].cpu(), anchors_at(shape, torch.arange(start, start + 1000))):
            raise SystemExit(f"anchors of {shape} on {boxes.device} are wrong: nothing is timed")


def on_events(functions: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of a CUDA device, by its own clock."""
    samplers, turns = {}, dict.fromkeys(functions, rounds)
    for name, function in functions.items():
        between_events(function, 3)
        calls = max(1, int(seconds / between_events(function, 3)))
        samplers[name] = lambda function=function, calls=calls: between_events(function, calls)
    return turn_by_turn(samplers, turns)


def growth(
    device: torch.device, counts: list[int], threads: int, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """A row per image; and a line about where they end."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        shape = square_of(count)
        size = (1, anchor_ext.Anchors().num_anchors(shape), 4)
        needed, there = 4 * math.prod(size), available_bytes(device)
        if needed > there:
            return rows, f"It ends there: {needed / 1e9:.1f} GB more are needed, and {there / 1e9:.1f} GB may be taken."
        out = torch.full(size, torch.nan, dtype=torch.float32, device=device)
        check(shape, anchor_ext.generate(shape, device=device, out=out))
        functions: dict[str, Callable[[], object]] = {
            "anchor_ext out=": lambda shape=shape, out=out: anchor_ext.generate(shape, device=device, out=out),
            "fill_": lambda out=out: out.fill_(CONSTANT),
        }
        if device.type == "cuda":
            samples = on_events(functions, rounds, seconds)
        else:  # a billion anchors take seconds: one number
            samples = interleaved(functions, threads=threads, rounds=rounds, seconds=seconds, at_most=3.0, fewest=1)
        per_anchor = {name: 1e9 * statistics.median(values) / size[1] for name, values in samples.items()}
        rows.append(
            {"image_shape": shape, "num_anchors": size[1], "seconds": samples, "nanoseconds_per_anchor": per_anchor}
        )
        del out, functions  # before the next one, ten times as large
    return rows, ""
