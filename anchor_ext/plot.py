"""Draws a readable choice of anchors: per level, the cell anchors of one cell."""

from __future__ import annotations

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

    For each level, one cell is chosen, from the image's left to its right and from the finest level to the coarsest;
    it is marked, and its cell anchors are drawn as they lie, over the image's edge too.

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
    scale = 10 / max(height, width)
    figure = Figure(figsize=(max(4.0, width * scale), max(4.0, height * scale)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if picture is not None:
        axes.imshow(picture, extent=(0, width, height, 0), cmap="gray", alpha=0.75)
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, color="black", linewidth=1))

    count = len(shapes)
    for i, (level, stride, (rows, columns), of_level) in enumerate(
        zip(anchors.pyramid_levels, anchors.strides, shapes, boxes, strict=True)
    ):
        row = rows // 2
        column = min(columns - 1, int(columns * (i + 0.5) / count))
        per_cell = of_level.shape[-2] // (rows * columns)
        first = (row * columns + column) * per_cell
        cell = of_level[0, first : first + per_cell].tolist()
        color = colormaps["turbo"]((i + 0.5) / count)
        for x1, y1, x2, y2 in cell:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, linewidth=1.4))
        x, y = (column + 0.5) * stride[1], (row + 0.5) * stride[0]
        label = f"P{level}: stride {stride[0]:g}, {rows}x{columns} cells, {per_cell} anchors each"
        axes.plot([x], [y], "o", color=color, markersize=7, markeredgecolor="black", label=label)
    axes.set_xlim(-0.15 * width, 1.15 * width)
    axes.set_ylim(1.15 * height, -0.15 * height)
    axes.set_aspect("equal")
    axes.set_title(
        f"{sum(of_level.shape[-2] for of_level in boxes):,} anchors over {height}x{width}, one cell per level"
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), ncols=2, fontsize="small", frameon=False)
    figure.savefig(file)
