"""Times several functions in one run, turn by turn, so that a drift of the machine hits all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch
from torch.utils.benchmark import Timer

import anchor_ext


def interleaved(
    functions: Mapping[str, Callable[[], object]], *, threads: int, rounds: int = 15, seconds: float = 0.02
) -> dict[str, list[float]]:
    """Seconds per call of each function, one number a round; a CUDA call counts until the device is done."""
    timers = {
        name: Timer("function()", globals={"function": function}, num_threads=threads)
        for name, function in functions.items()
    }
    calls = {}
    for name, timer in timers.items():
        timer.timeit(3)  # warm: caches, clocks, the first use of a library
        calls[name] = max(1, int(seconds / max(timer.timeit(3).mean, 1e-7)))
    result: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, timer in timers.items():
            result[name].append(timer.timeit(calls[name]).mean)
    return result


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


def versions() -> dict[str, object]:
    """What was built and what runs, without the folders of this machine."""
    return {name: value for name, value in anchor_ext.build_info().items() if name != "library"}


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
