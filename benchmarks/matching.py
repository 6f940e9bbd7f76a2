"""Times matching beside torchvision's, Inductor's compile of the same without waits, and the limit: writing the result.

    python benchmarks/matching.py [--device cpu|cuda] [--quick] [--one-allocator] [--json FILE]

On the CPU everything is measured twice, each in a process of its own: with glibc's malloc as users have it, which maps
every temporary over 32 MB anew, and with GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296,
which spares the stock code that. RetinaNet's five levels, one thread.

Boxes: 41 % with a side of 4 to 32 pixels, 34 % of 32 to 96, 25 % of 96 to 500 (COCO's shares of small, medium and
large), log-uniform within each, height / width log-normal with sigma 0.5, uniformly placed, clipped to the image.
Nothing is timed that is not equal index for index.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from device_times import kernels_line, on_device
from timing import hardware, interleaved, medians, versions
from torch import Tensor

import anchor_ext

SHAPES = [(640, 832), (800, 1333)]
COUNTS = [5, 20, 100, 500]
TUNABLES = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296"
HIGH, LOW = 0.5, 0.4


def coco_boxes(count: int, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """As the head of this file says; `(count, 4)` float32."""
    if count == 0:
        return torch.zeros(0, 4)
    random = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([4.0, 32.0, 96.0]).log(), torch.tensor([32.0, 96.0, 500.0]).log()
    band = torch.multinomial(torch.tensor([0.41, 0.34, 0.25]), count, replacement=True, generator=random)
    side = (low[band] + torch.rand(count, generator=random) * (high - low)[band]).exp()
    ratio = (0.5 * torch.randn(count, generator=random)).exp()
    height, width = (side * ratio.sqrt()).clamp(1, shape[0]), (side / ratio.sqrt()).clamp(1, shape[1])
    y = torch.rand(count, generator=random) * (shape[0] - height)
    x = torch.rand(count, generator=random) * (shape[1] - width)
    return torch.stack([x, y, x + width, y + height], dim=1)


def box_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], anchors[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
    sides = (high - low).clamp(min=0)
    inter = sides[..., 0] * sides[..., 1]
    areas = [(of[:, 2] - of[:, 0]) * (of[:, 3] - of[:, 1]) for of in (boxes, anchors)]
    return inter / (areas[0][:, None] + areas[1][None] - inter)


def without_waits(boxes: Tensor, anchors: Tensor) -> Tensor:
    """torchvision's rule in fixed shapes, which a compiler can make one graph of."""
    iou = box_iou(boxes, anchors)
    best, own = iou.max(dim=0)
    matched = torch.where(best < LOW, -1, torch.where(best < HIGH, -2, own))
    restored = (iou == iou.max(dim=1, keepdim=True)[0]).any(dim=0)
    return torch.where(restored, own, matched)


def stock() -> Callable[[Tensor, Tensor], Tensor] | None:
    try:
        from torchvision.models.detection._utils import Matcher
        from torchvision.ops import box_iou as original
    except (ImportError, OSError, RuntimeError):
        return None
    matcher = Matcher(HIGH, LOW, True)
    return lambda boxes, anchors: matcher(original(boxes, anchors))


def functions_of(boxes: Tensor, shape: tuple[int, int], compiling: bool) -> dict[str, Callable[[], Any]]:
    """By column; every one of them equal, or the run ends."""
    anchors, device = anchor_ext.Anchors(), boxes.device
    made = anchors.generate(shape, device=device)[0]
    functions: dict[str, Callable[[], Any]] = {}
    original = stock()
    if original is not None:
        functions["stock"] = lambda: original(boxes, made)
    functions["without waits"] = lambda: without_waits(boxes, made)
    if compiling:
        compiled = torch.compile(without_waits, fullgraph=True, dynamic=False)
        functions["compiled"] = lambda: compiled(boxes, made)
    functions["anchor_ext"] = lambda: anchors.match(boxes, shape)
    expected = without_waits(boxes, made)
    for name, function in list(functions.items()):
        if not torch.equal(function(), expected):
            if name in ("anchor_ext", "stock"):
                raise SystemExit(f"{name} of {len(boxes)} boxes, {shape} on {device} is wrong: nothing is timed")
            del functions[name]
    functions["full"] = lambda: torch.full((len(made),), -1, dtype=torch.int64, device=device)
    return functions


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_megabytes(make: Callable[[], Any], device: torch.device) -> float:
    """What a call takes at most beside its result, if that is a tensor. On the CPU in a process of its own."""
    if device.type == "cuda":
        make()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = make()
        peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = kilobytes("VmRSS")
        result = make()
        peak = (kilobytes("VmHWM") - before) * 1024 / 1e6
    return peak - (result.nbytes / 1e6 if isinstance(result, Tensor) else 0)


