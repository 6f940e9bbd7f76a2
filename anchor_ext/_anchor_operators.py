"""The records of the anchors' operators, csrc/anchors/op.cpp; the fakes' signatures are the schemas there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _anchor_standard, _torchscript
from ._library import native
from ._operators import Operator, register
from ._spec import DTYPES, level_counts, native_of, over_image, pyramid_levels

__all__ = ["count_anchors"]

Sides = Sequence[int]


def _is_known(side: object) -> bool:
    return isinstance(side, int)


def _known(sides: Sides | None) -> list[int] | None:
    """Symbols as 1, with which all else can be checked."""
    return None if sides is None else [side if _is_known(side) else 1 for side in sides]


def count_anchors(spec: str, level_shapes: Sides | None, image_shape: Sides | None, clip: Sides | None = None) -> int:
    """The number of anchors. Raises what the operator would raise, as far as it does not hang on symbols."""
    count: int = native_of(spec).num_anchors(_known(level_shapes), _known(image_shape), _known(clip))
    if all(map(_is_known, [*(level_shapes or ()), *(image_shape or ())])):
        return count
    if level_shapes:
        grids = list(zip(level_shapes[::2], level_shapes[1::2], strict=True))
    else:
        grids = over_image(pyramid_levels(spec), image_shape or ())
    return sum(rows * columns * count for (rows, columns), count in zip(grids, level_counts(spec), strict=True))


def _dtype_of(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}; expected {', '.join(DTYPES)}")
    return DTYPES[name]


def _generate(
    level_shapes: Sides | None,
    spec: str,
    *,
    dtype: str,
    device: torch.device,
    image_shape: Sides | None = None,
    clip: Sides | None = None,
) -> Tensor:
    shape = (count_anchors(spec, level_shapes, image_shape, clip), native_of(spec).num_components)
    return torch.empty(shape, dtype=_dtype_of(dtype), device=device)


def _generate_many(image_shapes: Sides, spec: str, *, dtype: str, device: torch.device) -> Tensor:
    images = zip(image_shapes[::2], image_shapes[1::2], strict=True)
    count = sum(count_anchors(spec, None, image) for image in images)
    return torch.empty((count, native_of(spec).num_components), dtype=_dtype_of(dtype), device=device)


def _gather(
    index: Tensor,
    level_shapes: Sides | None,
    spec: str,
    *,
    dtype: str,
    image_shape: Sides | None = None,
    clip: Sides | None = None,
) -> Tensor:
    if index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"index has dtype {index.dtype}; expected int64 or int32")
    count_anchors(spec, level_shapes, image_shape, clip)
    shape = (*index.shape, native_of(spec).num_components)
    return torch.empty(shape, dtype=_dtype_of(dtype), device=index.device)


def _inside(
    level_shapes: Sides | None, spec: str, image_shape: Sides, border: float = 0.0, *, dtype: str, device: torch.device
) -> Tensor:
    _dtype_of(dtype)
    return torch.empty(count_anchors(spec, level_shapes, image_shape), dtype=torch.bool, device=device)


def _valid_flags(
    level_shapes: Sides | None,
    spec: str,
    padded_shape: Sides,
    *,
    device: torch.device,
    image_shape: Sides | None = None,
) -> Tensor:
    native.check_shape("padded_shape", _known(padded_shape), 0)
    return torch.empty(count_anchors(spec, level_shapes, image_shape), dtype=torch.bool, device=device)


for _record in (
    Operator("generate", _generate, standard=_anchor_standard.generate, script=_torchscript.generate),
    Operator("generate_many", _generate_many, standard=_anchor_standard.generate_many),
    Operator("gather", _gather, standard=_anchor_standard.gather, script=_torchscript.gather),
    Operator("inside", _inside, standard=_anchor_standard.inside, script=_torchscript.inside),
    Operator("valid_flags", _valid_flags, standard=_anchor_standard.valid_flags, script=_torchscript.valid_flags),
):
    register(_record)
