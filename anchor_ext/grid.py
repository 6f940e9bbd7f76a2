"""The general form: any cell anchors, moved over given grids, in the arithmetic and the layout of any framework."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _arguments, ops
from ._recording import constants, is_compiled
from ._spec import COMPONENTS, Configuration, derived_spec, level_counts
from .coders import BoxCoder
from .matchers import Rule

__all__ = ["AnchorGrid"]


class AnchorGrid:
    """Cell anchors moved to every cell of the levels' grids, in one launch or one CPU pass.

    The anchors of cell (row, column) are the level's cell anchors moved to the cell's centre, along either axis

        centre = (cell + offset) * stride + start

    Order: level, row, column, cell anchor. What is rounded on the way is the arithmetic's:

    - `"float64"`: nothing, until the result is rounded once to the output's dtype.
    - `"float32"`, `"float16"`, `"bfloat16"`: every single result to that type, as torch's operators leave it:
      `anchor = rn(cell_anchor + rn(rn(rn(cell + offset) * stride) + start))`; the output's dtype may be another one.
    - `"arange"`: the centres are what `torch.arange(start, ..., stride, dtype=torch.float32)` gives on the CPU, which
      is neither of the above (`offset` has no part in it), and the sum is rounded to float32.
    - `"quotient"`: SSD's normalised boxes in float32: `rn(rn(cell_anchor + rn(rn(cell + offset) / f)) * image_side)`
      with `f = image_side / stride`, or the number of cells where `strides` is None.
    - `"position/centre/sum"`, such as `"float64/float16/float16"`: the three roundings apart: that of the operations
      up to the centre, the centre's, and that of the sum and what follows.

    It holds no tensor and no state; it can be pickled, copied and shared by threads.

    Args:
        cell_anchors: per level `(A, components)` numbers around the origin: x1, y1, x2, y2 in pixels, or what the
            layout says. At most 16 levels and 512 cell anchors over all of them.
        strides: pixels between centres; per level a number or a pair `(stride_y, stride_x)`. None takes
            `image_side // cells` of each call (torchvision's rule).
        offset: of the first centre, in cells: one number, or per level a number or a pair `(y, x)`.
        start: added to the centres, in pixels: as `offset`.
        arithmetic: see above.
        layout: the components of an anchor and their order: `"xyxy"` x1, y1, x2, y2; `"yxyx"` y1, x1, y2, x2;
            `"cxcywha"` centre x and y, width, height, angle, of which the first two move; `"point"` x, y;
            `"point_stride"` x, y and two numbers of the cell anchor's that do not move. Cell anchors have this layout.

    Raises:
        TypeError, ValueError: an argument has the wrong type, length or value.
    """

    def __init__(
        self,
        cell_anchors: Sequence[Any],
        strides: Sequence[float] | Sequence[tuple[float, float]] | None,
        *,
        offset: float | Sequence[float] | Sequence[tuple[float, float]] = 0.5,
        start: float | Sequence[float] | Sequence[tuple[float, float]] = 0.0,
        arithmetic: str = "float64",
        layout: str = "xyxy",
    ) -> None:
        if not isinstance(layout, str) or layout not in COMPONENTS:
            raise ValueError(f"layout is {_arguments.show(layout)}; expected one of {', '.join(COMPONENTS)}")
        if not isinstance(arithmetic, str):
            raise TypeError(f"arithmetic is {_arguments.show(arithmetic)}; expected text")
        numbers = _arguments.cell_anchors(cell_anchors, COMPONENTS[layout])
        count = len(numbers)
        self._config = Configuration.of(
            numbers,
            [] if strides is None else _arguments.stride_pairs(strides, count),
            _arguments.offset_pairs("offset", offset, count),
            _arguments.offset_pairs("start", start, count),
            arithmetic=arithmetic,
            layout=layout,
        )

    def __call__(
        self,
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        clip: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Every anchor of the grids.

        Args:
            level_shapes: per level `(rows, columns)`; a grid may be without cells.
            image_shape: `(H, W)`, for strides that are None and for the arithmetic `"quotient"`.
            clip: `(H, W)` of an image to whose edges 0, W and 0, H components that move are limited.
            dtype: float32, float64, float16 or bfloat16.
            device: where the anchors are made; default CUDA where there is one, else the CPU.
            out: a contiguous `(N, components)` tensor of this dtype and device to write into and return.

        Returns:
            `(N, components)`.

        Raises:
            TypeError, ValueError: an argument has the wrong type or value; nothing has been written then.
            RuntimeError: device is CUDA, and torch's CUDA, anchor_ext's or a GPU is missing.
        """
        return ops.generate(self._config, level_shapes, image_shape, clip, False, dtype, device, out)

    def at(
        self,
        index: Tensor,
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        clip: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The anchors at given flat indices, without making the others.

        Args:
            index: integers of any shape, over all levels. They count modulo N: -1 is the last anchor.
            level_shapes, image_shape, clip, dtype: as for a call.

        Returns:
            `(*index.shape, components)` on the index's device: for indices in -N..N-1 `grid(level_shapes)[index]`;
            others wrap, where indexing would raise.

        Raises:
            TypeError, ValueError: as for a call; `index` is no tensor of integers.
        """
        return ops.gather(self._config, _arguments.index(index), level_shapes, image_shape, clip, dtype)

    def inside(
        self,
        level_shapes: Sequence[Sequence[int]],
        image_shape: Sequence[int],
        border: float = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
    ) -> Tensor:
        """For every anchor, whether it lies in the image or within `border` pixels around it.

        A box does where `x1 >= -border`, `y1 >= -border`, `x2 < W + border` and `y2 < H + border`; a point or a turned
        box where that holds of its centre. The anchors and the limits are those of `dtype`.

        Returns:
            `(N,)` bool.

        Raises:
            TypeError, ValueError: as for a call; `border` is neither a finite number nor inf.
        """
        if not torch.compiler.is_compiling():
            border = _arguments.border(border)
        return ops.inside(self._config, level_shapes, image_shape, border, dtype, device)

    def valid_flags(
        self,
        level_shapes: Sequence[Sequence[int]],
        padded_shape: Sequence[int],
        *,
        image_shape: Sequence[int] | None = None,
        device: torch.device | str | int | None = None,
    ) -> Tensor:
        """For every anchor, whether its cell lies on an image of the padded shape.

        Of a level's cells these are the first `ceil(H / stride_y)` rows and `ceil(W / stride_x)` columns.

        Returns:
            `(N,)` bool.

        Raises:
            TypeError, ValueError: as for a call.
        """
        return ops.valid_flags(self._config, level_shapes, image_shape, padded_shape, device)

    def match(
        self,
        boxes: Tensor | Sequence[Tensor],
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        clip: Sequence[int] | None = None,
        high: float = 0.5,
        low: float = 0.4,
        allow_low_quality: bool = True,
        low_quality_needs_overlap: bool = False,
        return_iou: bool = False,
        matcher: Rule | None = None,
        ignored: Tensor | Sequence[Tensor] | None = None,
    ) -> Any:
        """To which box each anchor belongs, without the anchors and without a matrix of anchors by boxes.

        Args:
            boxes: `(G, 4)` x1, y1, x2, y2 in pixels, whatever the layout, or a list of them, one per image.
            level_shapes, image_shape, clip: as for a call.
            high, low, allow_low_quality, low_quality_needs_overlap, return_iou, matcher, ignored: as for
                `Anchors.match`.

        Returns:
            As `Anchors.match`.

        Raises:
            TypeError, ValueError: as for a call and `Anchors.match`; the layout is neither xyxy nor yxyx.
        """
        options = (high, low, allow_low_quality, low_quality_needs_overlap)
        return ops.match(self._config, boxes, level_shapes, image_shape, clip, options, matcher, return_iou, ignored)

    def decode(
        self,
        deltas: Tensor,
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        coder: BoxCoder | None = None,
        index: Tensor | None = None,
        clip: bool | Sequence[int] | Sequence[Sequence[int]] = True,
    ) -> Tensor:
        """The boxes that deltas of the anchors say: x1, y1, x2, y2, whatever the layout.

        Args:
            deltas, coder, index: as for `Anchors.decode`.
            level_shapes, image_shape: as for a call.
            clip: as for `Anchors.decode`; True takes `image_shape`.

        Returns:
            As `Anchors.decode`.

        Raises:
            TypeError, ValueError: as for a call and `Anchors.decode`; the layout is neither xyxy nor yxyx.
        """
        return ops.decode(self._config, deltas, level_shapes, image_shape, coder, index, clip)

    def encode(
        self,
        boxes: Tensor,
        index: Tensor,
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        coder: BoxCoder | None = None,
    ) -> Tensor:
        """The deltas of boxes beside the anchors at flat indices; as `Anchors.encode`, over given grids."""
        return ops.encode(self._config, boxes, index, level_shapes, image_shape, coder)

    def targets(
        self,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        matched: Tensor,
        level_shapes: Sequence[Sequence[int]],
        *,
        image_shape: Sequence[int] | None = None,
        coder: BoxCoder | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What a loss needs of a batch; as `Anchors.targets`, over given grids."""
        return ops.targets(self._config, boxes, labels, matched, level_shapes, image_shape, coder)

    def level_sizes(
        self, level_shapes: Sequence[Sequence[int]], *, image_shape: Sequence[int] | None = None
    ) -> list[int]:
        """The number of anchors of each level."""
        return ops.level_sizes(self._config, level_shapes, image_shape)

    def split(self, values: Tensor, level_shapes: Sequence[Sequence[int]], *, dim: int = 0) -> tuple[Tensor, ...]:
        """Per-level views, no copy, of anything that has an entry per anchor in its dimension `dim`.

        Raises:
            TypeError, ValueError: `values` is no tensor with N entries there.
        """
        try:  # cheaper than reading the shapes, which whoever made the values has done
            counts = level_counts(self._config.spec)
            sizes = [rows * columns * count for (rows, columns), count in zip(level_shapes, counts, strict=True)]
        except (TypeError, ValueError):
            sizes = self.level_sizes(level_shapes)  # which says what is wrong
        if not isinstance(values, Tensor):
            raise TypeError(f"values is {_arguments.show(values)}; expected a tensor")
        if not isinstance(dim, int):
            raise TypeError(f"dim is {_arguments.show(dim)}; expected an integer")
        if not -values.ndim <= dim < values.ndim or values.shape[dim] != sum(sizes):
            raise ValueError(
                f"values has shape {tuple(values.shape)}; expected {sum(sizes)} entries in dimension {dim}"
            )
        return torch.split(values, sizes, dim)

    @property
    def num_cell_anchors(self) -> list[int]:
        """How many cell anchors each level has."""
        return list(level_counts(self._config.spec))

    @property
    def cell_anchors(self) -> list[Tensor]:
        """Per level, its cell anchors: `(A, components)` float64 on the CPU, as given."""
        native = self._config.native
        return [
            torch.tensor(level, dtype=torch.float64, device="cpu").view(-1, native.num_components)
            for level in native.cell_anchors
        ]

    @property
    def strides(self) -> list[tuple[float, float]] | None:
        """`(stride_y, stride_x)` of each level, in pixels; None where they follow from an image."""
        return list(self._config.native.strides) or None

    @property
    def arithmetic(self) -> str:
        """What is rounded on the way to an anchor."""
        return str(self._config.native.arithmetic)

    @property
    def layout(self) -> str:
        """The components of an anchor and their order."""
        return str(self._config.native.layout)

    @property
    def spec(self) -> str:
        """The configuration as the text that the operators take, and `from_spec`; docs/operators.md has its grammar."""
        return self._config.spec

    @classmethod
    def from_spec(cls, spec: str) -> AnchorGrid:
        """Of the text that `spec` gives.

        Raises:
            TypeError, ValueError: `spec` is no such text, or one with pyramid levels (`Anchors`').
        """
        config = Configuration.of_text(spec)
        if config.native.pyramid_levels:
            raise ValueError(
                f"spec has pyramid levels {config.native.pyramid_levels}; expected one without, or Anchors.from_spec"
            )
        made = cls.__new__(cls)
        made._config = config
        return made

    def _with(
        self,
        *,
        arithmetic: str | None = None,
        level: int | None = None,
        first: int | None = None,
        strides: tuple[tuple[float, float], ...] | None = None,
    ) -> AnchorGrid:
        """The same cell anchors in another arithmetic, of one level alone or the `first` ones, at other strides (y, x);
        the same object for the same arguments.

        Raises:
            ValueError: there is no such arithmetic or level.
        """
        if is_compiled():  # a new one: what is kept is no business of a graph's
            changed = (arithmetic, constants(level), constants(first), constants(strides))
            return _of_spec(derived_spec(self._config.spec, *changed))
        return _derived(self._config.spec, arithmetic, level, first, strides)

    def __repr__(self) -> str:
        native = self._config.native
        return (
            f"AnchorGrid(num_cell_anchors={native.num_cell_anchors}, strides={native.strides or None}, "
            f"offsets={native.offsets or 0.5}, starts={native.starts or 0.0}, "
            f"arithmetic={native.arithmetic!r}, layout={native.layout!r})"
        )


def _of_spec(spec: str) -> AnchorGrid:
    grid = AnchorGrid.__new__(AnchorGrid)
    grid._config = Configuration(spec)
    return grid


@functools.lru_cache(maxsize=1024)
def _derived(spec: str, *changed: Any) -> AnchorGrid:
    return _of_spec(derived_spec(spec, *changed))
