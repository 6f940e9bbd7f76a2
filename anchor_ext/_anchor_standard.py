"""The anchors' operators in torch's own, for programs that leave anchor_ext behind: exports to ONNX.

The program makes anchor i from i and the sides of the image when it runs, in float64 (or stepwise in the type of the
arithmetic), as `csrc/core/pyramid.h` does. Only the cell anchors are stored, so that the file is as small for a large
image as for a small one. Everything has a dimension of all anchors of a level: an exporter would hold the program to
dimensions of rows or columns, of which there may be one at the export.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ._library import native
from ._recording import is_traced, unseen_by_trace
from ._spec import DTYPES, native_of, over_image

__all__ = ["constant", "gather", "generate", "generate_many", "inside", "valid_flags"]

Grid = native.Grid
Side = Any  # an int, a SymInt or, in a trace, a tensor of no dimensions
Sides = Sequence[Side]

_NARROW = (torch.float16, torch.bfloat16)
_DTYPES = {value: DTYPES[name] for name, value in native.Dtype.__members__.items()}


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`rounded()` of csrc/core/rounding.h: the 16-bit types by way of float32, as torch's operators."""
    if dtype == torch.float64:
        return value
    value = value.to(torch.float32)
    return (value if dtype == torch.float32 else value.to(dtype)).to(torch.float64)


