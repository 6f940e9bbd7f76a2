"""ultralytics' `make_anchors` (ultralytics.utils.tal)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .._recording import constant_to_the_compiler, constants, is_recorded, is_traced, place_of
from .._spec import Configuration
from . import _check as check

__all__ = ["make_anchors"]


@functools.lru_cache(maxsize=64)  # plain numbers, no tensor
def _configuration(strides: tuple[float, ...], offset: float, arithmetic: str) -> Configuration:
    check.numbers("strides", strides, positive=False)
    points = [(0.0, 0.0, stride, stride) for stride in strides]
    ones, offsets = [(1.0, 1.0)] * len(strides), [(offset, offset)] * len(strides)
    return Configuration.of(points, ones, offsets, arithmetic=arithmetic, layout="point_stride")


@constant_to_the_compiler
def _spec(strides: Sequence[float], offset: float, arithmetic: str) -> str:
    return _configuration(tuple(strides), offset, arithmetic).spec


def _generate(
    first: Tensor, grids: Any, strides: tuple[float, ...], offset: float, dtype: torch.dtype, arithmetic: str
) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_dynamo_compiling():
        config = Configuration(_spec(constants(strides), constants(offset), arithmetic))
    else:
        config = _configuration(strides, offset, arithmetic)
    return ops.generate_points(config, grids, dtype, place_of(first))


def _has_tensors(strides: Any) -> bool:
    return isinstance(strides, Tensor) or any(isinstance(stride, Tensor) for stride in strides)


def _column(strides: Any, grids: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The strides' column, by torch's operators: no number is read out of a tensor, which would break a graph."""
    columns = []
    for i, (stride, (rows, cells)) in enumerate(zip(strides, grids, strict=True)):
        of_level = torch.as_tensor(stride, device=device)
        if of_level.ndim != 0:
            raise check.CompatError(f"strides[{i}] is {check.show(stride)}; expected a finite number")
        if dtype.itemsize == 2:
            of_level = of_level.to(torch.float32)  # as torch rounds a number; not every compiler goes that way
        columns.append(of_level.to(dtype).reshape(1, 1).expand(rows * cells, 1))
    return torch.cat(columns)


def make_anchors(
    feats: Sequence[Tensor] | Tensor, strides: Sequence[float] | Tensor, grid_cell_offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Anchor points in units of their cells, and the stride of each: the same numbers as ultralytics', from one launch.

    Args:
        feats: per level `(B, C, rows, columns)`, or a tensor `(levels, 2)` of rows and columns.
        strides: pixels per cell, per level. A tensor of them on a GPU costs a synchronisation, as in ultralytics; not
            in a graph of torch.compile or torch.export, to which it is an input.
        grid_cell_offset: of the first point, in cells.

    Returns:
        points `(N, 2)` x, y and strides `(N, 1)`, in dtype and on the device of `feats[0]`: views of one tensor, or
        two contiguous ones, of an eager call on the CPU.
        (Where `feats` are sizes of an integer dtype: strides of that dtype, points as well if the offset is an int,
        else float32.)

    Raises:
        TypeError, ValueError: there are more or fewer strides than levels, a stride or the offset is no finite number,
            or the dtype is complex or boolean.
    """
    grids, whole = [], False
    if isinstance(feats, Tensor):
        if feats.ndim != 2 or feats.shape[1] != 2:
            raise check.CompatError(f"feats has shape {tuple(feats.shape)}; expected (levels, 2), or a list of tensors")
        grids = [(int(rows), int(columns)) for rows, columns in feats.tolist()]
        whole = not feats.is_floating_point() and not feats.is_complex() and feats.dtype != torch.bool
    elif isinstance(feats, (list, Sequence)):  # a list is known at once
        for feat in feats:
            shape = feat.shape if isinstance(feat, Tensor) else ()
            if len(shape) != 4:
                raise check.CompatError(
                    f"feats[{len(grids)}] is {check.show(feat)}; expected a tensor (B, C, rows, columns)"
                )
            grids.append((shape[2], shape[3]))
    if not grids:
        raise check.CompatError(f"feats is {check.show(feats)}; expected a list of tensors, or a tensor (levels, 2)")
    first = feats[0]
    given = first.dtype
    dtype = torch.float32 if whole else given
    arithmetic = check.name_of(dtype, "feats[0].dtype")
    offset = check.as_float("grid_cell_offset", grid_cell_offset)
    if is_recorded() and not is_traced() and _has_tensors(strides):  # whose values are the running graph's
        check.levels("strides", strides, len(grids))
        points, _ = _generate(first, grids, (1.0,) * len(grids), offset, dtype, arithmetic)
        column = _column(strides, grids, dtype, first.device)
    else:
        numbers = strides.tolist() if isinstance(strides, Tensor) else strides
        check.levels("strides", numbers, len(grids))
        levels = tuple(
            [
                stride if type(stride) in (float, int) else check.as_float(f"strides[{i}]", stride)
                for i, stride in enumerate(numbers)
            ]
        )
        points, column = _generate(first, grids, levels, offset, dtype, arithmetic)
    if whole:  # what torch makes of such a tensor and an offset
        return points.to(given) if isinstance(grid_cell_offset, int) else points, column.to(given)
    return points, column
