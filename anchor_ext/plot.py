"""Draws a readable choice of anchors: per level, the cell anchors of one cell; and ground truth beside them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _arguments
from ._core import check_shape
from .anchors import Anchors
from .grid import AnchorGrid

__all__ = ["optional_packages", "plot", "read_image"]

_MOST_DRAWN = 24  # cell anchors of one cell: more are a blot
_MOST_DOTS = 2_500


class _Level(NamedTuple):
    name: str
    stride: tuple[float, float] | None  # y, x, where it is known
    shape: tuple[int, int]  # rows, columns
    anchors: Tensor  # [rows * columns, A, 4] float64


@contextlib.contextmanager
def optional_packages() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        package = "Pillow" if (error.name or "").startswith("PIL") else "matplotlib"
        raise ImportError(
            f"drawing needs {package}: pip install {package} (or anchor_ext with its extra, anchor_ext[plot])"
        ) from error


def read_image(file: str | os.PathLike[str]) -> Any:
    """A picture as a NumPy array `(H, W)` or `(H, W, C)`.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
        OSError: the file cannot be read, or is no picture.
    """
    with optional_packages():
        from matplotlib import image
    return image.imread(os.fspath(file))


def _pixels(image: Any, image_shape: tuple[int, int]) -> Any:
    """A picture as matplotlib draws it, `(H, W)` or `(H, W, 3 or 4)`, uint8 or float; from all that `plot` takes."""
    if isinstance(image, (str, os.PathLike)):
        image = read_image(image)
    elif not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise TypeError(f"image is {_arguments.show(image)}; expected a file name, a NumPy array or a tensor")
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()  # NumPy has no bfloat16
    channels = (1, 3, 4)
    # Both ends may look like channels; then the sides decide.
    last = image.shape[2:] != () and image.shape[2] in channels
    sideways = image.shape[1:] == image_shape and image.shape[:2] != image_shape
    if image.ndim == 3 and image.shape[0] in channels and (sideways or not last):
        image = image.transpose(1, 2, 0)
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] not in channels):
        raise ValueError(f"image has shape {tuple(image.shape)}; expected (H, W, 3), (3, H, W) or (H, W)")
    if image.dtype.kind == "u":
        image = image if image.itemsize == 1 else image / float(2 ** (8 * image.itemsize) - 1)
    elif image.dtype.kind != "f":
        raise TypeError(f"image has dtype {image.dtype}; expected uint8, or floats in 0..1")
    elif not (image.min() >= 0 and image.max() <= 1):  # nor NaN
        raise ValueError(f"image has values in {image.min():g}..{image.max():g}; expected uint8, or floats in 0..1")
    return image[..., 0] if image.shape[2:] == (1,) else image


def _ground_truth(boxes: Any) -> Tensor:
    """`(G, 4)` float64."""
    expected = "numbers (G, 4): x1, y1, x2, y2 in pixels"
    try:
        tensor = torch.as_tensor(boxes, dtype=torch.float64, device="cpu").detach()
    except Exception as error:  # text, a ragged list, None in it, ...: the same mistake
        raise TypeError(f"boxes is {_arguments.show(boxes)}; expected {expected}") from error
    if tensor.shape == (0,):
        return tensor.view(0, 4)
    if tensor.ndim != 2 or tensor.shape[1] != 4:
        raise ValueError(f"boxes has shape {tuple(tensor.shape)}; expected {expected}")
    for i, row in enumerate(tensor.tolist()):
        if not all(map(math.isfinite, row)):
            raise ValueError(f"boxes[{i}] is {row}; expected finite numbers")
    return tensor


def odd_boxes(boxes: Tensor, image_shape: Sequence[int]) -> dict[str, list[int]]:
    """Which boxes `(G, 4)` have no area, lie outside the image, or reach over its edge by more than a pixel.

    (A pixel, because some formats count from 1 and others round.)
    """
    height, width = image_shape
    kinds: dict[str, list[int]] = {"without area": [], "outside the image": [], "over the image's edge": []}
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if not (x2 > x1 and y2 > y1):
            kinds["without area"].append(i)
        elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            kinds["outside the image"].append(i)
        elif min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
            kinds["over the image's edge"].append(i)
    return {kind: indices for kind, indices in kinds.items() if indices}


def _levels(anchors: Any, image_shape: tuple[int, int], level_shapes: Any) -> list[_Level]:
    """What there is to draw, the coarsest level first, from all that `plot` takes."""
    strides: Sequence[tuple[float, float] | None]
    if isinstance(anchors, Anchors):
        if level_shapes is not None:
            raise ValueError(
                f"level_shapes is {_arguments.show(level_shapes)}; expected None, as those of Anchors follow from "
                "image_shape"
            )
        shapes, strides = anchors.level_shapes(image_shape), anchors.strides
        names = [f"P{level}" for level in anchors.pyramid_levels]
        boxes: Sequence[Any] = anchors.split(anchors.generate(image_shape, device="cpu")[0], image_shape)
    elif isinstance(anchors, AnchorGrid) or _arguments.is_sequence(anchors):
        if level_shapes is None:
            raise ValueError("level_shapes is None; expected (rows, columns) per level, those of the feature maps")
        shapes = _arguments.level_shapes(level_shapes)
        names = [f"level {level}" for level in range(len(shapes))]
        if isinstance(anchors, AnchorGrid):
            native = anchors._config.native
            if native.layout not in ("xyxy", "yxyx"):
                raise ValueError(f"anchors has the layout {native.layout!r}; expected 'xyxy' or 'yxyx'")
            boxes = anchors.split(anchors(shapes, image_shape=image_shape, device="cpu"), shapes)
            if native.layout == "yxyx":
                boxes = [of_level[:, [1, 0, 3, 2]] for of_level in boxes]
            strides = native.strides or [
                (image_shape[0] // rows, image_shape[1] // columns) if rows and columns else None
                for rows, columns in shapes
            ]
        else:
            boxes, strides = anchors, [None] * len(shapes)
            if len(boxes) != len(shapes):
                raise ValueError(
                    f"anchors has {len(boxes)} levels and level_shapes {len(shapes)}; expected boxes (N, 4) per level"
                )
    else:
        raise TypeError(
            f"anchors is {_arguments.show(anchors)}; expected Anchors, or with level_shapes an AnchorGrid or boxes "
            "(N, 4) per level"
        )
    levels = []
    for i, (name, stride, (rows, columns), of_level) in enumerate(zip(names, strides, shapes, boxes, strict=True)):
        cells = rows * columns
        good = isinstance(of_level, Tensor) and of_level.ndim == 2 and of_level.shape[1] == 4
        if not good or (len(of_level) % cells or not len(of_level) if cells else len(of_level)):
            raise ValueError(
                f"anchors[{i}] is {_arguments.show(of_level)}; expected a tensor (N, 4) where N is a multiple of the "
                f"{rows} * {columns} cells in level_shapes[{i}]"
            )
        kept = of_level.detach().cpu().double()
        levels.append(_Level(name, stride, (rows, columns), kept.view(cells, -1, 4) if cells else kept.view(0, 1, 4)))
    return sorted(levels, key=lambda of_level: of_level.shape[0] * of_level.shape[1])


def plot(
    anchors: Anchors | AnchorGrid | Sequence[Tensor],
    image_shape: Sequence[int],
    file: str | os.PathLike[str],
    *,
    image: Any = None,
    boxes: Any = None,
    level_shapes: Sequence[Sequence[int]] | None = None,
    title: str | None = None,
) -> None:
    """Writes a picture of some anchors over an image, or over an empty frame of its shape.

    For each level one cell is chosen, of which every cell anchor is drawn, or 24 that are evenly chosen where there are
    more; the coarsest level's cell is in the middle, the finer ones spiral outwards. A large dot marks the cell, at the
    mean of its anchors' centres; small dots mark the cells of the middle level. The legend says which cell it is. Boxes
    are drawn over the image's edge too, up to half its longer side.

    Args:
        anchors: the pyramid; or an AnchorGrid, or per level a tensor of boxes `(rows * columns * A, 4)` as drop-ins
            make them, x1, y1, x2, y2 in pixels. The last two need `level_shapes`.
        image_shape: `(H, W)`; a picture of another size is stretched to it.
        file: where to write; its ending gives the format.
        image: a picture to draw over: a file name, or an array or a tensor `(H, W, 3)`, `(3, H, W)` or `(H, W)`, uint8
            or floats in 0..1. A fourth channel is opacity.
        boxes: ground truth, `(G, 4)` numbers x1, y1, x2, y2 in pixels of `image_shape`.
        level_shapes: per level `(rows, columns)` of its feature map.
        title: a line above the picture's own.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
        OSError: a file cannot be read or written.
        TypeError, ValueError: as `Anchors.generate` or `AnchorGrid`; an argument is none of the above; or the format is
            unknown.
    """
    height, width = shape = _arguments.image_shape(image_shape)
    check_shape("image_shape", shape, 1)
    levels = _levels(anchors, shape, level_shapes)
    ground_truth = None if boxes is None else _ground_truth(boxes)
    picture = None if image is None else _pixels(image, shape)
    with optional_packages():
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if picture is not None:
        largest = 255 if picture.dtype.kind == "u" else 1
        axes.imshow(picture, extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=largest, alpha=0.75)
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, color="black", linewidth=1))
    colors = colormaps["turbo"]([0.16 + 0.74 * order / max(1, len(levels) - 1) for order in range(len(levels))])
    colors = 0.9 * colors[:, :3]  # the lightest are hard to see on white
    choices = [_choose(of_level, i, len(levels), tuple(colors[i])) for i, of_level in enumerate(levels)]
    left, top, right, bottom = view = _view(choices, height, width)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    for choice in choices:
        _draw(axes, choice, view)
    _draw_dots(axes, choices[len(choices) // 2])
    handles, labels = axes.get_legend_handles_labels()
    if ground_truth is not None:
        handles.append(_draw_ground_truth(axes, ground_truth))
        odd = [f"{len(indices)} {kind}" for kind, indices in odd_boxes(ground_truth, shape).items()]
        labels.append(", ".join([f"ground truth: {_count(len(ground_truth), 'box', 'boxes')}", *odd]))
    axes.set_title("\n".join(filter(None, [title, _summary(choices, shape)])), fontsize="medium")
    columns = 2 if max(map(len, labels)) <= 68 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
    # As high as the view; what is too much is cut off when it is saved.
    figure.set_figheight(
        min(11.0, 8.4 * (bottom - top) / (right - left)) + 0.7 + 0.2 * math.ceil(len(labels) / columns)
    )
    figure.savefig(file, bbox_inches="tight", pad_inches=0.15)


class _Choice(NamedTuple):
    of_level: _Level
    color: tuple[float, ...]
    fineness: float  # 0 for the coarsest level, towards 1 for the finest, whose lines must be thin
    cell: tuple[int, int]  # row, column
    boxes: list[list[float]]  # x1, y1, x2, y2
    centres: Tensor  # [rows, columns, 2] x, y

    @property
    def num_anchors(self) -> int:
        """Cell anchors, of which not all may be drawn."""
        return self.of_level.anchors.shape[1]


def _choose(of_level: _Level, order: int, count: int, color: tuple[float, ...]) -> _Choice:
    """What is drawn of one of so many levels, which are in order, the coarsest first."""
    rows, columns = of_level.shape
    centres = ((of_level.anchors[..., :2] + of_level.anchors[..., 2:]) / 2).mean(dim=1).view(rows, columns, 2)
    if not rows * columns:
        return _Choice(of_level, color, order / count, (0, 0), [], centres)
    radius, angle = 0.4 * order / max(1, count - 1), 2.4 * order
    row = min(rows - 1, int(rows * (0.5 + radius * math.sin(angle))))
    column = min(columns - 1, int(columns * (0.5 + radius * math.cos(angle))))
    anchors = of_level.anchors[row * columns + column]
    drawn = min(_MOST_DRAWN, len(anchors))
    anchors = anchors[[int((k + 0.5) * len(anchors) / drawn) for k in range(drawn)]]
    return _Choice(of_level, color, order / count, (row, column), anchors.tolist(), centres)


def _view(choices: Sequence[_Choice], height: int, width: int) -> tuple[float, float, float, float]:
    """The image and what is drawn, but no more around the image than half its longer side: it would be a speck."""
    longer = max(height, width)
    x1, y1, x2, y2 = zip((0, 0, width, height), *(box for choice in choices for box in choice.boxes), strict=True)
    most, margin = 0.5 * longer, 0.02 * longer
    left, top = max(min(x1), -most) - margin, max(min(y1), -most) - margin
    return left, top, min(max(x2), width + most) + margin, min(max(y2), height + most) + margin


def _draw(axes: Any, choice: _Choice, view: tuple[float, float, float, float]) -> None:
    """One cell and its anchors, with a label that says which."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = view
    unseen = 0
    linewidth = (2.2 if len(choice.boxes) <= 3 else 1.5 if len(choice.boxes) <= 9 else 0.9) - 0.8 * choice.fineness
    for x1, y1, x2, y2 in choice.boxes:
        patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=choice.color, linewidth=max(0.7, linewidth))
        axes.add_patch(patch)
        unseen += x1 < left and y1 < top and x2 > right and y2 > bottom
    name, stride, (rows, columns), _ = choice.of_level
    label = f"{name}: "
    if stride is not None:
        y, x = stride
        label += f"stride {y:g}, " if y == x else f"stride {y:g}x{x:g}, "
    label += f"{rows}x{columns} cells"
    centre: list[list[float]] = [[], []]
    if choice.boxes:
        row, column = choice.cell
        x, y = choice.centres[row, column].tolist()
        centre = [[x], [y]]
        label += f" of {_count(choice.num_anchors, 'anchor', 'anchors')}; drawn: "
        label += f"{len(choice.boxes)} at " if len(choice.boxes) < choice.num_anchors else ""
        label += f"row {row}, column {column}"
        label += f"; {unseen} larger than this picture" if unseen else ""
    size = 8 - 4 * choice.fineness
    axes.plot(*centre, "o", color=choice.color, markersize=size, markeredgecolor="black", label=label)


