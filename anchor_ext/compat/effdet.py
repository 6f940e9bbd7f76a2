"""effdet's `Anchors` (effdet.anchors), EfficientDet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..grid import AnchorGrid
from . import _check as check

__all__ = ["Anchors"]


class Anchors(nn.Module):
    """effdet's Anchors: the same boxes bit for bit, made by one launch when the module is constructed.

    A level's grid is the image's, halved `level` times and rounded up each time; its stride is the fraction
    `image / cells` along each axis. Per cell, all aspect ratios of the first octave scale `2**(i / num_scales)`, then
    of the next. Computed in float64, rounded once to float32.

    The boxes are a persistent buffer, as in effdet, so that checkpoints of either load into the other.

    Args:
        min_level, max_level: the pyramid levels, both included.
        num_scales: octave scales per level.
        aspect_ratios: pairs (x, y) of factors of the width and the height; or numbers, width / height.
        anchor_scale: size of the cell anchors in strides: one number, or one per level.
        image_size: (H, W).
    """

    boxes: Tensor  # [N, 4] float32: y1, x1, y2, x2

    def __init__(
        self,
        min_level: int,
        max_level: int,
        num_scales: int,
        aspect_ratios: Sequence[Any],
        anchor_scale: float | Sequence[float],
        image_size: Sequence[int],
    ) -> None:
        super().__init__()
        check.whole("min_level", min_level, 0, 30)
        check.whole("max_level", max_level, min_level, 30)
        check.whole("num_scales", num_scales, 1, 512)
        levels = range(min_level, max_level + 1)
        two = isinstance(image_size, Sequence) and len(image_size) == 2
        check.that(two, "image_size", image_size, "two positive integers (height, width)")
        for i, side in enumerate(image_size):
            check.whole(f"image_size[{i}]", side, 1)
        check.pairs("aspect_ratios", aspect_ratios)
        if isinstance(anchor_scale, Sequence):
            check.numbers("anchor_scale", anchor_scale, levels=len(levels))
        else:
            check.number("anchor_scale", anchor_scale)
        scales = list(anchor_scale) if isinstance(anchor_scale, Sequence) else [anchor_scale] * len(levels)
        self.min_level = min_level
        self.max_level = max_level
        self.num_scales = num_scales
        self.aspect_ratios = aspect_ratios
        self.anchor_scales = anchor_scale if isinstance(anchor_scale, Sequence) else scales
        self.image_size = tuple(image_size)
        self.feat_sizes = [tuple(image_size)]
        for _ in range(max_level):
            self.feat_sizes.append(tuple((side + 1) // 2 for side in self.feat_sizes[-1]))
        self.config = {
            level: [
                (stride, octave / float(num_scales), ratio, scale)
                for octave in range(num_scales)
                for ratio in aspect_ratios
            ]
            for level, stride, scale in zip(levels, map(self._stride, levels), scales, strict=True)
        }
        self.register_buffer("boxes", self._generate_boxes())

    @classmethod
    def from_config(cls, config: Any) -> Anchors:
        """From effdet's model configuration."""
        return cls(
            config.min_level,
            config.max_level,
            config.num_scales,
            config.aspect_ratios,
            config.anchor_scale,
            config.image_size,
        )

    def get_anchors_per_location(self) -> int:
        """How many anchors a cell has."""
        return self.num_scales * len(self.aspect_ratios)

    def _stride(self, level: int) -> tuple[float, float]:
        (height, width), (rows, columns) = self.feat_sizes[0], self.feat_sizes[level]
        return height / float(rows), width / float(columns)

    def _generate_boxes(self) -> Tensor:
        # effdet's centres are numpy.arange's: from half a stride on, in steps of what is left of a stride when the
        # first centre is subtracted from the second one.
        strides = [self._stride(level) for level in self.config]
        halves = [(y / 2, x / 2) for y, x in strides]
        steps = [((b + y) - b, (a + x) - a) for (y, x), (b, a) in zip(strides, halves, strict=True)]
        pairs = [_factors(ratio) for ratio in self.aspect_ratios] * self.num_scales
        cell_anchors = [
            [
                _cell_anchor(stride, octave, pair, scale)
                for (stride, octave, _, scale), pair in zip(entries, pairs, strict=True)
            ]
            for entries in self.config.values()
        ]
        grid = AnchorGrid(cell_anchors, steps, offset=0.0, start=halves, layout="yxyx")
        return grid([self.feat_sizes[level] for level in self.config], device="cpu")

    def extra_repr(self) -> str:
        return (
            f"levels={self.min_level}..{self.max_level}, image_size={self.image_size}, boxes={tuple(self.boxes.shape)}"
        )


def _factors(ratio: Any) -> tuple[float, float]:
    """Of the width and the height."""
    if isinstance(ratio, Sequence):
        return ratio[0], ratio[1]
    root = math.sqrt(ratio)
    return root, 1.0 / root


def _cell_anchor(
    stride: tuple[float, float], octave: float, factors: tuple[float, float], scale: float
) -> tuple[float, float, float, float]:
    half_height = scale * stride[0] * 2**octave * factors[1] / 2.0
    half_width = scale * stride[1] * 2**octave * factors[0] / 2.0
    return -half_height, -half_width, half_height, half_width
