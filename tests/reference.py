"""The anchors written down a second time, in NumPy float64, from the formulas alone; and the one rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

LEVELS = [3, 4, 5, 6, 7]
RATIOS = [0.5, 1, 2]
SCALES = [2**0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0)]


def cell_anchors(sizes, ratios, scales) -> np.ndarray:
    """[A, 4] float64 around the origin; sizes outermost, scales innermost."""
    boxes = []
    for size in sizes:
        side = size * np.tile(np.asarray(scales, np.float64), len(ratios))
        ratio = np.repeat(np.asarray(ratios, np.float64), len(scales))
        width = np.sqrt(side * side / ratio)
        height = width * ratio
        boxes.append(np.stack([0 - width * 0.5, 0 - height * 0.5, width - width * 0.5, height - height * 0.5], axis=1))
    return np.concatenate(boxes)


def anchors(image_shape, levels=None, strides=None, sizes=None, ratios=None, scales=None) -> np.ndarray:
    """[N, 4] float64, before any rounding. Every argument but the shape is per level already, or None."""
    levels = LEVELS if levels is None else levels
    strides = [2**level for level in levels] if strides is None else strides
    sizes = [[2 ** (level + 2)] for level in levels] if sizes is None else sizes
    ratios = [RATIOS] * len(levels) if ratios is None else ratios
    scales = [SCALES] * len(levels) if scales is None else scales
    boxes = []
    for i, level in enumerate(levels):
        rows, columns = ((side + 2**level - 1) // 2**level for side in image_shape)
        stride_y, stride_x = strides[i] if isinstance(strides[i], Sequence) else (strides[i], strides[i])
        x, y = np.meshgrid((np.arange(columns) + 0.5) * stride_x, (np.arange(rows) + 0.5) * stride_y)
        shifts = np.stack([x.ravel(), y.ravel(), x.ravel(), y.ravel()], axis=1)
        cells = cell_anchors(sizes[i], ratios[i], scales[i])
        boxes.append((shifts[:, None, :] + cells[None, :, :]).reshape(-1, 4))
    return np.concatenate(boxes)


def step(values, name: str) -> np.ndarray:
    """What an operator of torch's leaves of its exact result: 16-bit types round what float32 has made of it."""
    values = np.asarray(values, np.float64)
    if name == "float64":
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
        if name == "float16":
            return single.astype(np.float16).astype(np.float64)
    if name == "bfloat16":
        bits = _bfloat16_bits(single.astype(np.float64)).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    assert name == "float32"
    return single.astype(np.float64)


LAYOUTS = {"xyxy": "xyxy", "yxyx": "yxyx", "cxcywha": "xy---", "point": "xy", "point_stride": "xy--"}
LOW = {"xyxy": [0, 1], "yxyx": [0, 1], "cxcywha": [0, 1], "point": [0, 1], "point_stride": [0, 1]}
HIGH = {"xyxy": [2, 3], "yxyx": [2, 3], "cxcywha": [0, 1], "point": [0, 1], "point_stride": [0, 1]}


def _centres(cells, stride, offset, start, image, arithmetic) -> np.ndarray:
    """Along one axis; every operation in float64 and then rounded, which is rounded once."""
    position, centre, _ = arithmetic
    numbers = np.arange(cells)
    if position == "quotient":
        divisor = image / stride if stride else cells
        shifted = step(step(numbers, "float32") + step(offset, "float32"), "float32")
        result = (shifted.astype(np.float32) / np.float32(divisor)).astype(np.float64)
    elif position == "arange":
        # Ends in the middle of the last step: as many numbers as cells.
        result = torch.arange(start, start + (cells - 0.5) * stride, stride, dtype=torch.float32).numpy()
        result = result.astype(np.float64)
        assert len(result) == cells
    else:
        factor = stride if position == "float64" else float(np.float32(stride))
        result = step(step(numbers, position) + step(offset, position), position)
        result = step(step(result * factor, position) + step(start, position), position)
    return step(result, centre)