def constant(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1] float64: a number, rounded as the result of an operation is.

    torch.onnx.export makes float32 of Python's numbers, and some releases lose tensors that are made in here. So where
    no trace holds it as it is, a number is a whole one, of 64 bits, times powers of two.
    """
    is_constant = is_traced()
    with _disable_current_modes(), unseen_by_trace():
        tensor = _rounded(torch.tensor([number], dtype=torch.float64, device="cpu"), dtype)
        if is_constant:
            return tensor.to(device)
        number = float(tensor)
    if not math.isfinite(number):
        return torch.ones(1, dtype=torch.float64, device=device) * number
    whole, denominator = number.as_integer_ratio()
    exponent = 1 - denominator.bit_length()
    while whole != 0 and whole % 2 == 0:
        whole, exponent = whole // 2, exponent + 1
    value = torch.full((1,), whole, dtype=torch.int64, device=device).to(torch.float64)
    if whole == 0:
        return value * math.copysign(1.0, number)
    while exponent != 0:
        step = max(-100, min(exponent, 100))
        value, exponent = value * 2.0**step, exponent - step
    return value


class _Pyramid:
    """The operators' shared arguments, and what csrc/core/pyramid.h makes of them."""

    def __init__(
        self,
        level_shapes: Sides | None,
        spec: str,
        device: torch.device,
        image_shape: Sides | None = None,
        clip: Sides | None = None,
    ) -> None:
        self.given = native_of(spec)
        self.device = device
        self.grid, *types = self.given.roundings
        self.position, self.centre, self.sum = (_DTYPES[dtype] for dtype in types)
        self.components, self.along_x, self.along_y, self.low, self.high = self.given.bits
        self.image_shape, self.clip = image_shape, clip
        if level_shapes:
            self.level_shapes = list(zip(level_shapes[::2], level_shapes[1::2], strict=True))
        else:
            self.level_shapes = over_image(self.given.pyramid_levels, image_shape or ())
        self.levels = range(len(self.level_shapes))

    def constant(self, number: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """[1] float64"""
        return constant(number, dtype, self.device)

    def double(self, side: Side) -> Tensor:
        """[1]"""
        return self.integer(side).to(torch.float64)

    def integer(self, side: Side) -> Tensor:
        """[1]"""
        if isinstance(side, Tensor):
            return side.reshape(1).to(self.device, torch.int64)
        return torch.full((1,), side, dtype=torch.int64, device=self.device)

    def positions(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and cell anchor of each anchor of the level, [n] int64."""
        rows, columns = self.level_shapes[level]
        count = self.given.num_cell_anchors[level]
        index = torch.arange(rows * columns * count, dtype=torch.int64, device=self.device)
        cell = _floor(index, self.integer(count))
        width = self.integer(columns)
        return _floor(cell, width), torch.remainder(cell, width), torch.remainder(index, self.integer(count))

    def cell_anchors(self, level: int, k: int) -> list[float]:
        """Component k of each."""
        return self.given.cell_anchors[level][k :: self.components]  # type: ignore[no-any-return]

    def stride(self, level: int, axis: int) -> Tensor:
        given = self.given.strides[level][axis] if self.given.strides else None
        cells = self.level_shapes[level][axis]
        dtype = torch.float64 if self.grid == Grid.arange or self.position == torch.float64 else torch.float32
        if self.grid != Grid.quotient and given is not None:
            return self.constant(given, dtype)
        if self.grid != Grid.quotient:
            stride = self.double(self.side(axis) // cells)
        elif given is None:
            stride = self.double(cells)
        else:
            stride = self.double(self.side(axis)) / self.constant(given)
        return _rounded(stride, dtype)

    def side(self, axis: int) -> Side:
        return self.image_shape[axis]  # type: ignore[index]

    def centres(self, level: int, axis: int, cell: Tensor) -> Tensor:
        """[n] float64: `centre()` of rows or columns; axis 0 is y."""
        position, stride = self.position, self.stride(level, axis)
        offset = self.given.offsets[level][axis] if self.given.offsets else 0.5
        start = self.given.starts[level][axis] if self.given.starts else 0.0
        number = cell.to(torch.float64)
        if self.grid == Grid.arange:
            value = self.arange(self.level_shapes[level][axis], number, stride, self.constant(start))
        else:
            value = _rounded(_rounded(number, position) + self.constant(offset, position), position)
            if self.grid == Grid.quotient:
                value = _rounded(value / stride, torch.float32)
            else:
                value = _rounded(value * stride, position)
                value = _rounded(value + self.constant(start, position), position)
        return _rounded(value, self.centre)

    def arange(self, cells: Side, numbers: Tensor, stride: Tensor, start: Tensor) -> Tensor:
        """`arange()` of csrc/core/pyramid.h, in blocks of eight but for what is left over."""
        within = torch.remainder(numbers, 8.0)

        def counted(begin: Tensor, number: Tensor) -> Tensor:
            return _rounded(number * stride + begin, torch.float32)

        in_blocks = counted(counted(start, numbers - within), within)
        return torch.where(numbers < self.double(cells // 16 * 16), in_blocks, counted(start, numbers))

    def moved(self, level: int) -> Iterator[tuple[int, Tensor]]:
        """Of each component its axis, -1 where it does not move, and what it is on every cell, [n] float64."""
        *cells, which = self.positions(level)
        centres = [self.centres(level, axis, cell) for axis, cell in enumerate(cells)]
        for k in range(self.components):
            own = torch.cat([self.constant(number, self.sum) for number in self.cell_anchors(level, k)])
            value = own.index_select(0, which)
            axis = self.along_x >> k & 1 if (self.along_x | self.along_y) >> k & 1 else -1
            yield axis, value if axis < 0 else self.clipped(axis, self.scaled(axis, centres[axis] + value))

    def scaled(self, axis: int, value: Tensor) -> Tensor:
        value = _rounded(value, self.sum)
        if self.grid != Grid.quotient:
            return value
        return _rounded(value * _rounded(self.double(self.side(axis)), self.sum), self.sum)

    def clipped(self, axis: int, value: Tensor) -> Tensor:
        if self.clip is None:
            return value
        zero = torch.zeros(1, dtype=torch.float64, device=self.device)
        limit = self.double(self.clip[axis])
        value = torch.where(value < zero, zero, value)  # a maximum would make 0 of -0
        return torch.where(value > limit, limit, value)

    def anchors(self, dtype: torch.dtype) -> Tensor:
        """[N, components], rounded once."""
        if dtype in _NARROW and self.sum == torch.float64:
            raise ValueError(
                f"dtype is {dtype} with an arithmetic that adds in float64; ONNX would round it twice. "
                "Expected float32 or float64: export those, and convert the result"
            )
        carried = torch.float32 if dtype in _NARROW else dtype  # of which onnxruntime has all operators
        levels = [torch.stack([value.to(carried) for _, value in self.moved(level)], dim=1) for level in self.levels]
        return torch.cat(levels).to(dtype)


def _floor(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="floor")


def generate(
    level_shapes: Sides | None,
    spec: str,
    *,
    dtype: str,
    device: torch.device,
    image_shape: Sides | None = None,
    clip: Sides | None = None,
) -> Tensor:
    return _Pyramid(level_shapes, spec, device, image_shape, clip).anchors(DTYPES[dtype])


def generate_many(image_shapes: Sides, spec: str, *, dtype: str, device: torch.device) -> Tensor:
    images = zip(image_shapes[::2], image_shapes[1::2], strict=True)
    return torch.cat([generate(None, spec, dtype=dtype, device=device, image_shape=image) for image in images])


def gather(index: Tensor, *operands: Any, **keywords: Any) -> Tensor:
    boxes = generate(*operands, device=index.device, **keywords)
    count = torch.full((), boxes.shape[0], dtype=torch.int64, device=index.device)
    return boxes[torch.remainder(index.long(), count)]


def inside(
    level_shapes: Sides | None, spec: str, image_shape: Sides, border: float = 0.0, *, dtype: str, device: torch.device
) -> Tensor:
    if DTYPES[dtype] in _NARROW:
        raise ValueError(
            f"dtype is torch.{dtype}, to which ONNX would round the image's limits twice; expected float32 or float64"
        )
    pyramid = _Pyramid(level_shapes, spec, device, image_shape)
    low = pyramid.constant(-border, DTYPES[dtype])
    high = [_rounded(pyramid.double(side) + pyramid.constant(border), DTYPES[dtype]) for side in image_shape]
    levels = []
    for level in pyramid.levels:
        flags = []
        for k, (axis, value) in enumerate(pyramid.moved(level)):
            value = _rounded(value, DTYPES[dtype])
            if pyramid.low >> k & 1:
                flags.append(value >= low)
            if pyramid.high >> k & 1:
                flags.append(value < high[axis])
        levels.append(_all(flags))
    return torch.cat(levels)


def _all(flags: Sequence[Tensor]) -> Tensor:
    result = flags[0]
    for flag in flags[1:]:
        result = torch.logical_and(result, flag)
    return result


def valid_flags(
    level_shapes: Sides | None,
    spec: str,
    padded_shape: Sides,
    *,
    device: torch.device,
    image_shape: Sides | None = None,
) -> Tensor:
    pyramid = _Pyramid(level_shapes, spec, device, image_shape)
    levels = []
    for level in pyramid.levels:
        valid = []
        *indices, _ = pyramid.positions(level)
        for axis, (cells, index) in enumerate(zip(pyramid.level_shapes[level], indices, strict=True)):
            padded = padded_shape[axis]
            if pyramid.given.strides:
                covered = torch.ceil(pyramid.double(padded) / pyramid.constant(pyramid.given.strides[level][axis]))
            else:  # image / cells where boxes are scaled, else rounded down: exact in integers
                image, padded, count = map(pyramid.integer, (pyramid.side(axis), padded, cells))
                scaled = pyramid.grid == Grid.quotient
                stride = image if scaled else _floor(image, count)
                padded = padded * count if scaled else padded
                at_least = torch.clamp(stride, min=1)
                covered = torch.where(stride == 0, count, _floor(padded + at_least - 1, at_least))
            valid.append(index < covered)
        levels.append(_all(valid))
    return torch.cat(levels)
