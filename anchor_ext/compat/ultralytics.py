"""ultralytics' `make_anchors` (ultralytics.utils.tal)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import AnchorGrid
from ._common import CompatError, check_levels, check_numbers, name_of, show

__all__ = ["make_anchors"]


@functools.lru_cache(maxsize=64)  # plain numbers, no tensor
def _grid(strides: tuple[float, ...], offset: float, arithmetic: str) -> AnchorGrid:
    check_numbers("strides", strides)
    check_numbers("grid_cell_offset", offset, positive=False)
    points = [[(0.0, 0.0, stride, stride)] for stride in strides]
    return AnchorGrid(points, [1.0] * len(strides), offset=offset, arithmetic=arithmetic, layout="point_stride")


def make_anchors(
    feats: Sequence[Tensor] | Tensor, strides: Sequence[float] | Tensor, grid_cell_offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Anchor points in units of their cells, and the stride of each: the same numbers as ultralytics', from one launch.

    Args:
        feats: per level `(B, C, rows, columns)`, or a tensor `(levels, 2)` of rows and columns.
        strides: pixels per cell, per level. A tensor of them on a GPU costs a synchronisation, as in ultralytics.
        grid_cell_offset: of the first point, in cells.

    Returns:
        points `(N, 2)` x, y and strides `(N, 1)`, in dtype and on the device of `feats[0]`: views of one tensor.
        (Where `feats` are sizes of an integer dtype: float32 points, and strides of that dtype.)

    Raises:
        CompatError: there are more or fewer strides than levels, or the dtype is complex or boolean.
    """
    if not isinstance(feats, (Tensor, Sequence)) or len(feats) == 0:
        raise CompatError(f"feats is {show(feats)}; expected a level or more")
    if isinstance(feats, Tensor):
        grids = [(int(rows), int(columns)) for rows, columns in feats.tolist()]
    else:
        grids = [(feat.shape[2], feat.shape[3]) for feat in feats]
    numbers = strides.tolist() if isinstance(strides, Tensor) else list(strides)
    check_levels("strides", numbers, len(grids))
    given = feats[0].dtype
    whole = isinstance(feats, Tensor) and not given.is_floating_point and not given.is_complex and given != torch.bool
    dtype = torch.float32 if whole else given
    grid = _grid(tuple(numbers), grid_cell_offset, name_of(dtype, "feats[0].dtype"))
    anchors = grid(grids, dtype=dtype, device=feats[0].device)
    return anchors[:, :2], anchors[:, 2:3].to(given) if whole else anchors[:, 2:3]
