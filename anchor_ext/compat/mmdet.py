"""mmdetection's anchor and point generators (mmdet.models.task_modules.prior_generators, mmdet 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _check as check
from . import _mmdet_registry
from ._mmdet_anchors import AnchorGenerator, float32
from ._mmdet_points import MlvlPointGenerator

__all__ = [
    "AnchorGenerator",
    "LegacyAnchorGenerator",
    "LegacySSDAnchorGenerator",
    "MlvlPointGenerator",
    "SSDAnchorGenerator",
    "YOLOAnchorGenerator",
    "register",
    "unregister",
]


def register() -> dict[str, list[str]]:
    """Makes mmdet use these classes in place of its own of the same names.

    They are what its registry TASK_UTILS builds, and what its modules call by these names: those that are imported,
    and those that will be and import them from `mmdet.models.task_modules` or its `prior_generators`. Generators that
    are built already stay as they are. Call it again after other packages have been imported, to see what they hold.

    Returns:
        What has been reached: "registry", the names of the classes that it builds; "replaced", the names in mmdet's
        modules that are these classes now. And "kept": names in modules of others that are still mmdet's own classes,
        and classes of others that inherit from those.

    Raises:
        ImportError: mmdet is not installed.
    """
    return _mmdet_registry.replace(_CLASSES)


def unregister() -> None:
    """Undoes `register`."""
    _mmdet_registry.replace(_CLASSES, by_stock=True)


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

    Raises:
        CompatError: an argument has the wrong type, length or value.
    """

    _made_by = "min_sizes, max_sizes and ratios"

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
        spreads = [_root(high / low) for low, high in zip(min_sizes, max_sizes, strict=True)]
        both_ways = [[way for ratio in of_level for way in (1 / ratio, ratio)] for of_level in ratios]
        self.scales = [float32([1.0, spread]) for spread in spreads]
        self.ratios = [float32([1.0, *of_level]) for of_level in both_ways]
        self.scale_major = scale_major
        self._make_anchors(use_box_type)

    def gen_base_anchors(self) -> list[Tensor]:
        anchors = []
        for level, (size, scales, ratios) in enumerate(zip(self.base_sizes, self.scales, self.ratios, strict=True)):
            center = self.centers[level]
            boxes = self.gen_single_level_base_anchors(size, scales=scales, ratios=ratios, center=center)
            anchors.append(boxes[[0, len(ratios), *range(1, len(ratios))]])
        return anchors

    def __repr__(self) -> str:
        return self._shown(
            *("strides", "scales", "scale_major", "input_size", "scales", "ratios", "num_levels", "base_sizes"),
            "basesize_ratio_range",
        )


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

    Raises:
        CompatError: an argument has the wrong type, length or value.
    """

    _made_by = "base_sizes"

    def __init__(self, strides: Sequence[Any], base_sizes: Sequence[Sequence[Any]], use_box_type: bool = False) -> None:
        self.strides = check.pairs("strides", strides)
        check.numbers("base_sizes", base_sizes, depth=3, levels=len(strides))
        self.base_sizes = [check.pairs(f"base_sizes[{level}]", sizes) for level, sizes in enumerate(base_sizes)]
        check.that(len(set(map(len, base_sizes))) == 1, "base_sizes", base_sizes, "as many sizes for each level")
        self.centers = [(width / 2.0, height / 2.0) for width, height in self.strides]
        self._make_anchors(use_box_type)

    @property
    def num_levels(self) -> int:
        """How many levels there are sizes for."""
        return len(self.base_sizes)

    def gen_base_anchors(self) -> list[Tensor]:
        centers = [None] * len(self.base_sizes) if self.centers is None else self.centers
        return [
            self.gen_single_level_base_anchors(sizes, centers[level]) for level, sizes in enumerate(self.base_sizes)
        ]

    def gen_single_level_base_anchors(  # type: ignore[override]
        self, base_sizes_per_level: Sequence[tuple[float, float]], center: tuple[float, float] | None = None
    ) -> Tensor:
        """Base anchors of one level: of pairs (w, h) around a centre (x, y), without which there are none.

        Raises:
            CompatError: `center` is None.
        """
        if center is None:
            raise check.CompatError("center is None; expected a pair (x, y)")
        x, y = center
        return float32([(x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h) for w, h in base_sizes_per_level])


_CLASSES = (
    *(AnchorGenerator, LegacyAnchorGenerator, SSDAnchorGenerator, LegacySSDAnchorGenerator, YOLOAnchorGenerator),
    MlvlPointGenerator,
)


def _root(quotient: Any) -> Any:
    """A square root of the quotient's type, as NumPy's is."""
    root = math.sqrt(quotient)
    return root if isinstance(quotient, Tensor) else type(quotient)(root)


def _ssd_sizes(ratio_range: tuple[float, float], input_size: int, levels: int) -> tuple[list[int], list[int]]:
    """Smallest and largest size per level: those of the first by convention, the others evenly spaced per cent."""
    check.that(input_size in (300, 512), "input_size", input_size, "300 or 512, or min_sizes and max_sizes")
    firsts = {0.15: (7, 15), 0.2: (10, 20)} if input_size == 300 else {0.1: (4, 10), 0.15: (7, 15)}
    good = check.is_sequence(ratio_range) and len(ratio_range) == 2 and ratio_range[0] in firsts
    expected = f"a pair that begins with {' or '.join(map(str, firsts))} where input_size is {input_size}"
    check.that(good, "basesize_ratio_range", ratio_range, expected)
    check.that(levels > 2, "the number of strides", levels, "more than 2, or min_sizes and max_sizes")
    low, high = (int(ratio * 100) for ratio in ratio_range)
    step = int((high - low) / (levels - 2))
    check.that(step > 0, "basesize_ratio_range", ratio_range, f"a wider range for {levels} levels")
    per_cent = [firsts[ratio_range[0]], *((least, least + step) for least in range(low, high + 1, step))]
    smallest, largest = ([int(input_size * pair[end] / 100) for pair in per_cent] for end in (0, 1))
    return smallest, largest
