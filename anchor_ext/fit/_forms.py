"""Ways to write a pyramid's cell anchors as numbers between 0 and 1, for an optimiser that knows no other limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ._closed_form import CellAnchors, Problem, Shape

_MOST_RATIO = 32.0  # ratios lie between 1/32 and 32
_DIGITS = 4  # of the numbers in a result


@dataclass(frozen=True)
class Limits:
    """What the cell anchors' sides sqrt(area) may be: least and most strides of their level."""

    least: tuple[float, ...]  # per level, in pixels
    most: tuple[float, ...]
    octaves: float  # log(most / least), the same on every level

    @classmethod
    def of(cls, problem: Problem, bounds: tuple[float, float]) -> Limits:
        least, most = bounds
        if not 0 < least < most < math.inf:
            raise ValueError(f"bounds is {bounds}; expected 0 < least < most, in strides")
        strides = [math.sqrt(y * x) for y, x in problem.strides]
        return cls(tuple(least * s for s in strides), tuple(most * s for s in strides), math.log(most / least))

    def hold(self, cell_anchors: CellAnchors) -> bool:
        levels = zip(self.least, cell_anchors, self.most, strict=True)
        return all(least <= math.sqrt(w * h) <= most for least, level, most in levels for w, h in level)

    @property
    def log_least(self) -> Tensor:
        return torch.tensor(self.least, dtype=torch.float64, device="cpu").log()[:, None]  # (L, 1)


class Form(Protocol):
    """A way to write cell anchors as numbers between 0 and 1, all of which are within the limits."""

    @property
    def count(self) -> int: ...

    def sides(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Widths and heights, `(L, A)`, differentiable."""

    def written(self, point: Tensor) -> Shape | CellAnchors:
        """In a few digits each."""


def _ratio(number: Tensor) -> Tensor:
    """log(height / width) of a number between 0 and 1."""
    return (2 * number - 1) * math.log(_MOST_RATIO)


def number_of_ratio(log_ratio: Tensor) -> Tensor:
    return (log_ratio / math.log(_MOST_RATIO) + 1) / 2


def _rounded(value: float) -> Iterator[float]:
    """Near a number: those of the fewest digits first."""
    for digits in range(_DIGITS, 18):
        for step in (0, 1, -1):
            yield float(f"{value * (1 + step * 10.0 ** (1 - digits)):.{digits}g}")


@dataclass(frozen=True)
class Structured:
    """Sizes as parts of what the greatest scale leaves of the limits; ratios; scales, unless they are octaves'."""

    limits: Limits
    ratios: int
    scales: int
    octaves: bool

    def __post_init__(self) -> None:
        if self.octaves and self._octaves[-1] > self.limits.octaves:
            raise ValueError(f"bounds leave no room for {self.scales} scales of an octave")

    @property
    def _octaves(self) -> list[float]:
        return [i / self.scales * math.log(2) for i in range(self.scales)]

    @property
    def count(self) -> int:
        return len(self.limits.least) + self.ratios + (0 if self.octaves else self.scales - 1)

    def _logarithms(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = len(self.limits.least)
        scales = torch.cat([point.new_zeros(1), point[levels + self.ratios :] * self.limits.octaves])
        if self.octaves:
            scales = point.new_tensor(self._octaves)
        sizes = self.limits.log_least[:, 0] + point[:levels] * (self.limits.octaves - scales.max())
        return sizes, _ratio(point[levels : levels + self.ratios]), scales

    def sides(self, point: Tensor) -> tuple[Tensor, Tensor]:
        sizes, ratios, scales = self._logarithms(point)
        side, half = sizes[:, None, None] + scales, ratios[:, None] / 2
        return (side - half).exp().flatten(1), (side + half).exp().flatten(1)

    def point(self, sizes: Sequence[float], ratios: Sequence[float], scales: Sequence[float]) -> Tensor:
        """The nearest one."""
        logs = [torch.tensor(of, dtype=torch.float64, device="cpu").log() for of in (sizes, ratios, scales)]
        room = max(self.limits.octaves - logs[2].max().item(), 1e-9)
        parts = [(logs[0] - self.limits.log_least[:, 0]) / room, number_of_ratio(logs[1])]
        return torch.cat(parts if self.octaves else [*parts, logs[2][1:] / self.limits.octaves]).clamp(0, 1)

    def written(self, point: Tensor) -> Shape:
        sizes, ratios, scales = (numbers.exp().tolist() for numbers in self._logarithms(point))
        ratios = sorted(next(_rounded(ratio)) for ratio in ratios)
        if not self.octaves:
            scales = sorted(min(next(_rounded(scale)), self.limits.most[0] / self.limits.least[0]) for scale in scales)

        def fitting(size: float, least: float, most: float) -> float:
            fits = (size for size in _rounded(size) if least <= size and size * scales[-1] <= most)
            return next(fits, least)

        fitted = map(fitting, sizes, self.limits.least, self.limits.most)
        return Shape(tuple(fitted), tuple(ratios), tuple(scales))

    def same(self, shape: Shape) -> Shape | None:
        """The shape with 1 for its least scale; None where it is not of this form."""
        least = min(shape.scales)
        scales = sorted(scale / least for scale in shape.scales)
        counts = (len(shape.sizes), len(shape.ratios), len(shape.scales))
        of_octaves = zip(scales, self._octaves, strict=False)
        if counts != (len(self.limits.least), self.ratios, self.scales):
            return None
        if self.octaves and any(abs(math.log(scale) - octave) > 1e-9 for scale, octave in of_octaves):
            return None
        scaled = Shape(tuple(size * least for size in shape.sizes), shape.ratios, tuple(scales))
        return scaled if self.limits.hold(scaled.cell_anchors) else None


@dataclass(frozen=True)
class Free:
    """Each cell anchor of each level by itself: the place of its side within the limits, and its ratio."""

    limits: Limits
    cell_anchors: int

    @property
    def count(self) -> int:
        return 2 * len(self.limits.least) * self.cell_anchors

    def sides(self, point: Tensor) -> tuple[Tensor, Tensor]:
        side, ratio = point.view(2, len(self.limits.least), self.cell_anchors)
        side, half = self.limits.log_least + side * self.limits.octaves, _ratio(ratio) / 2
        return (side - half).exp(), (side + half).exp()

    def point(self, widths: Tensor, heights: Tensor) -> Tensor:
        """The nearest one."""
        side, ratio = (widths * heights).log() / 2, (heights / widths).log()
        part = (side - self.limits.log_least) / self.limits.octaves
        return torch.stack([part, number_of_ratio(ratio)]).flatten().clamp(0, 1)

    def written(self, point: Tensor) -> CellAnchors:
        widths, heights = (side.tolist() for side in self.sides(point))

        def fitting(w: float, h: float, least: float, most: float) -> tuple[float, float]:
            near = zip(_triples(w), _triples(h), strict=True)
            pairs = itertools.chain.from_iterable(itertools.product(*triples) for triples in near)
            return next((w, h) for w, h in pairs if least <= math.sqrt(w * h) <= most)

        levels = zip(widths, heights, self.limits.least, self.limits.most, strict=True)
        return tuple(
            tuple(sorted((fitting(w, h, least, most) for w, h in zip(ws, hs, strict=True)), key=math.prod))
            for ws, hs, least, most in levels
        )


def _triples(value: float) -> Iterator[tuple[float, ...]]:
    numbers = _rounded(value)
    while triple := tuple(itertools.islice(numbers, 3)):
        yield triple
