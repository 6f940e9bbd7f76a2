"""Losses of a detector's head, straight from what matching gave: no targets, no copies of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import ops
from ._arguments import shape_of, show
from .anchors import Anchors
from .coders import BoxCoder
from .grid import AnchorGrid
from .matchers import FocalLossMatcher

__all__ = ["FocalLoss", "box_loss", "focal_loss"]


def focal_loss(
    logits: Tensor | Sequence[Tensor],
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
        logits: `(B, N, C)`, for every anchor its classes' logits; or, as a head gives them, per level `(B, A*C, H, W)`,
            whose channel `a*C + c` is class c of the cell's anchor a. float32, float64, float16 or bfloat16 (16-bit
            ones are computed in float32).
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
    return ops.focal_loss(logits, matched, labels, alpha, gamma, normalize)


def box_loss(
    deltas: Tensor,
    matched: Tensor,
    boxes: Sequence[Tensor],
    anchors: Anchors | AnchorGrid,
    image_shape: Sequence[int] | None = None,
    *,
    level_shapes: Sequence[Sequence[int]] | None = None,
    kind: str = "l1",
    beta: float = 1.0 / 9.0,
    coder: BoxCoder | None = None,
    normalize: bool = True,
) -> Tensor:
    """The loss of the positive anchors' deltas, whose targets are made where they are used.

    Args:
        deltas: `(B, N, 4)`, of every anchor; float32, float64, float16 or bfloat16.
        matched: `(B, N)` int64, as `Anchors.match` gives it; negative anchors have no part.
        boxes: per image `(G, 4)` x1, y1, x2, y2 in pixels.
        anchors: the `Anchors`, or an `AnchorGrid`.
        image_shape: `(H, W)`, of all images as they were padded.
        level_shapes: of an `AnchorGrid`, per level `(rows, columns)`.
        kind: `"l1"`, `"smooth_l1"` (of each number's difference d: `d**2 / (2 beta)` where `|d| < beta`, else
            `|d| - beta / 2`) or `"giou"` (`1 - GIoU` of the decoded boxes, which are not clipped; eps 1e-7).
        beta: of smooth L1, from 0 on; 0 is L1.
        coder: a `BoxCoder`; None: torchvision's.
        normalize: whether each image's sum is divided by the number of its positive anchors, at least 1, and the mean
            of the images is taken, as torchvision's RetinaNet does; else the sum of all is returned.

    Returns:
        A scalar, float32, or float64 of float64 deltas; computed in float64. Differentiable in deltas, once.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value. On CUDA a match that is out of
            range makes the loss NaN instead.
    """
    if not isinstance(anchors, (Anchors, AnchorGrid)):
        raise TypeError(f"anchors is {show(anchors)}; expected Anchors or an AnchorGrid")
    return ops.box_loss(
        anchors._config, deltas, matched, boxes, level_shapes, image_shape, kind, beta, coder, normalize
    )


class FocalLoss(nn.Module):
    """`FocalLoss` of yhenon's pytorch-retinanet and its kin: both losses of a batch whose annotations are padded.

    Anchors whose best IoU is at least 0.5 are positive, those below 0.4 background. The probabilities are limited to
    1e-4..1 - 1e-4, the focal loss is divided by each image's positives, at least 1; the box loss is smooth L1 with
    beta 1/9, the mean of the positives' four numbers. Both are the means of the images. Nothing waits for a device.

    Args:
        anchors: the model's.
        alpha, gamma: as for `focal_loss`.
        from_logits: whether `classifications` are logits; by default they are probabilities.
        coder: of the regressions.
    """

    _LEAST = 1e-4

    def __init__(
        self,
        anchors: Anchors,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        coder: BoxCoder | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(anchors, Anchors):
            raise TypeError(f"anchors is {show(anchors)}; expected Anchors")
        if not isinstance(from_logits, bool):
            raise TypeError(f"from_logits is {show(from_logits)}; expected True or False")
        self.anchors, self.alpha, self.gamma, self.from_logits = anchors, alpha, gamma, from_logits
        self.coder = BoxCoder.retinanet() if coder is None else coder

    def forward(
        self, classifications: Tensor, regressions: Tensor, image_shape: Sequence[int], annotations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses of classes and of boxes.

        Args:
            classifications: `(B, N, C)`.
            regressions: `(B, N, 4)`.
            image_shape: `(H, W)`.
            annotations: `(B, M, 5)` x1, y1, x2, y2, class; rows whose class is -1 are padding.

        Returns:
            Two tensors `(1,)`.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value.
        """
        if not isinstance(annotations, Tensor):
            raise TypeError(f"annotations is {show(annotations)}; expected a tensor (images, n, 5)")
        if annotations.ndim != 3 or annotations.shape[2] != 5:
            raise ValueError(f"annotations has shape {shape_of(annotations)}; expected (images, n, 5)")
        if not isinstance(classifications, Tensor):
            raise TypeError(f"classifications is {show(classifications)}; expected a tensor (images, anchors, classes)")
        # A box without area has no overlap and no anchor, as if it were not there.
        is_padding = annotations[..., 4:] == -1
        boxes = torch.where(is_padding, 0.0, annotations[..., :4]).unbind(0)
        labels = annotations[..., 4].clamp(min=0).long().unbind(0)
        matched = self.anchors.match(list(boxes), image_shape, matcher=FocalLossMatcher())
        if classifications.dtype in (torch.float16, torch.bfloat16):  # in which 1 - 1e-4 would be 1
            classifications = classifications.float()
        most = math.log((1 - self._LEAST) / self._LEAST)
        if self.from_logits:
            logits = classifications.clamp(-most, most)
        else:
            logits = torch.logit(classifications.clamp(self._LEAST, 1 - self._LEAST))
        of_classes = focal_loss(logits, matched, labels, alpha=self.alpha, gamma=self.gamma)
        of_boxes = box_loss(regressions, matched, boxes, self.anchors, image_shape, kind="smooth_l1", coder=self.coder)
        return of_classes.reshape(1), (of_boxes / 4).reshape(1)