def _draw_dots(axes: Any, choice: _Choice) -> None:
    """A dot for every cell, or for one in 2x2, 3x3, ... where these were too many."""
    rows, columns = choice.of_level.shape
    step = max(1, math.ceil(math.sqrt(rows * columns / _MOST_DOTS)))
    x, y = choice.centres[::step, ::step].reshape(-1, 2).T.tolist()
    cells = "every cell" if step == 1 else f"one cell in {step}x{step}"
    axes.plot(x, y, ".", color=choice.color, markersize=3, label=f"small dots: {cells} of {choice.of_level.name}")


def _draw_ground_truth(axes: Any, boxes: Tensor) -> Any:
    """White dashes on black are seen over any picture. Returns what stands for them in the legend."""
    from matplotlib.patches import Rectangle

    styles: tuple[dict[str, Any], ...]
    styles = {"color": "black", "linewidth": 3.2}, {"color": "white", "linewidth": 1.8, "linestyle": (0, (4, 3))}
    for x1, y1, x2, y2 in boxes.tolist():
        for style in styles:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, zorder=3, **style))
    return tuple(Rectangle((0, 0), 1, 1, fill=False, **style) for style in styles)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _summary(choices: Sequence[_Choice], shape: tuple[int, int]) -> str:
    """Which anchors are drawn, of how many."""
    counts = {choice.num_anchors for choice in choices if choice.boxes}
    total = sum(len(choice.of_level.anchors) * choice.num_anchors for choice in choices)
    drawn = "the cell anchors"
    if any(count > _MOST_DRAWN for count in counts):
        drawn = f"up to {_MOST_DRAWN} cell anchors"
    elif len(counts) == 1:
        drawn = "the cell anchor" if 1 in counts else f"the {max(counts)} cell anchors"
    drawn += " of one cell per level" if len(choices) > 1 else " of one cell"
    total_text = _count(total, "anchor", "anchors")
    return f"drawn: {drawn if counts else 'nothing'}; {total_text} in all over {shape[0]}x{shape[1]}"
