"""mmdet's MlvlPointGenerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..grid import AnchorGrid
from . import _check as check
from ._common import promoted, renaming
from ._mmdet_base import MESHGRID, Generator, Size, Sizes, device_of, is_double, is_whole, plain

__all__ = ["MlvlPointGenerator"]


class MlvlPointGenerator(Generator):
    """mmdet's MlvlPointGenerator: a point per cell, `(cell + offset) * stride` in float32, from one launch.

    `strides` and `offset` may be changed afterwards.

    Args:
        strides: pixels between points, per level: a number or a pair (w, h).
        offset: of the first point, in strides.

    Raises:
        CompatError: an argument has the wrong type, length or value.
    """

    __module__ = "anchor_ext.compat.mmdet"  # where pickles and users look for it
    _made_of = ("strides", "offset")
    _strided: AnchorGrid

    def __init__(self, strides: Sequence[Any], offset: float = 0.5) -> None:
        self.strides = check.pairs("strides", strides)
        check.number("offset", offset, positive=False)
        self.offset = offset
        self._remake()

    def _make(self) -> None:
        check.number("offset", self.offset, positive=False)
        pairs = check.pairs("strides", self.strides, nested=True)
        steps = [(y, x) for x, y in pairs]

        def grid(cells: Sequence[Any], layout: str) -> AnchorGrid:
            options = {"offset": self.offset, "arithmetic": "float32", "layout": layout}
            return renaming({"cell_anchors": "strides"}, AnchorGrid, cells, steps, **options)

        self._grid = grid([[(0.0, 0.0)] for _ in pairs], "point")
        self._strided = grid([[(0.0, 0.0, *pair)] for pair in pairs], "point_stride")
        self._least_level = -len(pairs)
        factors = [side for pair in pairs for side in pair] if is_whole(self.offset) else []
        self._position = "float64" if any(map(is_double, [self.offset, *factors])) else "float32"

    def _rounding(self, dtype: torch.dtype, sparse_level: int | None = None) -> tuple[str, torch.dtype]:
        # The position is float32 in mmdet; the number that is a stride is of the output's type from the beginning.
        return f"{self._position}/{self._position}/{check.name_of(promoted(dtype))}", dtype

    @property
    def num_base_priors(self) -> list[int]:
        """How many points a cell of each level has: one."""
        return [1] * len(self.strides)

    def grid_priors(
        self, featmap_sizes: Sizes, dtype: torch.dtype = torch.float32, device: Any = None, with_stride: bool = False
    ) -> list[Tensor]:
        """Per level its points, `(rows * columns, 2)` x, y or, `with_stride`, `(..., 4)` x, y, stride w, stride h.

        Arguments and errors as for `AnchorGenerator.grid_priors`; only the result is rounded to `dtype`.
        """
        grid = self._of(with_stride)
        if self._is_one_launch(grid, _SINGLE, MESHGRID):
            return self._priors(grid, featmap_sizes, None, dtype, device)
        device = device_of(device)
        return [
            self.single_level_grid_priors(size, level_idx=level, dtype=dtype, device=device, with_stride=with_stride)
            for level, size in self._levels(featmap_sizes)
        ]

    def single_level_grid_priors(
        self,
        featmap_size: Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
        with_stride: bool = False,
    ) -> Tensor:
        """The points of one level."""
        grid = self._of(with_stride)
        if not self._has_own(MESHGRID):
            return self._priors(grid, [featmap_size], level_idx, dtype, device)[0]
        rows, columns = plain(featmap_size)
        w, h = self.strides[level_idx]
        cells = (torch.arange(count, device=device_of(device)) for count in (columns, rows))
        x, y = ((cell + self.offset) * stride for cell, stride in zip(cells, (w, h), strict=True))
        points = list(self._meshgrid(x.to(dtype), y.to(dtype)))
        if with_stride:
            points += [torch.full_like(points[0], stride) for stride in (w, h)]
        return torch.stack(points, dim=-1)

    def _of(self, with_stride: bool) -> AnchorGrid:
        grid = self._followed()
        return self._strided if with_stride else grid

    def sparse_priors(
        self,
        prior_idxs: Tensor,
        featmap_size: Any,
        level_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
    ) -> Tensor:
        """The points at given flat indices, `(*prior_idxs.shape, 2)`: as `AnchorGenerator.sparse_priors`."""
        self._check_all_levels(level_idx, _SINGLE, MESHGRID)
        return self._sparse(prior_idxs, featmap_size, level_idx, dtype, device)

    def valid_flags(self, featmap_sizes: Sizes, pad_shape: Size, device: Any = None) -> list[Tensor]:
        """Per level, whether each point's cell lies on the padded image: as `AnchorGenerator.valid_flags`."""
        grid = self._followed()
        sides, are_whole = self._padded(pad_shape)
        if are_whole and self._is_one_launch(grid, _SINGLE_FLAGS, MESHGRID):
            return self._valid_flags(grid, featmap_sizes, sides, device)
        device = device_of(device)
        return [
            self.single_level_valid_flags(tuple(size), self._valid_cells(level, size, sides), device=device)
            for level, size in self._levels(featmap_sizes)
        ]

    def single_level_valid_flags(self, featmap_size: Size, valid_size: Size, device: Any = None) -> Tensor:
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        return self._flags(featmap_size, valid_size, 1, device)


# As they are here, whoever changes them later.
_SINGLE = MlvlPointGenerator.single_level_grid_priors
_SINGLE_FLAGS = MlvlPointGenerator.single_level_valid_flags
