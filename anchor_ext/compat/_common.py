"""What the drop-ins share: how their grids are asked, and what the core's errors are called there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..grid import AnchorGrid
from . import _check as check

__all__ = ["by_level", "constants", "promoted", "renaming"]

_Result = TypeVar("_Result")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_PROMOTED = {dtype: torch.promote_types(dtype, torch.float32) for dtype in _FLOATS}


def promoted(dtype: torch.dtype) -> torch.dtype:
    """What torch makes of it beside a float32 tensor."""
    check.name_of(dtype)
    return _PROMOTED[dtype]


@contextlib.contextmanager
def constants() -> Iterator[None]:
    """What is computed in here is real, in a fake or otherwise watched program as well."""
    with _disable_current_modes():
        yield


def renaming(names: Mapping[str, str], function: Callable[..., _Result], *arguments: Any, **keywords: Any) -> _Result:
    """`function(...)` of the core's, whose errors call its arguments what they are called in the drop-in."""
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        message = str(error)
        for core, ours in names.items():
            message = message.replace(core, ours)
        raise (TypeError if isinstance(error, TypeError) else check.CompatError)(message) from error


def by_level(
    grid: AnchorGrid,
    names: Mapping[str, str],
    function: Callable[..., Tensor],
    shapes: Sequence[Sequence[int]],
    *arguments: Any,
    **keywords: Any,
) -> list[Tensor]:
    """Per level the entries of `function(shapes, ...)`, which has one for each anchor of the grid: views, no copies."""
    check.levels(names["level_shapes"], shapes, len(grid.num_cell_anchors))
    return list(grid.split(renaming(names, function, shapes, *arguments, **keywords), shapes))