def grid(
    level_shapes, cell_anchors, strides=None, offsets=None, starts=None, arithmetic="float64", layout="xyxy",
    image_shape=None, clip=None,
) -> np.ndarray:  # fmt: skip
    """[N, components] float64, before the last rounding. Per level: cell anchors [A, components]; pairs (y, x)."""
    parts = arithmetic.split("/")
    first = "float32" if parts[0] in ("quotient", "arange") else parts[0]
    parts = parts if len(parts) == 3 else [parts[0], first, first]
    axes, levels = LAYOUTS[layout], []
    for i, (rows, columns) in enumerate(level_shapes):
        centres = []
        for axis, cells in enumerate((rows, columns)):
            image = image_shape[axis] if image_shape else 0
            stride = strides[i][axis] if strides else 0 if parts[0] == "quotient" else image // cells
            offset = offsets[i][axis] if offsets else 0.5
            start = starts[i][axis] if starts else 0.0
            centres.append(_centres(cells, stride, offset, start, image, parts))
        own = step(np.asarray(cell_anchors[i], np.float64), parts[2])
        boxes = np.empty((rows, columns, *own.shape))
        for k, axis in enumerate(axes):
            moved = {"x": centres[1][None, :, None], "y": centres[0][:, None, None], "-": np.zeros((1, 1, 1))}[axis]
            boxes[..., k] = step(own[None, None, :, k] + moved, parts[2])
            if axis == "-":
                continue
            side = int(axis == "x")
            if parts[0] == "quotient":
                boxes[..., k] = step(boxes[..., k] * step(image_shape[side], parts[2]), parts[2])
            if clip:
                boxes[..., k] = np.clip(boxes[..., k], 0, clip[side])
        levels.append(boxes.reshape(-1, own.shape[1]))
    return np.concatenate(levels)


def inside(boxes: torch.Tensor, layout: str, image_shape, border: float) -> torch.Tensor:
    """[N] bool of the rounded anchors [N, components], by torch's comparisons with limits of their dtype."""
    axes = LAYOUTS[layout]
    flags = torch.ones(len(boxes), dtype=torch.bool)
    for k in LOW[layout]:
        flags &= boxes[:, k] >= torch.tensor(-border, dtype=torch.float64).to(boxes.dtype)
    for k in HIGH[layout]:
        limit = image_shape[int(axes[k] == "x")] + border
        flags &= boxes[:, k] < rounded(np.asarray([limit], np.float64), boxes.dtype)
    return flags


def rounded(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """float64 -> dtype, to nearest even, in one step."""
    if dtype == torch.float64:
        return torch.from_numpy(values)
    with np.errstate(over="ignore", under="ignore"):  # an overflow to infinity is the rounding's result
        if dtype == torch.float32:
            return torch.from_numpy(values.astype(np.float32))
        if dtype == torch.float16:
            return torch.from_numpy(values.astype(np.float16))  # NumPy rounds float64 to float16 directly
    assert dtype == torch.bfloat16
    return torch.from_numpy(_bfloat16_bits(values).view(np.int16)).view(torch.bfloat16)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Eight bits of mantissa, by scaling to an integer and NumPy's round half to even: nothing of float32 in it."""
    magnitude = np.abs(values)
    _, exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))
    exponent = np.maximum(exponent, -125)  # subnormal: the last bit stays at 2**-133
    last_bit = exponent - 8
    nearest = np.ldexp(np.rint(np.ldexp(magnitude, -last_bit)), last_bit)
    nearest = np.where(nearest >= 2.0**128, np.inf, nearest)
    exact = nearest.astype(np.float32)  # representable, so this rounds nothing
    assert np.array_equal(exact.astype(np.float64), nearest)
    sign = np.signbit(values).astype(np.uint32) << 31
    return ((exact.view(np.uint32) | sign) >> 16).astype(np.uint16)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """torch.equal, and the same of every bit: the sign of a zero, too."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(integers).cpu(), b.view(integers).cpu())
