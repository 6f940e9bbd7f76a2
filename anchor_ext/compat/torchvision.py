"""torchvision's `AnchorGenerator` and `DefaultBoxGenerator` (torchvision.models.detection.anchor_utils)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import MAX_CELL_ANCHORS
from .._recording import place_of
from .._spec import DTYPES, Configuration
from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, constants, promoted
from ._follow import Follows, has_own

__all__ = ["AnchorGenerator", "DefaultBoxGenerator", "accelerate", "restore"]


def _new(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


torch.serialization.add_safe_globals([_new, AnchorGrid, Configuration])  # beside the class, which its user adds


class _StandIn(Follows, nn.Module):
    """isinstance() takes it for torchvision's class of the same name, as soon as torchvision has been imported.

    torchvision's detectors ask so in their constructors. A subclass of theirs would have to import torchvision here.
    """

    _original: str

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return getattr(sys.modules.get("torchvision.models.detection.anchor_utils"), self._original, type(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__  # the former since Python 3.11
        return _new, (type(self),), state  # the default would look for __class__

    def _scripted(self, originals: Sequence[Any], specs: dict[str, str], promotes: bool) -> nn.Module:
        """What torch.jit.script compiles in its place."""
        if has_own(self, *originals):
            names = " and ".join(function.__name__ for function in originals)
            raise check.CompatError(
                f"{type(self).__name__} is scripted with {names} of its own; expected those of anchor_ext, or "
                f"torchvision's {self._original} as the base"
            )
        from ._torchvision_script import Scripted

        return Scripted(specs, self.num_anchors_per_location(), promotes)

    def num_anchors_per_location(self) -> list[int]:
        raise NotImplementedError


def _plain(value: Any) -> Any:
    """Arrays, tensors, ranges, configurations' lists as lists; numbers of any kind as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return list(map(_plain, value)) if check.is_sequence(value) else value


def _images(image_list: Any) -> tuple[Tensor, Sequence[Any]]:
    try:
        return image_list.tensors, image_list.image_sizes
    except AttributeError as error:
        raise check.CompatError(
            f"image_list is a {type(image_list).__name__}; expected torchvision's ImageList"
        ) from error


