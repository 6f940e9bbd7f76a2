"""From a head's outputs to what non-maximum suppression takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from . import ops
from ._recording import saved_by_export

__all__ = ["Selection", "select"]


class Selection(NamedTuple):
    """The candidates of a batch in fixed shapes; of image b the first `counts[b]` are some, the others padding."""

    scores: Tensor
    """`(B, K)`, in the logits' dtype; 0 of padding."""
    indices: Tensor
    """`(B, K)` int64, the anchors' flat indices, for `decode(index=...)`; 0 of padding."""
    labels: Tensor
    """`(B, K)` int64, the classes; -1 of padding."""
    counts: Tensor
    """`(B,)` int64."""


saved_by_export(Selection)


def suppressed(found: Selection, boxes: Tensor, threshold: float, most: int) -> list[dict[str, Tensor]]:
    """Per image what torchvision's `batched_nms` leaves of the candidates, whose boxes are `(B, K, 4)`."""
    from torchvision.ops import batched_nms

    detections = []
    for i, count in enumerate(found.counts.tolist()):  # a wait for the device
        own, scores, labels = boxes[i, :count], found.scores[i, :count], found.labels[i, :count]
        keep = batched_nms(own, scores.to(own.dtype), labels, threshold)[:most]
        detections.append({"boxes": own[keep], "scores": scores[keep], "labels": labels[keep]})
    return detections


def select(
    logits: Tensor | Sequence[Tensor],
    *,
    score_threshold: float = 0.05,
    topk_per_level: int = 1000,
    level_sizes: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> Selection:
    """Of each level the scores above a threshold, at most so many of them, straight from the logits.

    What torchvision's RetinaNet does per image and level: sigmoid, comparison, topk. A pass over the logits finds the
    few that count, and torch's own sigmoid takes these. On CUDA nothing waits for the device, and equal logits come in
    the order of their indices; float64 and more than 4,096 per level are left to torch's operators there, in fixed
    shapes, and so are other devices.

    Args:
        logits: `(B, N, C)`, or a list of it per level; or, as a head gives them, per level `(B, A*C, H, W)`, whose
            channel `a*C + c` is class c of the cell's anchor a. float32, float64, float16 or bfloat16.
        score_threshold: scores are greater than this.
        topk_per_level: k, the most that are taken of a level, from 1 on.
        level_sizes: of a tensor `(B, N, C)`, how many anchors each level has, such as `anchors.level_sizes(shape)`;
            None: all are one level.
        num_classes: C, of a head's levels.

    Returns:
        The candidates, level after level, the best of each level first; `K` is the sum of the levels' `min(k, n)` of
        n logits. Nothing of it has a gradient.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value.
    """
    return Selection(*ops.select(logits, score_threshold, topk_per_level, level_sizes, num_classes))
