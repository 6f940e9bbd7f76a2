"""The anchors' operators in standard ONNX ones.

The graph makes the anchors from the image's sides when it runs: a row of centres per axis and level, to which the cell
anchors are added in float64 (or stepwise in the arithmetic's type), as `csrc/core/pyramid.h` does. Only the cell
anchors are stored, so that the file is as small for a large image as for a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._library import native
from ._spec import native_of

__all__ = ["gather", "generate", "generate_many", "inside", "valid_flags"]

Dtype, Grid = native.Dtype, native.Grid
Value = Any  # onnxscript's, of a tensor in the graph
Side = Any  # an integer, or the Value of one

_DTYPES = Dtype.__members__
_TORCH = {dtype: getattr(torch, name) for name, dtype in _DTYPES.items()}


def _rounded_number(number: float, dtype: Any) -> float:
    """A constant, rounded as the result of an operation is."""
    value = torch.tensor(number, dtype=torch.float64, device="cpu")
    return float(value if dtype == Dtype.float64 else value.to(torch.float32).to(_TORCH[dtype]))


class _Graph:
    """The operators of the graph that is being made, on scalars and tensors of int64 and float64."""

    def __init__(self) -> None:
        from onnxscript import ir, opset18

        self.op: Any = opset18
        self.ir: Any = ir
        self.types = {
            Dtype.float64: ir.DataType.DOUBLE,
            Dtype.float32: ir.DataType.FLOAT,
            Dtype.float16: ir.DataType.FLOAT16,
            Dtype.bfloat16: ir.DataType.BFLOAT16,
        }

    def constant(self, numbers: Any, dtype: torch.dtype) -> Value:
        array = torch.tensor(numbers, dtype=dtype, device="cpu").numpy()
        return self.op.Constant(value=self.ir.tensor(array))

    def doubles(self, numbers: Any) -> Value:
        return self.constant(numbers, torch.float64)

    def integer(self, side: Side) -> Value:
        return self.constant(side, torch.int64) if isinstance(side, int) else side

    def double(self, side: Side) -> Value:
        return self.doubles(side) if isinstance(side, int) else self.op.Cast(side, to=self.ir.DataType.DOUBLE)

    def shape(self, *sides: Side) -> Value:
        """A shape, as a tensor of its sides."""
        one = self.constant([1], torch.int64)
        return self.op.Concat(*[self.op.Reshape(self.integer(side), one) for side in sides], axis=0)

    def numbers(self, cells: Side) -> Value:
        """0, 1, ..., cells - 1."""
        return self.op.Range(self.integer(0), self.integer(cells), self.integer(1))

    def rounded(self, value: Value, dtype: Any) -> Value:
        """`rounded()` of csrc/core/rounding.h: the 16-bit types by way of float32, as torch's operators."""
        if dtype == Dtype.float64:
            return value
        value = self.op.Cast(value, to=self.types[Dtype.float32])
        if dtype != Dtype.float32:
            value = self.op.Cast(value, to=self.types[dtype])
        return self.op.Cast(value, to=self.types[Dtype.float64])

    def carried(self, value: Value, dtype: Any, sum_dtype: Any) -> Value:
        """In the output's type, rounded once; a 16-bit one in float32, for which onnxruntime has all operators."""
        if dtype in (Dtype.float16, Dtype.bfloat16):
            if sum_dtype == Dtype.float64:
                raise ValueError(
                    f"dtype is {_TORCH[dtype]} with an arithmetic that adds in float64; ONNX would round it twice. "
                    "Expected float32 or float64: export those, and convert the result"
                )
            dtype = Dtype.float32
        return self.op.Cast(value, to=self.types[dtype])

    def both(self, first: Value | None, second: Value) -> Value:
        return second if first is None else self.op.And(first, second)


