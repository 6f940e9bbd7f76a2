"""effdet's `Anchors` (effdet.anchors), EfficientDet's."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._core import MAX_CELL_ANCHORS
from ..grid import AnchorGrid
from . import _check as check
from ._common import renaming

__all__ = ["Anchors"]


class Anchors(nn.Module):
    """effdet's Anchors: the same boxes bit for bit, made by one launch when the module is constructed.

    A level's grid is the image's, halved `level` times and rounded up each time; its stride is the fraction
    `image / cells` along each axis. Per cell, all aspect ratios of the first octave scale `2**(i / num_scales)`, then
    of the next. Computed in float64, rounded once to float32.

    The boxes are a persistent buffer, as in effdet, so that checkpoints of either load into the other. Attributes that
    are assigned later change the boxes no more than in effdet; `_generate_configs` and `_generate_boxes`, which the
    constructor calls, make them of what the attributes are then.

    Args:
        min_level, max_level: the pyramid levels, both included.
        num_scales: octave scales per level.
        aspect_ratios: pairs (x, y) of factors of the width and the height; or numbers, width / height.
        anchor_scale: size of the cell anchors in strides: one number, or one per level.
        image_size: (H, W).

    Raises:
        CompatError: an argument has the wrong form or value, or there are more than 512 cell anchors over all levels.
    """

    if TYPE_CHECKING:  # TorchScript would read it, and knows no names in quotes
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
        self.min_level = _whole("min_level", min_level, 0, 30)
        self.max_level = _whole("max_level", max_level, self.min_level, 30)
        self.num_scales = _whole("num_scales", num_scales, 1, MAX_CELL_ANCHORS)
        num_levels = self.max_level - self.min_level + 1
        sides = _items(image_size)
        two = check.is_sequence(sides) and len(sides) == 2
        check.that(two, "image_size", image_size, "two positive integers (height, width)")
        self.image_size = tuple(_whole(f"image_size[{i}]", side, 1) for i, side in enumerate(sides))
        self.aspect_ratios = _items(aspect_ratios)
        check.pairs("aspect_ratios", self.aspect_ratios)
        scales = _items(anchor_scale)
        if check.is_sequence(scales):
            check.numbers("anchor_scale", scales, levels=num_levels)
        else:
            check.number("anchor_scale", scales)
        self.anchor_scales = scales if check.is_sequence(scales) else [scales] * num_levels
        count = num_levels * self.num_scales * len(self.aspect_ratios)
        if count > MAX_CELL_ANCHORS:
            raise check.CompatError(
                f"num_scales is {self.num_scales} and aspect_ratios has {len(self.aspect_ratios)} entries, which make "
                f"{count} cell anchors over {num_levels} levels; expected at most {MAX_CELL_ANCHORS}"
            )
        self.feat_sizes = [self.image_size]
        for _ in range(self.max_level):
            self.feat_sizes.append(tuple((side + 1) // 2 for side in self.feat_sizes[-1]))
        self.config = self._generate_configs()
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

    def _generate_configs(self) -> dict[int, list[tuple[tuple[float, float], float, Any, float]]]:
        """Per level, of each cell anchor its stride (y, x), octave scale, aspect ratio and anchor scale."""
        height, width = self.feat_sizes[0]
        configs = {}
        for level in range(self.min_level, self.max_level + 1):
            rows, columns = self.feat_sizes[level]
            stride = height / float(rows), width / float(columns)
            configs[level] = [
                (stride, octave / float(self.num_scales), ratio, self.anchor_scales[level - self.min_level])
                for octave in range(self.num_scales)
                for ratio in self.aspect_ratios
            ]
        return configs

    def as_grid(self) -> tuple[AnchorGrid, list[tuple[int, int]]]:
        """The anchors of `config` as a grid with the layout yxyx, and the `(rows, columns)` of its levels over
        `image_size`: for `AnchorGrid.match`, `at` and the like.

        Raises:
            ValueError: `config` or `image_size` make none.
        """
        # effdet's centres are numpy.arange's: from half a stride on, in steps of what is left of a stride when the
        # first centre is subtracted from the second one.
        cell_anchors, steps, halves, shapes = [], [], [], []
        for level, entries in self.config.items():
            stride = entries[0][0]
            expected = f"{stride}, as the level's other cell anchors have"
            for i, entry in enumerate(entries):
                check.that(entry[0] == stride, f"config[{level}][{i}][0]", entry[0], expected)
            cell_anchors.append([_cell_anchor(*entry) for entry in entries])
            half = stride[0] / 2, stride[1] / 2
            halves.append(half)
            steps.append(((half[0] + stride[0]) - half[0], (half[1] + stride[1]) - half[1]))
            rows, columns = (
                max(0, math.ceil((side - first) / step))
                for side, first, step in zip(self.image_size, half, stride, strict=True)
            )
            shapes.append((rows, columns))
        make: Any = AnchorGrid
        grid = renaming({"cell_anchors": "config"}, make, cell_anchors, steps, offset=0.0, start=halves, layout="yxyx")
        return grid, shapes

    def _generate_boxes(self) -> Tensor:
        """The boxes of `config` over `image_size`, `(N, 4)` float32 on the CPU."""
        grid, shapes = self.as_grid()
        return renaming({"level_shapes": "image_size and config"}, lambda: grid(shapes, device="cpu"))

    def extra_repr(self) -> str:
        return (
            f"levels={self.min_level}..{self.max_level}, image_size={self.image_size}, boxes={tuple(self.boxes.shape)}"
        )


def _whole(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    try:
        whole = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        whole = least - 1
    check.that(not isinstance(value, bool) and least <= whole <= most, name, value, f"an integer in {least}..{most}")
    return whole


def _items(value: Any) -> Any:
    """Tensors as Python's numbers, arrays as lists of NumPy's, which compute as precisely as theirs."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_items(item) for item in value] if any(isinstance(item, Tensor) for item in value) else value
    return list(value) if check.is_sequence(value) else value


def _factors(ratio: Any) -> tuple[float, float]:
    """Of the width and the height."""
    if check.is_sequence(ratio):
        return ratio[0], ratio[1]
    root = math.sqrt(ratio)
    if hasattr(ratio, "dtype") and ratio.dtype.kind == "f":  # the root of a NumPy number has its precision
        root = type(ratio)(root)
    return root, 1.0 / root


def _cell_anchor(
    stride: tuple[float, float], octave: float, ratio: Any, scale: float
) -> tuple[float, float, float, float]:
    x, y = _factors(ratio)
    half_height = float(scale * stride[0] * 2**octave * y / 2.0)
    half_width = float(scale * stride[1] * 2**octave * x / 2.0)
    return -half_height, -half_width, half_height, half_width
