"""Prints, from one run, what the frameworks' own generators cost, what anchor_ext's replacements do, and the limit.

    python benchmarks/dialects.py [--device cpu|cuda] [--threads N ...] [--json FILE] [--no-compile] [--quick]

Every number is a median over interleaved rounds. "eager" is the framework's own generator as it comes, "compiled" the
same under torch.compile(dynamic=False), compiled for the one shape before the clock runs. `torch.full` allocates and
writes the bytes of the same result: no generator can be faster. Nothing is timed whose bits are not those of the
framework on the CPU. Frameworks that cannot be imported are left out, and so is what does not compile; the lines below
the table name both.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import hardware, interleaved, medians, versions

SHAPES = [(64, 64), (256, 256), (640, 832), (800, 1333)]
QUICK_SHAPES = SHAPES[:2]

STRIDES = [8, 16, 32, 64, 128]
RATIOS = [0.5, 1.0, 2.0]
OCTAVES = [2 ** (i / 3) for i in range(3)]
SSD_STRIDES = [8, 16, 32, 64, 100, 300]
SSD_RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
YOLO_STRIDES = [32, 16, 8]
YOLO_SIZES = [
    [(116, 90), (156, 198), (373, 326)],
    [(30, 61), (62, 45), (59, 119)],
    [(10, 13), (16, 30), (33, 23)],
]

Function = Callable[[], object]
# From the framework's module, anchor_ext's for it, an image's shape and a device: the same call of one and the other.
Maker = Callable[[types.ModuleType, types.ModuleType, tuple[int, int], torch.device], tuple[Function, Function]]


def grids_of(shape: tuple[int, int], strides: list[int]) -> list[tuple[int, int]]:
    return [(-(-shape[0] // stride), -(-shape[1] // stride)) for stride in strides]


def feature_maps(grids: list[tuple[int, int]], device: torch.device) -> list[torch.Tensor]:
    return [torch.zeros(1, 1, *grid, device=device) for grid in grids]


def torchvision_call(name, theirs, ours, shape, strides, device, **arguments) -> tuple[Function, Function]:
    images = types.SimpleNamespace(tensors=torch.zeros(1, 3, *shape, device=device), image_sizes=[shape])
    features = feature_maps(grids_of(shape, strides), device)
    generators = [getattr(module, name)(**arguments) for module in (theirs, ours)]
    return tuple(lambda generator=generator: generator(images, features) for generator in generators)


def torchvision_anchors(theirs, ours, shape, device):
    sizes = tuple(tuple(int(4 * stride * octave) for octave in OCTAVES) for stride in STRIDES)
    ratios = (tuple(RATIOS),) * len(STRIDES)
    arguments = {"sizes": sizes, "aspect_ratios": ratios}
    return torchvision_call("AnchorGenerator", theirs, ours, shape, STRIDES, device, **arguments)


def torchvision_default_boxes(theirs, ours, shape, device):
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    arguments = {"aspect_ratios": SSD_RATIOS, "scales": scales, "steps": SSD_STRIDES}
    return torchvision_call("DefaultBoxGenerator", theirs, ours, shape, SSD_STRIDES, device, **arguments)


class Detectron2Formulas:
    """detectron2's two generators without its package, its modules and its boxes: the operators alone."""

    class DefaultAnchorGenerator:
        def __init__(self, *, sizes, aspect_ratios, strides, angles=None, offset=0.5):
            self.strides, self.offset = strides, offset
            self.cells = [self.cell_anchors(level, aspect_ratios[0], angles and angles[0]) for level in sizes]

        def cell_anchors(self, sizes, ratios, angles) -> torch.Tensor:
            sides = [(math.sqrt(size**2.0 / ratio), ratio) for size in sizes for ratio in ratios]
            if angles is None:
                rows = [[-w / 2.0, -r * w / 2.0, w / 2.0, r * w / 2.0] for w, r in sides]
            else:
                rows = [[0.0, 0.0, w, r * w, angle] for w, r in sides for angle in angles]
            return torch.tensor(rows, dtype=torch.float32)

        def _grid_anchors(self, grids) -> list[torch.Tensor]:
            levels = []
            for grid, stride, cells in zip(grids, self.strides, self.cells, strict=True):
                y, x = (
                    torch.arange(self.offset * stride, count * stride, step=stride, dtype=torch.float32)
                    for count in grid
                )
                y, x = (
                    side.reshape(-1) for side in torch.meshgrid(y.to(cells.device), x.to(cells.device), indexing="ij")
                )
                dim = cells.shape[1]
                zero = torch.zeros_like(x) if dim == 5 else None
                shifts = torch.stack([x, y, x, y] if dim == 4 else [x, y, zero, zero, zero], dim=1)
                levels.append((shifts.view(-1, 1, dim) + cells.view(1, -1, dim)).reshape(-1, dim))
            return levels

        def to(self, device):
            self.cells = [cells.to(device) for cells in self.cells]
            return self

    RotatedAnchorGenerator = DefaultAnchorGenerator