class _Pyramid(_Graph):
    """The operators' shared arguments, and what csrc/core/pyramid.h makes of them."""

    def __init__(
        self,
        level_shapes: Sequence[Side] | None,
        spec: str,
        image_shape: Sequence[Side] | None = None,
        clip: Sequence[Side] | None = None,
    ) -> None:
        super().__init__()
        given = native_of(spec)
        self.grid, self.position, self.centre, self.sum = given.roundings
        self.components, self.along_x, self.along_y, self.low, self.high = given.bits
        self.image_shape, self.clip = image_shape, clip
        self.strides, self.offsets, self.starts = given.strides, given.offsets, given.starts
        if level_shapes:
            self.level_shapes = list(zip(level_shapes[::2], level_shapes[1::2], strict=True))
        else:
            height, width = image_shape or ()
            self.level_shapes = [
                (self.cells(height, level), self.cells(width, level)) for level in given.pyramid_levels
            ]
        self.cell_anchors = [
            [
                [_rounded_number(number, self.sum) for number in numbers[i : i + self.components]]
                for i in range(0, len(numbers), self.components)
            ]
            for numbers in given.cell_anchors
        ]

    def cells(self, side: Side, level: int) -> Side:
        """ceil(side / 2**level)."""
        if isinstance(side, int):
            return (side + 2**level - 1) // 2**level
        return self.op.Div(self.op.Add(side, self.integer(2**level - 1)), self.integer(2**level))

    def stride(self, level: int, axis: int) -> float | Value:
        """A number, or one that the graph makes of the image's sides."""
        given = self.strides[level][axis] if self.strides else None
        cells = self.level_shapes[level][axis]
        narrow = self.grid != Grid.arange and self.position != Dtype.float64
        if given is not None and self.grid != Grid.quotient:
            return _rounded_number(given, Dtype.float32) if narrow else given
        if self.grid != Grid.quotient:
            image = self.image_shape[axis]  # type: ignore[index]
            stride = self.op.Cast(self.op.Div(self.integer(image), self.integer(cells)), to=self.types[Dtype.float64])
        elif given is not None:
            stride = self.op.Div(self.double(self.image_shape[axis]), self.doubles(given))  # type: ignore[index]
        else:
            stride = self.double(cells)
        return self.rounded(stride, Dtype.float32) if narrow else stride

    def centres(self, level: int, axis: int) -> Value:
        """[cells] float64: `centre()`; axis 0 is y."""
        op, position = self.op, self.position
        cells, stride = self.level_shapes[level][axis], self.stride(level, axis)
        stride = self.doubles(stride) if isinstance(stride, float) else stride
        offset = self.offsets[level][axis] if self.offsets else 0.5
        start = self.starts[level][axis] if self.starts else 0.0
        numbers = self.numbers(cells)
        if self.grid == Grid.arange:
            value = self.arange(cells, numbers, stride, self.doubles(start))
        else:
            value = self.rounded(op.Cast(numbers, to=self.types[Dtype.float64]), position)
            value = self.rounded(op.Add(value, self.doubles(_rounded_number(offset, position))), position)
            if self.grid == Grid.quotient:
                value = self.rounded(op.Div(value, stride), Dtype.float32)
            else:
                value = self.rounded(op.Mul(value, stride), position)
                value = self.rounded(op.Add(value, self.doubles(_rounded_number(start, position))), position)
        return self.rounded(value, self.centre)

    def arange(self, cells: Side, numbers: Value, stride: Value, start: Value) -> Value:
        """`arange()` of csrc/core/pyramid.h, in blocks of eight but for what is left over."""
        op, double = self.op, self.types[Dtype.float64]
        eight, sixteen = self.integer(8), self.integer(16)
        block = op.Mul(op.Div(numbers, eight), eight)

        def counted(begin: Value, number: Value) -> Value:
            return self.rounded(op.Add(begin, op.Mul(op.Cast(number, to=double), stride)), Dtype.float32)

        in_blocks = counted(counted(start, block), op.Sub(numbers, block))
        whole = op.Mul(op.Div(self.integer(cells), sixteen), sixteen)
        return op.Where(op.Less(numbers, whole), in_blocks, counted(start, numbers))

    def component(self, level: int, k: int, centres: Sequence[Value]) -> tuple[int, Value]:
        """Component k of every cell anchor, moved: its axis and [rows or columns, A] float64; not moved: -1 and [A]."""
        own = self.doubles([cell_anchor[k] for cell_anchor in self.cell_anchors[level]])
        if not (self.along_x | self.along_y) >> k & 1:
            return -1, own
        axis = self.along_x >> k & 1
        op = self.op
        column = op.Unsqueeze(centres[axis], self.constant([1], torch.int64))
        value = self.rounded(op.Add(column, own), self.sum)
        if self.grid == Grid.quotient:
            side = self.rounded(self.double(self.image_shape[axis]), self.sum)  # type: ignore[index]
            value = self.rounded(op.Mul(value, side), self.sum)
        if self.clip is not None:
            zero, limit = self.doubles(0.0), self.double(self.clip[axis])
            value = op.Where(op.Less(value, zero), zero, value)  # Max would make 0 of -0
            value = op.Where(op.Greater(value, limit), limit, value)
        return axis, value

    def on_grid(self, level: int, axis: int, value: Value) -> Value:
        """What `component` gives, on every cell: [rows, columns, A]."""
        rows, columns = self.level_shapes[level]
        if axis >= 0:
            value = self.op.Unsqueeze(value, self.constant([1 - axis], torch.int64))
        return self.op.Expand(value, self.shape(rows, columns, len(self.cell_anchors[level])))

    def anchors(self, dtype: Any) -> Value:
        """[N, components]."""
        op, levels = self.op, []
        for level in range(len(self.level_shapes)):
            centres = [self.centres(level, axis) for axis in (0, 1)]
            components = []
            for k in range(self.components):
                axis, value = self.component(level, k, centres)
                value = self.on_grid(level, axis, self.carried(value, dtype, self.sum))
                components.append(op.Unsqueeze(value, self.constant([3], torch.int64)))
            boxes = op.Concat(*components, axis=3)
            levels.append(op.Reshape(boxes, self.constant([-1, self.components], torch.int64)))
        return op.Cast(op.Concat(*levels, axis=0), to=self.types[dtype])

    def flags(self, level: int, rows: Value, columns: Value) -> Value:
        """[rows * columns * A] bool: that of the row, [rows, A] or [rows, 1], and that of the column."""
        on_grid = [self.on_grid(level, axis, value) for axis, value in ((0, rows), (1, columns))]
        return self.op.Reshape(self.op.And(*on_grid), self.constant([-1], torch.int64))


