"""torchvision's SSD and SSDlite with anchor_ext's default boxes and matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection import ssd
from torchvision.ops import boxes as box_ops

from .._recording import is_traced
from ..matchers import SSDMatcher
from . import _check as check
from ._torchvision_swapped import Swapped, drop_in, must_not_override, swap, why_not_ours

__all__ = ["accelerate"]

_PARTS = ("anchors", "matching", "postprocessing")


def _is_good(target: Any) -> bool:
    boxes = target["boxes"]
    return isinstance(boxes, Tensor) and boxes.ndim == 2 and boxes.shape[-1] == 4


class SSD(Swapped):
    """The replacing methods."""

    anchor_generator: Any
    proposal_matcher: Any
    training: bool

    def forward(self, images: Any, targets: Any = None) -> Any:
        """torchvision's own in training, but for the matching: it has no method that could be replaced alone."""
        own: Any = self
        if not self.training or "matching" not in self._accelerated.parts or is_traced():
            return super().forward(images, targets)  # type: ignore[misc]
        if targets is None or not all(map(_is_good, targets)):
            return super().forward(images, targets)  # type: ignore[misc]  # says what is wrong
        together, resized = own.transform(images, targets)
        if any((target["boxes"][:, 2:] <= target["boxes"][:, :2]).any() for target in resized):
            return super().forward(images, targets)  # type: ignore[misc]  # the same
        features = own.backbone(together.tensors)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        outputs = own.head(features)
        anchors = self.anchor_generator(together, features)
        boxes = [target["boxes"] for target in resized]
        level_shapes = [feature.shape[-2:] for feature in features]
        exact = features[0].dtype == torch.float32 and all(one.dtype == torch.float32 for one in boxes)
        if exact and not _why_matching(self, self.anchor_generator, len(features)):  # also what was changed since
            rule = SSDMatcher(self.proposal_matcher.high_threshold)
            shape = together.tensors.shape[-2:]
            matched = list(self.anchor_generator.grid.match(boxes, level_shapes, image_shape=shape, matcher=rule))
        else:
            matched = [self._matched(*pair) for pair in zip(boxes, anchors, strict=True)]
        return own.eager_outputs(own.compute_loss(resized, outputs, anchors, matched), [])

    def _matched(self, boxes: Tensor, anchors: Tensor) -> Any:
        """torchvision's way, of one image."""
        if boxes.numel() == 0:
            return torch.full((len(anchors),), -1, device=anchors.device)
        return self.proposal_matcher(box_ops.box_iou(boxes, anchors))


def _why_matching(model: Any, generator: Any, levels: int | None = None) -> str:
    if why := why_not_ours(generator):
        return why
    matcher = model.proposal_matcher
    if type(matcher) is not det_utils.SSDMatcher:
        return f"proposal_matcher is a {type(matcher).__name__}; expected torchvision's SSDMatcher"
    if matcher.low_threshold != matcher.high_threshold or matcher.allow_low_quality_matches:
        return "proposal_matcher has two thresholds or allow_low_quality_matches; expected one threshold"
    if matcher.BELOW_LOW_THRESHOLD != -1:
        return "proposal_matcher.BELOW_LOW_THRESHOLD is another than -1"
    if levels not in (None, len(generator.num_anchors_per_location())):
        return "there are fewer feature maps than levels"
    return ""


def accelerate(model: Any, float32: bool) -> dict[str, str | None]:
    """Changes the model; every part with a reason why it is left, or None."""
    expected = "False for an SSD, whose losses and boxes stay torchvision's"
    check.that(not float32, "float32", float32, expected)
    must_not_override(model, ssd.SSD, ("forward",))
    left = {"postprocessing": "its loop over classes stays torchvision's"}
    generator = drop_in(model.anchor_generator)
    if isinstance(generator, str):
        left["anchors"] = generator
        left["matching"] = "it needs the anchors"
        generator = model.anchor_generator
    elif why := _why_matching(model, generator):
        left["matching"] = why
    swap(model, SSD, generator, [part for part in _PARTS if part not in left])
    return {part: left.get(part) for part in _PARTS}
