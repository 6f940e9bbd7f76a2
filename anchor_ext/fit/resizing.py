"""What a trainer's transform makes of an image, since that decides what the sizes of boxes are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._arguments import show
from ._source import on_cpu

if TYPE_CHECKING:
    from .data import DataSet

__all__ = [
    "Detectron2Resize",
    "FixedResize",
    "KeepSize",
    "Letterbox",
    "MmdetResize",
    "Placed",
    "ResizedBoxes",
    "Resizing",
    "TorchvisionResize",
    "resized",
]


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where images lie in what the network sees: a coordinate becomes `coordinate * scale + offset`. All (y, x)."""

    scale: Tensor  # (I, 2) float64
    offset: Tensor  # (I, 2) float64, in pixels
    shapes: Tensor  # (I, 2) int64: of the network's input, padding included


@dataclasses.dataclass(frozen=True)
class Resizing:
    """A rule, called with images' shapes `(I, 2)` int64 (height, width). All numbers of a rule are pixels > 0."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31):
                raise ValueError(f"{field.name} is {show(value)}; expected an integer in 1..2**31 - 1")

    def __call__(self, image_shapes: Tensor) -> Placed:
        raise NotImplementedError


def _over(number: float, sides: Tensor) -> Tensor:
    """The quotients, rounded once: `number / sides` is torch's `sides.reciprocal() * number`, which is not."""
    return torch.full_like(sides, number) / sides


def _padded(image_shapes: Tensor, sides: Tensor, divisor: int) -> Placed:
    """Of images resized to these sides, at the upper left of what a divisor makes of them."""
    shapes = (sides + divisor - 1) // divisor * divisor
    return Placed(sides.double() / image_shapes.double(), torch.zeros(sides.shape, dtype=torch.float64), shapes)


@dataclasses.dataclass(frozen=True)
class TorchvisionResize(Resizing):
    """torchvision's `GeneralizedRCNNTransform(min_size, max_size)`, with batches of one image."""

    min_size: int = 800
    max_size: int = 1333
    divisor: int = 32

    def __call__(self, image_shapes: Tensor) -> Placed:
        sides = image_shapes.double()
        scale = torch.minimum(_over(self.min_size, sides.amin(1)), _over(self.max_size, sides.amax(1)))
        return _padded(image_shapes, (sides * scale[:, None]).floor().long().clamp(min=1), self.divisor)


@dataclasses.dataclass(frozen=True)
class Detectron2Resize(Resizing):
    """detectron2's `ResizeShortestEdge(short, long)`."""

    short: int = 800
    long: int = 1333
    divisor: int = 32

    def __call__(self, image_shapes: Tensor) -> Placed:
        sides = image_shapes.double()
        first = _over(self.short, sides.amin(1))[:, None]
        new = torch.where(sides == sides.amin(1, keepdim=True), float(self.short), sides * first)
        longest = new.amax(1, keepdim=True)
        new = torch.where(longest > self.long, new * _over(self.long, longest), new)
        return _padded(image_shapes, (new + 0.5).long().clamp(min=1), self.divisor)


@dataclasses.dataclass(frozen=True)
class MmdetResize(Resizing):
    """mmdetection's `Resize(scale=(long, short), keep_ratio=True)` and `Pad(size_divisor=divisor)`."""

    short: int = 800
    long: int = 1333
    divisor: int = 32

    def __call__(self, image_shapes: Tensor) -> Placed:
        sides = image_shapes.double()
        most, least = max(self.short, self.long), min(self.short, self.long)
        scale = torch.minimum(_over(most, sides.amax(1)), _over(least, sides.amin(1)))
        return _padded(image_shapes, (sides * scale[:, None] + 0.5).long().clamp(min=1), self.divisor)


@dataclasses.dataclass(frozen=True)
class FixedResize(Resizing):
    """Stretched to one shape, as torchvision's SSD does."""

    height: int
    width: int

    def __call__(self, image_shapes: Tensor) -> Placed:
        return _padded(image_shapes, torch.tensor([self.height, self.width]).expand_as(image_shapes), 1)


@dataclasses.dataclass(frozen=True)
class Letterbox(Resizing):
    """As large as fits one shape with the image's ratio: in its middle (YOLO) or at the upper left (effdet)."""

    height: int
    width: int
    center: bool = True

    def __call__(self, image_shapes: Tensor) -> Placed:
        shape = torch.tensor([self.height, self.width])
        sides = image_shapes.double()
        scale = (shape / sides).amin(1, keepdim=True).expand_as(sides)
        left_over = (shape - (sides * scale).round()) if self.center else torch.zeros_like(sides)
        return Placed(scale, (left_over / 2).floor(), shape.expand_as(image_shapes))


@dataclasses.dataclass(frozen=True)
class KeepSize(Resizing):
    """As it is, padded."""

    divisor: int = 32

    def __call__(self, image_shapes: Tensor) -> Placed:
        return _padded(image_shapes, image_shapes, self.divisor)


@dataclasses.dataclass(frozen=True)
class ResizedBoxes:
    """A data set's boxes as the network sees them."""

    boxes: Tensor  # (G, 4) float32 x1, y1, x2, y2, in pixels of the network's input
    image: Tensor  # (G,) int64
    placed: Placed

    @property
    def shapes(self) -> Tensor:
        """Of the network's input, `(I, 2)` int64."""
        return self.placed.shapes

    def groups(self) -> list[tuple[tuple[int, int], Tensor]]:
        """The shapes of the network's input that boxes have, and which boxes these are."""
        if not len(self.boxes):
            return []
        keys = (self.shapes[:, 0] << 32 | self.shapes[:, 1])[self.image]
        distinct, counts = keys.unique(return_counts=True)
        indices = keys.argsort(stable=True).split(counts.tolist())
        return [((key >> 32, key & 0xFFFFFFFF), own) for key, own in zip(distinct.tolist(), indices, strict=True)]


@on_cpu
def resized(data: DataSet, rule: Resizing | None = None) -> ResizedBoxes:
    """The boxes after resizing; None is `KeepSize()`.

    Raises:
        TypeError: `rule` is none.
    """
    if rule is not None and not isinstance(rule, Resizing):
        raise TypeError(f"resize is {show(rule)}; expected None or a rule, such as TorchvisionResize()")
    placed = (KeepSize() if rule is None else rule)(data.image_shapes)
    scale, offset = (of.flip(1).repeat(1, 2)[data.image] for of in (placed.scale, placed.offset))
    return ResizedBoxes((data.boxes * scale + offset).float(), data.image, placed)
