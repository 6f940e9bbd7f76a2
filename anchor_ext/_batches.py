"""Boxes and labels of a batch as users give them: a tensor per image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._arguments import is_sequence, shape_of, show
from ._spec import DTYPES

__all__ = ["ONE", "SEVERAL", "as_computed", "boxes_of", "labels_of", "must_be_alike", "one_image"]

_MOST = 2**22 - 1  # boxes of an image
ONE = "expected a tensor (n, 4)"
SEVERAL = f"{ONE}, or a list of them, one per image"


def one_image(name: str, boxes: Any, expected: str = SEVERAL) -> Tensor:
    """Boxes (n, 4) of a floating-point type."""
    if not isinstance(boxes, Tensor):
        raise TypeError(f"{name} is {show(boxes)}; {expected}")
    if boxes.is_nested or boxes.layout is not torch.strided or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} has layout {boxes.layout} and shape {shape_of(boxes)}; {expected}")
    if boxes.dtype not in DTYPES.values():
        raise TypeError(f"{name} has dtype {boxes.dtype}; expected float32, float64, float16 or bfloat16")
    return boxes.detach()


def boxes_of(name: str, boxes: Any) -> tuple[Tensor, list[int], bool]:
    """All boxes in one tensor, how many each image has, and whether there are several images."""
    is_batch = isinstance(boxes, (list, tuple))
    if is_batch and not boxes:
        raise ValueError(f"{name} is empty; {SEVERAL}")
    images = [
        one_image(f"{name}[{i}]" if is_batch else name, one) for i, one in enumerate(boxes if is_batch else [boxes])
    ]
    for i, one in enumerate(images):
        if isinstance(one.shape[0], int) and one.shape[0] > _MOST:
            raise ValueError(f"{name}{[i] if is_batch else ''} has {one.shape[0]} rows; expected at most {_MOST}")
        must_be_alike(f"{name}[{i}]", one, images[0], f"{name}[0]")
    together = as_computed(torch.cat(images) if is_batch else images[0])
    return together, [one.shape[0] for one in images], is_batch


def as_computed(boxes: Tensor) -> Tensor:
    """Those of 16 bits in float32."""
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def must_be_alike(name: str, tensor: Tensor, first: Tensor, name_of_first: str) -> None:
    """In device and dtype."""
    for what in ("device", "dtype"):
        value, expected = getattr(tensor, what), getattr(first, what)
        if value != expected:
            raise ValueError(f"{name} has {what} {value}; expected {expected}, as {name_of_first} has")


def labels_of(labels: Any, images: Any, like: Tensor, name_of_like: str) -> tuple[Tensor, list[int]]:
    """The classes of all images' boxes, int64 on the device of `like`, and how many each image has."""
    expected = f"expected {images} tensors of integers, one per image"
    if isinstance(labels, Tensor) or not is_sequence(labels):
        raise TypeError(f"labels is {show(labels)}; {expected}")
    if len(labels) != images:
        raise ValueError(f"labels has {len(labels)} images; {expected}")
    for i, one in enumerate(labels):
        if not isinstance(one, Tensor) or one.dtype not in (torch.int64, torch.int32) or one.ndim != 1:
            raise TypeError(f"labels[{i}] is {show(one)}; expected a tensor of integers (boxes,)")
        if one.device != like.device:
            raise ValueError(f"labels[{i}] is on device {one.device}; expected {like.device}, as {name_of_like} is")
    together = torch.cat([one.long() for one in labels]) if labels else torch.zeros(0, dtype=torch.int64)
    return together.to(like.device), [one.shape[0] for one in labels]
