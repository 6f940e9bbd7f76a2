"""What a CUDA call costs, in parts: the host's time to submit it, one call to an idle device, and its kernels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timing import turn_by_turn
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LAUNCHES = 800  # that are in flight at most: with 1024 the queue is full, and a submission waits for the device
CALLS = 100  # per number, where the queue holds their launches
PROFILED = 10  # calls per number of the profiler
SYNCHRONISATIONS = {"Context Sync", "Stream Sync", "Event Sync", "Stream Wait Event"}  # on the device, but no work


def replay(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Captures a call in a CUDA graph; each call of what comes back replays it and has its tensor written anew."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compilation, and the first use of whatever is cached
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replayed() -> Tensor:
        graph.replay()
        return result

    return replayed


def submitted(function: Callable[[], object], calls: int) -> float:
    """Seconds of the host per call, with no synchronisation among the calls."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds / calls


def between_events(function: Callable[[], object], calls: int) -> float:
    """Seconds per call on the device's clock, from the first call's submission to an idle device to the last's end."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def alone(function: Callable[[], object]) -> float:
    """Seconds of a single call, its submission, launch and kernels."""
    return statistics.median(between_events(function, 1) for _ in range(20))


def kernels_of(events: Iterable[Any], calls: int) -> tuple[float, float]:
    """Seconds on the device and kernels, copies and memsets per call, from the profiler's events of some calls."""
    microseconds = [
        event.time_range.elapsed_us()
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation and event.name not in SYNCHRONISATIONS
    ]
    return sum(microseconds) / 1e6 / calls, len(microseconds) / calls


def profiled(function: Callable[[], object]) -> tuple[float, float]:
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            function()
        torch.cuda.synchronize()
    return kernels_of(profiler.events(), PROFILED)


def kernel_seconds(function: Callable[[], object]) -> float:
    return profiled(function)[0]


def on_device(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each function's kernels, without the host; empty where there is no device."""
    if not torch.cuda.is_available():
        return {}
    profiled(next(iter(functions.values())))  # the first one starts the profiler
    return {name: kernel_seconds(function) for name, function in functions.items()}


def kernels_line(kernels: Mapping[str, float], columns: Sequence[str], indent: int, width: int, unit: float) -> str:
    """Below a row of a table, what of it the kernels take."""
    cells = [f"{kernels[name] / unit:{width}.3f}" if name in kernels else f"{'-':>{width}}" for name in columns]
    return f"{'kernels':>{indent}}" + "".join(cells)


def calls_in_flight(kernels: float) -> int:
    """How many calls of so many kernels each the launch queue takes; few, where the profiler saw none."""
    return max(1, min(CALLS, int(LAUNCHES / kernels))) if kernels else CALLS // 10


def bytes_per_second(count: int, seconds: float) -> float | None:
    """None, where the profiler saw no kernel."""
    return count / seconds if seconds else None


def separated(functions: Mapping[str, Callable[[], object]], rounds: int, profiles: int) -> dict[str, Any]:
    """By part, and in it by function: seconds, a number a round. And `kernels`: how many a call has."""
    profiled(next(iter(functions.values())))  # the first one starts the profiler, which takes seconds
    kernels = {name: profiled(function)[1] for name, function in functions.items()}
    host = {name: partial(submitted, function, calls_in_flight(kernels[name])) for name, function in functions.items()}
    one_call = {name: partial(alone, function) for name, function in functions.items()}
    kernel = {name: partial(kernel_seconds, function) for name, function in functions.items()}
    return {
        "kernels": kernels,
        "host": turn_by_turn(host, dict.fromkeys(host, rounds)),
        "one call": turn_by_turn(one_call, dict.fromkeys(one_call, rounds)),
        "kernel": turn_by_turn(kernel, dict.fromkeys(kernel, profiles)),
    }
