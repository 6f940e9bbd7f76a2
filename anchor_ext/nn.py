"""What stands around a RetinaNet's network, as two modules: its loss, and its post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import image_shape as read_image_shape
from ._arguments import integer, number, shape_of, show
from ._recording import is_compiled
from .anchors import Anchors
from .coders import BoxCoder
from .losses import box_loss, focal_loss
from .postprocessing import Selection, select, suppressed

__all__ = ["RetinaNetLoss", "RetinaNetPostprocess"]


def _together(deltas: Any, anchors: Anchors, image_shape: Any) -> Tensor:
    """`(B, N, 4)`, also of a head's levels `(B, A*4, H, W)`."""
    count = anchors.num_anchors(image_shape)
    if not isinstance(deltas, Tensor):
        _must_be_levels("deltas", deltas, anchors, image_shape)
    together = deltas if isinstance(deltas, Tensor) else _of_levels(deltas)
    if together.ndim != 3 or together.shape[1] != count or together.shape[2] != 4:
        where = f"as anchors has in an image of {show(tuple(image_shape))}"
        raise ValueError(f"deltas has shape {shape_of(together)}; expected (images, {count}, 4), {where}")
    return together


def _must_be_levels(name: str, levels: Any, anchors: Anchors, image_shape: Any) -> None:
    """Levels of other grids may have as many anchors in all, such as with the image's sides the wrong way round."""
    if is_compiled() or not isinstance(levels, (list, tuple)):  # a compiler would make of each level's sides a guard
        return
    grids = anchors.level_shapes(image_shape)
    if len(levels) != len(grids):
        raise ValueError(f"{name} is a list of {len(levels)}; expected {len(grids)} tensors, one per level of anchors")
    for i, (level, grid, own) in enumerate(zip(levels, grids, anchors.num_cell_anchors, strict=True)):
        if not isinstance(level, Tensor) or level.ndim != 4:
            continue  # said elsewhere
        rows, columns = level.shape[-2:]
        if (rows, columns) != grid:
            raise ValueError(
                f"{name}[{i}] has a grid of {rows}x{columns}; expected {grid[0]}x{grid[1]}, as anchors has in an image "
                f"of {show(tuple(image_shape))}, (height, width)"
            )
        if level.shape[1] % own:
            raise ValueError(f"{name}[{i}] has {level.shape[1]} channels; expected a multiple of {own} cell anchors")


def _of_levels(deltas: Any) -> Tensor:
    if not isinstance(deltas, (list, tuple)):
        raise TypeError(f"deltas is {show(deltas)}; expected a tensor (images, anchors, 4), or a list of levels'")
    parts = []
    for i, level in enumerate(deltas):
        if not isinstance(level, Tensor) or level.ndim != 4 or level.shape[1] % 4:
            what = f"has shape {shape_of(level)}" if isinstance(level, Tensor) else f"is {show(level)}"
            raise ValueError(f"deltas[{i}] {what}; expected a tensor (images, cell anchors * 4, rows, columns)")
        if level.shape[0] != deltas[0].shape[0]:
            raise ValueError(f"deltas[{i}] has {level.shape[0]} images; expected {deltas[0].shape[0]}, as deltas[0]")
        rows = level.shape[1] // 4 * level.shape[2] * level.shape[3]
        parts.append(level.permute(0, 2, 3, 1).reshape(level.shape[0], rows, 4))
    if not parts:
        raise ValueError("deltas has 0 tensors; expected one per level")
    return torch.cat(parts, dim=1)


def _must_be_listed(name: str, given: Any, count: int, of: str = "image") -> None:
    if not isinstance(given, (list, tuple)) or len(given) != count or not all(isinstance(o, Tensor) for o in given):
        raise ValueError(f"{name} is {show(given)}; expected a list of {count} tensors, one per {of}")


def _sizes_of(image_sizes: Any, count: int) -> list[Any]:
    if not isinstance(image_sizes, (list, tuple)) or len(image_sizes) != count:
        raise ValueError(f"image_sizes is {show(image_sizes)}; expected a list of {count} pairs (height, width)")
    if is_compiled():
        return list(image_sizes)
    sizes = [read_image_shape(size, f"image_sizes[{i}]") for i, size in enumerate(image_sizes)]
    for i, size in enumerate(sizes):
        if min(size) < 1:
            raise ValueError(f"image_sizes[{i}] is {size}; expected two positive integers (height, width)")
    return sizes