class AnchorGenerator(_StandIn):
    """torchvision's AnchorGenerator: the same anchors bit for bit, from one launch for all levels.

    Per level, `sizes` times `aspect_ratios` (height / width) cell anchors, computed in float32 and rounded to whole
    pixels, half to even; the stride is `image // grid` along each axis, the offset 0. All of it in the dtype of the
    first feature map, as torchvision does, with what that loses: above 256 bfloat16 holds every second pixel only.

    Args:
        sizes: per level a tuple of sizes in pixels, or a flat tuple of one size per level.
        aspect_ratios: per level a tuple of ratios, or one flat tuple for all levels.
    """

    _original = "AnchorGenerator"
    _made_of = ("cell_anchors",)

    def __init__(
        self,
        sizes: Sequence[Any] = ((128, 256, 512),),
        aspect_ratios: Sequence[Any] = ((0.5, 1.0, 2.0),),
    ) -> None:
        super().__init__()
        sizes, aspect_ratios = _plain(sizes), _plain(aspect_ratios)
        for name, value in (("sizes", sizes), ("aspect_ratios", aspect_ratios)):
            check.numbers(name, value, depth=2)
            nested = [isinstance(item, (list, tuple)) for item in value]
            check.that(all(nested) or not any(nested), name, value, "numbers, or a sequence of numbers per level")
        if not isinstance(sizes[0], (list, tuple)):
            sizes = tuple((size,) for size in sizes)
        if not isinstance(aspect_ratios[0], (list, tuple)):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        expected = f"at most {len(sizes)} sequences, as sizes has"
        check.that(len(aspect_ratios) <= len(sizes), "aspect_ratios", aspect_ratios, expected)
        self.sizes = sizes
        self.aspect_ratios = aspect_ratios
        total = sum(self.num_anchors_per_location())
        expected = f"at most {MAX_CELL_ANCHORS} over all levels"
        check.that(total <= MAX_CELL_ANCHORS, "the number of sizes times aspect_ratios", total, expected)
        with constants():
            self.cell_anchors = [
                self.generate_anchors(of_level, ratios) for of_level, ratios in zip(sizes, aspect_ratios, strict=False)
            ]
        self._remake()

    def _make(self) -> None:
        with constants():
            cells = [_cell_anchors(f"cell_anchors[{i}]", value) for i, value in enumerate(self.cell_anchors)]
            self._grid = AnchorGrid(cells, None, offset=0.0)

    @property
    def grid(self) -> AnchorGrid:
        """The float32 anchors of all levels, of the attributes as they are now: for `match`, `at` and the like."""
        self._follow()
        return self._grid._with(arithmetic=_arithmetic("float32"))

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}, aspect_ratios={self.aspect_ratios}, from anchor_ext"

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Cell anchors of one level, `(ratios * scales, 4)`, whole pixels around the origin."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        heights = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        corner = torch.stack([torch.outer(1 / heights, sides).flatten(), torch.outer(heights, sides).flatten()], dim=1)
        return (torch.cat([-corner, corner], dim=1) / 2).round()

    def num_anchors_per_location(self) -> list[int]:
        """How many cell anchors each level has."""
        return [len(sizes) * len(ratios) for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=False)]

    def forward(self, image_list: Any, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of a batch.

        Args:
            image_list: torchvision's ImageList, or anything with `tensors` (B, C, H, W) and `image_sizes`.
            feature_maps: per level `(B, C, rows, columns)`.

        Returns:
            `(N, 4)` x1, y1, x2, y2 per image, in dtype and on the device of the first feature map. All images have
            the same tensor, of which torchvision makes a copy each: who writes into one image's anchors clones first.

        Raises:
            CompatError: there are more or fewer feature maps than levels, or their dtype is no floating one.
        """
        check.features("feature_maps", feature_maps, len(self.cell_anchors))
        self._follow()
        images, sizes = _images(image_list)
        dtype = feature_maps[0].dtype
        grids = [feature_map.shape[-2:] for feature_map in feature_maps]
        if has_own(self, *_ANCHORS):
            anchors = self._own_anchors(images, grids, feature_maps[0])
        else:
            anchors = self._grid._with(arithmetic=_arithmetic(check.name_of(dtype)))(
                grids, image_shape=images.shape[-2:], dtype=dtype, device=place_of(feature_maps[0])
            )
        return [anchors] * len(sizes)

    def _own_anchors(self, images: Tensor, grids: Sequence[Sequence[int]], feature: Tensor) -> Tensor:
        """By the methods of a subclass or an instance, as torchvision calls them."""
        sides = images.shape[-2:]
        strides = [
            [
                torch.full((), side // cells, dtype=torch.int64, device=feature.device)
                for side, cells in zip(sides, grid, strict=True)
            ]
            for grid in grids
        ]
        self.set_cell_anchors(feature.dtype, feature.device)
        return torch.cat(self.grid_anchors(grids, strides))

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Moves the cell anchors and, if the dtype is narrower, rounds them. `forward` needs no such call."""
        self.cell_anchors = [cell_anchors.to(device, dtype) for cell_anchors in self.cell_anchors]

    def grid_anchors(self, grid_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Anchors at given strides, in dtype and on the device of `cell_anchors`.

        Args:
            grid_sizes: per level `(rows, columns)`.
            strides: per level (y, x) in pixels: integers, or tensors of one; of floats the anchors are at least
                float32, as in torchvision.

        Returns:
            Per level `(rows * columns * A, 4)` x1, y1, x2, y2: views of one tensor, made by one launch.

        Raises:
            CompatError: there are more or fewer grids or strides than levels.
        """
        check.levels("grid_sizes", grid_sizes, len(self.cell_anchors))
        pairs = [check.pairs("strides", [pair], positive=False)[0] for pair in _plain(strides)]
        check.levels("strides", pairs, len(self.cell_anchors))
        self._follow()
        dtype, arithmetic = self.cell_anchors[0].dtype, _arithmetic(check.name_of(self.cell_anchors[0].dtype))
        if any(isinstance(stride, float) for pair in pairs for stride in pair):
            dtype = promoted(dtype)
            arithmetic = f"float32/float32/{check.name_of(dtype)}"
        grid = self._grid._with(arithmetic=arithmetic, strides=tuple(pairs))
        grids = [tuple(_plain(size)) for size in grid_sizes]
        return by_level(
            grid, {"level_shapes": "grid_sizes"}, grid, grids, dtype=dtype, device=self.cell_anchors[0].device
        )

    def __prepare_scriptable__(self) -> nn.Module:
        self._follow()
        specs = {name: self._grid._with(arithmetic=_arithmetic(name)).spec for name in DTYPES}
        return self._scripted(_ANCHORS, specs, promotes=False)


# What a subclass may have of its own; as they are here, nothing of them is called.
_ANCHORS = (AnchorGenerator.set_cell_anchors, AnchorGenerator.grid_anchors)


def _arithmetic(name: str) -> str:
    return f"float64/{name}/{name}"


def _cell_anchors(name: str, value: Any) -> Any:
    good = isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == 4 and value.is_floating_point()
    check.that(good, name, value, "a tensor (A, 4) of floats")
    return value.tolist()


class DefaultBoxGenerator(_StandIn):
    """torchvision's DefaultBoxGenerator, SSD's: the same default boxes bit for bit, from one launch for all levels.

    Widths and heights are fractions of the image, as are the centres `(cell + 0.5) / f` with `f = image / step`, or the
    number of cells. The boxes are multiplied by the image's sides last. (Liu et al., "SSD", section 2.2.)

    Args:
        aspect_ratios: per level a list of ratios; each makes two boxes, besides the two of ratio 1.
        min_ratio, max_ratio: the scales of the first and the last level, where `scales` is None.
        scales: one per level and one more.
        steps: pixels between centres, per level; None takes the number of cells.
        clip: whether widths and heights are limited to the image's.
    """

    _original = "DefaultBoxGenerator"
    _made_of = ("_wh_pairs", "steps", "clip")

    def __init__(
        self,
        aspect_ratios: Sequence[Sequence[float]],
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        scales: Sequence[float] | None = None,
        steps: Sequence[float] | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__()
        aspect_ratios, scales, steps = _plain(aspect_ratios), _plain(scales), _plain(steps)
        min_ratio, max_ratio = _plain(min_ratio), _plain(max_ratio)
        check.numbers("aspect_ratios", aspect_ratios, depth=2, nested=True, empty=True)
        levels = len(aspect_ratios)
        check.numbers("steps", steps, levels=levels, optional=True)
        if scales is None:
            check.number("min_ratio", min_ratio)
            check.number("max_ratio", max_ratio)
            spread = max_ratio - min_ratio
            between = [min_ratio + spread * level / (levels - 1.0) for level in range(levels)] if levels > 1 else []
            scales = [*between, 1.0] if levels > 1 else [min_ratio, max_ratio]
        check.numbers("scales", scales)
        check.that(len(scales) > levels, "scales", scales, f"{levels + 1} numbers, one per level and one more")
        self.aspect_ratios = aspect_ratios
        self.steps = steps
        self.clip = clip
        self.scales = scales
        with constants():
            self._wh_pairs = self._generate_wh_pairs(levels)
        self._remake()

    def _make(self) -> None:
        steps = _plain(self.steps)
        check.numbers("steps", steps, levels=len(self._wh_pairs), optional=True)
        with constants():
            halves = [0.5 * self._sizes(level) for level in range(len(self._wh_pairs))]
            boxes = [torch.cat([-half, half], dim=1).tolist() for half in halves]
        self._grid = AnchorGrid(boxes, steps, arithmetic="quotient")

    @property
    def grid(self) -> AnchorGrid:
        """As `AnchorGenerator.grid`, of all levels."""
        self._follow()
        return self._grid._with(arithmetic=_quotient("float32"))

    def _sizes(self, level: int) -> Tensor:
        """Widths and heights, (boxes, 2) float32, fractions of the image."""
        sizes = self._wh_pairs[level]
        return sizes.clamp(0, 1) if self.clip else sizes

    def _generate_wh_pairs(
        self, num_outputs: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """Per level widths and heights, (boxes, 2), fractions of the image, before they are limited to it."""
        pairs = []
        for level in range(num_outputs):
            scale = self.scales[level]
            between = math.sqrt(scale * self.scales[level + 1])
            sizes = [(scale, scale), (between, between)]
            for ratio in self.aspect_ratios[level]:
                root = math.sqrt(ratio)
                sizes += [(scale * root, scale / root), (scale / root, scale * root)]
            pairs.append(torch.tensor(sizes, dtype=dtype, device=device))
        return pairs

    def num_anchors_per_location(self) -> list[int]:
        """How many default boxes each cell of a level has."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def forward(self, image_list: Any, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Default boxes of a batch; arguments, result and errors as for `AnchorGenerator.forward`.

        The result is float32, or float64 where the feature maps are; the centres are rounded to the feature maps'
        dtype, as in torchvision. There may be fewer feature maps than levels.
        """
        self._follow()
        levels = len(self._wh_pairs)
        first = len(feature_maps) if hasattr(feature_maps, "__len__") and 0 < len(feature_maps) < levels else None
        check.features("feature_maps", feature_maps, levels if first is None else first)
        images, sizes = _images(image_list)
        dtype = feature_maps[0].dtype
        grids = [feature_map.shape[-2:] for feature_map in feature_maps]
        if has_own(self, *_DEFAULT_BOXES):
            boxes = self._own_boxes(images, grids, feature_maps[0])
        else:
            boxes = self._grid._with(arithmetic=_quotient(check.name_of(dtype)), first=first)(
                grids, image_shape=images.shape[-2:], dtype=promoted(dtype), device=place_of(feature_maps[0])
            )
        return [boxes] * len(sizes)

    def _grid_default_boxes(
        self, grid_sizes: Sequence[Sequence[int]], image_size: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Default boxes as fractions of the image, `(N, 4)` centre x, y, width, height on the CPU.

        `forward` calls it where a subclass or an instance has its own.
        """
        levels = []
        for level, (rows, columns) in enumerate(grid_sizes):
            sizes = self._sizes(level)
            centres = [
                (
                    (torch.arange(cells, device="cpu") + 0.5)
                    / (cells if self.steps is None else side / self.steps[level])
                ).to(dtype)
                for side, cells in zip(image_size, (rows, columns), strict=True)
            ]
            y, x = (
                centre[:, :, None].expand(rows, columns, len(sizes))
                for centre in (centres[0][:, None], centres[1][None])
            )
            widths, heights = (size.expand(rows, columns, -1) for size in sizes.unbind(1))
            kind = torch.promote_types(dtype, sizes.dtype)
            levels.append(torch.stack([part.to(kind) for part in (x, y, widths, heights)], dim=-1).view(-1, 4))
        return torch.cat(levels)

    def _own_boxes(self, images: Tensor, grids: Sequence[Sequence[int]], feature: Tensor) -> Tensor:
        """By the method of a subclass or an instance, as torchvision uses its result."""
        height, width = images.shape[-2:]
        boxes = self._grid_default_boxes(grids, images.shape[-2:], dtype=feature.dtype).to(feature.device)
        centres, halves = boxes[:, :2], 0.5 * boxes[:, 2:]
        sides = torch.tensor([width, height], device=boxes.device)
        return torch.cat([(centres - halves) * sides, (centres + halves) * sides], dim=-1)

    def __prepare_scriptable__(self) -> nn.Module:
        self._follow()
        specs = {name: self._grid._with(arithmetic=_quotient(name)).spec for name in DTYPES}
        return self._scripted(_DEFAULT_BOXES, specs, promotes=True)

    def extra_repr(self) -> str:
        return f"aspect_ratios={self.aspect_ratios}, clip={self.clip}, scales={self.scales}, steps={self.steps}"


_DEFAULT_BOXES = (DefaultBoxGenerator._grid_default_boxes,)


def _quotient(name: str) -> str:
    return f"quotient/{name}/{check.name_of(promoted(DTYPES[name]))}"


def accelerate(model: nn.Module, *, float32: bool = False) -> Any:
    """Replaces, in a detector of torchvision's, what stands around the network: in a RetinaNet anchors, matching, both
    losses, and post-processing up to non-maximum suppression; in a FasterRCNN, MaskRCNN or KeypointRCNN the same of
    its `rpn`; in an SSD default boxes and matching.

    The model stays the same object, with the same parameters and the same `state_dict`. What it gives stays the same:
    matches, scores and labels are equal, boxes to a unit or two in the last place, losses to 1e-6. docs/accelerate.md
    says what is replaced, and what is left.

    Args:
        model: the detector, also inside of torch.compile's or DistributedDataParallel's wrapper. A model that is
            accelerated already is accelerated anew.
        float32: under autocast, anchors, losses and boxes are those of the head's outputs in float32. False: they are
            torchvision's, of anchors with 16 bits, and a training step takes torchvision's way. Not for an SSD.

    Returns:
        A report, not the model, which is changed in place: `replaced`, the names of the parts, and `left`, the others
        with a reason each.

    Raises:
        CompatError: `model` is none of these detectors, or its class overrides what would be replaced; or `float32`
            is no bool, or True for an SSD or where anchors or proposals are left. A model that was accelerated is
            restored then.
    """
    from ._torchvision_accelerate import accelerate

    return accelerate(model, float32)


def restore(model: nn.Module) -> None:
    """Undoes `accelerate`.

    Raises:
        CompatError: the model is not accelerated.
    """
    from ._torchvision_accelerate import restore

    restore(model)
