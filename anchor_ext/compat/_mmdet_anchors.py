"""mmdet's AnchorGenerator, from which the others inherit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._recording import is_compiled
from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, constants, promoted, renaming
from ._mmdet_base import ALL, MESHGRID, Generator, Size, Sizes, device_of, is_double, is_whole, plain

__all__ = ["AnchorGenerator", "float32"]


class AnchorGenerator(Generator):
    """mmdet's AnchorGenerator: the same anchors bit for bit, from one launch for all levels.

    Per level, base anchors of every ratio and scale, `w = base / sqrt(ratio) * scale` by
    `h = base * sqrt(ratio) * scale` in float32, around `centers[level]` or `center_offset * base`; cells are a stride
    apart, the first at 0.

    `base_anchors`, `strides` and `use_box_type` may be changed afterwards, the first two also in place; what is changed
    in place, a compiled program sees after the next eager call. The other attributes have had their effect by then.

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

    Raises:
        CompatError: an argument has the wrong type, length or value.
    """

    __module__ = "anchor_ext.compat.mmdet"  # where pickles and users look for it
    _made_of = ("base_anchors", "strides")
    base_anchors: list[Tensor]
    center_offset: float = 0
    _pixel = 0  # by which boxes are smaller
    _made_by = "base_sizes, scales and ratios"  # what makes base anchors, for an error

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
        if not self._has_own(*_GENERATING):  # else only those know what these have to be
            check.numbers("ratios", ratios)
            check.numbers("scales", scales, optional=True)
            check.numbers("base_sizes", base_sizes, levels=len(strides), optional=True)
            check.pairs("centers", centers, positive=False, nested=True, levels=len(strides), optional=True)
        check.number("octave_base_scale", octave_base_scale, optional=True)
        check.whole("scales_per_octave", scales_per_octave, 1, 512, optional=True)
        check.number("center_offset", center_offset, positive=False)
        check.that(0 <= center_offset <= 1, "center_offset", center_offset, "a number in [0, 1]")
        check.that(
            center_offset == 0 or centers is None, "centers", centers, f"None with center_offset {center_offset}"
        )
        self.octave_base_scale, self.scales_per_octave = octave = (octave_base_scale, scales_per_octave)
        given = "(scales, octave_base_scale, scales_per_octave)"
        check.that((None in octave) != (scales is None), given, (scales, *octave), "either the first or the other two")
        if octave_base_scale is not None and scales_per_octave is not None:
            octaves = [2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
            scales = [octave * float(octave_base_scale) for octave in octaves]
        self.base_sizes: Any = list(map(min, self.strides)) if base_sizes is None else base_sizes
        self.scales: Any = float32(scales)
        self.ratios: Any = float32(ratios)
        self.scale_major = scale_major
        self.centers: Any = centers
        self.center_offset = center_offset
        self._make_anchors(use_box_type)

    def _make_anchors(self, use_box_type: bool) -> None:
        """The last step of every constructor."""
        self.use_box_type = use_box_type
        check.that(len(self.strides) <= 16, "the number of strides", len(self.strides), "at most 16")
        with constants(), torch.inference_mode(False):  # anchors that can be written into, which is noticed
            self.base_anchors = self.gen_base_anchors()
        try:
            self._remake()
        except (TypeError, ValueError) as error:
            raise check.CompatError(f"{self._made_by} make base anchors that cannot be used: {error}") from error

    def _make(self) -> None:
        pairs = check.pairs("strides", self.strides, nested=True)
        check.that(check.is_sequence(self.base_anchors), "base_anchors", self.base_anchors, "a tensor (A, 4) per level")
        anchors = list(self.base_anchors)
        for level, boxes in enumerate(anchors):
            good = isinstance(boxes, Tensor) and boxes.shape[1:] == (4,) and not boxes.requires_grad
            check.that(good, f"base_anchors[{level}]", boxes, "a tensor (A, 4) that requires no gradient")
        levels = list(zip(anchors, pairs, strict=False))  # mmdet, too, looks at no more
        with constants():
            cells, steps = [boxes.detach() for boxes, _ in levels], [(y, x) for _, (x, y) in levels]
            names = {"cell_anchors": "base_anchors"}
            self._grid = renaming(names, AnchorGrid, cells, steps, offset=0.0, arithmetic="float32")
        self._least_level = -len(pairs) if len(anchors) == len(pairs) else 0
        self._dtypes = [boxes.dtype for boxes, _ in levels]
        # Sparse priors are made of a tensor of integers, whose products with integers are exact.
        exact = [all(map(is_whole, pair)) or any(map(is_double, pair)) for _, pair in levels]
        self._positions = ["float64" if is_exact else "float32" for is_exact in exact]

    def _rounding(self, dtype: torch.dtype, sparse_level: int | None = None) -> tuple[str, torch.dtype]:
        if sparse_level is None:
            return check.name_of(dtype), dtype
        own = self._dtypes[sparse_level]
        total = promoted(dtype) if own is torch.float32 else torch.promote_types(dtype, own)
        return f"{self._positions[sparse_level]}/{check.name_of(dtype)}/{check.name_of(total)}", total

    @property
    def num_base_priors(self) -> list[int]:
        """How many anchors a cell of each level has."""
        return [anchors.size(0) for anchors in self.base_anchors]

    @property
    def num_base_anchors(self) -> list[int]:
        """The same."""
        return self.num_base_priors

    def gen_base_anchors(self) -> list[Tensor]:
        """Per level its base anchors, `(A, 4)` float32 on the CPU, of the attributes as they are now."""
        centers = [None] * len(self.base_sizes) if self.centers is None else self.centers
        return [
            self.gen_single_level_base_anchors(size, scales=self.scales, ratios=self.ratios, center=centers[level])
            for level, size in enumerate(self.base_sizes)
        ]

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

    def grid_priors(self, featmap_sizes: Sizes, dtype: torch.dtype = torch.float32, device: Any = None) -> list[Any]:
        """Per level its priors, `(rows * columns * A, 4)`: views of one tensor, made by one launch.

        Where a subclass or the instance has a `single_level_grid_priors` of its own, that is called for each level.

        Args:
            featmap_sizes: per level `(rows, columns)`.
            dtype: of the priors and, as in mmdet, of every step of their computation.
            device: default CUDA where there is one, else the CPU.

        Raises:
            CompatError: there are more or fewer sizes than levels, `dtype` is another one, or attributes that were
                changed cannot be used.
            TypeError, ValueError, RuntimeError: as `AnchorGrid`.
        """
        grid = self._followed()
        if self._is_one_launch(grid, *_PRIORS):
            return self._boxes(self._priors(grid, featmap_sizes, None, dtype, device))
        device = device_of(device)
        return [
            self.single_level_grid_priors(size, level_idx=level, dtype=dtype, device=device)
            for level, size in self._levels(featmap_sizes)
        ]

    def single_level_grid_priors(
        self, featmap_size: Size, level_idx: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> Any:
        """The priors of one level."""
        grid = self._followed()
        if not self._has_own(MESHGRID):
            return self._boxes(self._priors(grid, [featmap_size], level_idx, dtype, device))[0]
        anchors = self.base_anchors[level_idx].to(device_of(device)).to(dtype)
        return self._boxes([self._shifted(anchors, featmap_size, self.strides[level_idx], dtype)])[0]

    def _boxes(self, priors: list[Tensor]) -> list[Any]:
        if not self.use_box_type:
            return priors
        from mmdet.structures.bbox import HorizontalBoxes

        return list(map(HorizontalBoxes, priors))

    def _shifted(self, anchors: Tensor, size: Size, stride: Any, dtype: torch.dtype | None) -> Tensor:
        """Base anchors (A, 4) in every cell of a level, by torch: centres of a dtype or, where it is None, torch's."""
        rows, columns = plain(size)
        x, y = (
            torch.arange(cells, device=anchors.device).to(dtype or torch.int64) * step
            for cells, step in zip((columns, rows), stride, strict=True)
        )
        xx, yy = self._meshgrid(x, y)
        shifts = torch.stack([xx, yy, xx, yy], dim=-1).to(anchors.dtype)
        return (anchors + shifts[:, None]).reshape(-1, 4)

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
            `(*prior_idxs.shape, 4)`.

        Raises:
            CompatError: as for `grid_priors`; `num_base_anchors` is overridden and says what `base_anchors` do not; or
                `level_idx` is None, and methods that `grid_priors` calls are overridden.
            TypeError, ValueError: as `AnchorGrid.at`.
        """
        self._check_all_levels(level_idx, *_PRIORS)
        if self._counts_are_own():
            counts = self._followed().num_cell_anchors
            said = list(self.num_base_anchors)
            check.that(said == counts, "num_base_anchors", said, f"{counts}, as many as there are base_anchors")
        return self._sparse(prior_idxs, featmap_size, level_idx, dtype, device)

    def _counts_are_own(self) -> bool:
        cls = type(self)
        return cls.num_base_priors is not _NUM_BASE_PRIORS or cls.num_base_anchors is not _NUM_BASE_ANCHORS

    def valid_flags(self, featmap_sizes: Sizes, pad_shape: Size, device: Any = None) -> list[Tensor]:
        """Per level, whether each prior's cell lies on the image padded to `pad_shape`, `(H, W, ...)`.

        `(rows * columns * A,)` bool: views of one tensor, made by one launch; or what an overridden
        `single_level_valid_flags` says, level by level. Sizes, device and errors as for `grid_priors`.
        """
        grid = self._followed()
        sides, are_whole = self._padded(pad_shape)
        if are_whole and self._is_one_launch(grid, *_FLAGS) and not self._counts_are_own():
            return self._valid_flags(grid, featmap_sizes, sides, device)
        device = device_of(device)
        counts = self.num_base_anchors
        return [
            self.single_level_valid_flags(
                tuple(size), self._valid_cells(level, size, sides), counts[level], device=device
            )
            for level, size in self._levels(featmap_sizes)
        ]

    def single_level_valid_flags(
        self, featmap_size: Size, valid_size: Size, num_base_anchors: int, device: Any = None
    ) -> Tensor:
        """The flags of one level, of which the first `valid_size` rows and columns are valid."""
        return self._flags(featmap_size, valid_size, num_base_anchors, device)

    def grid_anchors(self, featmap_sizes: Sizes, device: Any = None) -> list[Tensor]:
        """`grid_priors` of old, with a warning: per level a plain tensor, of the base anchors' dtype."""
        grid = self._followed()
        _warn("grid_anchors", "grid_priors")
        if self._is_one_launch(grid, *_ANCHORS) and all(dtype is torch.float32 for dtype in self._dtypes):
            for _ in self._dtypes:
                _warn("single_level_grid_anchors", "single_level_grid_priors")
            return by_level(grid, ALL, grid, plain(featmap_sizes), device=device)
        device = device_of(device)
        return [
            self.single_level_grid_anchors(self.base_anchors[i].to(device), size, self.strides[i], device=device)
            for i, size in self._levels(featmap_sizes)
        ]

    def single_level_grid_anchors(
        self, base_anchors: Tensor, featmap_size: Size, stride: Any = (16, 16), device: Any = None
    ) -> Tensor:
        """`base_anchors`, `(A, 4)`, in every cell of a level: of old, with a warning.

        The result has their dtype and device, whatever `device` is. `stride` is a pair (w, h).
        """
        _warn("single_level_grid_anchors", "single_level_grid_priors")
        return self._shifted(base_anchors, featmap_size, stride, None)

    def __repr__(self) -> str:
        return self._shown(
            *("strides", "ratios", "scales", "base_sizes", "scale_major", "octave_base_scale", "scales_per_octave"),
            *("num_levels", "centers", "center_offset"),
        ).replace(f"num_levels={self.num_levels},", f"num_levels={self.num_levels}")  # as mmdet writes it

    def _shown(self, *names: str) -> str:
        lines = [f"    {name}={getattr(self, name)}" for name in names if hasattr(self, name)]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + ")"


# As they are here, whoever changes them later.
_GENERATING = (AnchorGenerator.gen_base_anchors, AnchorGenerator.gen_single_level_base_anchors)
_PRIORS = (AnchorGenerator.single_level_grid_priors, MESHGRID)
_FLAGS = (AnchorGenerator.single_level_valid_flags, MESHGRID)
_ANCHORS = (AnchorGenerator.single_level_grid_anchors, MESHGRID)
_NUM_BASE_PRIORS, _NUM_BASE_ANCHORS = AnchorGenerator.num_base_priors, AnchorGenerator.num_base_anchors


def _warn(old: str, new: str) -> None:
    if not is_compiled():  # which would break the graph
        warnings.warn(f"{old} is deprecated; call {new}", stacklevel=3)


def float32(numbers: Any) -> Tensor:
    with constants():
        return torch.as_tensor(numbers, dtype=torch.float32, device="cpu")
