"""`python -m anchor_ext fit DATA`: do these anchors fit my data, and which would fit better?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from .._options import add_anchors, anchors_of
from ._report import Report, report
from ._suggest import Suggestion, suggest
from .data import DataSet, read
from .resizing import Detectron2Resize, FixedResize, KeepSize, Letterbox, MmdetResize, Resizing, TorchvisionResize

__all__ = ["main"]

_RULES = ("torchvision", "detectron2", "mmdet", "fixed", "letterbox", "keep")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anchor_ext fit", description=__doc__)
    parser.add_argument(
        "data", metavar="DATA", help="COCO .json, a folder of Pascal VOC .xml or YOLO .txt files, or a .csv file"
    )
    parser.add_argument("--images", metavar="FOLDER", help="where the pictures are, for their sizes and for --html")
    side = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    parser.add_argument("--image-shape", **side, help="of all images, where nothing else says it")  # type: ignore[arg-type]
    resizing = parser.add_argument_group("resizing", "what the trainer makes of an image: it decides what sizes are")
    resizing.add_argument(
        "--resize",
        type=int,
        nargs=2,
        metavar=("SHORT", "LONG"),
        help="the shorter side, and the most of the longer one, as torchvision's min_size and max_size; of fixed and "
        "letterbox the height and the width (default: images stay as they are)",
    )
    resizing.add_argument("--resize-rule", choices=_RULES, help="whose (default: torchvision with --resize, else keep)")
    resizing.add_argument("--divisor", type=int, help="sides are padded to a multiple (default: 32)")
    add_anchors(parser)
    matching = parser.add_argument_group("matching", "for the positives")
    matching.add_argument("--high", type=float, default=0.5, help="an IoU from which on anchors are positive (0.5)")
    matching.add_argument("--low", type=float, default=0.4, help="an IoU below which they are background (0.4)")
    matching.add_argument("--no-low-quality", action="store_true", help="without the low-quality rule")
    matching.add_argument(
        "--matched-images", type=int, default=1000, metavar="N", help="match so many images, by chance; 0: all (1000)"
    )
    better = parser.add_argument_group("better numbers")
    better.add_argument("--suggest", action="store_true", help="search for anchors that fit better")
    better.add_argument("--cell-anchors", type=int, default=9, metavar="N", help="of the suggestion (9)")
    better.add_argument("--criterion", choices=("recall", "mean_iou"), default="recall", help="what is to be great")
    better.add_argument("--iou", type=float, default=0.5, help="of the recall (0.5)")
    better.add_argument(
        "--bounds", type=float, nargs=2, default=(1.0, 10.0), metavar=("LEAST", "MOST"),
        help="of the square root of an anchor's area, in strides of its level (1 10)",
    )  # fmt: skip
    better.add_argument("--octaves", action="store_true", help="scales of 2**(i/n), which effdet needs")
    better.add_argument("--free", action="store_true", help="a width and height for each: Anchors.from_boxes alone")
    better.add_argument("--held-out", type=float, default=0.2, help="share of the images that judges (0.2)")
    better.add_argument("--seed", type=int, default=0, help="of that choice and of the search (0)")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures")
    parser.add_argument("--pictures", metavar="FOLDER", help="write the pictures as PNG files")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _rule(options: argparse.Namespace) -> Resizing | None:
    """Raises ValueError."""
    name = options.resize_rule or ("torchvision" if options.resize else "keep")
    divisor = {} if options.divisor is None else {"divisor": options.divisor}
    if name == "keep":
        if options.resize:
            raise ValueError("--resize is given with --resize-rule keep; expected another rule")
        return KeepSize(**divisor)
    if not options.resize:
        raise ValueError(f"--resize-rule is {name}; expected --resize with it")
    if name in ("fixed", "letterbox"):
        if divisor:
            raise ValueError(f"--divisor is given with --resize-rule {name}; expected none")
        return FixedResize(*options.resize) if name == "fixed" else Letterbox(*options.resize)
    rules: dict[str, Any] = {"torchvision": TorchvisionResize, "detectron2": Detectron2Resize, "mmdet": MmdetResize}
    rule: Resizing = rules[name](*options.resize, **divisor)
    return rule


class _Progress:
    """A line on stderr where that is a terminal, from the first second on."""

    def __init__(self, what: str) -> None:
        self.what, self.begin, self.shown = what, time.monotonic(), False

    def __call__(self, done: float, of: float = 1) -> None:
        if sys.stderr.isatty() and (self.shown or time.monotonic() - self.begin > 1):
            self.shown = True
            print(f"\r{self.what}: {100 * done / max(of, 1e-9):3.0f} %", end="", file=sys.stderr, flush=True)
            if done >= of:
                print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        today = anchors_of(options)
        rule = _rule(options)
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        parser.error(str(error))
    try:
        data = read(options.data, image_shape=options.image_shape, images=options.images, progress=_Progress("reading"))
        suggestion = _suggestion(options, data, rule, today) if options.suggest else None
        kinds = {"today's anchors": today}
        if suggestion is not None:
            kinds["suggested anchors"] = suggestion.anchors
        reports = {name: _report(options, data, rule, name, anchors) for name, anchors in kinds.items()}
        if options.html or options.pictures:
            from ._page import write_page, write_pictures

            if options.html:
                write_page(options.html, reports, suggestion)
            if options.pictures:
                write_pictures(options.pictures, reports)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"anchor_ext: {error}")
    _show(options, reports, suggestion)


def _suggestion(options: argparse.Namespace, data: DataSet, rule: Resizing | None, today: Any) -> Suggestion:
    return suggest(
        data, rule, today=today, levels=today.pyramid_levels, strides=options.strides and today.strides,
        cell_anchors=options.cell_anchors, criterion=options.criterion, iou=options.iou, bounds=tuple(options.bounds),
        octaves=options.octaves, free=options.free, held_out=options.held_out, seed=options.seed,
        progress=_Progress("searching"),
    )  # fmt: skip


def _report(options: argparse.Namespace, data: DataSet, rule: Resizing | None, name: str, anchors: Any) -> Report:
    return report(
        data, anchors, rule, high=options.high, low=options.low, allow_low_quality=not options.no_low_quality,
        matched_images=options.matched_images, seed=options.seed, progress=_Progress(name),
    )  # fmt: skip


def _show(options: argparse.Namespace, reports: dict[str, Report], suggestion: Suggestion | None) -> None:
    if options.json:
        content: dict[str, Any] = {name.split("'")[0].split()[0]: report.to_dict() for name, report in reports.items()}
        if suggestion is not None:
            content["suggestion"] = suggestion.to_dict()
        print(json.dumps(content, indent=2))
        return
    print(next(iter(reports.values())))
    if suggestion is not None:
        print(f"\nbetter numbers\n{suggestion}")
    for file in (options.html, options.pictures):
        if file:
            print(f"\nwrote {file}")
