"""What TorchScript compiles of the detectron2 generators' forward: it reads this source, and knows numbers, lists and
tensors only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["anchors_of_features"]


def anchors_of_features(
    features: list[Tensor],
    spec: str,
    strides: list[float],
    starts: list[float],
    as_many: list[bool],
    counts: list[int],
    dtype: str,
) -> list[Tensor]:
    """Per feature map its anchors; `strides` and the lists behind it have an entry per level.

    `as_many`: whether there are as many centres as cells, as it nearly always is; `counts`: of cell anchors.
    """
    if len(features) > len(strides):
        raise ValueError(f"features has {len(features)} entries; expected at most {len(strides)}, one per level")
    if len(features) == 0:
        return []
    sides: list[int] = []
    sizes: list[int] = []
    for level, stride in enumerate(strides):
        size = 0
        if level < len(features):
            for side in features[level].shape[-2:]:
                cells = side if as_many[level] else math.ceil((side * stride - starts[level]) / stride)
                sides.append(cells)
            size = sides[-1] * sides[-2] * counts[level]
        else:
            sides += [0, 0]
        sizes.append(size)
    boxes: Tensor = torch.ops.anchor_ext.generate(sides, spec, dtype=dtype, device=features[0].device)
    return list(boxes.split(sizes)[: len(features)])
