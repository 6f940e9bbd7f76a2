"""The best anchor of each box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .. import ops
from .._arguments import show
from ._source import Source, on_cpu

__all__ = ["BestIou", "best_iou"]


class BestIou(NamedTuple):
    """Per box; index, level and cell anchor are -1 where the box shares nothing with any anchor."""

    iou: Tensor  # (G,) in the boxes' dtype
    index: Tensor  # type: ignore[assignment]  # (G,) int64: flat index of the first anchor that has it
    level: Tensor  # (G,) int64: which of the levels, from 0 on
    cell_anchor: Tensor  # (G,) int64: which of the level's cell anchors


@on_cpu
def best_iou(
    boxes: Tensor,
    anchors: Any,
    image_shape: Sequence[int],
    *,
    strides: Sequence[Any] | None = None,
    level_shapes: Sequence[Sequence[int]] | None = None,
    clip: Sequence[int] | None = None,
) -> BestIou:
    """The best IoU of each box over all anchors of an image, and which anchor has it.

    Bit for bit the greatest of `torchvision.ops.box_iou(boxes, anchors)`, with the anchors of `generate` in float32,
    without anchors or a matrix. It is found on the CPU.

    Args:
        boxes: `(G, 4)` x1, y1, x2, y2 in pixels of the image that the network sees, float32 or float64 (16-bit ones
            count as float32). They may lie outside of the image. A box without area has the IoU 0.
        anchors: `Anchors`, `AnchorGrid`, or a generator of `anchor_ext.compat`.
        image_shape: `(H, W)`.
        strides: per level a number or a pair (y, x), for anchors without strides of their own: torchvision's.
        level_shapes: per level `(rows, columns)`; default, for all but `Anchors`, `ceil(side / stride)`.
        clip: as for `generate`.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; a box is not finite, or inverted.
    """
    source = Source(anchors, strides)
    grids, sides = source.over(image_shape, level_shapes)
    if isinstance(boxes, Tensor) and boxes.ndim == 2 and boxes.shape[1] == 4:
        _check(boxes)
    iou, index = ops.best_anchor(source.config, boxes, grids, sides, clip)
    level, cell_anchor = source.places(index.cpu(), grids, sides)
    return BestIou(iou, index, level.to(iou.device), cell_anchor.to(iou.device))


def _check(boxes: Tensor) -> None:
    good = boxes.isfinite().all(1) & (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(f"boxes[{first}] is {show(boxes[first].tolist())}; expected finite x1 <= x2 and y1 <= y2")
