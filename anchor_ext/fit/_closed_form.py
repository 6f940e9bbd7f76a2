"""A box's best IoU over all anchors of a grid, in closed form.

Of the anchors of one cell anchor on one level, the one whose centre is nearest overlaps a box most, in x and in y. So
a box's best IoU over a whole grid follows from its width and height and from |dx|, |dy| to the nearest centre of each
level: one IoU per cell anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CellAnchors = tuple[tuple[tuple[float, float], ...], ...]  # per level, (width, height) of each cell anchor

_CHUNK = 8192  # boxes whose IoUs with a level's cell anchors are in memory at once


@dataclass(frozen=True)
class Shape:
    """What `Anchors` takes: a size per level, ratios and scales of all levels."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def cell_anchors(self) -> CellAnchors:
        """Per level, (width, height) in the order of `Anchors`: ratios, then scales, the last fastest."""
        return tuple(
            tuple(
                (size * scale / math.sqrt(ratio), size * scale * math.sqrt(ratio))
                for ratio in self.ratios
                for scale in self.scales
            )
            for size in self.sizes
        )


@dataclass(frozen=True)
class Problem:
    """What is fixed: the boxes and the centres of the grid.

    Args:
        boxes: `(G, 4)` float32 or float64, x1, y1, x2, y2 in pixels of the network's input.
        shapes: `(G, 2)` int64, (H, W) of the network's input that each box lies in.
        levels: the pyramid's levels; level l has `ceil(H / 2**l)` rows and `ceil(W / 2**l)` columns.
        strides: per level (y, x), pixels between centres.

    Raises:
        ValueError: there are no boxes, or one has no area or a number that is not finite; shapes do not fit.
    """

    boxes: Tensor
    shapes: Tensor
    levels: Sequence[int]
    strides: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4 or len(self.boxes) == 0:
            raise ValueError(f"boxes has shape {tuple(self.boxes.shape)}; expected (G, 4) with G > 0")
        if tuple(self.shapes.shape) != (len(self.boxes), 2):
            raise ValueError(f"shapes has shape {tuple(self.shapes.shape)}; expected ({len(self.boxes)}, 2)")
        if not self.levels or len(self.levels) != len(self.strides):
            raise ValueError(f"there are {len(self.levels)} levels and {len(self.strides)} strides")
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        if not bool((torch.isfinite(self.boxes).all(dim=1) & (sides > 0).all(dim=1)).all()):
            raise ValueError("boxes has one without an area, or with a number that is not finite")

    def part(self, index: Tensor) -> Problem:
        return Problem(self.boxes[index], self.shapes[index], self.levels, self.strides)


@dataclass(frozen=True)
class Places:
    """What a box's IoU with a cell anchor depends on, beside the cell anchor."""

    width: Tensor  # (G,)
    height: Tensor  # (G,)
    dx: Tensor  # (L, G): from the box's centre to the level's nearest
    dy: Tensor  # (L, G)

    @classmethod
    def of(cls, problem: Problem, dtype: torch.dtype) -> Places:
        boxes = problem.boxes.detach().to("cpu", torch.float64)
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        rows, columns = problem.shapes.detach().to("cpu").unbind(1)
        dx: list[Tensor] = []
        dy: list[Tensor] = []
        for level, (stride_y, stride_x) in zip(problem.levels, problem.strides, strict=True):
            for distances, centre, side, stride in ((dx, x, columns, stride_x), (dy, y, rows, stride_y)):
                cells = (side + 2**level - 1) // 2**level
                cell = torch.minimum((centre / stride).floor().clamp(min=0), cells - 1)
                distances.append((centre - (cell + 0.5) * stride).abs())
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        return cls(width.to(dtype), height.to(dtype), torch.stack(dx).to(dtype), torch.stack(dy).to(dtype))

    def best(self, widths: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """Each box's best IoU and the flat index of the cell anchor that has it; widths, heights: `(L, A)`."""
        best = torch.full_like(self.width, -1)
        own = torch.zeros_like(best, dtype=torch.int64)
        count = widths.shape[1]
        for level in range(len(self.dx)):
            w, h = widths[level, :, None], heights[level, :, None]
            for begin in range(0, len(best), _CHUNK):
                chunk = slice(begin, begin + _CHUNK)
                places = (self.width[chunk], self.height[chunk], self.dx[level, chunk], self.dy[level, chunk])
                iou, index = iou_of(*places, w, h).max(dim=0)
                is_better = iou > best[chunk]
                best[chunk] = torch.where(is_better, iou, best[chunk])
                own[chunk] = torch.where(is_better, index + level * count, own[chunk])
        return best, own


def _overlap(box: Tensor, distance: Tensor, anchor: Tensor) -> Tensor:
    return torch.minimum(torch.minimum(box, anchor), (box + anchor) / 2 - distance).clamp(min=0)


def iou_of(width: Tensor, height: Tensor, dx: Tensor, dy: Tensor, w: Tensor, h: Tensor) -> Tensor:
    inter = _overlap(width, dx, w) * _overlap(height, dy, h)
    return inter / (width * height + w * h - inter)


def best_ious(problem: Problem, anchors: Shape | CellAnchors) -> Tensor:
    """The best IoU of each box over all anchors of its image's grid: `(G,)` float64 on the CPU.

    Args:
        problem: boxes and grid.
        anchors: sizes, ratios and scales, or per level the cell anchors' (width, height), as many on every level.
    """
    places = Places.of(problem, torch.float64)
    return places.best(*sides_of(anchors.cell_anchors if isinstance(anchors, Shape) else anchors))[0]


def sides_of(cell_anchors: CellAnchors) -> tuple[Tensor, Tensor]:
    widths, heights = torch.tensor(cell_anchors, dtype=torch.float64, device="cpu").unbind(-1)
    return widths, heights
