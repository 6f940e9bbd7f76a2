"""A short, fixed set of calls to look at in a profiler (profile.sh), each one in an NVTX range that says what it is.

    python benchmarks/profiled.py [--devices]

torch.full of the same tensor, which is the limit, stands beside anchor_ext's calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

import anchor_ext

SHAPES = [(256, 256), (800, 1333), (2160, 3840)]
WARM_UP = 5
CALLS = 20


def devices() -> list[str]:
    has_cuda = torch.cuda.is_available() and anchor_ext.build_info()["cuda"] is not None
    return ["cpu", *(["cuda"] if has_cuda else [])]


def find_ranges() -> Callable[[str], AbstractContextManager[None]]:
    """torch's NVTX ranges, which a torch without CUDA does not have; anchor_ext's own are in its native library."""
    try:
        with torch.cuda.nvtx.range("probe"):
            return torch.cuda.nvtx.range
    except RuntimeError:
        print("this torch has no NVTX: the only ranges are anchor_ext's own")
        return lambda name: nullcontext()


def call(function: Callable[[], object], name: str, named: Callable[[str], AbstractContextManager[None]]) -> None:
    """Warms up outside of any range, then calls; each group has the device to itself."""
    for _ in range(WARM_UP):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    for _ in range(CALLS):
        with named(name):
            function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", action="store_true", help="print where the calls would run, and do nothing else")
    if parser.parse_args().devices:
        print(*devices())
        return
    named = find_ranges()
    anchors = anchor_ext.Anchors()
    for device in devices():
        for shape in SHAPES:
            image = torch.empty(1, 3, *shape, device=device)
            size = (1, anchors.num_anchors(shape), 4)
            functions: dict[str, Callable[[], object]] = {
                "generate": lambda shape=shape, device=device: anchor_ext.generate(shape, device=device),
                "Anchors": lambda image=image: anchors(image),
                "torch.full": lambda size=size, device=device: torch.full(size, 1.5, device=device),
            }
            for function_name, function in functions.items():
                call(function, f"{device} {shape[0]}x{shape[1]} {function_name}", named)
            print(f"{device} {shape[0]}x{shape[1]}: {CALLS} calls each of {', '.join(functions)}", flush=True)


if __name__ == "__main__":
    main()
