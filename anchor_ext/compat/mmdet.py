"""mmdetection's anchor and point generators (mmdet.models.task_modules.prior_generators, mmdet 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._arguments import is_sequence
from ..grid import AnchorGrid
from ._common import (
    DTYPES,
    PROMOTED,
    CompatError,
    check_levels,
    check_number,
    check_numbers,
    check_pairs,
    check_whole,
    constants,
    expect,
    is_whole,
    name_of,
    renamed,
    show,
    to_device,
)

__all__ = [
    "AnchorGenerator",
    "LegacyAnchorGenerator",
    "LegacySSDAnchorGenerator",
    "MlvlPointGenerator",
    "SSDAnchorGenerator",
    "YOLOAnchorGenerator",
    "register",
]


def register() -> None:
    """Makes mmdet's registry TASK_UTILS build these classes under its own names for them.

    Raises:
        ImportError: mmdet is not installed.
    """
    import mmdet.models.task_modules.prior_generators  # noqa: F401  (registers its own, and refuses names that are taken)
    from mmdet.registry import TASK_UTILS

    for name in __all__:
        if name != "register":
            TASK_UTILS.register_module(name=name, module=globals()[name], force=True)


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, Sequence) else (value, value)


def _about_sizes(error: Exception, sizes: Any) -> Exception:
    if isinstance(error, CompatError):
        return error
    if "level_shapes" in str(error):
        return renamed(error, "level_shapes", "featmap_sizes")
    return CompatError(f"featmap_sizes is {show(sizes)}; expected (rows, columns) per level ({error})")


def _filled(sides: Sequence[int]) -> tuple[int, ...]:
    """At least a cell: the core refuses grids without any, which mmdet accepts."""
    return tuple(max(side, 1) for side in sides)


class _Generator:
    """What anchors and points share: grids of `self.strides` (w, h) per level, and what can be asked of them."""

    strides: list[tuple[Any, Any]]
    use_box_type = False
    grid: AnchorGrid  # of float32 anchors
    _kinds: tuple[str, ...] = ("priors", "sparse")

    def _make(self, kind: str, dtype: torch.dtype, levels: slice) -> AnchorGrid:
        """The grid of these levels that makes priors of a dtype; mmdet rounds in another order for some kinds."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Every grid, now: in what is compiled none can be made."""
        parts: dict[int | None, slice] = {level: slice(level, level + 1) for level in range(len(self.strides))}
        parts[None] = slice(None)
        with constants():
            self._made = {
                (kind, dtype, level): self._make(kind, dtype, part)
                for kind in self._kinds
                for dtype in DTYPES
                for level, part in parts.items()
            }
        self.grid = self._grid("priors", torch.float32)

    def _grid(self, kind: str, dtype: torch.dtype, level: int | None = None) -> AnchorGrid:
        name_of(dtype)
        if level is not None and not -self.num_levels <= level < self.num_levels:
            raise CompatError(f"level_idx is {level}; expected one of {self.num_levels} levels")
        return self._made[kind, dtype, None if level is None else level % self.num_levels]

    def _strides_y_x(self) -> list[tuple[Any, Any]]:
        return [(y, x) for x, y in self.strides]

    @property
    def num_levels(self) -> int:
        """How many levels there are."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """How many priors a cell of each level has."""
        return self.grid.num_cell_anchors

    def grid_priors(
        self, featmap_sizes: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32, device: Any = None
    ) -> list[Any]:
        """Per level its priors, `(rows * columns * A, components)`: views of one tensor, made by one launch.

        Args:
            featmap_sizes: per level `(rows, columns)`.
            dtype: of the priors and, as in mmdet, of every step of their computation.
            device: default CUDA where there is one, else the CPU.

        Raises:
            CompatError: there are more or fewer sizes than levels, or `dtype` is another one.
            TypeError, ValueError, RuntimeError: as `AnchorGrid`.
        """
        check_levels("featmap_sizes", featmap_sizes, self.num_levels)
        return self._wrapped(self._split(self._grid("priors", dtype), featmap_sizes, dtype, device))

    def _split(
        self, grid: AnchorGrid, featmap_sizes: Sequence[Sequence[int]], dtype: torch.dtype, device: Any
    ) -> list[Tensor]:
        """The grid's anchors, level by level, of which some may be empty."""
        try:
            if all(map(all, featmap_sizes)):
                return list(grid.split(grid(featmap_sizes, dtype=dtype, device=device), featmap_sizes))
            filled = [_filled(size) for size in featmap_sizes]
        except (TypeError, ValueError) as error:
            raise _about_sizes(error, featmap_sizes) from error
        levels = grid.split(grid(filled, dtype=dtype, device=device), filled)
        return [of_level if all(size) else of_level[:0] for of_level, size in zip(levels, featmap_sizes, strict=True)]

    def single_level_grid_priors(
        self, featmap_size: Sequence[int], level_idx: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> Any:
        """The priors of one level."""
        return self._wrapped(self._split(self._grid("priors", dtype, level_idx), [featmap_size], dtype, device))[0]

    def sparse_priors(
        self,
        prior_idxs: Tensor,
        featmap_size: Any,
        level_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
    ) -> Tensor:
        """The priors at given flat indices, without making the others.

        Args:
            prior_idxs: integers of any shape, taken modulo the number of priors.
            featmap_size: `(rows, columns)` of the level `level_idx`, in which `prior_idxs` count.
            level_idx: the level; or None, with the sizes of all levels as `featmap_size`: `prior_idxs` count over all
                levels, one after another, and the result is `torch.cat(grid_priors(featmap_size, dtype))[prior_idxs]`.
            dtype: as for `grid_priors`. As in mmdet, anchors of one level are float32 where it is a 16-bit type, whose
                sole part is then the rounding of the centres.
            device: of the result; default that of `prior_idxs`.

        Returns:
            `(*prior_idxs.shape, components)`.
        """
        try:
            if level_idx is None:
                check_levels("featmap_size", featmap_size, self.num_levels)
                return to_device(self._grid("priors", dtype).at(prior_idxs, featmap_size, dtype=dtype), device)
            if isinstance(prior_idxs, Tensor) and prior_idxs.numel() == 0:
                featmap_size = _filled(featmap_size)
            grid = self._grid("sparse", dtype, level_idx)
            return to_device(grid.at(prior_idxs, [featmap_size], dtype=self._sparse_dtype(dtype)), device)
        except (TypeError, ValueError) as error:
            if str(error).startswith("index is"):
                raise renamed(error, "index", "prior_idxs") from error
            raise _about_sizes(error, featmap_size) from error

    def valid_flags(
        self, featmap_sizes: Sequence[Sequence[int]], pad_shape: Sequence[int], device: Any = None
    ) -> list[Tensor]:
        """Per level, whether each prior's cell lies on the padded image: `(rows * columns * A,)` bool, one launch.

        Args:
            featmap_sizes: per level `(rows, columns)`.
            pad_shape: `(H, W, ...)` of the padded image.
        """
        check_levels("featmap_sizes", featmap_sizes, self.num_levels)
        try:
            padded = tuple(pad_shape[:2])
            if all(padded) and all(map(all, featmap_sizes)):
                return list(self.grid.split(self.grid.valid_flags(featmap_sizes, padded, device=device), featmap_sizes))
            filled = [_filled(size) for size in featmap_sizes]
            levels = self.grid.split(self.grid.valid_flags(filled, _filled(padded), device=device), filled)
        except (TypeError, ValueError) as error:
            if "padded_shape" in str(error) or not isinstance(pad_shape, Sequence):
                raise CompatError(f"pad_shape is {show(pad_shape)}; expected (height, width, ...)") from error
            raise _about_sizes(error, featmap_sizes) from error
        return [
            (flags if all(size) else flags[:0]) & all(padded) for flags, size in zip(levels, featmap_sizes, strict=True)
        ]

    def _flags(self, featmap_size: Sequence[int], valid_size: Sequence[int], count: int, device: Any) -> Tensor:
        for side, valid in zip(featmap_size, valid_size, strict=True):
            expect(
                0 <= valid <= side,
                f"valid_size is {show(valid_size)}; expected at most featmap_size, {show(featmap_size)}",
            )
        points = AnchorGrid([[(0.0, 0.0)] * count], [1.0], layout="point")
        flags = points.valid_flags([_filled(featmap_size)], _filled(valid_size), device=device)
        return (flags if all(featmap_size) else flags[:0]) & all(valid_size)

    def _sparse_dtype(self, dtype: torch.dtype) -> torch.dtype:
        raise NotImplementedError

    def _wrapped(self, priors: Sequence[Tensor]) -> list[Any]:
        if not self.use_box_type:
            return list(priors)
        from mmdet.structures.bbox import HorizontalBoxes

        return [HorizontalBoxes(of_level) for of_level in priors]


class AnchorGenerator(_Generator):
    """mmdet's AnchorGenerator: the same anchors bit for bit, from one launch for all levels.

    Per level, base anchors of every ratio and scale, `w = base / sqrt(ratio) * scale` by
    `h = base * sqrt(ratio) * scale` in float32, around `centers[level]` or `center_offset * base`; cells are a stride
    apart, the first at 0.

    Args:
        strides: pixels between cells, per level: a number or a pair (w, h).
        ratios: height / width.
        scales: factors of the base sizes; or None with `octave_base_scale` and `scales_per_octave`, which make
            `octave_base_scale * 2**(i / scales_per_octave)`.
        base_sizes: pixels, per level; default the smaller stride.
        scale_major: whether the scales run fastest.
        centers: per level (x, y) of the first cell's anchors, in pixels.
        center_offset: the same as a fraction of the base size, in [0, 1].
        use_box_type: whether the priors come as mmdet's HorizontalBoxes, which needs mmdet.
    """

    def __init__(
        self,
        strides: Sequence[Any],
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: Sequence[tuple[float, float]] | None = None,
        center_offset: float = 0.0,
        use_box_type: bool = False,
    ) -> None:
        check_pairs("strides", strides)
        check_numbers("ratios", ratios)
        check_number("center_offset", center_offset, positive=False)
        for name, value in (("scales", scales), ("base_sizes", base_sizes)):
            if value is not None:
                check_numbers(name, value)
        if centers is not None:
            check_pairs("centers", centers, positive=False)
            expect(all(map(is_sequence, centers)), f"centers is {show(centers)}; expected a pair (x, y) per level")
        if octave_base_scale is not None:
            check_number("octave_base_scale", octave_base_scale)
        if scales_per_octave is not None:
            check_whole("scales_per_octave", scales_per_octave, 1, 512)
        expect(
            center_offset == 0 or centers is None,
            f"centers is {show(centers)}; expected None where center_offset is {center_offset}",
        )
        expect(0 <= center_offset <= 1, f"center_offset is {show(center_offset)}; expected a number in [0, 1]")
        expect(
            centers is None or len(centers) == len(strides),
            f"centers is {show(centers)}; expected a pair per stride, {len(strides)} in all",
        )
        octave = octave_base_scale is not None and scales_per_octave is not None
        expect(
            octave != (scales is not None),
            f"scales is {show(scales)}, octave_base_scale {octave_base_scale}, scales_per_octave {scales_per_octave}; "
            "expected either the first or the other two",
        )
        self.strides = [_pair(stride) for stride in strides]
        self.base_sizes: Any = [min(stride) for stride in self.strides] if base_sizes is None else base_sizes
        expect(
            len(self.base_sizes) == len(self.strides),
            f"base_sizes is {show(base_sizes)}; expected a number per stride, {len(strides)} in all",
        )
        if scales is None:
            assert octave_base_scale is not None and scales_per_octave is not None
            scales = [2 ** (i / scales_per_octave) * octave_base_scale for i in range(scales_per_octave)]
        self.octave_base_scale = octave_base_scale
        self.scales_per_octave = scales_per_octave
        with constants():
            self.scales: Any = _float32(scales)
            self.ratios: Any = _float32(ratios)
        self.scale_major = scale_major
        self.centers: Any = centers
        self.center_offset = center_offset
        self.use_box_type = use_box_type
        self._make_anchors()

    def _make_anchors(self) -> None:
        """The base anchors and their grids: the last step of every constructor."""
        with constants():
            self.base_anchors: list[Tensor] = self.gen_base_anchors()
        self._prepare()

    def _make(self, kind: str, dtype: torch.dtype, levels: slice) -> AnchorGrid:
        strides, arithmetic = self._strides_y_x(), name_of(dtype)
        if kind == "sparse":
            position = "float64" if all(map(is_whole, strides)) else "float32"  # integers' products are exact in mmdet
            arithmetic = f"{position}/{name_of(dtype)}/{name_of(self._sparse_dtype(dtype))}"
        return AnchorGrid(self.base_anchors[levels], strides[levels], offset=0.0, arithmetic=arithmetic)

    def _sparse_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return PROMOTED[dtype]

    @property
    def num_base_anchors(self) -> list[int]:
        """The same as `num_base_priors`."""
        return self.num_base_priors

    def gen_base_anchors(self) -> list[Tensor]:
        """Per level its base anchors, `(A, 4)` float32 on the CPU."""
        return [
            self.gen_single_level_base_anchors(
                base_size, self.scales, self.ratios, None if self.centers is None else self.centers[level]
            )
            for level, base_size in enumerate(self.base_sizes)
        ]

    def gen_single_level_base_anchors(
        self, base_size: float, scales: Tensor, ratios: Tensor, center: tuple[float, float] | None = None
    ) -> Tensor:
        """Base anchors of one level."""
        widths, heights = self._widths_and_heights(base_size, scales, ratios)
        x, y = (self.center_offset * base_size,) * 2 if center is None else center
        return _around(x, y, 0.5 * widths, 0.5 * heights)

    def _widths_and_heights(self, base_size: float, scales: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        # The order of the two products decides the last bit.
        roots = ratios.sqrt()
        if self.scale_major:
            sides = [torch.outer(base_size * factor, scales) for factor in (1 / roots, roots)]
        else:
            sides = [torch.outer(base_size * scales, factor) for factor in (1 / roots, roots)]
        return sides[0].flatten(), sides[1].flatten()

    def grid_anchors(self, featmap_sizes: Sequence[Sequence[int]], device: Any = None) -> list[Tensor]:
        """Per level its float32 anchors, always plain tensors: `grid_priors` of old."""
        check_levels("featmap_sizes", featmap_sizes, self.num_levels)
        return self._split(self.grid, featmap_sizes, torch.float32, device)

    def single_level_valid_flags(
        self, featmap_size: Sequence[int], valid_size: Sequence[int], num_base_anchors: int, device: Any = None
    ) -> Tensor:
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        return self._flags(featmap_size, valid_size, num_base_anchors, device)

    def __repr__(self) -> str:
        names = ("strides", "ratios", "scales", "base_sizes", "scale_major", "centers", "center_offset", "num_levels")
        lines = [f"    {name}={getattr(self, name)}" for name in names if hasattr(self, name)]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + ")"


class LegacyAnchorGenerator(AnchorGenerator):
    """mmdet's LegacyAnchorGenerator, of mmdetection 1: boxes are a pixel smaller and rounded to whole pixels."""

    def gen_single_level_base_anchors(
        self, base_size: float, scales: Tensor, ratios: Tensor, center: tuple[float, float] | None = None
    ) -> Tensor:
        widths, heights = self._widths_and_heights(base_size, scales, ratios)
        x, y = (self.center_offset * (base_size - 1),) * 2 if center is None else center
        return _around(x, y, 0.5 * (widths - 1), 0.5 * (heights - 1)).round()


class SSDAnchorGenerator(AnchorGenerator):
    """mmdet's SSDAnchorGenerator: per level the ratios 1, 1 at the larger scale, then 1/r and r, around half a stride.

    Args:
        strides: pixels between cells, per level: a number or a pair (w, h).
        ratios: per level a list.
        min_sizes, max_sizes: pixels, per level; or None for both, with the two below.
        basesize_ratio_range: the smallest and the largest size as fractions of `input_size`.
        input_size: 300 or 512.
        scale_major, use_box_type: as for `AnchorGenerator`.
    """

    def __init__(
        self,
        strides: Sequence[Any],
        ratios: Sequence[Sequence[float]],
        min_sizes: Sequence[float] | None = None,
        max_sizes: Sequence[float] | None = None,
        basesize_ratio_range: tuple[float, float] = (0.15, 0.9),
        input_size: int = 300,
        scale_major: bool = True,
        use_box_type: bool = False,
    ) -> None:
        check_pairs("strides", strides)
        check_numbers("ratios", ratios, depth=2, empty=True)
        for name, value in (("min_sizes", min_sizes), ("max_sizes", max_sizes)):
            if value is not None:
                check_numbers(name, value)
        count = len(strides)
        expect(all(map(is_sequence, ratios)), f"ratios is {show(ratios)}; expected a list per level")
        expect(len(ratios) == count, f"ratios is {show(ratios)}; expected a list per stride, {count} in all")
        expect(
            (min_sizes is None) == (max_sizes is None),
            f"min_sizes is {show(min_sizes)} and max_sizes {show(max_sizes)}; expected both or neither",
        )
        self.strides = [_pair(stride) for stride in strides]
        self.centers = self._centers(strides)
        if min_sizes is None or max_sizes is None:
            self.input_size = input_size
            self.basesize_ratio_range = basesize_ratio_range
            min_sizes, max_sizes = _ssd_sizes(basesize_ratio_range, input_size, count)
        for name, sizes in (("min_sizes", min_sizes), ("max_sizes", max_sizes)):
            expect(len(sizes) == count, f"{name} is {show(sizes)}; expected a number per stride, {count} in all")
        self.base_sizes = min_sizes
        with constants():
            self.scales = [
                _float32([1.0, math.sqrt(high / low)]) for low, high in zip(min_sizes, max_sizes, strict=True)
            ]
            self.ratios = [
                _float32([1.0, *(number for ratio in of_level for number in (1 / ratio, ratio))]) for of_level in ratios
            ]
        self.scale_major = scale_major
        self.center_offset = 0
        self.use_box_type = use_box_type
        self._make_anchors()

    def _centers(self, strides: Sequence[Any]) -> list[tuple[float, float]]:  # as given, which LegacySSD asks
        return [(width / 2.0, height / 2.0) for width, height in self.strides]

    def gen_base_anchors(self) -> list[Tensor]:
        levels = []
        for base_size, scales, ratios, center in zip(
            self.base_sizes, self.scales, self.ratios, self.centers, strict=True
        ):
            boxes = self.gen_single_level_base_anchors(base_size, scales, ratios, center)
            count = len(ratios)
            levels.append(boxes[[0, count, *range(1, count)]])
        return levels


class LegacySSDAnchorGenerator(SSDAnchorGenerator, LegacyAnchorGenerator):
    """mmdet's LegacySSDAnchorGenerator: SSD's anchors with the legacy rounding, around (stride - 1) / 2."""

    def __init__(
        self,
        strides: Sequence[Any],
        ratios: Sequence[Sequence[float]],
        basesize_ratio_range: tuple[float, float],
        input_size: int = 300,
        scale_major: bool = True,
        use_box_type: bool = False,
    ) -> None:
        super().__init__(strides, ratios, None, None, basesize_ratio_range, input_size, scale_major, use_box_type)

    def _centers(self, strides: Sequence[Any]) -> list[tuple[float, float]]:
        expect(
            not any(isinstance(stride, Sequence) for stride in strides),
            f"strides is {show(strides)}; expected a number per level",
        )
        return [((stride - 1) / 2.0, (stride - 1) / 2.0) for stride in strides]


class YOLOAnchorGenerator(AnchorGenerator):
    """mmdet's YOLOAnchorGenerator: given sizes around half a stride.

    Args:
        strides: pixels between cells, per level: a number or a pair (w, h).
        base_sizes: per level a list of as many pairs (w, h), or numbers, in pixels.
        use_box_type: as for `AnchorGenerator`.
    """

    def __init__(self, strides: Sequence[Any], base_sizes: Sequence[Sequence[Any]], use_box_type: bool = False) -> None:
        check_pairs("strides", strides)
        check_numbers("base_sizes", base_sizes, depth=3)
        for level, sizes in enumerate(base_sizes):
            check_pairs(f"base_sizes[{level}]", sizes)
        expect(
            len({len(sizes) for sizes in base_sizes}) == 1 and len(base_sizes) == len(strides),
            f"base_sizes is {show(base_sizes)}; expected as many sizes for each of the {len(strides)} strides",
        )
        self.strides = [_pair(stride) for stride in strides]
        self.centers = [(width / 2.0, height / 2.0) for width, height in self.strides]
        self.base_sizes = [[_pair(size) for size in of_level] for of_level in base_sizes]
        self.use_box_type = use_box_type
        self._make_anchors()

    def gen_base_anchors(self) -> list[Tensor]:
        return [
            _float32([(x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h) for w, h in sizes])
            for sizes, (x, y) in zip(self.base_sizes, self.centers, strict=True)
        ]


class MlvlPointGenerator(_Generator):
    """mmdet's MlvlPointGenerator: a point per cell, `(cell + offset) * stride` in float32, from one launch.

    Args:
        strides: pixels between points, per level: a number or a pair (w, h).
        offset: of the first point, in strides.
    """

    _kinds = ("priors", "sparse", "points and strides")

    def __init__(self, strides: Sequence[Any], offset: float = 0.5) -> None:
        check_pairs("strides", strides)
        check_number("offset", offset, positive=False)
        self.strides = [_pair(stride) for stride in strides]
        self.offset = offset
        self._prepare()

    def _make(self, kind: str, dtype: torch.dtype, levels: slice) -> AnchorGrid:
        strides, with_stride = self._strides_y_x()[levels], kind == "points and strides"
        own = [[(0.0, 0.0, float(x), float(y))] if with_stride else [(0.0, 0.0)] for y, x in strides]
        # The position is float32 in mmdet; the number that is a stride is of the output's type from the beginning.
        arithmetic = f"float32/float32/{name_of(PROMOTED[dtype])}"
        layout = "point_stride" if with_stride else "point"
        return AnchorGrid(own, strides, offset=self.offset, arithmetic=arithmetic, layout=layout)

    def _sparse_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def grid_priors(
        self,
        featmap_sizes: Sequence[Sequence[int]],
        dtype: torch.dtype = torch.float32,
        device: Any = None,
        with_stride: bool = False,
    ) -> list[Tensor]:
        """Per level its points, `(rows * columns, 2)` x, y or, `with_stride`, `(..., 4)` x, y, stride w, stride h.

        Arguments and errors as for `AnchorGenerator.grid_priors`; only the result is rounded to `dtype`.
        """
        if not with_stride:
            return super().grid_priors(featmap_sizes, dtype, device)
        check_levels("featmap_sizes", featmap_sizes, self.num_levels)
        return self._split(self._grid("points and strides", dtype), featmap_sizes, dtype, device)

    def single_level_grid_priors(
        self,
        featmap_size: Sequence[int],
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
        with_stride: bool = False,
    ) -> Tensor:
        """The points of one level."""
        kind = "points and strides" if with_stride else "priors"
        return self._split(self._grid(kind, dtype, level_idx), [featmap_size], dtype, device)[0]

    def single_level_valid_flags(
        self, featmap_size: Sequence[int], valid_size: Sequence[int], device: Any = None
    ) -> Tensor:
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        return self._flags(featmap_size, valid_size, 1, device)


def _float32(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float32, device="cpu")


def _around(x: float, y: float, half_widths: Tensor, half_heights: Tensor) -> Tensor:
    corners = [x - half_widths, y - half_heights, x + half_widths, y + half_heights]
    return torch.stack(corners, dim=-1)


def _ssd_sizes(ratio_range: tuple[float, float], input_size: int, levels: int) -> tuple[list[int], list[int]]:
    """Smallest and largest size per level: those of the first by convention, the others evenly spaced per cent."""
    check_whole("input_size", input_size, 1)
    first_per_cent = {300: {0.15: (7, 15), 0.2: (10, 20)}, 512: {0.1: (4, 10), 0.15: (7, 15)}}
    expect(
        input_size in first_per_cent,
        f"input_size is {show(input_size)}; expected 300 or 512, or min_sizes and max_sizes",
    )
    expect(
        isinstance(ratio_range, tuple) and len(ratio_range) == 2 and ratio_range[0] in first_per_cent[input_size],
        f"basesize_ratio_range is {show(ratio_range)}; expected a pair that begins with one of "
        f"{', '.join(map(str, first_per_cent[input_size]))} where input_size is {input_size}",
    )
    expect(levels > 2, f"strides has {levels} levels; expected more than 2, or min_sizes and max_sizes")
    low, high = (int(ratio * 100) for ratio in ratio_range)
    step = int((high - low) / (levels - 2))
    expect(step > 0, f"basesize_ratio_range is {show(ratio_range)}; expected a wider range for {levels} levels")
    per_cent = [
        first_per_cent[input_size][ratio_range[0]],
        *((least, least + step) for least in range(low, high + 1, step)),
    ]
    smallest, largest = zip(*((int(input_size * a / 100), int(input_size * b / 100)) for a, b in per_cent), strict=True)
    return list(smallest), list(largest)
