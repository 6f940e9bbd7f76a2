"""torchvision's detectors with anchor_ext in place of what stands around the network."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torchvision.models.detection import faster_rcnn, retinanet, ssd

from . import _check as check
from . import _torchvision_retinanet, _torchvision_rpn, _torchvision_ssd
from ._torchvision_swapped import Swapped, undo

__all__ = ["Accelerated", "accelerate", "restore"]

_DETECTORS = (
    (retinanet.RetinaNet, _torchvision_retinanet.accelerate),
    (faster_rcnn.FasterRCNN, _torchvision_rpn.accelerate),  # of which MaskRCNN and KeypointRCNN are
    (ssd.SSD, _torchvision_ssd.accelerate),
)
_EXPECTED = (
    "a RetinaNet of torchvision's, or its FasterRCNN, MaskRCNN, KeypointRCNN or SSD, without another module around it"
)


@dataclasses.dataclass(frozen=True)
class Accelerated:
    """What `accelerate` has replaced in a model, and what it has left alone, each with the reason."""

    replaced: tuple[str, ...]
    left: dict[str, str]


def _module_of(model: Any) -> Any:
    """The detector inside of what torch.compile or data-parallel training has wrapped around it."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def _undo_all(module: Any) -> None:
    for part in (module, getattr(module, "rpn", None)):
        if isinstance(part, Swapped):
            undo(part)


def accelerate(model: Any, float32: bool) -> Accelerated:
    """The call behind `anchor_ext.compat.torchvision.accelerate`."""
    check.that(isinstance(float32, bool), "float32", float32, "True or False")
    module = _module_of(model)
    for detector, change in _DETECTORS:
        if isinstance(module, detector):
            _undo_all(module)
            parts = change(module, float32)
            left = {part: why for part, why in parts.items() if why is not None}
            return Accelerated(tuple(part for part in parts if part not in left), left)
    raise check.CompatError(f"model is {check.show(type(module).__name__)}; expected {_EXPECTED}")


def restore(model: Any) -> None:
    """The call behind `anchor_ext.compat.torchvision.restore`."""
    module = _module_of(model)
    check.that(isinstance(module, Swapped), "model", type(module).__name__, "one that accelerate has changed")
    _undo_all(module)
