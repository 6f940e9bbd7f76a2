"""What TorchScript compiles of the detectron2 generators: it reads this source, and knows numbers, lists and tensors
only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["anchors_of_sizes"]


def anchors_of_sizes(
    grid_sizes: list[list[int]],
    device: torch.device,
    spec: str,
    dtype: str,
    strides: list[float],
    starts: list[float],
    as_many: list[bool],
    counts: list[int],
) -> list[Tensor]:
    """Per grid its anchors; `strides` and the lists behind it have an entry per level.

    `as_many`: whether there are as many centres as cells, as it nearly always is; `counts`: of cell anchors.
    """
    if len(grid_sizes) > len(strides):
        raise ValueError(f"there are {len(grid_sizes)} features; expected at most {len(strides)}, one per level")
    sides: list[int] = []
    sizes: list[int] = []
    for level, stride in enumerate(strides):
        if level < len(grid_sizes):
            for side in grid_sizes[level]:
                cells = side if as_many[level] else math.ceil((side * stride - starts[level]) / stride)
                sides.append(cells)
        else:
            sides += [0, 0]
        sizes.append(sides[-1] * sides[-2] * counts[level])
    boxes: Tensor = torch.ops.anchor_ext.generate(sides, spec, dtype=dtype, device=device)
    return list(boxes.split(sizes)[: len(grid_sizes)])
