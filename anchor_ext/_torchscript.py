"""What TorchScript compiles, which reads the sources of these functions and knows numbers, lists and tensors only.

In a trace sizes are tensors, and stay those of the image that the trace is called with.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["anchors_of_image", "gather", "generate", "inside", "valid_flags"]


def anchors_of_image(image: Tensor, spec: str) -> Tensor:
    """`Anchors.forward` in a scripted program."""
    shape = image.shape
    if len(shape) not in (3, 4) or shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(f"image has shape {shape}; expected (B, C, H, W) or (C, H, W) with H, W > 0")
    boxes: Tensor = torch.ops.anchor_ext.generate(
        None, spec, dtype="float32", device=image.device, image_shape=shape[-2:]
    )
    return boxes.unsqueeze(0)


def _integers(sides: list[Tensor]) -> list[int]:
    return [int(side) for side in sides]


def _integers_or_none(sides: list[Tensor] | None) -> list[int] | None:
    if sides is None:
        return None
    return _integers(sides)


def generate(
    level_shapes: list[Tensor] | None, spec: str, dtype: str, device: torch.device, image_shape: list[Tensor] | None,
    clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.generate(
        _integers_or_none(level_shapes), spec, dtype=dtype, device=device, image_shape=_integers_or_none(image_shape),
        clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def gather(
    index: Tensor, level_shapes: list[Tensor] | None, spec: str, dtype: str, image_shape: list[Tensor] | None,
    clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.gather(
        index, _integers_or_none(level_shapes), spec, dtype=dtype, image_shape=_integers_or_none(image_shape),
        clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def inside(
    level_shapes: list[Tensor] | None,
    spec: str,
    image_shape: list[Tensor],
    border: float,
    dtype: str,
    device: torch.device,
) -> Tensor:
    flags: Tensor = torch.ops.anchor_ext.inside(
        _integers_or_none(level_shapes), spec, _integers(image_shape), border, dtype=dtype, device=device
    )
    return flags


def valid_flags(
    level_shapes: list[Tensor] | None, spec: str, padded_shape: list[Tensor], device: torch.device,
    image_shape: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    flags: Tensor = torch.ops.anchor_ext.valid_flags(
        _integers_or_none(level_shapes), spec, _integers(padded_shape), device=device,
        image_shape=_integers_or_none(image_shape),
    )  # fmt: skip
    return flags
