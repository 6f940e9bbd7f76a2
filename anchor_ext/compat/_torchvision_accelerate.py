"""torchvision's detectors with anchor_ext in place of what stands around the network."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection import retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator as _Original
from torchvision.ops import batched_nms, clip_boxes_to_image

from .. import select
from ..coders import BoxCoder
from ..losses import box_loss, focal_loss
from . import _check as check
from .torchvision import AnchorGenerator

__all__ = ["Accelerated", "accelerate", "restore"]

_REPLACED = ("compute_loss", "postprocess_detections")


@dataclasses.dataclass(frozen=True)
class Accelerated:
    """What `accelerate` has replaced in a model, and what it has left alone, each with the reason."""

    replaced: tuple[str, ...]
    left: dict[str, str]


@dataclasses.dataclass
class _State:
    """What an accelerated model keeps of itself as it was."""

    generator: nn.Module
    losses: bool
    postprocessing: bool


def _remember(generator: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], anchors: Any) -> None:
    """A forward hook: what the last anchors were made for, which the loss has to know."""
    images, features = (*arguments, *(keywords[name] for name in ("image_list", "feature_maps") if name in keywords))
    generator.recent = ([feature.shape[-2:] for feature in features], images.tensors.shape[-2:], features[0].dtype)


class _RetinaNet:
    """The replaced methods; the other base is the model's own class."""

    _accelerated: _State
    anchor_generator: Any
    proposal_matcher: Any
    head: Any

    def compute_loss(self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: Any) -> Any:
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        boxes, labels = [target["boxes"] for target in targets], [target["labels"] for target in targets]
        level_shapes, image_shape, dtype = getattr(self.anchor_generator, "recent", ([], None, None))
        # Anchors of 16 bits, under autocast, are rounded as torchvision rounds them: its own way is taken.
        exact = dtype == torch.float32 and all(own.dtype == torch.float32 for own in boxes)
        if not self._accelerated.losses or not exact or _why_losses_stay(self):  # also what was changed since
            return super().compute_loss(targets, head_outputs, anchors)  # type: ignore[misc]
        grid, matcher, regression = self.anchor_generator.grid, self.proposal_matcher, self.head.regression_head
        matched = grid.match(
            boxes,
            level_shapes,
            image_shape=image_shape,
            high=matcher.high_threshold,
            low=matcher.low_threshold,
            allow_low_quality=matcher.allow_low_quality_matches,
        )
        return {
            "classification": focal_loss(logits, matched, labels),
            "bbox_regression": box_loss(
                deltas,
                matched,
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
        # Scores that are selected have no gradient, which torchvision's have.
        with_gradient = torch.is_grad_enabled() and any(level.requires_grad for level in head_outputs["cls_logits"])
        if not self._accelerated.postprocessing or with_gradient or type(self.box_coder) is not det_utils.BoxCoder:  # type: ignore[attr-defined]
            return super().postprocess_detections(head_outputs, anchors, image_shapes)  # type: ignore[misc]
        found = select(
            head_outputs["cls_logits"],
            score_threshold=self.score_thresh,  # type: ignore[attr-defined]
            topk_per_level=self.topk_candidates,  # type: ignore[attr-defined]
        )
        deltas = torch.cat(head_outputs["bbox_regression"], dim=1)
        deltas = deltas.gather(1, found.indices[..., None].expand(-1, -1, 4))
        own = torch.cat(anchors[0])[found.indices]  # of every image the same
        decoded = self.box_coder.decode_single(deltas.flatten(0, 1), own.flatten(0, 1))  # type: ignore[attr-defined]
        clipped = [
            clip_boxes_to_image(boxes, shape)
            for boxes, shape in zip(decoded.view(deltas.shape), image_shapes, strict=True)
        ]
        detections = []
        for i, count in enumerate(found.counts.tolist()):  # the only wait for a device before those inside nms
            boxes, scores, labels = clipped[i][:count], found.scores[i, :count], found.labels[i, :count]
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)  # type: ignore[attr-defined]
            keep = keep[: self.detections_per_img]  # type: ignore[attr-defined]
            detections.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return detections

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new, (type(self).__mro__[2],), self.__dict__

    def __prepare_scriptable__(self) -> nn.Module:
        """torch's hook: TorchScript gets the model as it was, but for the anchors."""
        scriptable = copy.copy(self)
        _undo(scriptable, keeps_generator=True)
        return scriptable  # type: ignore[return-value]


_CLASSES: dict[Any, Any] = {}


def _class_of(original: Any) -> Any:
    if original not in _CLASSES:
        names = {"__module__": original.__module__, "__doc__": original.__doc__}
        _CLASSES[original] = type(original.__name__, (_RetinaNet, original), names)
    return _CLASSES[original]


def _new(original: Any) -> Any:
    made = _class_of(original)
    return made.__new__(made)  # as copy and pickle make one


def _undo(model: Any, *, keeps_generator: bool = False) -> None:
    state = model.__dict__.pop("_accelerated")
    object.__setattr__(model, "__class__", type(model).__mro__[2])
    if not keeps_generator:
        hooks = model.anchor_generator._forward_hooks
        for key in [key for key, hook in hooks.items() if hook is _remember]:
            del hooks[key]
            model.anchor_generator._forward_hooks_with_kwargs.pop(key, None)
        vars(model.anchor_generator).pop("recent", None)  # whoever shares the generator goes torchvision's way
        model.anchor_generator = state.generator


def _module_of(model: Any) -> Any:
    """The detector inside of what torch.compile or data-parallel training has wrapped around it."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _drop_in(generator: Any) -> Any:
    """Ours in the place of torchvision's, or why not."""
    if type(generator) is AnchorGenerator:
        return generator
    if generator._forward_hooks or generator._forward_pre_hooks:
        return "anchor_generator has hooks"
    if type(generator) is not _Original:
        return f"anchor_generator is a {type(generator).__name__}; expected torchvision's AnchorGenerator"
    made = AnchorGenerator(generator.sizes, generator.aspect_ratios)
    pairs = zip(made.cell_anchors, generator.cell_anchors, strict=False)
    if len(made.cell_anchors) != len(generator.cell_anchors) or not all(torch.equal(a, b.cpu()) for a, b in pairs):
        return "anchor_generator.cell_anchors are not those of its sizes and aspect_ratios"
    return made


# What an instance may have of its own in place of its class's.
_OWN = frozenset(("compute_loss", "forward", "__call__"))


def _why_losses_stay(model: Any) -> str:
    head = model.head
    parts = {
        "head": (head, retinanet.RetinaNetHead),
        "head.classification_head": (getattr(head, "classification_head", None), retinanet.RetinaNetClassificationHead),
        "head.regression_head": (getattr(head, "regression_head", None), retinanet.RetinaNetRegressionHead),
        "proposal_matcher": (model.proposal_matcher, det_utils.Matcher),
    }
    for name, (part, expected) in parts.items():
        if type(part) is not expected or not _OWN.isdisjoint(vars(part)):
            return f"{name} is a {type(part).__name__} of its own; expected torchvision's {expected.__name__}"
    regression = head.regression_head
    if model.proposal_matcher.BETWEEN_THRESHOLDS != -2 or head.classification_head.BETWEEN_THRESHOLDS != -2:
        return "BETWEEN_THRESHOLDS is another than -2"
    if type(regression.box_coder) is not det_utils.BoxCoder:
        return f"head.regression_head.box_coder is a {type(regression.box_coder).__name__}; expected BoxCoder"
    if regression._loss_type not in ("l1", "smooth_l1", "giou"):
        return f"the box loss is {regression._loss_type}; expected l1, smooth_l1 or giou"
    return ""


def accelerate(model: Any) -> Accelerated:
    """The call behind `anchor_ext.compat.torchvision.accelerate`."""
    module = _module_of(model)
    check.that(isinstance(module, retinanet.RetinaNet), "model", type(module).__name__, "a RetinaNet of torchvision's")
    if isinstance(module, _RetinaNet):
        restore(module)
    for name in _REPLACED:
        own = getattr(type(module), name) is not getattr(retinanet.RetinaNet, name) or name in vars(module)
        check.that(not own, f"{type(module).__name__}.{name}", "overridden", "torchvision's own, which it replaces")
    left: dict[str, str] = {}
    generator = _drop_in(module.anchor_generator)
    if isinstance(generator, str):
        left["anchors"] = generator
        left["losses"] = "they need the anchors"
        generator = module.anchor_generator
    elif why := _why_losses_stay(module):
        left["losses"] = why
    if type(module.box_coder) is not det_utils.BoxCoder:
        left["postprocessing"] = f"box_coder is a {type(module.box_coder).__name__}; expected torchvision's BoxCoder"
    module._accelerated = _State(module.anchor_generator, "losses" not in left, "postprocessing" not in left)
    module.anchor_generator = generator
    if "anchors" not in left:
        generator.register_forward_hook(_remember, with_kwargs=True)
    object.__setattr__(module, "__class__", _class_of(type(module)))
    replaced = tuple(part for part in ("anchors", "losses", "postprocessing") if part not in left)
    return Accelerated(replaced, left)


def restore(model: Any) -> None:
    """The call behind `anchor_ext.compat.torchvision.restore`."""
    module = _module_of(model)
    check.that(isinstance(module, _RetinaNet), "model", type(module).__name__, "one that accelerate has changed")
    _undo(module)
