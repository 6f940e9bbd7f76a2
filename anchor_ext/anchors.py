"""RetinaNet's anchors: from an image's shape to every anchor of its feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _arguments, _torchscript, ops
from ._core import MAX_CELL_ANCHORS
from ._recording import constant_to_the_compiler, constants, is_compiled
from ._spec import Configuration

__all__ = ["Anchors", "generate", "generate_many"]

_PYRAMID_LEVELS = (3, 4, 5, 6, 7)
_RATIOS = (0.5, 1.0, 2.0)
_SCALES = (2**0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0))


def _cell_anchor(size: float, ratio: float, scale: float) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around the origin: area (size * scale)**2, height / width = ratio (RetinaNet, section 4).

    Float64, in the order of operations that the exactness promise is made for.
    """
    side = size * scale
    width = math.sqrt(side * side / ratio)
    height = width * ratio
    return 0.0 - width * 0.5, 0.0 - height * 0.5, width - width * 0.5, height - height * 0.5


class Anchors(nn.Module):
    """Every anchor of a feature pyramid, from an image or its shape, in one launch or one CPU pass.

    The defaults are RetinaNet's (Lin et al., "Focal Loss for Dense Object Detection", section 4): per cell of each
    level, nine anchors of three ratios and three scales.

    A level's grid has `ceil(image / 2**level)` rows and columns, and the anchors of cell (row, column) are its
    cell anchors (around the origin) moved to `((column + 0.5) * stride_x, (row + 0.5) * stride_y)`. A cell anchor of a
    size, ratio and scale has `width = sqrt((size * scale)**2 / ratio)` and `height = width * ratio`. All of it is
    computed in float64 and rounded once to the output type. Order: level, row, column, cell anchor; cell anchors
    run over sizes, then ratios, then scales, the last fastest.

    The module has no parameters, no buffers and an empty `state_dict`; it can be pickled, copied and shared by
    threads.

    Args:
        pyramid_levels: distinct integers in 0..30; default `[3, 4, 5, 6, 7]`. At most 16.
        strides: pixels between centres, one per level: a number, or a pair `(stride_y, stride_x)`. Default
            `2**level`.
        sizes: side in pixels of the square that a level's cell anchors start from, one per level, or a list per
            level. Default `2**(level + 2)`.
        ratios: height / width; a list, or one list per level. Default `[0.5, 1, 2]`.
        scales: factors of the sizes; a list, or one list per level. Default `[2**0, 2**(1/3), 2**(2/3)]`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, length or value (sizes, ratios, scales and strides
            are finite and positive), or there are more than 512 cell anchors over all levels.
    """

    __jit_unused_properties__ = ("cell_anchors", "pyramid_levels", "strides")  # TorchScript would compile them

    def __init__(
        self,
        pyramid_levels: Sequence[int] | None = None,
        strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
        sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
        scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        levels = _arguments.levels(_PYRAMID_LEVELS if pyramid_levels is None else pyramid_levels)
        count = len(levels)
        self._pyramid_levels = levels
        self._strides = _arguments.stride_pairs([2**level for level in levels] if strides is None else strides, count)
        self._sizes = _arguments.per_level(
            "sizes", [2 ** (level + 2) for level in levels] if sizes is None else sizes, count, one_each=True
        )
        self._ratios = _arguments.per_level("ratios", _RATIOS if ratios is None else ratios, count)
        self._scales = _arguments.per_level("scales", _SCALES if scales is None else scales, count)
        self._check_total()
        cell_anchors = [self._cell_anchors_of(level) for level in range(count)]
        numbers = [[number for box in level for number in box] for level in cell_anchors]
        self._config = Configuration.of(numbers, self._strides, pyramid_levels=levels)
        self._spec = self._config.spec  # for TorchScript, which reads no objects

    def _check_total(self) -> None:
        total = sum(len(s) * len(r) * len(c) for s, r, c in zip(self._sizes, self._ratios, self._scales, strict=True))
        if total > MAX_CELL_ANCHORS:
            raise ValueError(
                f"sizes, ratios and scales give {total} cell anchors over all levels; expected at most "
                f"{MAX_CELL_ANCHORS}"
            )

    def _cell_anchors_of(self, level: int) -> list[tuple[float, float, float, float]]:
        boxes = []
        for size in self._sizes[level]:
            for ratio in self._ratios[level]:
                for scale in self._scales[level]:
                    box = _cell_anchor(size, ratio, scale)
                    if not all(map(math.isfinite, box)):
                        raise ValueError(
                            f"sizes has {size}, ratios {ratio} and scales {scale} on pyramid_levels[{level}]; expected "
                            "a finite cell anchor of them"
                        )
                    boxes.append(box)
        return boxes

    def forward(self, image: Tensor) -> Tensor:
        """Anchors of an image, whatever its dtype and autocast.

        Args:
            image: `(B, C, H, W)` or `(C, H, W)`; only its shape and device are used.

        Returns:
            `(1, N, 4)` float32 on the image's device: x1, y1, x2, y2 in pixels of the image.

        Raises:
            TypeError, ValueError: `image` is no tensor of three or four dimensions with positive H and W.
            RuntimeError: the image is on a CUDA device and anchor_ext was built without CUDA.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _torchscript.anchors_of_image(image, self._spec)
        if not isinstance(image, Tensor):
            raise TypeError(f"image is {_arguments.show(image)}; expected a tensor (B, C, H, W) or (C, H, W)")
        if image.is_nested:
            raise ValueError("image is a nested tensor; expected (B, C, H, W) or (C, H, W)")
        shape = image.shape
        # (A side that is no int is a symbol, which is looked at later on.)
        if len(shape) not in (3, 4) or (type(shape[-1]) is int and 0 in shape[-2:]):
            raise ValueError(f"image has shape {tuple(shape)}; expected (B, C, H, W) or (C, H, W) with H, W > 0")
        return ops.generate(self._config, None, shape[-2:], None, True, torch.float32, image.device, None)

    def generate(
        self,
        image_shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Anchors of an image's shape; see `anchor_ext.generate` for arguments, result and errors."""
        return ops.generate(self._config, None, image_shape, None, True, dtype, device, out)

    def generate_many(
        self,
        image_shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
    ) -> list[Tensor]:
        """Anchors of many images' shapes; see `anchor_ext.generate_many` for arguments, result and errors."""
        return ops.generate_many(self._config, image_shapes, dtype, device)

    def level_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """`(rows, columns)` of each level's grid: `ceil(image / 2**level)`.

        Raises:
            TypeError, ValueError: `image_shape` is not two positive integers.
        """
        return ops.level_shapes(self._config, image_shape)

    def num_anchors(self, image_shape: Sequence[int]) -> int:
        """N, the number of anchors over all levels.

        Raises:
            TypeError, ValueError: `image_shape` is not two positive integers.
        """
        return sum(self._level_sizes(image_shape))

    def _level_sizes(self, image_shape: Sequence[int]) -> list[int]:
        """Anchors per level."""
        return ops.level_sizes(self._config, None, image_shape)

    def split(self, boxes: Tensor, image_shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Per-level views, no copy, of anything that has a row per anchor.

        Args:
            boxes: `(..., N, K)`: the anchors themselves, deltas, scores per class, ...
            image_shape: `(H, W)` that they belong to.

        Returns:
            One view `(..., N_level, K)` per level.

        Raises:
            TypeError, ValueError: `boxes` is no tensor with N rows in its last dimension but one, or `image_shape` is
                not two positive integers.
        """
        counts = self._level_sizes(image_shape)
        if not isinstance(boxes, Tensor):
            raise TypeError(f"boxes is {_arguments.show(boxes)}; expected a tensor (..., N, K)")
        if boxes.is_nested or boxes.ndim < 2 or boxes.shape[-2] != sum(counts):
            raise ValueError(f"boxes has shape {_arguments.shape_of(boxes)}; expected (..., {sum(counts)}, K)")
        return torch.split(boxes, counts, dim=-2)

    @property
    def cell_anchors(self) -> list[Tensor]:
        """Per level, its cell anchors around the origin: `(A, 4)` float64 on the CPU, x1, y1, x2, y2 in pixels."""
        return [
            torch.tensor(self._cell_anchors_of(level), dtype=torch.float64, device="cpu")
            for level in range(len(self._pyramid_levels))
        ]

    @property
    def pyramid_levels(self) -> list[int]:
        """The pyramid levels."""
        return list(self._pyramid_levels)

    @property
    def strides(self) -> list[tuple[float, float]]:
        """`(stride_y, stride_x)` of each level, in pixels."""
        return list(self._strides)

    def extra_repr(self) -> str:
        def brief(numbers: Sequence[float]) -> str:
            return "[" + ", ".join(f"{number:.6g}" for number in numbers) + "]"

        def shared(lists: list[list[float]]) -> str:
            if all(numbers == lists[0] for numbers in lists):
                return brief(lists[0])
            return "[" + ", ".join(map(brief, lists)) + "]"

        square = all(y == x for y, x in self._strides)
        single = all(len(numbers) == 1 for numbers in self._sizes)
        strides = brief([y for y, _ in self._strides]) if square else str(self._strides)
        sizes = brief([numbers[0] for numbers in self._sizes]) if single else str(self._sizes)
        return (
            f"pyramid_levels={self._pyramid_levels}, strides={strides}, sizes={sizes}, "
            f"ratios={shared(self._ratios)}, scales={shared(self._scales)}"
        )


_DEFAULT = Anchors()._config


@constant_to_the_compiler
def _spec_of(*arguments: Any) -> str:
    """The compiler need not follow how a configuration comes about."""
    return Anchors(*arguments)._config.spec


def _config_of(pyramid_levels: Any, strides: Any, sizes: Any, ratios: Any, scales: Any) -> Configuration:
    """Of what `Anchors` takes."""
    if pyramid_levels is None and strides is None and sizes is None and ratios is None and scales is None:
        return _DEFAULT
    if is_compiled():
        return Configuration(_spec_of(*constants((pyramid_levels, strides, sizes, ratios, scales))))
    return Anchors(pyramid_levels, strides, sizes, ratios, scales)._config


def generate(
    image_shape: Sequence[int],
    *,
    pyramid_levels: Sequence[int] | None = None,
    strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
    sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
    scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Every anchor of the feature pyramid over an image of the given shape.

    Repeated calls with arguments other than the defaults are cheaper through `Anchors`, which reads them once.

    Args:
        image_shape: `(H, W)`, two positive integers.
        pyramid_levels, strides, sizes, ratios, scales: as for `Anchors`, where the formulas are.
        dtype: float32, float64, float16 or bfloat16, each rounded once from float64. Mind what the 16-bit types do to
            coordinates: above 256 bfloat16 holds every second pixel only, above 1024 every eighth, so that the
            anchors of neighbouring cells coincide; float16 holds every second from 2048 on and ends at 65504.
        device: where the anchors are made; default CUDA where there is one, else the CPU. A device for which
            anchor_ext has no kernel (mps, xpu, ...) gets a copy of the CPU's; meta gets the shape alone.
        out: a contiguous `(1, N, 4)` tensor of this dtype and device to write into and return.

    Returns:
        `(1, N, 4)`: x1, y1, x2, y2 in pixels of the image, in the order level, row, column, cell anchor. Exactly the
        float64 value rounded once to `dtype`, bit for bit the same on every device.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; nothing has been written then.
        RuntimeError: device is CUDA, and torch's CUDA, anchor_ext's or a GPU is missing; out of memory, as torch
            raises it.
    """
    config = _config_of(pyramid_levels, strides, sizes, ratios, scales)
    return ops.generate(config, None, image_shape, None, True, dtype, device, out)


def generate_many(
    image_shapes: Sequence[Sequence[int]],
    *,
    pyramid_levels: Sequence[int] | None = None,
    strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
    sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
    scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
) -> list[Tensor]:
    """Every anchor over images of different shapes, as training at several scales has them.

    One allocation, and one CPU pass or, for up to 512 images, one CUDA launch. In a torch.jit.trace it is an operator
    per image.

    Args:
        image_shapes: `[(H, W), ...]`, per image two positive integers.
        pyramid_levels, strides, sizes, ratios, scales, dtype, device: as for `generate`.

    Returns:
        Per image `(1, N, 4)`, the bits of `generate(image_shape, ...)`: contiguous views of one tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as `generate`; `image_shapes` is no list of shapes.
    """
    arguments = (pyramid_levels, strides, sizes, ratios, scales)
    config = _DEFAULT if arguments == (None,) * len(arguments) else _config_of(*arguments)
    return ops.generate_many(config, image_shapes, dtype, device)
