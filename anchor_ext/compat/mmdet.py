"""mmdetection's anchor and point generators (mmdet.models.task_modules.prior_generators, mmdet 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, constants, promoted, renaming

__all__ = [
    "AnchorGenerator",
    "LegacyAnchorGenerator",
    "LegacySSDAnchorGenerator",
    "MlvlPointGenerator",
    "SSDAnchorGenerator",
    "YOLOAnchorGenerator",
    "register",
]

# What the core's arguments are called here: where all levels are asked, one, and priors at indices.
_ALL = {"level_shapes": "featmap_sizes", "padded_shape": "pad_shape"}
_ONE = {"level_shapes[0]": "featmap_size", "level_shapes": "featmap_size"}
_SPARSE = {"level_shapes": "featmap_size", "index ": "prior_idxs "}

_Size = Sequence[int]  # rows, columns
_Sizes = Sequence[_Size]


def register() -> None:
    """Makes mmdet's registry TASK_UTILS build these classes under its own names for them.

    Raises:
        ImportError: mmdet is not installed.
    """
    import mmdet.models.task_modules.prior_generators  # noqa: F401  (registers its own, and refuses names that are taken)
    from mmdet.registry import TASK_UTILS

    for name in set(__all__) - {"register"}:
        TASK_UTILS.register_module(name=name, module=globals()[name], force=True)


class _Generator:
    """What anchors and points share: grids of `self.strides` (w, h) per level, and what can be asked of them."""

    strides: list[tuple[Any, Any]]
    use_box_type = False
    grid: AnchorGrid  # of float32 priors; the others are made of it

    def _rounding(self, dtype: torch.dtype, *, sparse: bool = False) -> tuple[str, torch.dtype]:
        """The arithmetic and the dtype of priors; mmdet rounds sparse ones of one level in another order."""
        raise NotImplementedError

    def _grid(self, cells: Sequence[Any], **options: Any) -> AnchorGrid:
        return AnchorGrid(cells, [(y, x) for x, y in self.strides], arithmetic="float32", **options)

    @property
    def num_levels(self) -> int:
        """How many levels there are."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """How many priors a cell of each level has."""
        return self.grid.num_cell_anchors

    def grid_priors(self, featmap_sizes: _Sizes, dtype: torch.dtype = torch.float32, device: Any = None) -> list[Any]:
        """Per level its priors, `(rows * columns * A, components)`: views of one tensor, made by one launch.

        Args:
            featmap_sizes: per level `(rows, columns)`.
            dtype: of the priors and, as in mmdet, of every step of their computation.
            device: default CUDA where there is one, else the CPU.

        Raises:
            CompatError: there are more or fewer sizes than levels, or `dtype` is another one.
            TypeError, ValueError, RuntimeError: as `AnchorGrid`.
        """
        return self._priors(self.grid, featmap_sizes, None, dtype, device)

    def single_level_grid_priors(
        self, featmap_size: _Size, level_idx: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> Any:
        """The priors of one level."""
        return self._priors(self.grid, [featmap_size], level_idx, dtype, device)[0]

    def _priors(self, grid: AnchorGrid, sizes: _Sizes, level: int | None, dtype: torch.dtype, device: Any) -> list[Any]:
        grid, dtype = self._derived(grid, level, dtype)
        priors = by_level(grid, _ALL if level is None else _ONE, grid, sizes, dtype=dtype, device=device)
        if not self.use_box_type:
            return priors
        from mmdet.structures.bbox import HorizontalBoxes

        return list(map(HorizontalBoxes, priors))

    def _derived(
        self, grid: AnchorGrid, level_idx: int | None, dtype: torch.dtype, *, sparse: bool = False
    ) -> tuple[AnchorGrid, torch.dtype]:
        """The grid of all levels or one, in the arithmetic of priors, and the dtype that these have."""
        arithmetic, dtype = self._rounding(dtype, sparse=sparse)
        if level_idx is not None:
            count = len(self.strides)
            check.that(-count <= level_idx < count, "level_idx", level_idx, f"one of {count} levels")
            level_idx %= count
        return grid._with(arithmetic=arithmetic, level=level_idx), dtype

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
        one = level_idx is not None
        grid, dtype = self._derived(self.grid, level_idx, dtype, sparse=one)
        sizes, names = ([featmap_size], _ONE) if one else (featmap_size, _ALL)
        check.levels("featmap_size", sizes, len(grid.num_cell_anchors))
        priors = renaming({**names, **_SPARSE}, grid.at, prior_idxs, sizes, dtype=dtype)
        return priors if device is None or priors.device == torch.device(device) else priors.to(device)

    def valid_flags(self, featmap_sizes: _Sizes, pad_shape: _Size, device: Any = None) -> list[Tensor]:
        """Per level, whether each prior's cell lies on the image padded to `pad_shape`, `(H, W, ...)`.

        `(rows * columns * A,)` bool: views of one tensor, made by one launch. Sizes and device as for `grid_priors`.
        """
        check.that(hasattr(pad_shape, "__getitem__"), "pad_shape", pad_shape, "(height, width, ...)")
        return by_level(self.grid, _ALL, self.grid.valid_flags, featmap_sizes, tuple(pad_shape[:2]), device=device)

    def single_level_valid_flags(
        self, featmap_size: _Size, valid_size: _Size, num_base_anchors: int, device: Any = None
    ) -> Tensor:
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        good = all(0 <= valid <= side for side, valid in zip(featmap_size, valid_size, strict=True))
        check.that(good, "valid_size", valid_size, f"at most featmap_size, {check.show(featmap_size)}")
        points = AnchorGrid([[(0.0, 0.0)] * num_base_anchors], [1.0], layout="point")
        return renaming(_ONE, points.valid_flags, [featmap_size], valid_size, device=device)


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

    center_offset: float = 0
    _pixel = 0  # by which boxes are smaller

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
        self.strides = check.pairs("strides", strides)
        check.numbers("ratios", ratios)
        check.numbers("scales", scales, optional=True)
        check.numbers("base_sizes", base_sizes, levels=len(strides), optional=True)
        check.number("octave_base_scale", octave_base_scale, optional=True)
        check.whole("scales_per_octave", scales_per_octave, 1, 512, optional=True)
        check.pairs("centers", centers, positive=False, nested=True, levels=len(strides), optional=True)
        check.number("center_offset", center_offset, positive=False)
        check.that(0 <= center_offset <= 1, "center_offset", center_offset, "a number in [0, 1]")
        check.that(
            center_offset == 0 or centers is None, "centers", centers, f"None with center_offset {center_offset}"
        )
        self.octave_base_scale, self.scales_per_octave = octave = (octave_base_scale, scales_per_octave)
        given = "(scales, octave_base_scale, scales_per_octave)"
        check.that((None in octave) != (scales is None), given, (scales, *octave), "either the first or the other two")
        if octave_base_scale is not None and scales_per_octave is not None:
            scales = [2 ** (i / scales_per_octave) * octave_base_scale for i in range(scales_per_octave)]
        self.base_sizes: Any = list(map(min, self.strides)) if base_sizes is None else base_sizes
        self.scales: Any = _float32(scales)
        self.ratios: Any = _float32(ratios)
        self.scale_major = scale_major
        self.centers: Any = centers
        self.center_offset = center_offset
        self._make_anchors(use_box_type)

    def _make_anchors(self, use_box_type: bool) -> None:
        """The last step of every constructor."""
        self.use_box_type = use_box_type
        with constants():
            self.base_anchors: list[Tensor] = self.gen_base_anchors()
            self.grid = self._grid(self.base_anchors, offset=0.0)
        whole = all(isinstance(side, int) for stride in self.strides for side in stride)
        self._of_sparse = "float64" if whole else "float32"  # integers' products are exact in mmdet

    def _rounding(self, dtype: torch.dtype, *, sparse: bool = False) -> tuple[str, torch.dtype]:
        if not sparse:
            return check.name_of(dtype), dtype
        return f"{self._of_sparse}/{check.name_of(dtype)}/{check.name_of(promoted(dtype))}", promoted(dtype)

    num_base_anchors = _Generator.num_base_priors

    def gen_base_anchors(self) -> list[Tensor]:
        """Per level its base anchors, `(A, 4)` float32 on the CPU."""
        centers = [None] * self.num_levels if self.centers is None else self.centers
        levels = zip(self.base_sizes, centers, strict=True)
        return [self.gen_single_level_base_anchors(size, self.scales, self.ratios, center) for size, center in levels]

    def gen_single_level_base_anchors(
        self, base_size: float, scales: Tensor, ratios: Tensor, center: tuple[float, float] | None = None
    ) -> Tensor:
        """Base anchors of one level."""
        roots = ratios.sqrt()
        if self.scale_major:  # the order of the two products decides the last bit
            sides = [torch.outer(base_size * factor, scales) for factor in (1 / roots, roots)]
        else:
            sides = [torch.outer(base_size * scales, factor) for factor in (1 / roots, roots)]
        w, h = (0.5 * (side.flatten() - self._pixel) for side in sides)
        x, y = (self.center_offset * (base_size - self._pixel),) * 2 if center is None else center
        anchors = torch.stack([x - w, y - h, x + w, y + h], dim=-1)
        return anchors.round() if self._pixel else anchors

    def grid_anchors(self, featmap_sizes: _Sizes, device: Any = None) -> list[Tensor]:
        """Per level its float32 anchors, always plain tensors: `grid_priors` of old."""
        return by_level(self.grid, _ALL, self.grid, featmap_sizes, device=device)

    def __repr__(self) -> str:
        names = ("strides", "ratios", "scales", "base_sizes", "scale_major", "centers", "center_offset", "num_levels")
        lines = [f"    {name}={getattr(self, name)}" for name in names if hasattr(self, name)]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + ")"


class LegacyAnchorGenerator(AnchorGenerator):
    """mmdet's LegacyAnchorGenerator, of mmdetection 1: boxes are a pixel smaller and rounded to whole pixels."""

    _pixel = 1


