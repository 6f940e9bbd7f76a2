"""Draws a readable choice of anchors: per level, the cell anchors of one cell."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from .anchors import Anchors

__all__ = ["plot", "read_image"]

_MISSING = "drawing needs matplotlib: pip install matplotlib (or anchor_ext with its extra, anchor_ext[plot])"


def read_image(file: str | os.PathLike[str]) -> Any:
    """A picture as a NumPy array `(H, W)` or `(H, W, C)`.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be read, or is no picture.
    """
    try:
        from matplotlib import image
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return image.imread(os.fspath(file))


def plot(
    anchors: Anchors,
    image_shape: Sequence[int],
    file: str | os.PathLike[str],
    *,
    image: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a picture of some anchors over an image, or over an empty frame of its shape.

    For each level, one cell is marked and up to three of its cell anchors are drawn as they lie, over the image's
    edge too; the coarsest level's cell is in the middle, the finer ones spiral outwards. Dots show every cell of the
    middle level.

    Args:
        anchors: the pyramid.
        image_shape: `(H, W)`; a picture of another size is stretched to it.
        file: where to write; its ending gives the format.
        image: a picture to draw over.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be read or written.
        TypeError, ValueError: as `Anchors.generate`; or the format is unknown.
    """
    boxes = anchors.split(anchors.generate(image_shape, device="cpu"), image_shape)
    shapes = anchors.level_shapes(image_shape)
    picture = None if image is None else read_image(image)
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise ImportError(_MISSING) from error

    height, width = image_shape
    count = len(shapes)
    drawn = []  # x1, y1, x2, y2 of everything
    figure = Figure(figsize=(9, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if picture is not None:
        axes.imshow(picture, extent=(0, width, height, 0), cmap="gray", alpha=0.75)
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, color="black", linewidth=1))

    by_stride = sorted(range(count), key=lambda i: anchors.strides[i], reverse=True)
    for order, i in enumerate(by_stride):
        (rows, columns), (stride_y, stride_x), of_level = shapes[i], anchors.strides[i], boxes[i]
        color = colormaps["turbo"](0.08 + 0.84 * (order + 0.5) / count)
        radius, angle = 0.4 * order / max(1, count - 1), 2.4 * order
        row = min(rows - 1, int(rows * (0.5 + radius * math.sin(angle))))
        column = min(columns - 1, int(columns * (0.5 + radius * math.cos(angle))))
        per_cell = of_level.shape[-2] // (rows * columns)
        chosen = sorted({int((k + 0.5) * per_cell / 3) for k in range(3)})
        first = (row * columns + column) * per_cell
        for x1, y1, x2, y2 in of_level[0, first : first + per_cell][chosen].tolist():
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, linewidth=2))
            drawn.append((x1, y1, x2, y2))
        if order == count // 2 and rows * columns <= 10_000:
            x, y = [(c + 0.5) * stride_x for c in range(columns)], [(r + 0.5) * stride_y for r in range(rows)]
            dots = x * rows, [v for v in y for _ in x]
            axes.plot(*dots, ".", color=color, markersize=3, label=f"every cell of P{anchors.pyramid_levels[i]}")
        label = f"P{anchors.pyramid_levels[i]}: stride {stride_y:g}, {rows}x{columns} cells of {per_cell} anchors"
        centre = [(column + 0.5) * stride_x], [(row + 0.5) * stride_y]
        axes.plot(*centre, "o", color=color, markersize=8, markeredgecolor="black", label=label)
    x1, y1, x2, y2 = zip((0, 0, width, height), *drawn, strict=True)
    margin = 0.02 * max(height, width)
    axes.set_xlim(min(x1) - margin, max(x2) + margin)
    axes.set_ylim(max(y2) + margin, min(y1) - margin)
    axes.set_aspect("equal")
    total = sum(of_level.shape[-2] for of_level in boxes)
    axes.set_title(f"{total:,} anchors over {height}x{width}; up to three of one cell per level are drawn")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), ncols=2, fontsize="small", frameon=False)
    figure.savefig(file)
