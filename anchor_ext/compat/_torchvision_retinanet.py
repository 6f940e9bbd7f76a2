"""torchvision's RetinaNet with anchor_ext in place of what stands around the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection import retinanet
from torchvision.ops import clip_boxes_to_image

from .. import select
from .._recording import is_traced
from ..coders import BoxCoder
from ..losses import box_loss, focal_loss
from ..postprocessing import suppressed
from . import _check as check
from ._torchvision_swapped import (
    Swapped,
    drop_in,
    is_16_bit,
    matched,
    must_be_whole,
    must_not_override,
    swap,
    why_not_ours,
)

__all__ = ["accelerate"]

_PARTS = ("anchors", "losses", "postprocessing")
_REPLACED = ("compute_loss", "postprocess_detections")


def _widened(output: Tensor) -> Tensor:
    return output.float() if is_16_bit(output.dtype) else output


class RetinaNet(Swapped):
    """The replacing methods."""

    _watches_generator = True
    anchor_generator: Any
    proposal_matcher: Any
    head: Any

    def compute_loss(self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: Any) -> Any:
        for i, target in enumerate(targets):
            count, expected = len(target["labels"]), f"{len(target['boxes'])}, as many as boxes"
            check.that(count == len(target["boxes"]), f"the number of targets[{i}]['labels']", count, expected)
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        boxes, labels = [target["boxes"] for target in targets], [target["labels"] for target in targets]
        level_shapes, image_shape, dtype = getattr(self.anchor_generator, "recent", ([], None, None))
        # Anchors and outputs of 16 bits, under autocast, are rounded as torchvision rounds them: its own way is taken.
        exact = dtype == torch.float32 and all(own.dtype == torch.float32 and not own.requires_grad for own in boxes)
        if not self._accelerated.float32:
            exact = exact and not any(is_16_bit(of.dtype) for of in (logits, deltas))
        stays = "losses" not in self._accelerated.parts or _why_losses_stay(self, self.anchor_generator)
        if not exact or stays or is_traced():  # also what was changed since
            if self._accelerated.float32:
                head_outputs = {name: _widened(output) for name, output in head_outputs.items()}
            return super().compute_loss(targets, head_outputs, anchors)  # type: ignore[misc]
        grid, regression = self.anchor_generator.grid, self.head.regression_head
        of_anchors = matched(self, boxes, level_shapes, image_shape)
        return {
            "classification": focal_loss(logits, of_anchors, labels),
            "bbox_regression": box_loss(
                deltas,
                of_anchors,
                boxes,
                grid,
                image_shape,
                level_shapes=level_shapes,
                kind=regression._loss_type,
                beta=1.0,
                coder=BoxCoder.torchvision(regression.box_coder.weights, regression.box_coder.bbox_xform_clip),
            ),
        }

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> Any:
        if self._accelerated.float32:
            head_outputs = {name: list(map(_widened, levels)) for name, levels in head_outputs.items()}
        # Scores that are selected have no gradient, which torchvision's have.
        with_gradient = torch.is_grad_enabled() and any(level.requires_grad for level in head_outputs["cls_logits"])
        own_coder = type(self.box_coder) is not det_utils.BoxCoder  # type: ignore[attr-defined]
        if "postprocessing" not in self._accelerated.parts or with_gradient or own_coder or is_traced():
            return super().postprocess_detections(head_outputs, anchors, image_shapes)  # type: ignore[misc]
        found = select(
            head_outputs["cls_logits"],
            score_threshold=self.score_thresh,  # type: ignore[attr-defined]
            topk_per_level=self.topk_candidates,  # type: ignore[attr-defined]
        )
        deltas = torch.cat(head_outputs["bbox_regression"], dim=1)
        deltas = deltas.gather(1, found.indices[..., None].expand(-1, -1, 4))
        own = torch.stack([torch.cat(levels)[index] for levels, index in zip(anchors, found.indices, strict=True)])
        decoded = self.box_coder.decode_single(deltas.flatten(0, 1), own.flatten(0, 1))  # type: ignore[attr-defined]
        boxes = decoded.view(deltas.shape)
        clipped = torch.stack(list(map(clip_boxes_to_image, boxes, image_shapes)))
        return suppressed(found, clipped, self.nms_thresh, self.detections_per_img)  # type: ignore[attr-defined]


# What an instance may have of its own in place of its class's.
_OWN = ("compute_loss", "forward", "__call__", "set_low_quality_matches_", "encode", "encode_single")


def _why_losses_stay(model: Any, generator: Any) -> str:
    if why := why_not_ours(generator):
        return why
    head = model.head
    parts = {
        "head": (head, retinanet.RetinaNetHead),
        "head.classification_head": (getattr(head, "classification_head", None), retinanet.RetinaNetClassificationHead),
        "head.regression_head": (getattr(head, "regression_head", None), retinanet.RetinaNetRegressionHead),
        "head.regression_head.box_coder": (
            getattr(getattr(head, "regression_head", None), "box_coder", None),
            det_utils.BoxCoder,
        ),
        "proposal_matcher": (model.proposal_matcher, det_utils.Matcher),
    }
    for name, (part, expected) in parts.items():
        if type(part) is not expected or any(name in vars(part) for name in _OWN):
            return f"{name} is a {type(part).__name__} of its own; expected torchvision's {expected.__name__}"
    regression = head.regression_head
    if model.proposal_matcher.BETWEEN_THRESHOLDS != -2 or head.classification_head.BETWEEN_THRESHOLDS != -2:
        return "BETWEEN_THRESHOLDS is another than -2"
    if regression._loss_type not in ("l1", "smooth_l1", "giou"):
        return f"the box loss is {regression._loss_type}; expected l1, smooth_l1 or giou"
    return ""


def accelerate(model: Any, float32: bool) -> dict[str, str | None]:
    """Changes the model; every part with a reason why it is left, or None."""
    must_not_override(model, retinanet.RetinaNet, _REPLACED)
    left: dict[str, str] = {}
    generator = drop_in(model.anchor_generator)
    if isinstance(generator, str):
        left["anchors"] = generator
        left["losses"] = "they need the anchors"
        generator = model.anchor_generator
    elif why := _why_losses_stay(model, generator):
        left["losses"] = why
    if type(model.box_coder) is not det_utils.BoxCoder:
        left["postprocessing"] = f"box_coder is a {type(model.box_coder).__name__}; expected torchvision's BoxCoder"
    must_be_whole(float32, left, "anchors")
    swap(model, RetinaNet, generator, [part for part in _PARTS if part not in left], float32)
    return {part: left.get(part) for part in _PARTS}
