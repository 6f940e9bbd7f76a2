"""Prints, from one run, what anchors cost: NumPy's way, anchor_ext, and the limit, which is writing the bytes.

    python benchmarks/bench.py [--device cpu|cuda] [--json FILE]

Every number is a median over interleaved rounds. `torch.full` allocates and writes a tensor of the same shape,
`fill_` writes one that is there: no generator can be faster than the one, or with `out=` than the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

import torch
from numpy_anchors import numpy_anchors
from timing import hardware, interleaved, medians, versions

import anchor_ext

SHAPES = [(64, 64), (256, 256), (640, 832), (800, 1333), (2160, 3840)]


def measure(shape: tuple[int, int], device: torch.device, threads: int) -> dict[str, list[float]]:
    expected = numpy_anchors(shape, device)
    boxes = anchor_ext.generate(shape, device=device)
    out = torch.empty_like(boxes)
    if not (torch.equal(boxes, expected) and torch.equal(anchor_ext.generate(shape, device=device, out=out), expected)):
        raise SystemExit(f"anchors of {shape} on {device} differ from NumPy's: nothing to time")
    size = boxes.shape
    return interleaved(
        {
            "numpy": lambda: numpy_anchors(shape, device),
            "anchor_ext": lambda: anchor_ext.generate(shape, device=device),
            "full": lambda: torch.full(size, 1.5, dtype=torch.float32, device=device),
            "anchor_ext out=": lambda: anchor_ext.generate(shape, device=device, out=out),
            "fill_": lambda: out.fill_(1.5),
        },
        threads=threads,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    options = parser.parse_args()
    device = torch.device(options.device)
    all_threads = torch.get_num_threads()

    print(f"{hardware(device)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print("microseconds per call; NumPy/ours: times faster; ours/full: 1.00 is the speed of writing the bytes\n")
    columns = ["NumPy", "anchor_ext", "torch.full", "out=", "fill_", "NumPy/ours", "ours/full", "out=/fill_"]
    print("threads        image     anchors" + "".join(f"{column:>12}" for column in columns))
    # Memory that the largest temporaries were given stays with the process. Without this NumPy's rows up to there would
    # pay the system for every page, which costs four times what NumPy itself does.
    numpy_anchors(SHAPES[-1], device)
    results = []
    for threads in dict.fromkeys([1, all_threads] if device.type == "cpu" else [1]):
        for shape in SHAPES:
            samples = measure(shape, device, threads)
            m = {name: 1e6 * value for name, value in medians(samples).items()}
            n = anchor_ext.Anchors().num_anchors(shape)
            ours, full, ours_out, fill = (m[name] for name in ("anchor_ext", "full", "anchor_ext out=", "fill_"))
            numbers = [f"{value:12.1f}" for value in (m["numpy"], ours, full, ours_out, fill, m["numpy"] / ours)]
            ratios = [f"{value:12.2f}" for value in (ours / full, ours_out / fill)]
            image = "{}x{}".format(*shape)
            print(f"{threads:7}{image:>13}{n:12,}" + "".join(numbers + ratios))
            results.append({"threads": threads, "image_shape": shape, "num_anchors": n, "seconds": samples})
    if options.json:
        os.makedirs(os.path.dirname(options.json) or ".", exist_ok=True)
        about = {**versions(), "hardware": hardware(device), "device": str(device)}
        with open(options.json, "w") as file:
            json.dump({"command": "python benchmarks/bench.py", "versions": about, "rows": results}, file, indent=1)


if __name__ == "__main__":
    main()
