"""What torch.jit.trace records of make_anchors: a scripted function, which asks its feature map for the device in every
run. TorchScript reads this source, and knows numbers, lists and tensors only."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from .._recording import unseen_by_trace

__all__ = ["generate_like"]


def _generate_like(feature: Tensor, level_shapes: list[Tensor], spec: str, dtype: str) -> Tensor:
    sides = [int(side) for side in level_shapes]
    anchors: Tensor = torch.ops.anchor_ext.generate(sides, spec, dtype=dtype, device=feature.device)
    return anchors


@functools.cache
def _scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old, whoever traces has heard
        return torch.jit.script(_generate_like)


def generate_like(feature: Tensor, level_shapes: list[Any], spec: str, dtype: str) -> Tensor:
    """The anchors of a spec on the device of `feature`, in a trace; of its sizes some may be tensors."""
    with unseen_by_trace():
        sides = [side if isinstance(side, Tensor) else torch.tensor(side, device="cpu") for side in level_shapes]
    anchors: Tensor = _scripted()(feature, sides, spec, dtype)
    return anchors