def measure(device: torch.device, shapes: list, counts: list, rounds: dict, compiling: bool) -> list[dict[str, Any]]:
    rows = []
    for shape in shapes:
        for count in counts:
            torch.compiler.reset()
            functions = functions_of(coco_boxes(count, shape).to(device), shape, compiling)
            seconds = interleaved(functions, threads=1, **rounds)
            kernels = on_device(functions) if device.type == "cuda" else {}
            rows.append({"image_shape": shape, "boxes": count, "seconds": seconds, "kernels": kernels})
            print(table_row(rows[-1]), flush=True)
            if kernels:
                print(kernels_line(kernels, COLUMNS, 17, 14, 1e-6), flush=True)
    return rows


COLUMNS = ["stock", "without waits", "compiled", "anchor_ext", "full"]


def table_row(row: dict[str, Any]) -> str:
    m = {name: 1e6 * value for name, value in medians(row["seconds"]).items()}
    ours = m["anchor_ext"]
    cells = [f"{m[name]:14.1f}" if name in m else f"{'-':>14}" for name in COLUMNS]
    ratios = [m.get("stock"), m.get("compiled")]
    cells += [f"{value / ours:12.0f}" if value else f"{'-':>12}" for value in ratios] + [f"{ours / m['full']:12.1f}"]
    return f"{'{}x{}'.format(*row['image_shape']):>10}{row['boxes']:7}" + "".join(cells)


