"""The peer: RetinaNet's anchors in NumPy, level after level, as detectors have made them for years."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

LEVELS = (3, 4, 5, 6, 7)
RATIOS = np.array([0.5, 1, 2])
SCALES = np.array([2**0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0)])


def cell_anchors(size: float) -> np.ndarray:
    sides = size * np.tile(SCALES, len(RATIOS))
    ratios = np.repeat(RATIOS, len(SCALES))
    widths = np.sqrt(sides * sides / ratios)
    heights = widths * ratios
    return np.stack([-0.5 * widths, -0.5 * heights, widths - 0.5 * widths, heights - 0.5 * heights], axis=1)


def numpy_float64(image_shape: Sequence[int]) -> np.ndarray:
    """(N, 4), before any rounding."""
    levels = []
    for level in LEVELS:
        stride = 2**level
        rows, columns = ((side + stride - 1) // stride for side in image_shape)
        x, y = np.meshgrid((np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride)
        centres = np.stack([x.ravel(), y.ravel(), x.ravel(), y.ravel()], axis=1)
        levels.append((centres[:, None] + cell_anchors(2 ** (level + 2))[None]).reshape(-1, 4))
    return np.concatenate(levels)


def numpy_anchors(image_shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """(1, N, 4) float32 on the device, made in float64 on the CPU."""
    return torch.from_numpy(numpy_float64(image_shape)[None].astype(np.float32)).to(device)