def _must_be_anchors(anchors: Any) -> None:
    if not isinstance(anchors, Anchors):
        others = "anchor_ext.losses takes grids, and compat.torchvision.accelerate torchvision's detectors"
        raise TypeError(f"anchors is {show(anchors)}; expected Anchors; {others}")


class RetinaNetLoss(nn.Module):
    """Matching, the focal loss of the logits and the loss of the deltas, each a pass over its tensor.

    No anchors, one-hot targets or encoded boxes are stored, and nothing waits for a device.

    Args:
        anchors: the model's `Anchors`.
        high, low, allow_low_quality: as for `Anchors.match`: anchors of IoU `high` and more are positive, those below
            `low` background, and each box's best anchor is positive, too.
        alpha, gamma: as for `losses.focal_loss`.
        kind, beta: as for `losses.box_loss`: `"l1"`, `"smooth_l1"` or `"giou"`.
        coder: a `BoxCoder`; None: torchvision's.
    """

    def __init__(
        self,
        anchors: Anchors,
        *,
        high: float = 0.5,
        low: float = 0.4,
        allow_low_quality: bool = True,
        alpha: float = 0.25,
        gamma: float = 2.0,
        kind: str = "smooth_l1",
        beta: float = 1.0 / 9.0,
        coder: BoxCoder | None = None,
    ) -> None:
        super().__init__()
        _must_be_anchors(anchors)
        self.anchors = anchors
        self.matching: dict[str, Any] = {"high": high, "low": low, "allow_low_quality": allow_low_quality}
        self.focal: dict[str, Any] = {"alpha": alpha, "gamma": gamma}
        self.box: dict[str, Any] = {"kind": kind, "beta": beta, "coder": coder}
        self._check()

    def _check(self) -> None:
        """Wrong options are an error where they are given, not in the first step."""
        count = self.anchors.num_anchors((1, 1))
        self.forward(torch.zeros(1, count, 1), torch.zeros(1, count, 4), [torch.zeros(0, 4)], None, (1, 1))

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        deltas: Tensor | Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor] | None,
        image_shape: Sequence[int],
    ) -> dict[str, Tensor]:
        """Both losses of a batch, each image's divided by its positive anchors; the mean of the images.

        Args:
            logits: `(B, N, C)`, or a head's levels `(B, A*C, H, W)`; float32, float64, float16 or bfloat16.
            deltas: `(B, N, 4)`, or a head's levels `(B, A*4, H, W)`.
            boxes: per image `(G, 4)` x1, y1, x2, y2 in pixels.
            labels: per image `(G,)` integers, 0 to C-1; None: all 0.
            image_shape: `(H, W)` of the batch, as it was padded.

        Returns:
            `"classification"` and `"bbox_regression"`, scalars; float32, or float64 of float64.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, device or value.
        """
        _must_be_levels("logits", logits, self.anchors, image_shape)
        together = _together(deltas, self.anchors, image_shape)
        _must_be_listed("boxes", boxes, together.shape[0])
        if labels is not None:
            _must_be_listed("labels", labels, together.shape[0])
            for i, (own, of) in enumerate(zip(labels, boxes, strict=True)):
                if len(own) != len(of):
                    raise ValueError(f"labels[{i}] has {len(own)} labels; expected {len(of)}, as boxes[{i}] has")
        matched = self.anchors.match(list(boxes), image_shape, **self.matching)
        if labels is None:
            labels = [torch.zeros(own.shape[0], dtype=torch.int64, device=own.device) for own in boxes]
        of_boxes = box_loss(together, matched, boxes, self.anchors, image_shape, **self.box)
        return {"classification": focal_loss(logits, matched, labels, **self.focal), "bbox_regression": of_boxes}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in (self.matching | self.focal | self.box).items())


