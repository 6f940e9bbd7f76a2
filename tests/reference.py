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
