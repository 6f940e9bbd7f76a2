"""What mmdet's anchors and points share: grids that follow the attributes they are made of, and how they are asked."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._devices import resolve
from .._recording import is_compiled, is_recorded
from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, renaming
from ._follow import Follows, has_own

__all__ = ["ALL", "MESHGRID", "Generator", "Size", "Sizes", "device_of", "is_double", "is_whole", "plain"]

# What the core's arguments are called here: where all levels are asked, one, and priors at indices.
ALL = {"level_shapes": "featmap_sizes", "padded_shape": "pad_shape"}
_ONE = {"level_shapes[0]": "featmap_size", "level_shapes": "featmap_size"}
_SPARSE = {"level_shapes": "featmap_size", "index ": "prior_idxs "}

Size = Sequence[int]  # rows, columns
Sizes = Sequence[Size]


class Generator(Follows):
    """Grids of `self.strides` (w, h) per level. What users override is called as mmdet calls it."""

    strides: list[tuple[Any, Any]]
    _grid: AnchorGrid
    _least_level: int  # negative where levels can be counted from the last one

    def _rounding(self, dtype: torch.dtype, sparse_level: int | None = None) -> tuple[str, torch.dtype]:
        """The arithmetic and the dtype of priors; mmdet rounds sparse ones of one level in another order."""
        raise NotImplementedError

    @property
    def grid(self) -> AnchorGrid:
        """The float32 priors of all levels, of the attributes as they are now; the others are made of it."""
        return self._followed()

    def _followed(self) -> AnchorGrid:
        self._follow()
        return self._grid

    @property
    def num_levels(self) -> int:
        """How many levels there are."""
        return len(self.strides)

    def _meshgrid(self, x: Tensor, y: Tensor, row_major: bool = True) -> tuple[Tensor, Tensor]:
        xx, yy = x.repeat(y.shape[0]), y.repeat_interleave(x.shape[0])
        return (xx, yy) if row_major else (yy, xx)

    def _has_own(self, *originals: Callable[..., Any]) -> bool:
        if is_compiled():
            for original in originals:
                getattr(self, original.__name__)  # else a compiler would not notice that an instance gets its own
        return has_own(self, *originals)

    def _is_one_launch(self, grid: AnchorGrid, *originals: Callable[..., Any]) -> bool:
        """Whether mmdet's loop over `num_levels` levels would call what nobody has changed, for the grid's levels."""
        return self.num_levels == len(grid.num_cell_anchors) and not self._has_own(*originals)

    def _levels(self, sizes: Sizes) -> Iterator[tuple[int, Size]]:
        """Number and size of every level, for a loop over them."""
        check.levels("featmap_sizes", sizes, self.num_levels)
        return enumerate(plain(sizes))

    def _priors(
        self, grid: AnchorGrid, sizes: Sizes, level_idx: int | None, dtype: torch.dtype, device: Any
    ) -> list[Tensor]:
        arithmetic, dtype = self._rounding(dtype)
        derived = grid._with(arithmetic=arithmetic, level=self._level(grid, level_idx))
        return by_level(derived, ALL if level_idx is None else _ONE, derived, plain(sizes), dtype=dtype, device=device)

    def _level(self, grid: AnchorGrid, level_idx: Any) -> int | None:
        if level_idx is None:
            return None
        count = len(grid.num_cell_anchors)
        if not is_compiled():
            try:
                level_idx = operator.index(level_idx)
            except TypeError:
                check.that(False, "level_idx", level_idx, f"one of {count} levels")
        check.that(self._least_level <= level_idx < count, "level_idx", level_idx, f"one of {count} levels")
        return level_idx % count  # type: ignore[no-any-return]

    def _check_all_levels(self, level_idx: Any, *originals: Callable[..., Any]) -> None:
        """Refuses priors of all levels at once that overridden methods would have to make."""
        good = level_idx is not None or not self._has_own(*originals)
        check.that(good, "level_idx", level_idx, "a level, since methods that grid_priors calls are overridden")

    def _sparse(
        self, prior_idxs: Tensor, featmap_size: Any, level_idx: int | None, dtype: torch.dtype, device: Any
    ) -> Tensor:
        grid = self._followed()
        level = self._level(grid, level_idx)
        arithmetic, dtype = self._rounding(dtype, level)
        derived = grid._with(arithmetic=arithmetic, level=level)
        sizes, names = (featmap_size, ALL) if level is None else ([featmap_size], _ONE)
        check.levels("featmap_size", sizes, len(derived.num_cell_anchors))
        priors = renaming({**names, **_SPARSE}, derived.at, prior_idxs, plain(sizes), dtype=dtype)
        return priors if device is None or priors.device == torch.device(device) else priors.to(device)

    def _padded(self, pad_shape: Any) -> tuple[tuple[Any, ...], bool]:
        """The sides of a padded image, and whether they are whole, which one launch needs."""
        check.that(hasattr(pad_shape, "__getitem__"), "pad_shape", pad_shape, "(height, width, ...)")
        sides = tuple(pad_shape[:2])
        if is_recorded() or all(type(side) is int for side in sides):
            return sides, True
        sides = tuple([int(side) if _is_real(side) and side // 1 == side else side for side in sides])
        fractions = [side for side in sides if _is_real(side) and not is_whole(side)]
        for side in fractions:
            check.number("pad_shape", side)
        return sides, not fractions

    def _valid_flags(self, grid: AnchorGrid, sizes: Sizes, pad_shape: Any, device: Any) -> list[Tensor]:
        return by_level(grid, ALL, grid.valid_flags, plain(sizes), pad_shape, device=device)

    def _valid_cells(self, level: int, size: Size, sides: Sequence[Any]) -> tuple[int, ...]:
        """How many rows and columns of a level lie on the padded image."""
        sides_and_cells = zip(sides, self.strides[level][::-1], size, strict=True)
        return tuple([min(math.ceil(side / stride), cells) for side, stride, cells in sides_and_cells])

    def _flags(self, featmap_size: Size, valid_size: Size, count: int, device: Any) -> Tensor:
        """Of one level with so many priors in a cell."""
        featmap_size, valid_size = plain(featmap_size), plain(valid_size)
        good = all(0 <= valid <= side for side, valid in zip(featmap_size, valid_size, strict=True))
        check.that(good, "valid_size", valid_size, f"at most featmap_size, {check.show(featmap_size)}")
        if self._has_own(MESHGRID) or is_compiled():  # which can make no grid
            device = device_of(device)
            pairs = zip(featmap_size, valid_size, strict=True)
            y, x = (torch.arange(side, device=device) < valid for side, valid in pairs)
            xx, yy = self._meshgrid(x, y)
            return (xx & yy)[:, None].expand(-1, count).reshape(-1)
        points = AnchorGrid([[(0.0, 0.0)] * operator.index(count)], [1.0], layout="point")
        return renaming(_ONE, points.valid_flags, [featmap_size], valid_size, device=device)


MESHGRID = Generator._meshgrid


def device_of(device: Any) -> Any:
    """What overridden methods and torch are given for a device: to them None would be the CPU."""
    return resolve(device) if device is None else device


def plain(sizes: Any) -> Any:
    """Sizes of NumPy's or torch's integers as Python's, whose products never wrap around."""
    if type(sizes) is int or _are_plain(sizes) or is_recorded():
        return sizes
    if type(sizes) in (list, tuple):
        return type(sizes)(map(plain, sizes))
    return sizes.tolist() if hasattr(sizes, "tolist") else sizes


def _are_plain(sizes: Any) -> bool:
    """Whether these are pairs of Python's integers, as nearly all are."""
    return type(sizes) is list and all(
        type(size) is tuple and len(size) == 2 and type(size[0]) is int and type(size[1]) is int for size in sizes
    )


def _is_real(number: Any) -> bool:
    return isinstance(number, (numbers.Real, Tensor)) and not isinstance(number, bool)


def is_whole(number: Any) -> bool:
    """Whether torch multiplies tensors of integers by it exactly."""
    return not number.is_floating_point() if isinstance(number, Tensor) else isinstance(number, numbers.Integral)


def is_double(number: Any) -> bool:
    """Whether torch makes a float64 tensor of one of integers and it, which no number does."""
    return isinstance(number, Tensor) and number.dtype == torch.float64
