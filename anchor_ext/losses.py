"""Losses of a detector's head, straight from what matching gave: no targets, no copies of rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _loss_operators

__all__ = ["focal_loss"]


def focal_loss(
    logits: Tensor,
    matched: Tensor,
    labels: Sequence[Tensor],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    normalize: bool = True,
) -> Tensor:
    """The sigmoid focal loss of all anchors that take part (Lin et al., "Focal loss for dense object detection", 2017).

    Of a logit x with p = sigmoid(x), of the class of the anchor's box: `-alpha (1 - p)**gamma log(p)`; of every other
    class: `-(1 - alpha) p**gamma log(1 - p)`. It is computed from the logits, in one pass, and so is its gradient, in
    another one. Sums are in float64, in an order that neither threads nor the device change.

    Args:
        logits: `(B, N, C)`, for every anchor its classes' logits; float32, float64, float16 or bfloat16 (16-bit ones
            are computed in float32).
        matched: `(B, N)` int64, as `Anchors.match` gives it: the index of the anchor's box; -2 takes no part; any other
            negative number is background, whose every class is another one.
        labels: per image `(G,)` int64 or int32: the boxes' classes, 0 to C - 1.
        alpha: the weight of an anchor's own class, in 0..1; the other classes weigh `1 - alpha`. None: 1 each.
        gamma: from 0 on.
        normalize: whether each image's sum is divided by the number of its positive anchors, at least 1, and the mean
            of the images is taken, as torchvision's RetinaNet does; else the sum of all is returned.

    Returns:
        A scalar, float32, or float64 of float64 logits. Differentiable in logits, once.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value. On CUDA a label or a match that
            is out of range makes the loss NaN instead, since nothing waits for the device.
    """
    return _loss_operators.focal_loss(logits, matched, labels, alpha, gamma, normalize)
