"""`python -m anchor_ext HEIGHT WIDTH`: the anchors of an image's shape, shown, saved or drawn.

`python -m anchor_ext fit DATA`: whether anchors fit a data set, and which fit better.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import Anchors, build_info
from ._options import add_anchors, anchors_of


def describe(anchors: Anchors, boxes: Tensor, image_shape: Sequence[int]) -> list[dict[str, Any]]:
    """Per level: level, stride, grid, cell_anchors, anchors, first and last box."""
    return [
        {
            "level": level,
            "stride": stride,
            "grid": grid,
            "cell_anchors": len(cell_anchors),
            "anchors": of_level.shape[-2],
            "first": of_level[0, 0].tolist(),
            "last": of_level[0, -1].tolist(),
        }
        for level, stride, grid, cell_anchors, of_level in zip(
            anchors.pyramid_levels,
            anchors.strides,
            anchors.level_shapes(image_shape),
            anchors.cell_anchors,
            anchors.split(boxes, image_shape),
            strict=True,
        )
    ]


def table(levels: list[dict[str, Any]]) -> str:
    """The levels as lines of text, with the sum of their anchors last."""

    def numbers(values: Sequence[float]) -> str:
        return "(" + ", ".join(f"{value:.2f}" for value in values) + ")"

    rows = [("level", "stride", "grid", "cell anchors", "anchors", "first box", "last box")]
    for entry in levels:
        y, x = entry["stride"]
        rows.append(
            (
                f"P{entry['level']}",
                f"{y:g}" if y == x else f"{y:g}x{x:g}",
                "{}x{}".format(*entry["grid"]),
                str(entry["cell_anchors"]),
                f"{entry['anchors']:,}",
                numbers(entry["first"]),
                numbers(entry["last"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, f"N = {sum(entry['anchors'] for entry in levels):,} anchors"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anchor_ext", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("height", nargs="?", metavar="HEIGHT", help="of the image, in pixels")
    parser.add_argument("width", nargs="?", metavar="WIDTH", help="of the image, in pixels")
    parser.add_argument("--device", help="where to make them (default: CUDA where there is one, else the CPU)")
    add_anchors(parser)
    parser.add_argument("--save", metavar="FILE.npy", help="write the anchors, (1, N, 4) float32, as a NumPy file")
    parser.add_argument("--plot", metavar="FILE.png", help="draw a readable choice of the anchors")
    parser.add_argument("--image", metavar="FILE", help="the picture to draw on; gives HEIGHT and WIDTH where absent")
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="ground truth to draw as well: COCO .json, Pascal VOC .xml, YOLO "
        ".txt, or .csv or .npy of x1 y1 x2 y2; in pixels of the picture, with which it is stretched",
    )
    parser.add_argument(
        "--boxes-image",
        metavar="NAME",
        help="which image of a COCO file, by file name or id (default: that of --image, else the first)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--info", action="store_true", help="print how anchor_ext was built, and stop")
    return parser


def _ground_truth(
    options: argparse.Namespace, image_shape: Sequence[int], picture_shape: Sequence[int]
) -> tuple[Tensor, str]:
    """The boxes `(G, 4)` in pixels of image_shape, and a title; what is odd about them goes to stderr."""
    from . import _ground_truth
    from .plot import odd_boxes

    found = _ground_truth.read(options.boxes, options.boxes_image or options.image)
    height, width = found.shape or picture_shape
    scale = torch.tensor([image_shape[1] / width, image_shape[0] / height], dtype=torch.float64)
    names = list(found.boxes)
    boxes = torch.tensor(list(found.boxes.values()), dtype=torch.float64).view(-1, 4) * scale.repeat(2)
    for kind, indices in odd_boxes(boxes, image_shape).items():
        some = "; ".join(
            f"{names[i]} ({', '.join(f'{number:g}' for number in boxes[i].tolist())})" for i in indices[:5]
        )
        more = f"; and {len(indices) - 5} more" if len(indices) > 5 else ""
        print(f"anchor_ext: {options.boxes}: {len(indices)} of {len(names)} {kind}: {some}{more}", file=sys.stderr)
    title = f"ground truth: {os.path.basename(options.boxes)}"
    return boxes, f"{title} ({found.image})" if found.image else title


def _side(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdecimal() else text  # other text is for anchor_ext's own error


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["fit"]:
        from .fit._command_line import main as fit

        return fit(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.info:
        print(json.dumps(build_info(), indent=2))
        return
    try:
        image_shape: Any = (_side(options.height), _side(options.width)) if options.width is not None else None
        for option, value, needed in (
            ("--image", options.image, "plot"),
            ("--boxes", options.boxes, "plot"),
            ("--boxes-image", options.boxes_image, "boxes"),
        ):
            if value is not None and getattr(options, needed) is None:
                parser.error(f"{option} needs --{needed}")
        if image_shape is None and (options.height is not None or options.image is None):
            parser.error("HEIGHT and WIDTH are needed (or --plot with --image)")
        try:
            anchors = anchors_of(options)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        picture = None
        if options.image is not None:
            from .plot import read_image

            picture = read_image(options.image)
            image_shape = image_shape or picture.shape[:2]
        boxes = anchors.generate(image_shape, device=options.device)
        levels = describe(anchors, boxes, image_shape)
        ground_truth, title = None, None
        if options.boxes is not None:
            shape = image_shape if picture is None else picture.shape[:2]
            ground_truth, title = _ground_truth(options, image_shape, shape)
        if options.save:
            import numpy as np

            with open(options.save, "wb") as file:  # np.save would add .npy to another name
                np.save(file, boxes.cpu().numpy())
        if options.plot:
            from .plot import plot

            plot(anchors, image_shape, options.plot, image=picture, boxes=ground_truth, title=title)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"anchor_ext: {error}")
    if options.json:
        print(json.dumps({"image_shape": list(image_shape), "num_anchors": boxes.shape[1], "levels": levels}, indent=2))
    else:
        print(f"image {image_shape[0]}x{image_shape[1]} on {boxes.device}")
        print(table(levels))


if __name__ == "__main__":
    main()
