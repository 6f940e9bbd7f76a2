"""torchvision's `AnchorGenerator` and `DefaultBoxGenerator` (torchvision.models.detection.anchor_utils)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..grid import AnchorGrid
from . import _check as check
from ._common import constants, promoted

__all__ = ["AnchorGenerator", "DefaultBoxGenerator"]


def _new(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


class _StandIn(nn.Module):
    """isinstance() takes it for torchvision's class of the same name, as soon as torchvision has been imported.

    torchvision's detectors ask so in their constructors. A subclass of theirs would have to import torchvision here.
    """

    _original: str

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return getattr(sys.modules.get("torchvision.models.detection.anchor_utils"), self._original, type(self))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _new, (type(self),), self.__dict__  # the default would look for __class__


def _as_lists(value: Any) -> Any:
    """An array or a tensor as lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


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

    def __init__(
        self,
        sizes: Sequence[Any] = ((128, 256, 512),),
        aspect_ratios: Sequence[Any] = ((0.5, 1.0, 2.0),),
    ) -> None:
        super().__init__()
        sizes, aspect_ratios = _as_lists(sizes), _as_lists(aspect_ratios)
        check.numbers("sizes", sizes, depth=2)
        check.numbers("aspect_ratios", aspect_ratios, depth=2)
        if not isinstance(sizes[0], (list, tuple)):
            sizes = tuple((size,) for size in sizes)
        if not isinstance(aspect_ratios[0], (list, tuple)):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        self.sizes = sizes
        self.aspect_ratios = aspect_ratios
        with constants():
            self.cell_anchors = [
                self.generate_anchors(of_level, ratios) for of_level, ratios in zip(sizes, aspect_ratios, strict=False)
            ]
            self._grid = AnchorGrid(self.cell_anchors, None, offset=0.0)

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
        images, sizes = _images(image_list)
        dtype = feature_maps[0].dtype
        anchors = self._grid._with(arithmetic=f"float64/{check.name_of(dtype)}/{check.name_of(dtype)}")(
            [feature_map.shape[-2:] for feature_map in feature_maps],
            image_shape=images.shape[-2:],
            dtype=dtype,
            device=feature_maps[0].device,
        )
        return [anchors] * len(sizes)


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
            halves = [0.5 * self._sizes(level) for level in range(levels)]
            boxes = [torch.cat([-half, half], dim=1).tolist() for half in halves]
        self._grid = AnchorGrid(boxes, steps, arithmetic="quotient")

    def _sizes(self, level: int) -> Tensor:
        """Widths and heights, (boxes, 2) float32, fractions of the image."""
        scale = self.scales[level]
        between = math.sqrt(scale * self.scales[level + 1])
        sizes = [(scale, scale), (between, between)]
        for ratio in self.aspect_ratios[level]:
            root = math.sqrt(ratio)
            sizes += [(scale * root, scale / root), (scale / root, scale * root)]
        tensor = torch.tensor(sizes, dtype=torch.float32, device="cpu")
        return tensor.clamp(0, 1) if self.clip else tensor

    def num_anchors_per_location(self) -> list[int]:
        """How many default boxes each cell of a level has."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def forward(self, image_list: Any, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Default boxes of a batch; arguments, result and errors as for `AnchorGenerator.forward`.

        The result is float32, or float64 where the feature maps are; the centres are rounded to the feature maps'
        dtype, as in torchvision.
        """
        check.features("feature_maps", feature_maps, len(self.aspect_ratios))
        images, sizes = _images(image_list)
        dtype = feature_maps[0].dtype
        boxes = self._grid._with(arithmetic=f"quotient/{check.name_of(dtype)}/{check.name_of(promoted(dtype))}")(
            [feature_map.shape[-2:] for feature_map in feature_maps],
            image_shape=images.shape[-2:],
            dtype=promoted(dtype),
            device=feature_maps[0].device,
        )
        return [boxes] * len(sizes)

    def extra_repr(self) -> str:
        return f"aspect_ratios={self.aspect_ratios}, clip={self.clip}, scales={self.scales}, steps={self.steps}"
