"""Times the best IoU of each box over all anchors beside the whole matrix, and the limit: moving the bytes.

    python benchmarks/best_iou.py [--quick] [--json FILE]

Nanoseconds per box, one thread, the boxes of matching.py, RetinaNet's 45 cell anchors. "stock" is torchvision's box_iou
and max, "compiled" Inductor's compile of the same, both of as many boxes as their memory allows; "closed form" is plain
torch, one IoU per box and cell anchor, which is equal to 2e-6 alone. The limit reads the boxes and writes the results.
Nothing else is timed that is not equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matching import box_iou, coco_boxes
from timing import hardware, interleaved, medians, versions
from torch import Tensor

import anchor_ext
from anchor_ext.fit import best_iou
from anchor_ext.fit._closed_form import Problem, best_ious

FEW = 20  # boxes, of a matrix


def stock() -> Callable[[Tensor, Tensor], Tensor] | None:
    try:
        from torchvision.ops import box_iou as original
    except (ImportError, OSError, RuntimeError):
        return None
    return lambda boxes, made: original(boxes, made).amax(dim=1)


def functions_of(shape: tuple[int, int], count: int, compiling: bool) -> dict[str, tuple[Callable[[], Any], int]]:
    """By column: a call, and of how many boxes."""
    anchors, boxes = anchor_ext.Anchors(), coco_boxes(count, shape)
    made, few = anchors.generate(shape)[0], boxes[:FEW].clone()
    functions: dict[str, tuple[Callable[[], Any], int]] = {}
    original = stock()
    if original is not None:
        functions["stock"] = (lambda: original(few, made)), FEW
    if compiling:
        compiled = torch.compile(lambda boxes, made: box_iou(boxes, made).amax(dim=1), dynamic=False)
        functions["compiled"] = (lambda: compiled(few, made)), FEW
    levels = anchors.pyramid_levels
    cell_anchors = tuple(
        tuple((float(x2 - x1), float(y2 - y1)) for x1, y1, x2, y2 in of_level) for of_level in anchors.cell_anchors
    )
    some = boxes[: count // 10]
    problem = Problem(some, torch.tensor(shape).expand(len(some), 2), levels, anchors.strides)
    functions["closed form"] = (lambda: best_ious(problem, cell_anchors)), len(some)
    functions["anchor_ext"] = (lambda: best_iou(boxes, anchors, shape)), count
    expected = box_iou(few, made).amax(dim=1)
    for name, (function, _) in list(functions.items()):
        got = function()
        got = (got.iou if name == "anchor_ext" else got)[:FEW]
        close = (got - expected).abs().max() < 2e-6 if name == "closed form" else torch.equal(got, expected)
        if not close and name == "compiled":
            del functions[name]
        elif not close:
            raise SystemExit(f"{name}, {shape} is wrong: nothing is timed")
    outputs = torch.empty(count), torch.empty(count, dtype=torch.int64)
    functions["limit"] = (lambda: (boxes.sum(), outputs[0].fill_(1), outputs[1].fill_(1))), count
    return functions


COLUMNS = ["stock", "compiled", "closed form", "anchor_ext", "limit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--quick", action="store_true", help="a small image, few boxes and rounds, no torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    shapes, count = ([(160, 224)], 1000) if options.quick else ([(640, 832), (800, 1333)], 1_000_000)
    rounds: dict[str, Any] = {"rounds": 3, "seconds": 0.002} if options.quick else {"rounds": 9, "at_most": 10.0}
    print(f"{hardware(cpu)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"one thread, the default malloc; nanoseconds per box\n{'image':>10}", *(f"{name:>14}" for name in COLUMNS))
    rows = []
    for shape in shapes:
        functions = functions_of(shape, count, not options.quick)
        seconds = interleaved({name: call for name, (call, _) in functions.items()}, threads=1, **rounds)
        boxes = {name: of for name, (_, of) in functions.items()}
        rows.append({"image_shape": shape, "boxes": boxes, "seconds": seconds})
        each = {name: 1e9 * value / boxes[name] for name, value in medians(seconds).items()}
        cells = [f"{each[name]:14.1f}" if name in each else f"{'-':>14}" for name in COLUMNS]
        print(f"{'{}x{}'.format(*shape):>10}", *cells, flush=True)
    if options.json:
        about = {**versions(), "hardware": hardware(cpu)}
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": "python benchmarks/best_iou.py", "versions": about, "rows": rows}, indent=1)
        Path(options.json).write_text(text)


if __name__ == "__main__":
    main()