class SSDAnchorGenerator(AnchorGenerator):
    """mmdet's SSDAnchorGenerator: per level the ratios 1, 1 at the larger scale, then 1/r and r, around half a stride.

    Args:
        ratios: per level a list.
        min_sizes, max_sizes: pixels, per level; or None for both, with the two below.
        basesize_ratio_range: the smallest and the largest size as fractions of `input_size`.
        input_size: 300 or 512.
        strides, scale_major, use_box_type: as for `AnchorGenerator`.
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
        self.strides = check.pairs("strides", strides)
        check.numbers("ratios", ratios, depth=2, nested=True, empty=True, levels=len(strides))
        self.centers = [((width - self._pixel) / 2.0, (height - self._pixel) / 2.0) for width, height in self.strides]
        if min_sizes is None and max_sizes is None:
            self.input_size = input_size
            self.basesize_ratio_range = basesize_ratio_range
            min_sizes, max_sizes = _ssd_sizes(basesize_ratio_range, input_size, len(strides))
        check.numbers("min_sizes", min_sizes, levels=len(strides))
        check.numbers("max_sizes", max_sizes, levels=len(strides))
        assert min_sizes is not None and max_sizes is not None  # as has been checked
        self.base_sizes = min_sizes
        spreads = [math.sqrt(high / low) for low, high in zip(min_sizes, max_sizes, strict=True)]
        both_ways = [[way for ratio in of_level for way in (1 / ratio, ratio)] for of_level in ratios]
        self.scales = [_float32([1.0, spread]) for spread in spreads]
        self.ratios = [_float32([1.0, *of_level]) for of_level in both_ways]
        self.scale_major = scale_major
        self._make_anchors(use_box_type)

    def gen_base_anchors(self) -> list[Tensor]:
        levels = zip(self.base_sizes, self.scales, self.ratios, self.centers, strict=True)
        boxes = [self.gen_single_level_base_anchors(*of_level) for of_level in levels]
        counts = [len(ratios) for ratios in self.ratios]
        return [level[[0, count, *range(1, count)]] for level, count in zip(boxes, counts, strict=True)]


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
        check.numbers("strides", strides)  # no pairs
        super().__init__(strides, ratios, None, None, basesize_ratio_range, input_size, scale_major, use_box_type)


class YOLOAnchorGenerator(AnchorGenerator):
    """mmdet's YOLOAnchorGenerator: given sizes around half a stride.

    Args:
        base_sizes: per level a list of as many pairs (w, h), or numbers, in pixels.
        strides, use_box_type: as for `AnchorGenerator`.
    """

    def __init__(self, strides: Sequence[Any], base_sizes: Sequence[Sequence[Any]], use_box_type: bool = False) -> None:
        self.strides = check.pairs("strides", strides)
        check.numbers("base_sizes", base_sizes, depth=3, levels=len(strides))
        self.base_sizes = [check.pairs(f"base_sizes[{level}]", sizes) for level, sizes in enumerate(base_sizes)]
        check.that(len(set(map(len, base_sizes))) == 1, "base_sizes", base_sizes, "as many sizes for each level")
        self.centers = [(width / 2.0, height / 2.0) for width, height in self.strides]
        self._make_anchors(use_box_type)

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

    def __init__(self, strides: Sequence[Any], offset: float = 0.5) -> None:
        self.strides = check.pairs("strides", strides)
        check.number("offset", offset, positive=False)
        self.offset = offset
        self.grid = self._grid([[(0.0, 0.0)] for _ in strides], offset=offset, layout="point")
        self._strided = self._grid([[(0.0, 0.0, *pair)] for pair in self.strides], offset=offset, layout="point_stride")

    def _rounding(self, dtype: torch.dtype, *, sparse: bool = False) -> tuple[str, torch.dtype]:
        # The position is float32 in mmdet; the number that is a stride is of the output's type from the beginning.
        return f"float32/float32/{check.name_of(promoted(dtype))}", dtype

    def grid_priors(
        self, featmap_sizes: _Sizes, dtype: torch.dtype = torch.float32, device: Any = None, with_stride: bool = False
    ) -> list[Tensor]:
        """Per level its points, `(rows * columns, 2)` x, y or, `with_stride`, `(..., 4)` x, y, stride w, stride h.

        Arguments and errors as for `AnchorGenerator.grid_priors`; only the result is rounded to `dtype`.
        """
        return self._priors(self._strided if with_stride else self.grid, featmap_sizes, None, dtype, device)

    def single_level_grid_priors(
        self,
        featmap_size: _Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
        with_stride: bool = False,
    ) -> Any:
        """The points of one level."""
        grid = self._strided if with_stride else self.grid
        return self._priors(grid, [featmap_size], level_idx, dtype, device)[0]

    def single_level_valid_flags(self, featmap_size: _Size, valid_size: _Size, device: Any = None) -> Tensor:  # type: ignore[override]
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        return super().single_level_valid_flags(featmap_size, valid_size, 1, device)


def _float32(numbers: Any) -> Tensor:
    with constants():
        return torch.as_tensor(numbers, dtype=torch.float32, device="cpu")


def _ssd_sizes(ratio_range: tuple[float, float], input_size: int, levels: int) -> tuple[list[int], list[int]]:
    """Smallest and largest size per level: those of the first by convention, the others evenly spaced per cent."""
    check.that(input_size in (300, 512), "input_size", input_size, "300 or 512, or min_sizes and max_sizes")
    firsts = {0.15: (7, 15), 0.2: (10, 20)} if input_size == 300 else {0.1: (4, 10), 0.15: (7, 15)}
    good = isinstance(ratio_range, tuple) and len(ratio_range) == 2 and ratio_range[0] in firsts
    expected = f"a pair that begins with {' or '.join(map(str, firsts))} where input_size is {input_size}"
    check.that(good, "basesize_ratio_range", ratio_range, expected)
    check.that(levels > 2, "the number of strides", levels, "more than 2, or min_sizes and max_sizes")
    low, high = (int(ratio * 100) for ratio in ratio_range)
    step = int((high - low) / (levels - 2))
    check.that(step > 0, "basesize_ratio_range", ratio_range, f"a wider range for {levels} levels")
    per_cent = [firsts[ratio_range[0]], *((least, least + step) for least in range(low, high + 1, step))]
    smallest, largest = ([int(input_size * pair[end] / 100) for pair in per_cent] for end in (0, 1))
    return smallest, largest
