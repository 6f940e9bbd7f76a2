"""What TorchScript compiles, which reads the sources of these functions and knows numbers, lists and tensors only.

A trace cannot hold an operator that takes a device, but it can hold a scripted function that calls one. Its sizes come
as tensors, as a trace has them, and stay those of the image that the trace is called with.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["anchors_of_image", "scripted"]


def anchors_of_image(
    image: Tensor, pyramid_levels: list[int], strides: list[float], cell_anchors: list[float],
    num_cell_anchors: list[int],
) -> Tensor:  # fmt: skip
    """`Anchors.forward` in a scripted program."""
    shape = image.shape
    if len(shape) not in (3, 4) or shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(f"image has shape {shape}; expected (B, C, H, W) or (C, H, W) with H, W > 0")
    sides: list[int] = []
    for level in pyramid_levels:
        for side in shape[-2:]:
            sides.append((side + (1 << level) - 1) >> level)
    boxes: Tensor = torch.ops.anchor_ext.generate(
        sides, strides, cell_anchors, num_cell_anchors, dtype="float32", device=image.device
    )
    return boxes.unsqueeze(0)


def _integers(sides: list[Tensor]) -> list[int]:
    return [int(side) for side in sides]


def _integers_or_none(sides: list[Tensor] | None) -> list[int] | None:
    if sides is None:
        return None
    return _integers(sides)


def _generate(
    level_shapes: list[Tensor], strides: list[float] | None, cell_anchors: list[float], num_cell_anchors: list[int],
    dtype: str, device: torch.device, offsets: list[float] | None, starts: list[float] | None, arithmetic: str,
    layout: str, image_shape: list[Tensor] | None, clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.generate(
        _integers(level_shapes), strides, cell_anchors, num_cell_anchors, dtype=dtype, device=device, offsets=offsets,
        starts=starts, arithmetic=arithmetic, layout=layout, image_shape=_integers_or_none(image_shape),
        clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def _gather(
    index: Tensor, level_shapes: list[Tensor], strides: list[float] | None, cell_anchors: list[float],
    num_cell_anchors: list[int], dtype: str, offsets: list[float] | None, starts: list[float] | None, arithmetic: str,
    layout: str, image_shape: list[Tensor] | None, clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.gather(
        index, _integers(level_shapes), strides, cell_anchors, num_cell_anchors, dtype=dtype, offsets=offsets,
        starts=starts, arithmetic=arithmetic, layout=layout, image_shape=_integers_or_none(image_shape),
        clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def _inside(
    level_shapes: list[Tensor], strides: list[float] | None, cell_anchors: list[float], num_cell_anchors: list[int],
    image_shape: list[Tensor], border: float, dtype: str, device: torch.device, offsets: list[float] | None,
    starts: list[float] | None, arithmetic: str, layout: str,
) -> Tensor:  # fmt: skip
    flags: Tensor = torch.ops.anchor_ext.inside(
        _integers(level_shapes), strides, cell_anchors, num_cell_anchors, _integers(image_shape), border, dtype=dtype,
        device=device, offsets=offsets, starts=starts, arithmetic=arithmetic, layout=layout,
    )  # fmt: skip
    return flags


def _valid_flags(
    level_shapes: list[Tensor], strides: list[float] | None, num_cell_anchors: list[int], padded_shape: list[Tensor],
    device: torch.device, arithmetic: str, image_shape: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    flags: Tensor = torch.ops.anchor_ext.valid_flags(
        _integers(level_shapes), strides, num_cell_anchors, _integers(padded_shape), device=device,
        arithmetic=arithmetic, image_shape=_integers_or_none(image_shape),
    )  # fmt: skip
    return flags


_FUNCTIONS = {"generate": _generate, "gather": _gather, "inside": _inside, "valid_flags": _valid_flags}


@functools.cache
def scripted(operator: str) -> Any:
    """The operator, with its sizes as tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old, whoever traces has heard
        return torch.jit.script(_FUNCTIONS[operator])