def rules(device: torch.device, rounds: dict) -> list[dict[str, Any]]:
    """The frameworks' rules beside their originals, 100 boxes at 640x832."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "match"))
    import originals

    from anchor_ext import matchers

    shape, anchors = (640, 832), anchor_ext.Anchors()
    boxes, made = coco_boxes(100, shape).to(device), anchors.generate(shape, device=device)[0]
    rows = []
    print(f"\n{'rule':<20}{'original':>14}{'anchor_ext':>14}{'original/ours':>15}")
    for rule in (
        matchers.SSDMatcher(),
        matchers.Detectron2Matcher(),
        matchers.MaxIoUAssigner(0.5, 0.4),
        matchers.ArgMaxMatcher(force_match_for_each_row=True),
        matchers.FocalLossMatcher(),
    ):
        functions = {
            "original": lambda rule=rule: originals.expected(rule, boxes, made)[0],
            "anchor_ext": lambda rule=rule: anchors.match(boxes, shape, matcher=rule),
        }
        wanted, got = (x if isinstance(x, tuple) else (x,) for x in (functions[name]() for name in functions))
        if not all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)):
            raise SystemExit(f"{rule} is wrong: nothing is timed")
        seconds = interleaved(functions, threads=1, **rounds)
        m = {name: 1e6 * value for name, value in medians(seconds).items()}
        name = type(rule).__name__
        print(
            f"{name:<20}{m['original']:14.1f}{m['anchor_ext']:14.1f}{m['original'] / m['anchor_ext']:15.0f}", flush=True
        )
        rows.append({"rule": name, "seconds": seconds})
    return rows


def batches(rounds: dict) -> list[dict[str, Any]]:
    """Two images on one thread and on two."""
    shape, anchors, rows = (640, 832), anchor_ext.Anchors(), []
    for count in (20, 100, 500):
        batch = [coco_boxes(count, shape, seed) for seed in range(2)]
        seconds = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            functions = {str(threads): lambda batch=batch: anchors.match(batch, shape)}
            seconds |= interleaved(functions, threads=threads, **rounds)
        torch.set_num_threads(1)
        m = {name: 1e6 * value for name, value in medians(seconds).items()}
        print(f"two images, {count} boxes each: {m['1']:.1f} on one thread, {m['2']:.1f} on two", flush=True)
        rows.append({"boxes": count, "seconds": seconds})
    return rows


def memory(device: torch.device) -> list[dict[str, Any]]:
    """Peaks beside the result, on the CPU each of a process of its own."""
    rows = []
    calls = [("anchor_ext", (2160, 3840), 500)]
    rival = "without waits" if stock() is None else "stock"
    calls += [(name, (800, 1333), count) for name in ("anchor_ext", rival) for count in COUNTS[1:]]
    for name, shape, count in calls:
        what = f"peak beside the result, {name}, {shape[0]}x{shape[1]}, {count} boxes"
        if device.type == "cuda":
            rows.append(peak(name, shape, device, count))
        else:
            code = f"import matching; matching.print_peak({name!r}, {shape!r}, {count})"
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
            if run.returncode != 0:
                print(f"{what}: {(run.stderr.strip().splitlines() or ['it failed'])[-1]}", flush=True)
                continue
            rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(
            f"{what}: {rows[-1]['megabytes']:.1f} MB, {rows[-1]['bytes_per_anchor']:.1f} bytes per anchor", flush=True
        )
    return rows


def peak(name: str, shape: tuple[int, int], device: torch.device, count: int) -> dict[str, Any]:
    original = stock() or without_waits
    anchors, boxes = anchor_ext.Anchors(), coco_boxes(count, shape).to(device)
    anchors.match(boxes[:1], (64, 64))
    if name == "anchor_ext":
        megabytes = peak_megabytes(lambda: anchors.match(boxes, shape), device)
    else:
        made = anchors.generate(shape, device=device)[0]
        original(boxes[:1], made[:9])
        megabytes = peak_megabytes(lambda: original(boxes, made), device)
    per_anchor = megabytes * 1e6 / anchors.num_anchors(shape)
    return {"name": name, "image_shape": shape, "boxes": count, "megabytes": megabytes, "bytes_per_anchor": per_anchor}


def print_peak(name: str, shape: tuple[int, int], count: int) -> None:
    torch.set_num_threads(1)
    print(json.dumps(peak(name, shape, torch.device("cpu"), count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--quick", action="store_true", help="a small image, few boxes and rounds, no torch.compile")
    parser.add_argument("--one-allocator", action="store_true", help="this process alone, as it was started")
    options = parser.parse_args()
    device = torch.device(options.device)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds = (
        {"rounds": 3, "seconds": 0.002}
        if options.quick
        else {"rounds": 9, "seconds": 0.05, "at_most": 4.0, "fewest": 1}
    )
    shapes, counts = ([(160, 224)], [5, 20]) if options.quick else (SHAPES, COUNTS)
    tunables = os.environ.get("GLIBC_TUNABLES")
    print(f"{hardware(device)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"one thread, malloc: {tunables or 'the default'}; microseconds per call")
    names = [*COLUMNS, "stock/ours", "comp./ours", "ours/full"]
    widths = [14] * len(COLUMNS) + [12] * 3
    print(f"{'image':>10}{'boxes':>7}" + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)))
    rows = measure(device, shapes, counts, rounds, not options.quick)
    result = {"malloc": tunables, "rows": rows, "rules": rules(device, rounds)}
    if device.type == "cpu":
        result["batches"] = batches(rounds)
    if not options.quick:
        result["memory"] = memory(device)
    results = [result]
    if device.type == "cpu" and not options.one_allocator and tunables is None:
        print(flush=True)
        again = [sys.executable, __file__, "--device", "cpu", "--one-allocator", *(["--quick"] * options.quick)]
        if options.json:
            again += ["--json", f"{options.json}.other"]
        subprocess.run(again, check=True, env={**os.environ, "GLIBC_TUNABLES": TUNABLES})
        if options.json:
            other = Path(f"{options.json}.other")
            results += json.loads(other.read_text())["results"]
            other.unlink()
    if options.json:
        about = {**versions(), "hardware": hardware(device), "device": str(device)}
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": "python benchmarks/matching.py", "versions": about, "results": results}, indent=1)
        Path(options.json).write_text(text)


if __name__ == "__main__":
    main()
