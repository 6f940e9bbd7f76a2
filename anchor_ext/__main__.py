"""`python -m anchor_ext HEIGHT WIDTH`: the anchors of an image's shape, shown, saved or drawn."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import Anchors, build_info


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
    parser = argparse.ArgumentParser(prog="python -m anchor_ext", description=__doc__)
    parser.add_argument("height", nargs="?", metavar="HEIGHT", help="of the image, in pixels")
    parser.add_argument("width", nargs="?", metavar="WIDTH", help="of the image, in pixels")
    parser.add_argument("--device", help="where to make them (default: CUDA where there is one, else the CPU)")
    parser.add_argument("--levels", nargs="+", type=int, help="pyramid levels (default: 3 4 5 6 7)")
    parser.add_argument("--save", metavar="FILE.npy", help="write the anchors, (1, N, 4) float32, as a NumPy file")
    parser.add_argument("--plot", metavar="FILE.png", help="draw a readable choice of the anchors")
    parser.add_argument("--image", metavar="FILE", help="the picture to draw on; gives HEIGHT and WIDTH where absent")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--info", action="store_true", help="print how anchor_ext was built, and stop")
    return parser


def _side(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdecimal() else text  # other text is for anchor_ext's own error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.info:
        print(json.dumps(build_info(), indent=2))
        return
    try:
        image_shape: Any = (_side(options.height), _side(options.width)) if options.width is not None else None
        if options.image is not None and options.plot is None:
            parser.error("--image needs --plot")
        if image_shape is None:
            if options.height is not None or options.image is None:
                parser.error("HEIGHT and WIDTH are needed (or --plot with --image)")
            from .plot import read_image

            image_shape = read_image(options.image).shape[:2]
        anchors = Anchors(options.levels)
        boxes = anchors.generate(image_shape, device=options.device)
        levels = describe(anchors, boxes, image_shape)
        if options.save:
            import numpy as np

            with open(options.save, "wb") as file:  # np.save would add .npy to another name
                np.save(file, boxes.cpu().numpy())
        if options.plot:
            from .plot import plot

            plot(anchors, image_shape, options.plot, image=options.image)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"anchor_ext: {error}")
    if options.json:
        print(json.dumps({"image_shape": list(image_shape), "num_anchors": boxes.shape[1], "levels": levels}, indent=2))
    else:
        print(f"image {image_shape[0]}x{image_shape[1]} on {boxes.device}")
        print(table(levels))


if __name__ == "__main__":
    main()