class RetinaNetPostprocess(nn.Module):
    """From a RetinaNet's logits and deltas to detections: candidates, their boxes, non-maximum suppression.

    Only the candidates are decoded. It waits for the device once, for how many there are, and then inside of
    torchvision's `batched_nms`.

    Args:
        anchors: the model's `Anchors`.
        score_threshold, topk_per_level: as for `select`.
        nms_threshold: of two boxes of a class whose IoU is greater, the one with the lower score is dropped.
        detections_per_image: the most that are kept, the best ones.
        coder: a `BoxCoder`; None: torchvision's.
    """

    def __init__(
        self,
        anchors: Anchors,
        *,
        score_threshold: float = 0.05,
        topk_per_level: int = 1000,
        nms_threshold: float = 0.5,
        detections_per_image: int = 300,
        coder: BoxCoder | None = None,
    ) -> None:
        super().__init__()
        _must_be_anchors(anchors)
        select(torch.zeros(1, 0, 1), score_threshold=score_threshold, topk_per_level=topk_per_level)
        number("nms_threshold", nms_threshold)
        detections_per_image = integer("detections_per_image", detections_per_image, "an integer >= 1")
        if detections_per_image < 1:
            raise ValueError(f"detections_per_image is {detections_per_image}; expected an integer >= 1")
        if coder is not None and not isinstance(coder, BoxCoder):
            raise TypeError(f"coder is {show(coder)}; expected a BoxCoder")
        self.anchors, self.coder = anchors, coder
        self.score_threshold, self.topk_per_level = score_threshold, topk_per_level
        self.nms_threshold, self.detections_per_image = nms_threshold, detections_per_image

    def candidates(
        self,
        logits: Tensor | Sequence[Tensor],
        deltas: Tensor | Sequence[Tensor],
        image_shape: Sequence[int],
        image_sizes: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Selection, Tensor]:
        """What `forward` suppresses, in fixed shapes: one graph for a compiler, and no wait.

        Takes what `forward` takes.

        Returns:
            What `select` gives; and the boxes `(B, K, 4)` of it, limited to their images.
        """
        together = _together(deltas, self.anchors, image_shape)
        if isinstance(logits, Tensor):
            if logits.shape[:2] != together.shape[:2]:
                expected = f"({together.shape[0]}, {together.shape[1]}, classes)"
                raise ValueError(f"logits has shape {shape_of(logits)}; expected {expected}, as deltas has")
            level_sizes = self.anchors.level_sizes(image_shape)
            found = select(logits, level_sizes=level_sizes, **self._selecting())
        else:
            _must_be_levels("logits", logits, self.anchors, image_shape)
            _must_be_listed("logits", logits, len(self.anchors.level_shapes(image_shape)), "level")
            if any(level.ndim != 4 for level in logits):
                raise ValueError(
                    "logits: expected tensors (images, cell anchors * classes, rows, columns), one per level"
                )
            numbers = sum(level.shape[1] * level.shape[2] * level.shape[3] for level in logits)
            classes = numbers // together.shape[1]
            if numbers != classes * together.shape[1] or logits[0].shape[0] != together.shape[0]:
                raise ValueError(
                    f"logits have {logits[0].shape[0]} images of {numbers} numbers; expected {together.shape[0]}, of a "
                    f"multiple of {together.shape[1]}, as deltas has anchors"
                )
            found = select(logits, num_classes=classes, **self._selecting())
        chosen = together.gather(1, found.indices[..., None].expand(-1, -1, 4))
        sizes: Any = True if image_sizes is None else _sizes_of(image_sizes, together.shape[0])
        return found, self.anchors.decode(chosen, image_shape, coder=self.coder, index=found.indices, clip=sizes)

    def _selecting(self) -> dict[str, Any]:
        return {"score_threshold": self.score_threshold, "topk_per_level": self.topk_per_level}

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        deltas: Tensor | Sequence[Tensor],
        image_shape: Sequence[int],
        image_sizes: Sequence[Sequence[int]] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of a batch.

        Args:
            logits: `(B, N, C)`, or a head's levels `(B, A*C, H, W)`; float32, float64, float16 or bfloat16.
            deltas: `(B, N, 4)`, or a head's levels `(B, A*4, H, W)`.
            image_shape: `(H, W)` of the batch, as it was padded.
            image_sizes: per image `(H, W)` as it was before, to which boxes are limited; None: `image_shape`.

        Returns:
            Per image `"boxes"` `(D, 4)` x1, y1, x2, y2 in pixels, `"scores"` `(D,)` and `"labels"` `(D,)` int64, the
            best first.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, device or value.
            ImportError: torchvision is not installed.
        """
        found, boxes = self.candidates(logits, deltas, image_shape, image_sizes)
        return suppressed(found, boxes, self.nms_threshold, self.detections_per_image)

    def extra_repr(self) -> str:
        names = ("score_threshold", "topk_per_level", "nms_threshold", "detections_per_image", "coder")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
