"""The region proposal network of torchvision's FasterRCNN, MaskRCNN and KeypointRCNN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection import rpn
from torchvision.ops import boxes as box_ops

from .._recording import is_traced
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

_PARTS = ("anchors", "losses", "proposals")
_REPLACED = ("forward", "assign_targets_to_anchors", "filter_proposals", "compute_loss")


class Detector(Swapped):
    """A FasterRCNN whose `rpn` is changed; its own methods stay."""


class RegionProposalNetwork(Swapped):
    """The replacing methods."""

    anchor_generator: Any
    box_coder: Any
    fg_bg_sampler: Any
    head: Any
    proposal_matcher: Any
    training: bool

    def forward(self, images: Any, features: dict[str, Tensor], targets: Any = None) -> Any:
        parts = self._accelerated.parts
        # What was changed since counts. TorchScript's tracer needs torchvision's own topk.
        changed = not _REPLACED_SET.isdisjoint(vars(self)) or _why_coder(self)
        if "proposals" not in parts or changed or is_traced():
            return super().forward(images, features, targets)  # type: ignore[misc]
        maps = list(features.values())
        per_level, deltas_per_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        sizes = [level[0].numel() for level in per_level]
        objectness, deltas = rpn.concat_box_prediction_layers(per_level, deltas_per_level)
        if self._accelerated.float32 and is_16_bit(objectness.dtype):
            objectness, deltas = objectness.float(), deltas.float()
        boxes = self._proposals(objectness, deltas, anchors, images.image_sizes, sizes)
        if not self.training:
            return boxes, {}
        if targets is None:
            raise ValueError("targets should not be None")
        if "losses" in parts and self._is_exact(anchors, targets):
            truth = [target["boxes"] for target in targets]
            of_anchors = matched(self, truth, [feature.shape[-2:] for feature in maps], images.tensors.shape[-2:])
            losses = self._losses(objectness, deltas, anchors, truth, of_anchors)
        else:
            labels, theirs = self.assign_targets_to_anchors(anchors, targets)  # type: ignore[attr-defined]
            encoded = self.box_coder.encode(theirs, anchors)
            losses = self.compute_loss(objectness, deltas, labels, encoded)  # type: ignore[attr-defined]
        return boxes, dict(zip(("loss_objectness", "loss_rpn_box_reg"), losses, strict=True))

    def _proposals(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], image_shapes: Any, sizes: list[int]
    ) -> list[Tensor]:
        """As `filter_proposals`, of boxes that are decoded after the best of each level are chosen."""
        own: Any = self
        objectness = objectness.detach().reshape(len(anchors), -1)
        chosen = own._get_top_n_idx(objectness, sizes)
        scores = objectness.gather(1, chosen).sigmoid()
        deltas = deltas.detach().view(len(anchors), -1, 4).gather(1, chosen[..., None].expand(-1, -1, 4))
        moved = torch.stack([of_image[index] for of_image, index in zip(anchors, chosen, strict=True)])
        decoded = self.box_coder.decode_single(deltas.flatten(0, 1), moved.flatten(0, 1)).view(*chosen.shape, 4)
        counts = [min(size, own.pre_nms_top_n()) for size in sizes]
        levels = torch.cat([chosen.new_full((count,), level) for level, count in enumerate(counts)])
        result = []
        for boxes, of_image, shape in zip(decoded, scores, image_shapes, strict=False):
            boxes = box_ops.clip_boxes_to_image(boxes, shape)
            keep = box_ops.remove_small_boxes(boxes, own.min_size)
            keep = keep[of_image[keep] >= own.score_thresh]
            boxes = boxes[keep]
            keep = box_ops.batched_nms(boxes, of_image[keep], levels[keep], own.nms_thresh)
            result.append(boxes[keep[: own.post_nms_top_n()]])
        return result

    def _is_exact(self, anchors: list[Tensor], targets: Any) -> bool:
        """Whether the grid's anchors are these, and boxes those that it takes."""
        if anchors[0].dtype != torch.float32 or _why_losses(self, self.anchor_generator):
            return False
        boxes = [target["boxes"] for target in targets]
        return all(own.dtype == torch.float32 and own.ndim == 2 and own.shape[1] == 4 for own in boxes)

    def _losses(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], boxes: list[Tensor], of_anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `compute_loss`, with targets of the sampled anchors alone."""
        labels = (of_anchors >= 0).to(torch.float32) - (of_anchors == -2).to(torch.float32)
        of_images = self.fg_bg_sampler(list(labels.unbind()))
        positive, negative = (torch.where(torch.cat(masks))[0] for masks in of_images)
        sampled = torch.cat([positive, negative])
        images = [torch.where(mask)[0] for mask in of_images[0]]
        truth = [own[row[index]] for own, row, index in zip(boxes, of_anchors, images, strict=True)]
        theirs = [of_image[index] for of_image, index in zip(anchors, images, strict=True)]
        encoded = self.box_coder.encode_single(torch.cat(truth), torch.cat(theirs))
        box_loss = functional.smooth_l1_loss(deltas[positive], encoded, beta=1 / 9, reduction="sum") / sampled.numel()
        chosen, wanted = objectness.flatten()[sampled], labels.flatten()[sampled]
        return functional.binary_cross_entropy_with_logits(chosen, wanted), box_loss


_REPLACED_SET = frozenset(_REPLACED)


def _why_coder(module: Any) -> str:
    coder = module.box_coder
    if type(coder) is not det_utils.BoxCoder or not vars(coder).keys() <= {"weights", "bbox_xform_clip"}:
        return f"box_coder is a {type(coder).__name__} of its own; expected torchvision's BoxCoder"
    return ""


def _why_losses(module: Any, generator: Any) -> str:
    if why := why_not_ours(generator) or _why_coder(module):
        return why
    matcher, sampler = module.proposal_matcher, module.fg_bg_sampler
    if type(matcher) is not det_utils.Matcher or "set_low_quality_matches_" in vars(matcher):
        return f"proposal_matcher is a {type(matcher).__name__}; expected torchvision's Matcher"
    if (matcher.BELOW_LOW_THRESHOLD, matcher.BETWEEN_THRESHOLDS) != (-1, -2):
        return "proposal_matcher's BELOW_LOW_THRESHOLD and BETWEEN_THRESHOLDS are others than -1 and -2"
    if type(sampler) is not det_utils.BalancedPositiveNegativeSampler:
        return f"fg_bg_sampler is a {type(sampler).__name__}; expected torchvision's BalancedPositiveNegativeSampler"
    if module.box_similarity is not box_ops.box_iou:
        return "box_similarity is another than box_iou"
    return ""


def accelerate(model: Any, float32: bool) -> dict[str, str | None]:
    """Changes the model; every part with a reason why it is left, or None."""
    module = model.rpn
    expected = "torchvision's RegionProposalNetwork"
    check.that(isinstance(module, rpn.RegionProposalNetwork), "model.rpn", type(module).__name__, expected)
    must_not_override(module, rpn.RegionProposalNetwork, _REPLACED)
    check.that(type(module) is rpn.RegionProposalNetwork, "model.rpn", type(module).__name__, f"exactly {expected}")
    left: dict[str, str] = {}
    generator = drop_in(module.anchor_generator)
    if isinstance(generator, str):
        left["anchors"] = generator
        left["losses"] = "they need the anchors"
        generator = module.anchor_generator
    elif why := _why_losses(module, generator):
        left["losses"] = why
    if why := _why_coder(module):
        left["proposals"] = why
    must_be_whole(float32, left, "anchors", "proposals")
    swap(module, RegionProposalNetwork, generator, [part for part in _PARTS if part not in left], float32)
    swap(model, Detector)
    return {part: left.get(part) for part in _PARTS}