def detectron2_call(name, theirs, ours, shape, device, **arguments):
    grids = grids_of(shape, STRIDES)
    original = getattr(theirs, name)(strides=STRIDES, offset=0.0, **arguments).to(device)
    replacement = getattr(ours, name)(strides=STRIDES, offset=0.0, **arguments)
    return lambda: original._grid_anchors(grids), lambda: replacement.grid_anchors(grids, device=device)


def detectron2_default(theirs, ours, shape, device):
    sizes = [[4 * stride * octave for octave in OCTAVES] for stride in STRIDES]
    return detectron2_call("DefaultAnchorGenerator", theirs, ours, shape, device, sizes=sizes, aspect_ratios=[RATIOS])


def detectron2_rotated(theirs, ours, shape, device):
    arguments = {"sizes": [[4 * stride] for stride in STRIDES], "aspect_ratios": [RATIOS], "angles": [[-60, 0, 60]]}
    return detectron2_call("RotatedAnchorGenerator", theirs, ours, shape, device, **arguments)


def mmdet_pair(name, theirs, ours, **arguments):
    return [getattr(module, name)(**arguments) for module in (theirs, ours)]


def mmdet_retinanet(theirs, ours):
    arguments = {"strides": STRIDES, "ratios": RATIOS, "octave_base_scale": 4, "scales_per_octave": 3}
    return mmdet_pair("AnchorGenerator", theirs, ours, **arguments)


def grid_priors(generators, shape, strides, device):
    grids = grids_of(shape, strides)
    return tuple(lambda generator=generator: generator.grid_priors(grids, device=device) for generator in generators)


def mmdet_anchors(theirs, ours, shape, device):
    return grid_priors(mmdet_retinanet(theirs, ours), shape, STRIDES, device)


def mmdet_ssd(theirs, ours, shape, device):
    arguments = {
        "strides": SSD_STRIDES,
        "ratios": SSD_RATIOS,
        "basesize_ratio_range": (0.15, 0.9),
        "scale_major": False,
    }
    return grid_priors(mmdet_pair("SSDAnchorGenerator", theirs, ours, **arguments), shape, SSD_STRIDES, device)


def mmdet_yolo(theirs, ours, shape, device):
    generators = mmdet_pair("YOLOAnchorGenerator", theirs, ours, strides=YOLO_STRIDES, base_sizes=YOLO_SIZES)
    return grid_priors(generators, shape, YOLO_STRIDES, device)


def mmdet_points(theirs, ours, shape, device):
    return grid_priors(mmdet_pair("MlvlPointGenerator", theirs, ours, strides=STRIDES), shape, STRIDES, device)


