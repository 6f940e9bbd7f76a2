"""The anchors' operators in torch's own, for programs that leave anchor_ext behind: exports to ONNX.

The program makes the anchors from the image's sides when it runs: a row of centres per axis and level, to which the
cell anchors are added in float64 (or stepwise in the arithmetic's type), as `csrc/core/pyramid.h` does. Only the cell
anchors are stored, so that the file is as small for a large image as for a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ._library import native
from ._recording import is_traced, unseen_by_trace
from ._spec import DTYPES, native_of, over_image

__all__ = ["gather", "generate", "generate_many", "inside", "valid_flags"]

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


def _constant(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
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
        return _constant(number, dtype, self.device)

    def double(self, side: Side) -> Tensor:
        """[1]"""
        return self.integer(side).to(torch.float64)

    def integer(self, side: Side) -> Tensor:
        """[1]"""
        if isinstance(side, Tensor):
            return side.reshape(1).to(self.device, torch.int64)
        return torch.full((1,), side, dtype=torch.int64, device=self.device)

    def numbers(self, cells: Side) -> Tensor:
        """0, 1, ..., cells - 1."""
        return torch.arange(cells, dtype=torch.float64, device=self.device)

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

    def centres(self, level: int, axis: int) -> Tensor:
        """[cells] float64: `centre()`; axis 0 is y."""
        position, stride = self.position, self.stride(level, axis)
        offset = self.given.offsets[level][axis] if self.given.offsets else 0.5
        start = self.given.starts[level][axis] if self.given.starts else 0.0
        cells = self.level_shapes[level][axis]
        numbers = self.numbers(cells)
        if self.grid == Grid.arange:
            value = self.arange(cells, numbers, stride, self.constant(start))
        else:
            value = _rounded(_rounded(numbers, position) + self.constant(offset, position), position)
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

    def component(self, level: int, k: int, centres: Sequence[Tensor]) -> tuple[int, Tensor]:
        """Component k of every cell anchor, moved: its axis and [rows or columns, A] float64; not moved: -1 and [A]."""
        own = [self.constant(number, self.sum) for number in self.cell_anchors(level, k)]
        if not (self.along_x | self.along_y) >> k & 1:
            return -1, torch.cat(own)
        axis = self.along_x >> k & 1
        column = centres[axis].unsqueeze(1)
        value = _rounded(torch.cat([column + number for number in own], dim=1), self.sum)
        if self.grid == Grid.quotient:
            value = _rounded(value * _rounded(self.double(self.side(axis)), self.sum), self.sum)
        if self.clip is not None:
            zero = torch.zeros(1, dtype=torch.float64, device=self.device)
            limit = self.double(self.clip[axis])
            value = torch.where(value < zero, zero, value)  # a maximum would make 0 of -0
            value = torch.where(value > limit, limit, value)
        return axis, value

    def on_grid(self, level: int, axis: int, value: Tensor) -> Tensor:
        """What `component` gives, on every cell: [rows, columns, A]."""
        rows, columns = self.level_shapes[level]
        if axis >= 0:
            value = value.unsqueeze(1 - axis)
        return value.expand(rows, columns, self.given.num_cell_anchors[level])

    def anchors(self, dtype: torch.dtype) -> Tensor:
        """[N, components], rounded once."""
        if dtype in _NARROW and self.sum == torch.float64:
            raise ValueError(
                f"dtype is {dtype} with an arithmetic that adds in float64; ONNX would round it twice. "
                "Expected float32 or float64: export those, and convert the result"
            )
        carried = torch.float32 if dtype in _NARROW else dtype  # of which onnxruntime has all operators
        levels = []
        for level in self.levels:
            centres = [self.centres(level, axis) for axis in (0, 1)]
            components = []
            for k in range(self.components):
                axis, value = self.component(level, k, centres)
                components.append(self.on_grid(level, axis, value.to(carried)))
            levels.append(torch.stack(components, dim=-1).reshape(-1, self.components))
        return torch.cat(levels).to(dtype)

    def flags(self, level: int, rows: Tensor, columns: Tensor) -> Tensor:
        """[rows * columns * A] bool: that of the row, [rows, A] or [rows, 1], and that of the column."""
        on_grid = [self.on_grid(level, axis, value) for axis, value in ((0, rows), (1, columns))]
        return torch.logical_and(*on_grid).reshape(-1)


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
        centres = [pyramid.centres(level, axis) for axis in (0, 1)]
        within: list[list[Tensor]] = [[], []]
        for k in range(pyramid.components):
            axis, value = pyramid.component(level, k, centres)
            value = _rounded(value, DTYPES[dtype])
            if pyramid.low >> k & 1:
                within[axis].append(value >= low)
            if pyramid.high >> k & 1:
                within[axis].append(value < high[axis])
        levels.append(pyramid.flags(level, *(_all(flags) for flags in within)))
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
        for axis, cells in enumerate(pyramid.level_shapes[level]):
            padded, numbers = padded_shape[axis], pyramid.numbers(cells)
            if pyramid.given.strides:
                covered = torch.ceil(pyramid.double(padded) / pyramid.constant(pyramid.given.strides[level][axis]))
            else:  # image / cells where boxes are scaled, else rounded down: exact in integers
                image, padded, count = map(pyramid.integer, (pyramid.side(axis), padded, cells))
                scaled = pyramid.grid == Grid.quotient
                stride = image if scaled else _floor(image, count)
                padded = padded * count if scaled else padded
                at_least = torch.clamp(stride, min=1)
                covered = torch.where(stride == 0, count, _floor(padded + at_least - 1, at_least))
            valid.append((numbers < covered).unsqueeze(1))
        levels.append(pyramid.flags(level, *valid))
    return torch.cat(levels)
