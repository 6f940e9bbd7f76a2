"""Anchors of any kind, over images of any shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import ops
from .._arguments import image_shape as read_image_shape
from .._arguments import show
from .._spec import Configuration, level_counts
from ..anchors import Anchors
from ..grid import AnchorGrid

__all__ = ["Source", "check_count", "on_cpu"]


def check_count(name: str, value: Any, least: int, most: int) -> None:
    """Raises ValueError where the value is no integer in least..most."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {show(value)}; expected an integer in {least}..{most}")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def on_cpu(function: _Function) -> _Function:
    """The function, whose tensors are on the CPU whatever torch's default device is."""

    @functools.wraps(function)
    def called(*arguments: Any, **keywords: Any) -> Any:
        with torch.device("cpu"):
            return function(*arguments, **keywords)

    return called  # type: ignore[return-value]


class Source:
    """Args:
        anchors: `Anchors`, `AnchorGrid`, or a generator of `anchor_ext.compat`.
        strides: per level a number or a pair (y, x), for anchors without strides of their own: torchvision's.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    def __init__(self, anchors: Any, strides: Sequence[Any] | None = None) -> None:
        self._only: tuple[tuple[int, ...], list[tuple[int, int]]] | None = None
        grid = anchors if isinstance(anchors, (Anchors, AnchorGrid)) else getattr(anchors, "grid", None)
        if callable(getattr(anchors, "as_grid", None)):  # effdet's, which are of one image
            grid, shapes = anchors.as_grid()
            self._only = tuple(anchors.image_size), shapes
        if not isinstance(grid, (Anchors, AnchorGrid)):
            expected = "Anchors, AnchorGrid or a generator of anchor_ext.compat"
            raise TypeError(f"anchors is {show(anchors)}; expected {expected}")
        self.grid = grid
        self.config: Configuration = grid._config
        self.counts = level_counts(self.config.spec)
        if strides is not None and grid.strides is not None:
            raise ValueError(f"strides is {show(strides)}; expected None, as these anchors have strides")
        self.strides = _pairs(grid.strides if strides is None else strides, len(self.counts))

    def over(self, image_shape: Any, level_shapes: Any = None) -> tuple[Any, tuple[int, int]]:
        """What an operator takes for an image of this shape: the levels' shapes, or None, and the image's.

        Raises:
            TypeError, ValueError: `image_shape` is none, or the levels' shapes do not follow from it.
        """
        height, width = sides = read_image_shape(image_shape)
        if isinstance(self.grid, Anchors):
            if level_shapes is not None:
                raise ValueError(f"level_shapes is {show(level_shapes)}; expected None, as Anchors derives them")
            return None, sides
        if level_shapes is not None:
            return level_shapes, sides
        if self._only is not None:
            shape, grids = self._only
            if sides != shape:
                raise ValueError(f"image_shape is {show(image_shape)}; expected {shape}, which these anchors are of")
            return grids, sides
        if self.strides is None:
            raise ValueError("strides is None; expected a number per level, as these anchors have none of their own")
        return [(math.ceil(height / y), math.ceil(width / x)) for y, x in self.strides], sides

    def level_names(self) -> list[str]:
        """P3, P4, ... of Anchors; else level 0, level 1, ..."""
        if isinstance(self.grid, Anchors):
            return [f"P{level}" for level in self.grid.pyramid_levels]
        return [f"level {level}" for level in range(len(self.counts))]

    def shapes(self, image_shape: Sequence[float] = (1, 1)) -> list[list[tuple[float, float]]]:
        """Per level the (width, height) of its cell anchors in pixels; of SSD's, which are parts of an image, of an
        image of this shape."""
        native = self.config.native
        x = 0 if native.layout == "xyxy" else 1
        height, width = image_shape if native.arithmetic.startswith("quotient") else (1, 1)
        return [
            [((box[x + 2] - box[x]) * width, (box[3 - x] - box[1 - x]) * height) for box in level.tolist()]
            for level in self.grid.cell_anchors
        ]

    def places(self, index: Tensor, level_shapes: Any, image_shape: Any) -> tuple[Tensor, Tensor]:
        """Level and cell anchor of flat indices on the CPU; -1 of -1."""
        sizes = ops.level_sizes(self.config, level_shapes, image_shape)
        begins = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
        level = torch.searchsorted(begins, index, right=True) - 1
        inside = level.clamp(min=0)
        cell_anchor = (index - begins[inside]).remainder(torch.tensor(self.counts).clamp(min=1)[inside])
        return level, cell_anchor.where(level >= 0, level)


def _pairs(strides: Any, levels: int) -> list[tuple[float, float]] | None:
    if strides is None:
        return None
    wrong = f"strides is {show(strides)}; expected {levels} numbers > 0, or pairs (y, x) of them"
    if not isinstance(strides, (tuple, list)):
        raise TypeError(wrong)
    pairs = [tuple(one) if isinstance(one, (tuple, list)) else (one, one) for one in strides]
    if len(pairs) != levels or not all(len(pair) == 2 and all(map(_is_stride, pair)) for pair in pairs):
        raise ValueError(wrong)
    return [(float(y), float(x)) for y, x in pairs]


def _is_stride(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < math.inf