def generate(
    level_shapes: Sequence[Side] | None,
    spec: str,
    *,
    dtype: str,
    device: object = None,
    image_shape: Sequence[Side] | None = None,
    clip: Sequence[Side] | None = None,
) -> Value:
    return _Pyramid(level_shapes, spec, image_shape, clip).anchors(_DTYPES[dtype])


def generate_many(image_shapes: Sequence[Side], spec: str, *, dtype: str, device: object = None) -> Value:
    images = zip(image_shapes[::2], image_shapes[1::2], strict=True)
    return _Graph().op.Concat(*[generate(None, spec, dtype=dtype, image_shape=image) for image in images], axis=0)


def gather(index: Value, *operands: Any, **keywords: Any) -> Value:
    boxes = generate(*operands, **keywords)
    graph = _Graph()
    op = graph.op
    count = op.Shape(boxes, start=0, end=1)
    wide = op.Cast(index, to=graph.ir.DataType.INT64)
    return op.Gather(boxes, op.Mod(wide, count), axis=0)  # the remainder has the divisor's sign


def inside(
    level_shapes: Sequence[Side] | None,
    spec: str,
    image_shape: Sequence[Side],
    border: float = 0.0,
    *,
    dtype: str,
    device: object = None,
) -> Value:
    pyramid = _Pyramid(level_shapes, spec, image_shape)
    op = pyramid.op
    if dtype not in ("float32", "float64"):
        raise ValueError(
            f"dtype is torch.{dtype}, to which ONNX would round the image's limits twice; expected float32 or float64"
        )

    def nearest(value: Value) -> Value:
        return op.Cast(op.Cast(value, to=pyramid.types[_DTYPES[dtype]]), to=pyramid.types[Dtype.float64])

    low = nearest(pyramid.doubles(-float(border)))
    high = [nearest(op.Add(pyramid.double(side), pyramid.doubles(float(border)))) for side in image_shape]
    levels = []
    for level in range(len(pyramid.level_shapes)):
        centres = [pyramid.centres(level, axis) for axis in (0, 1)]
        within: list[Value | None] = [None, None]
        for k in range(pyramid.components):
            axis, value = pyramid.component(level, k, centres)
            if axis < 0:
                continue
            value = nearest(value)
            if pyramid.low >> k & 1:
                within[axis] = pyramid.both(within[axis], op.GreaterOrEqual(value, low))
            if pyramid.high >> k & 1:
                within[axis] = pyramid.both(within[axis], op.Less(value, high[axis]))
        levels.append(pyramid.flags(level, *within))
    return op.Concat(*levels, axis=0)


def valid_flags(
    level_shapes: Sequence[Side] | None,
    spec: str,
    padded_shape: Sequence[Side],
    *,
    device: object = None,
    image_shape: Sequence[Side] | None = None,
) -> Value:
    pyramid = _Pyramid(level_shapes, spec, image_shape)
    op, levels = pyramid.op, []
    for level, sides in enumerate(pyramid.level_shapes):
        valid = []
        for axis, cells in enumerate(sides):
            padded, numbers = padded_shape[axis], pyramid.numbers(cells)
            if pyramid.strides:
                covered = op.Ceil(op.Div(pyramid.double(padded), pyramid.doubles(pyramid.strides[level][axis])))
                flags = op.Less(op.Cast(numbers, to=pyramid.types[Dtype.float64]), covered)
            else:  # image / cells where boxes are scaled, else rounded down: exact in integers
                image, cells = pyramid.integer(image_shape[axis]), pyramid.integer(cells)  # type: ignore[index]
                scaled = pyramid.grid == Grid.quotient
                stride = image if scaled else op.Div(image, cells)
                padded = op.Mul(pyramid.integer(padded), cells) if scaled else pyramid.integer(padded)
                zero, one = pyramid.integer(0), pyramid.integer(1)
                at_least = op.Max(stride, one)
                covered = op.Div(op.Sub(op.Add(padded, at_least), one), at_least)
                flags = op.Less(numbers, op.Where(op.Equal(stride, zero), cells, covered))
            valid.append(op.Unsqueeze(flags, pyramid.constant([1], torch.int64)))
        levels.append(pyramid.flags(level, *valid))
    return op.Concat(*levels, axis=0)
