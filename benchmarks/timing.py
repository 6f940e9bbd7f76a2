"""Times several functions in one run, turn by turn, so that a drift of the machine hits all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.benchmark import Timer

import anchor_ext


def turn_by_turn(samplers: Mapping[str, Callable[[], float]], turns: Mapping[str, int]) -> dict[str, list[float]]:
    """What each sampler said, of as many rounds as it has turns; every other round goes backwards."""
    result: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)
    for turn in range(max(turns.values())):
        for name in names if turn % 2 == 0 else reversed(names):
            if turn < turns[name]:
                result[name].append(samplers[name]())
    return result


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    threads: int,
    rounds: int = 15,
    seconds: float = 0.02,
    at_most: float = 60.0,
    fewest: int = 3,
) -> dict[str, list[float]]:
    """Seconds per call of each function, one number a round; a CUDA call counts until the device is done.

    A number is the mean of as many calls as fit into `seconds`. A function that would take more than `at_most` seconds
    for all of its rounds gets fewer of them, but no fewer than `fewest`.
    """
    samplers, turns = {}, {}
    for name, function in functions.items():
        timer = Timer("function()", globals={"function": function}, num_threads=threads)
        once = timer.timeit(1).mean  # which calls twice before: caches, clocks, the first use of a library
        if once < 1e-3:
            once = max(timer.timeit(10).mean, 1e-7)
        calls = max(1, int(seconds / once))
        round_seconds = (calls + max(2, calls // 100)) * once  # what timeit calls to warm up is time, too
        turns[name] = min(rounds, max(fewest, int(at_most / round_seconds)))
        samplers[name] = lambda timer=timer, calls=calls: timer.timeit(calls).mean
    return turn_by_turn(samplers, turns)


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


def spread(values: Sequence[float]) -> float | None:
    """The interquartile range as a part of the median; None of a single number."""
    if len(values) < 2:
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / median


def settle_malloc() -> None:
    """Puts glibc where every long-running process ends, so that no row depends on what ran before it.

    glibc gives large blocks back to the system, which costs every call a page fault per 4 KiB, and what counts as large
    rises with each block that is freed, up to 32 MiB. After one of that size it stays.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)


def versions() -> dict[str, object]:
    """What was built and what runs, without the folders of this machine."""
    return {name: value for name, value in anchor_ext.build_info().items() if name != "library"}


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") as file:
        lines = (line.split(":", 1) for line in file if ":" in line)
        said = {name.strip(): value.strip() for name, value in lines}
    if "model name" not in said:
        return "unknown CPU"
    kind = f" (family {said['cpu family']}, model {said['model']})" if {"cpu family", "model"} <= said.keys() else ""
    return said["model name"] + kind  # virtual machines say no more than the brand by name
