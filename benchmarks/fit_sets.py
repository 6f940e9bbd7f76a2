"""Boxes to fit anchors to: simulated with a seed, or read from a folder of Pascal VOC files."""

from __future__ import annotations

import math
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

IMAGES = [(480, 640), (427, 640), (375, 500), (640, 480), (640, 640), (500, 375), (720, 1280)]
SHARES = torch.tensor([0.35, 0.2, 0.1, 0.15, 0.05, 0.05, 0.1])
SHORT, LONG, MULTIPLE = 800, 1333, 32


@dataclass(frozen=True)
class Boxes:
    """Ground truth in pixels of the network's input."""

    boxes: Tensor  # (G, 4) float64: x1, y1, x2, y2
    shapes: Tensor  # (G, 2) int64: H, W of the padded input that each box lies in

    def __len__(self) -> int:
        return len(self.boxes)

    def part(self, index: Tensor) -> Boxes:
        return Boxes(self.boxes[index], self.shapes[index])


def resized(height: float, width: float) -> tuple[float, int, int]:
    """The factor that makes the shorter side 800 and the longer one 1333 at most; the image's shape after it."""
    factor = min(SHORT / min(height, width), LONG / max(height, width))
    return factor, round(height * factor), round(width * factor)


def padded(side: int) -> int:
    return math.ceil(side / MULTIPLE) * MULTIPLE


def normal(count: int, median: float, sigma: float, random: torch.Generator) -> Tensor:
    """Log-normal."""
    return median * (sigma * torch.randn(count, generator=random, dtype=torch.float64)).exp()


def coco_like(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    return normal(count, 64, 1.1, random).clamp(5, 700), normal(count, 1.05, 0.6, random)


def small(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    side, ratio = coco_like(count, random)
    return side / 5, ratio


def wide(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    ratio = torch.empty(count, dtype=torch.float64).uniform_(math.log(1 / 10), math.log(1 / 4), generator=random).exp()
    return normal(count, 70, 0.6, random).clamp(8, 500), ratio


def tall(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    return normal(count, 60, 0.8, random).clamp(8, 600), normal(count, 2.4, 0.15, random)


def two_clusters(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    is_first = torch.rand(count, generator=random) < 0.5
    side = torch.where(is_first, normal(count, 22, 0.2, random), normal(count, 220, 0.2, random))
    return side, torch.where(is_first, normal(count, 1.0, 0.15, random), normal(count, 0.4, 0.2, random))


SIMULATED: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "COCO-like": coco_like,
    "small": small,
    "wide": wide,
    "tall": tall,
    "two clusters": two_clusters,
}


def simulated(name: str, count: int, seed: int) -> Boxes:
    """Sides sqrt(area) and ratios height / width as the set says, uniformly placed in an image that they fit into."""
    random = torch.Generator().manual_seed(seed)
    side, ratio = SIMULATED[name](count, random)
    inputs = torch.tensor([resized(*image)[1:] for image in IMAGES])
    inputs = inputs[torch.multinomial(SHARES, count, replacement=True, generator=random)]
    height = torch.minimum(side * ratio.sqrt(), inputs[:, 0])
    width = torch.minimum(side / ratio.sqrt(), inputs[:, 1])
    y = torch.rand(count, generator=random, dtype=torch.float64) * (inputs[:, 0] - height)
    x = torch.rand(count, generator=random, dtype=torch.float64) * (inputs[:, 1] - width)
    shapes = (inputs + MULTIPLE - 1) // MULTIPLE * MULTIPLE
    return Boxes(torch.stack([x, y, x + width, y + height], dim=1), shapes)


def real(folder: Path) -> Boxes:
    """Every box of a folder's Pascal VOC files that has an area, resized with its image."""
    boxes, shapes = [], []
    for path in sorted(folder.glob("**/*.xml")):
        root = xml.etree.ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            continue
        height, width = (int(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
        factor, *sides = resized(height, width)
        for box in root.iterfind("object/bndbox"):
            x1, y1, x2, y2 = (float(box.findtext(name, "nan")) * factor for name in ("xmin", "ymin", "xmax", "ymax"))
            if x1 < x2 and y1 < y2:
                boxes.append([x1, y1, x2, y2])
                shapes.append([padded(side) for side in sides])
    if not boxes:
        raise SystemExit(f"no boxes in the Pascal VOC files of {folder}")
    return Boxes(torch.tensor(boxes, dtype=torch.float64), torch.tensor(shapes))


def halves(data: Boxes, seed: int) -> tuple[Boxes, Boxes]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.part(order[::2]), data.part(order[1::2])
