"""Deltas in torch's own operators: for exports to ONNX, and for derivatives of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _anchor_standard
from ._spec import layout_of
from .coders import BoxCoder, coder_of

__all__ = ["decode", "encode"]

Sides = Sequence[Any]  # ints, SymInts or, in a trace, tensors of no dimensions


def _anchors(
    index: Tensor | None, level_shapes: Sides | None, spec: str, device: torch.device, image_shape: Sides | None
) -> list[tuple[Tensor, Tensor]]:
    """Along x and along y the anchors' ends, float32."""
    call: dict[str, Any] = {"dtype": "float32", "image_shape": image_shape}
    if index is None:
        anchors = _anchor_standard.generate(level_shapes, spec, device=device, **call)
    else:
        anchors = _anchor_standard.gather(index, level_shapes, spec, **call)
    x, y = (0, 1) if layout_of(spec) == "xyxy" else (1, 0)
    return [(anchors[..., k], anchors[..., k + 2]) for k in (x, y)]


def _centre(of_ends: bool, low: Tensor, high: Tensor) -> Tensor:
    return (low + high) * 0.5 if of_ends else low + 0.5 * (high - low)


def _unscaled(coder: BoxCoder, delta: Tensor, k: int) -> Tensor:
    if coder.means is not None and coder.stds is not None:
        return delta * coder.stds[k] + coder.means[k]
    return delta / coder.weights[k]


def _scaled(coder: BoxCoder, value: Tensor, k: int) -> Tensor:
    if coder.means is not None and coder.stds is not None:
        return (value - coder.means[k]) / coder.stds[k]
    return coder.weights[k] * value


def _limits(limits: Sides | None, axis: int, like: Tensor) -> Tensor | None:
    """[1], or [images, 1]."""
    if not limits:
        return None
    sides = [
        side.reshape(1) if isinstance(side, Tensor) else torch.full((1,), side, dtype=torch.int64)
        for side in limits[1 - axis :: 2]
    ]
    together = torch.cat(sides).to(like.device, like.dtype)
    return together if len(sides) == 1 else together[:, None]


def decode(
    deltas: Tensor,
    index: Tensor | None,
    level_shapes: Sides | None,
    spec: str,
    coder: str,
    *,
    image_shape: Sides | None = None,
    limits: Sides | None = None,
) -> Tensor:
    given = coder_of(coder)
    deltas = deltas if deltas.dtype == torch.float64 else deltas.float()
    lows, highs = [], []
    for axis, (low, high) in enumerate(_anchors(index, level_shapes, spec, deltas.device, image_shape)):
        low, high = low.to(deltas.dtype), high.to(deltas.dtype)
        at = 1 - axis if given.order == "yxhw" else axis
        way = _unscaled(given, deltas[..., at], axis) * (high - low)
        if given.max_shift is not None:
            way = way.clamp(-given.max_shift, given.max_shift)
        ratio = _unscaled(given, deltas[..., at + 2], axis + 2)
        if given.max_log_ratio is not None:
            ratio = ratio.clamp(-given.max_log_ratio if given.clamp_both else None, given.max_log_ratio)
        centre = way + _centre(given.centres != "low_and_side", low, high)
        half = 0.5 * (ratio.exp() * (high - low))
        low, high = centre - half, centre + half
        most = _limits(limits, axis, deltas)
        if most is not None and given.clip != "no":
            low, high = low.clamp(min=0), torch.minimum(high, most)
            if given.clip == "image":
                low, high = torch.minimum(low, most), high.clamp(min=0)
        lows.append(low)
        highs.append(high)
    return torch.stack([*lows, *highs], dim=-1)


def encode(
    boxes: Tensor,
    index: Tensor,
    level_shapes: Sides | None,
    spec: str,
    coder: str,
    *,
    image_shape: Sides | None = None,
) -> Tensor:
    given = coder_of(coder)
    of_ends = given.centres == "ends"
    shifts, sizes = [], []
    for axis, (low, high) in enumerate(_anchors(index, level_shapes, spec, boxes.device, image_shape)):
        low, high = low.to(boxes.dtype), high.to(boxes.dtype)
        box_low, box_high = boxes[..., axis], boxes[..., axis + 2]
        way = _centre(of_ends, box_low, box_high) - _centre(of_ends, low, high)
        side = (box_high - box_low).clamp(min=given.min_side) if given.min_side > 0 else box_high - box_low
        anchor_side = high - low + given.eps
        # A weight is multiplied first; a mean is subtracted of the quotient.
        scale = given.weights[axis] if given.means is None else 1.0
        shift = scale * way / anchor_side
        shifts.append(shift if given.means is None else _scaled(given, shift, axis))
        sizes.append(_scaled(given, ((side + given.eps) / anchor_side).log(), axis + 2))
    order = (1, 0) if given.order == "yxhw" else (0, 1)
    return torch.stack([*(shifts[k] for k in order), *(sizes[k] for k in order)], dim=-1)
