"""Times anchor_ext, its rivals and the limit, which is writing the bytes, in one run on one machine.

    python benchmarks/bench.py [--device cpu|cuda] [--quick] [--results FOLDER]

On the CPU, and then on CUDA where there is one. `torch.full` allocates and writes a tensor as large as the anchors,
`fill_` writes one that is there: no generator can be faster than the one, or with `out=` than the other. Every number
is a median over rounds in which all functions take turns; its spread is the interquartile range as a part of it.
Nothing is timed whose bits are wrong: a rival is left out, and anchor_ext ends the run (rivals.py). Tables in Markdown,
all samples as JSON and a chart go to benchmarks/results/<hardware>/, with --quick to out/bench/, as a short run's
numbers are not for keeping.

On CUDA a call counts, as on the CPU, as one of many in a row (torch.utils.benchmark); besides, its parts are measured
apart (device_times.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import chart
import device_times
import rivals
import tables
import timing
import torch
from growth import CPU_COUNTS, CUDA_COUNTS, QUICK_COUNTS, growth
from rivals import Case
from timing import hardware, versions

import anchor_ext

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(64, 64), (256, 256), (640, 832), (800, 1333), (2160, 3840), (8192, 16384)]
DTYPES = [torch.float32, torch.bfloat16]
PACE = {"rounds": 20, "seconds": 0.02, "at_most": 3.0}  # every other round backwards: as many of both
CUDA_PACE = {**PACE, "rounds": 8}  # which is steadier, and has more to measure
QUICK_PACE = {"rounds": 3, "seconds": 0.002, "at_most": 0.5}
PROFILES = 5


def measure(case: Case, threads: int, pace: dict[str, Any]) -> dict[str, Any]:
    """A row: all samples of all functions. Exits where anchor_ext or a limit is wrong, before anything is timed."""
    torch.set_num_threads(threads)  # Inductor builds it into the code
    torch.compiler.reset()  # the graphs of the rows before would count against a limit
    functions, left_out = rivals.checked(case)
    row: dict[str, Any] = {
        "threads": threads,
        "dtype": str(case.dtype).removeprefix("torch."),
        "image_shape": case.shape,
        "num_anchors": case.size[1],
        "bytes": case.bytes,
        "left_out": left_out,
        "seconds": timing.interleaved(functions, threads=threads, **pace),
    }
    if case.device.type == "cuda":
        functions.pop("numpy", None)  # its time is the CPU's and the copy's
        row["cuda"] = device_times.separated(functions, pace["rounds"], min(PROFILES, pace["rounds"]))
    return row


def shapes_of(device: torch.device, dtype: torch.dtype) -> list[tuple[int, int]]:
    """On CUDA, where the rivals' compilation takes most of the time, a 16-bit type has the middle ones only."""
    return SHAPES[2:5] if device.type == "cuda" and dtype.itemsize == 2 else SHAPES


def remarks(rows: list[dict[str, Any]], about_growth: str) -> list[str]:
    places: dict[str, list[str]] = {}
    for row in rows:
        for name, reason in row["left_out"].items():
            places.setdefault(f"{name} is left out, {reason}", []).append(" ".join(tables.row_name(row)))
    return [*([about_growth] if about_growth else []), *(f"{text}: {', '.join(of)}" for text, of in places.items())]


def bench(device: torch.device, quick: bool, all_threads: int, so_far: Path) -> dict[str, Any]:
    """Everything; rows are written to the file `so_far` as they come: a run may not come to its end."""
    pace = QUICK_PACE if quick else CUDA_PACE if device.type == "cuda" else PACE
    rows = []
    for threads in dict.fromkeys([1] if quick or device.type == "cuda" else [1, all_threads]):
        for dtype in DTYPES:
            for shape in SHAPES[:2] if quick else shapes_of(device, dtype):
                print(f"{device}: {threads} threads, {dtype}, {shape}", file=sys.stderr, flush=True)
                rows.append(measure(Case(shape, dtype, device), threads, pace))
                so_far.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{device}: growth", file=sys.stderr, flush=True)
    torch.set_num_threads(all_threads)
    counts = QUICK_COUNTS if quick else CUDA_COUNTS if device.type == "cuda" else CPU_COUNTS
    grown, about_growth = growth(device, counts, all_threads, pace["rounds"], pace["seconds"])
    about = {
        **versions(),
        "torchvision": rivals.torchvision_version,
        "system": platform.system(),
        "hardware": hardware(device),
        "device": device.type,
        "threads": all_threads,
    }
    return {
        "command": f"python benchmarks/bench.py --device {device.type}{' --quick' if quick else ''}",
        "about": about,
        "remarks": remarks(rows, about_growth),
        "rows": rows,
        "growth": grown,
    }


def save(result: dict[str, Any], folder: Path) -> None:
    stem = f"bench_{result['about']['device']}"
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    page = tables.report(result)
    picture = folder / f"{stem}.png"
    picture.unlink(missing_ok=True)  # an older one would not belong to these numbers
    try:
        chart.draw(result, picture)
        page += f"\n![Time against anchors]({picture.name})\n"
    except ImportError as error:
        print(f"no chart: {error}", file=sys.stderr)
    (folder / f"{stem}.md").write_text(page)
    print(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, and CUDA where there is one")
    parser.add_argument(
        "--quick", action="store_true", help="two small images, one thread, few rounds; every file and column"
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: benchmarks/results/<hardware>")
    options = parser.parse_args()
    has_cuda = torch.cuda.is_available() and anchor_ext.build_info()["cuda"] is not None
    if options.device == "cuda" and not has_cuda:
        parser.error("--device is cuda; this machine, torch or anchor_ext has none")
    warnings.simplefilter("ignore")  # the rivals' business
    torch.set_grad_enabled(False)
    timing.settle_malloc()
    all_threads = torch.get_num_threads()
    for name in [options.device] if options.device else ["cpu", *(["cuda"] if has_cuda else [])]:
        device = torch.device(name)
        own = re.sub(r"[^a-z0-9]+", "-", hardware(device).lower()).strip("-")
        default = ROOT / "out" / "bench" if options.quick else ROOT / "benchmarks" / "results" / own
        folder = options.results or default
        folder.mkdir(parents=True, exist_ok=True)
        so_far = folder / f"bench_{name}.part.json"
        save(bench(device, options.quick, all_threads, so_far), folder)
        so_far.unlink()


if __name__ == "__main__":
    main()