def mmdet_valid_flags(theirs, ours, shape, device):
    grids = grids_of(shape, STRIDES)
    pad_shape = (shape[0], shape[1] - shape[1] // 4)  # the narrower images of a batch
    generators = mmdet_retinanet(theirs, ours)
    return tuple(lambda g=generator: g.valid_flags(grids, pad_shape, device=device) for generator in generators)


def best_of(grids, device: torch.device) -> list[torch.Tensor]:
    """The thousand anchors of each level that a detector would keep, or all that there are."""
    generator = torch.Generator().manual_seed(0)
    counts = [rows * columns * 9 for rows, columns in grids]
    return [torch.randperm(count, generator=generator)[:1000].to(device) for count in counts]


def mmdet_sparse(theirs, ours, shape, device):
    grids = grids_of(shape, STRIDES)
    index = best_of(grids, device)[0]
    generators = mmdet_retinanet(theirs, ours)
    return tuple(lambda g=generator: g.sparse_priors(index, grids[0], 0, device=device) for generator in generators)


def mmdet_sparse_of_all_levels(theirs, ours, shape, device):
    """mmdet's way is a call per level, and that is what is timed of it; ours takes the flat index of all levels."""
    grids = grids_of(shape, STRIDES)
    indices = best_of(grids, device)
    starts = [0]
    for rows, columns in grids:
        starts.append(starts[-1] + rows * columns * 9)
    flat = torch.cat([index + start for index, start in zip(indices, starts, strict=False)])
    original, replacement = mmdet_retinanet(theirs, ours)

    def by_level():
        levels = zip(indices, grids, range(len(grids)), strict=True)
        return torch.cat([original.sparse_priors(*level, device=device) for level in levels])

    return by_level, lambda: replacement.sparse_priors(flat, grids, None, device=device)


def effdet_anchors(theirs, ours, shape, device):
    """Made once for a size of image, and then a buffer: what is timed is the making of it."""
    arguments = (3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, shape)
    return tuple(lambda m=module: m.Anchors(*arguments).to(device).boxes for module in (theirs, ours))


def ultralytics_points(theirs, ours, shape, device):
    """With a tensor of strides, as its models have."""
    features = feature_maps(grids_of(shape, YOLO_STRIDES[::-1]), device)
    strides = torch.tensor(YOLO_STRIDES[::-1], dtype=torch.float32)
    return tuple(lambda m=module: m.make_anchors(features, strides, 0.5) for module in (theirs, ours))


def ultralytics_points_of_a_list(theirs, ours, shape, device):
    """With numbers for strides, which torch.compile takes without a graph break."""
    features = feature_maps(grids_of(shape, YOLO_STRIDES[::-1]), device)
    strides = [float(stride) for stride in YOLO_STRIDES[::-1]]
    return tuple(lambda m=module: m.make_anchors(features, strides, 0.5) for module in (theirs, ours))


@dataclass(frozen=True)
class Dialect:
    name: str
    framework: str
    make: Maker


DIALECTS = [
    Dialect("torchvision AnchorGenerator", "torchvision", torchvision_anchors),
    Dialect("torchvision DefaultBoxGenerator", "torchvision", torchvision_default_boxes),
    Dialect("detectron2 DefaultAnchorGenerator", "detectron2", detectron2_default),
    Dialect("detectron2 RotatedAnchorGenerator", "detectron2", detectron2_rotated),
    Dialect("mmdet AnchorGenerator", "mmdet", mmdet_anchors),
    Dialect("mmdet SSDAnchorGenerator", "mmdet", mmdet_ssd),
    Dialect("mmdet YOLOAnchorGenerator", "mmdet", mmdet_yolo),
    Dialect("mmdet MlvlPointGenerator", "mmdet", mmdet_points),
    Dialect("mmdet valid_flags", "mmdet", mmdet_valid_flags),
    Dialect("mmdet sparse_priors, one level", "mmdet", mmdet_sparse),
    Dialect("mmdet sparse_priors, all levels", "mmdet", mmdet_sparse_of_all_levels),
    Dialect("effdet Anchors()", "effdet", effdet_anchors),
    Dialect("ultralytics make_anchors", "ultralytics", ultralytics_points),
    Dialect("ultralytics make_anchors, list", "ultralytics", ultralytics_points_of_a_list),
]


def originals() -> tuple[dict[str, types.ModuleType], dict[str, str]]:
    """The frameworks' modules that can be imported, and what there is to say about each framework."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    modules, notes = {}, {}

    def of_torchvision():
        from torchvision.models.detection import anchor_utils

        return anchor_utils

    def of_detectron2():
        try:
            from detectron2.modeling import anchor_generator
        except ImportError as error:
            notes["detectron2"] = f"its formulas, without its modules and boxes, as it cannot be imported: {error}"
            return Detectron2Formulas
        return anchor_generator

    def of_peer(name):
        import peers
        import pytest

        try:
            return getattr(peers, name)()
        except pytest.skip.Exception as skipped:
            raise ImportError(str(skipped)) from skipped

    loaders = {
        "torchvision": of_torchvision,
        "detectron2": of_detectron2,
        "mmdet": lambda: of_peer("mmdet"),
        "effdet": lambda: of_peer("effdet").anchors,
        "ultralytics": lambda: of_peer("ultralytics_tal"),
    }
    for framework, load in loaders.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                modules[framework] = load()
        except (ImportError, OSError, RuntimeError) as error:  # a torchvision that does not fit its torch raises any
            notes[framework] = f"left out: {error}"
            continue
        if framework not in notes:
            try:
                notes[framework] = importlib.metadata.version(framework)
            except importlib.metadata.PackageNotFoundError:
                notes[framework] = "of unknown version"
    return modules, notes


def tensors_of(result: object) -> Iterator[torch.Tensor]:
    """Every tensor in what a framework returns."""
    if isinstance(result, torch.Tensor):
        yield result
    else:
        for item in result:
            yield from tensors_of(item)


def same_bits(result: object, expected: list[torch.Tensor]) -> bool:
    tensors = list(tensors_of(result))
    return len(tensors) == len(expected) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.cpu().contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(tensors, expected, strict=True)
    )


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"


def compiled(function: Function, expected: list[torch.Tensor]) -> tuple[Function | None, str]:
    """The function under torch.compile, warmed up, or None; and a remark."""
    remark = ""
    for fullgraph in (True, False):
        torch.compiler.reset()
        candidate = torch.compile(function, dynamic=False, fullgraph=fullgraph)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                equal = all(same_bits(candidate(), expected) for _ in range(3))
        except Exception as error:
            remark = first_line(error)
            continue
        if not equal:
            return None, "compiles, but to other bits"
        return candidate, "" if fullgraph else f"compiles with graph breaks only ({remark.partition(':')[0]})"
    return None, f"does not compile ({remark})"


def measure(dialect: Dialect, modules: tuple, shape, device, threads: int, rounds: dict, compiling: bool) -> dict:
    """Seconds of each function, why functions are missing, and the bytes of the result."""
    original, replacement = dialect.make(*modules, shape, torch.device("cpu"))
    expected = [tensor.cpu() for tensor in tensors_of(original())]
    if device.type != "cpu":
        original, replacement = dialect.make(*modules, shape, device)
    if not same_bits(replacement(), expected):
        raise SystemExit(f"{dialect.name} of {shape} on {device}: not the original's bits, so there is nothing to time")
    functions, left_out = {}, {}
    try:
        if same_bits(original(), expected):
            functions["eager"] = original
        else:
            left_out["eager"] = f"has other bits on {device} than on the CPU"
    except Exception as error:
        left_out["eager"] = f"does not run on {device}: {first_line(error)}"
    if compiling and "eager" in functions:
        function, remark = compiled(original, expected)
        if function is not None:
            functions["compiled"] = function
        if remark:
            left_out["compiled"] = remark
    numel, dtype = sum(tensor.numel() for tensor in expected), expected[0].dtype
    functions["anchor_ext"] = replacement
    functions["full"] = lambda: torch.full((numel,), 1, dtype=dtype, device=device)
    seconds = interleaved(functions, threads=threads, **rounds)
    return {"bytes": numel * dtype.itemsize, "seconds": seconds, "left_out": left_out}


def table_row(dialect: Dialect, row: dict) -> str:
    m = {name: 1e6 * value for name, value in medians(row["seconds"]).items()}
    ours = m["anchor_ext"]
    numbers = [m.get("eager"), m.get("compiled"), ours, m["full"]]
    ratios = [m["eager"] / ours if "eager" in m else None, m["compiled"] / ours if "compiled" in m else None]
    cells = [f"{'-':>11}" if value is None else f"{value:11.1f}" for value in numbers + ratios]
    image = "{}x{}".format(*row["image_shape"])
    return (
        f"{row['threads']:7}  {dialect.name:<34}{image:>9}{row['bytes']:12,}"
        + "".join(cells)
        + f"{ours / m['full']:11.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="default on the CPU: 1 and torch's number")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="small images, few rounds, one thread, no torch.compile")
    options = parser.parse_args()
    device = torch.device(options.device)
    shapes = QUICK_SHAPES if options.quick else SHAPES
    rounds = {"rounds": 3, "seconds": 0.002} if options.quick else {}
    compiling = not (options.no_compile or options.quick)
    default_threads = [1] if options.quick or device.type != "cpu" else [1, torch.get_num_threads()]

    warnings.filterwarnings("ignore", "torch.meshgrid")  # the frameworks' business
    theirs, notes = originals()
    dialects = [dialect for dialect in DIALECTS if dialect.framework in theirs]
    modules = {name: (theirs[name], importlib.import_module(f"anchor_ext.compat.{name}")) for name in theirs}

    print(f"{hardware(device)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    for framework, note in notes.items():
        print(f"{framework}: {note}")
    print("microseconds per call; /ours: times faster; ours/full: 1.00 is the speed of writing the bytes\n")
    columns = ["eager", "compiled", "anchor_ext", "torch.full", "eager/ours", "comp./ours", "ours/full"]
    print(f"threads  {'dialect':<34}{'image':>9}{'bytes':>12}" + "".join(f"{column:>11}" for column in columns))
    for dialect in dialects:
        # Memory that the largest temporaries were given stays with the process.
        for function in dialect.make(*modules[dialect.framework], shapes[-1], device):
            with contextlib.suppress(Exception):  # some of the originals do not run on CUDA; `measure` says which
                function()
    rows = []
    for threads in dict.fromkeys(options.threads or default_threads):
        torch.set_num_threads(threads)  # torch.compile builds it into the code
        for dialect in dialects:
            for shape in shapes:
                row = {"threads": threads, "dialect": dialect.name, "image_shape": shape}
                row |= measure(dialect, modules[dialect.framework], shape, device, threads, rounds, compiling)
                print(table_row(dialect, row), flush=True)
                rows.append(row)
    remarks: dict[str, list[str]] = {}
    for row in rows:
        for name, remark in row["left_out"].items():
            image = "{}x{}".format(*row["image_shape"])
            remarks.setdefault(f"{row['dialect']}, {name}: {remark}", []).append(f"{image} ({row['threads']})")
    if remarks:
        print("\nremarks, with the images and threads that they are about")
    for remark, places in remarks.items():
        print(f"{remark}: {', '.join(places)}")
    if options.json:
        os.makedirs(os.path.dirname(options.json) or ".", exist_ok=True)
        about = {**versions(), "frameworks": notes, "hardware": hardware(device), "device": str(device)}
        with open(options.json, "w") as file:
            json.dump({"command": "python benchmarks/dialects.py", "versions": about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
