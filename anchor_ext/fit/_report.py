"""What anchors reach with a data set's boxes."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .._arguments import is_sequence, show
from ._source import Source, check_count, on_cpu
from .data import DataSet, read
from .resizing import ResizedBoxes, Resizing, resized

__all__ = ["Group", "LevelUse", "Positives", "Report", "best_of_all", "report"]

Progress = Callable[[int, int], None]

THRESHOLDS = (0.4, 0.5, 0.7)
_SIZES = (8, 16, 32, 64, 128, 256, 512)  # pixels: the square root of the area
_RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # height / width
_BATCH = 8  # images that are matched at a time


@dataclasses.dataclass(frozen=True)
class Group:
    """Some boxes: how many, the share whose best IoU reaches each threshold, and the mean of their best IoUs."""

    name: str
    boxes: int
    recall: tuple[float, ...]
    mean_iou: float


@dataclasses.dataclass(frozen=True)
class Positives:
    """What matching gives the boxes of some images."""

    images: int
    boxes: int
    mean: float  # positive anchors per box
    median: int
    low_quality_only: int  # boxes whose positives come from the low-quality rule alone
    none: int  # boxes without any, since other boxes have their anchors, or there are none
    per_box: Tensor  # (boxes,) int64: positive anchors of each box


@dataclasses.dataclass(frozen=True)
class LevelUse:
    """A level's part."""

    name: str
    stride: tuple[float, float] | None
    best: int  # boxes whose best anchor is here
    positives: int  # positive anchors, in the images that were matched
    used: tuple[bool, ...]  # per cell anchor, whether it was ever positive or any box's best


@dataclasses.dataclass(frozen=True)
class Report:
    """How anchors fit a data set. `str()` of it is a table."""

    data: DataSet
    resized: ResizedBoxes
    thresholds: tuple[float, ...]
    iou: Tensor  # (G,) float32: the best of each box
    level: Tensor  # (G,) int64: of the anchor that has it, from 0 on; -1: the box shares nothing with any
    cell_anchor: Tensor  # (G,) int64
    index: Tensor  # (G,) int64: its flat index in the image
    whole: Group
    by: dict[str, list[Group]]  # "size", "ratio", "class", "level"
    positives: Positives
    levels: list[LevelUse]
    shapes: list[list[tuple[float, float]]]  # per level (width, height) of its cell anchors, in pixels
    source: Source  # the anchors

    def anchor(self, box: int) -> list[float] | None:
        """The best one of a box, x1, y1, x2, y2 in pixels of the network's input; None where none shares anything."""
        index = int(self.index[box])
        if index < 0:
            return None
        grids, sides = self.source.over(self.resized.shapes[self.resized.image[box]].tolist())
        corners = ops.gather(self.source.config, torch.tensor([index]), grids, sides, None, torch.float32)[0].tolist()
        return corners if self.source.config.native.layout == "xyxy" else [corners[k] for k in (1, 0, 3, 2)]

    def extent(self, image: int) -> list[float]:
        """Where an image lies in the network's input: x1, y1, x2, y2."""
        placed, shape = self.resized.placed, self.data.image_shapes[image].double()
        low = placed.offset[image]
        (y1, x1), (y2, x2) = low.tolist(), (low + shape * placed.scale[image]).tolist()
        return [x1, y1, x2, y2]

    def to_dict(self) -> dict[str, Any]:
        """All of it but what is known per box, as json can write it."""
        positives = {key: value for key, value in vars(self.positives).items() if key != "per_box"}
        return {
            "boxes": self.whole.boxes,
            "images": len(self.data.image_shapes),
            "left_out": {kind: len(entries) for kind, entries in self.data.left_out.items()},
            "noted": {kind: len(entries) for kind, entries in self.data.noted.items()},
            "thresholds": self.thresholds,
            "recall": self.whole.recall,
            "mean_iou": self.whole.mean_iou,
            "no_overlap": int((self.level < 0).sum()),
            "by": {key: [dataclasses.asdict(group) for group in groups] for key, groups in self.by.items()},
            "positives": positives,
            "levels": [dataclasses.asdict(level) for level in self.levels],
            "cell_anchors": self.shapes,
        }

    def __str__(self) -> str:
        from ._tables import report_as_text

        return report_as_text(self)


@on_cpu
def report(
    data: Any,
    anchors: Any,
    resize: Resizing | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    strides: Sequence[Any] | None = None,
    clip: bool = False,
    thresholds: Sequence[float] = THRESHOLDS,
    high: float = 0.5,
    low: float = 0.4,
    allow_low_quality: bool = True,
    matched_images: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """How anchors fit a data set's boxes, exactly, on the grids that they lie on.

    Args:
        data: a `DataSet`, or what `read` takes.
        anchors: `Anchors`, `AnchorGrid`, or a generator of `anchor_ext.compat`.
        resize: what the trainer makes of an image, such as `TorchvisionResize()`; default: `KeepSize()`.
        image_shape: as for `read`.
        strides: as for `best_iou`.
        clip: whether the anchors are clipped to the image.
        thresholds: IoUs, of which the recall is told: the share of boxes that some anchor reaches.
        high, low, allow_low_quality: the rule of matching, as for `Anchors.match`.
        matched_images: so many images, chosen by `seed`, are matched, for the positives; 0: all.
        progress: called with the boxes that are done and all there are.

    Raises:
        TypeError, ValueError, OSError: an argument is wrong, or the data cannot be read.
    """
    if not is_sequence(thresholds) or not thresholds or not all(map(_is_threshold, thresholds)):
        raise ValueError(f"thresholds is {show(thresholds)}; expected a list of numbers in 0..1")
    check_count("matched_images", matched_images, 0, 2**31 - 1)
    check_count("seed", seed, 0, 2**63 - 1)
    levels_of = tuple(thresholds)
    source = Source(anchors, strides)
    data = read(data, image_shape=image_shape)
    boxes = resized(data, resize)
    iou, level, cell_anchor, index = best_of_all(boxes, source, clip, progress)
    options = (high, low, allow_low_quality, False)
    positives, of_level, used = _positives(boxes, source, clip, options, _chosen(data, matched_images, seed))
    best = level[level >= 0], cell_anchor[level >= 0]
    for i, a in set(zip(*(tensor.tolist() for tensor in torch.unique(torch.stack(best), dim=1)), strict=True)):
        used[i][a] = True
    names = source.level_names()
    level_uses = [
        LevelUse(names[i], stride, int((level == i).sum()), of_level[i], tuple(used[i]))
        for i, stride in enumerate(source.strides or [None] * len(names))
    ]
    return Report(
        data,
        boxes,
        levels_of,
        iou,
        level,
        cell_anchor,
        index,
        _group("all", iou, levels_of),
        _groups(data, boxes, iou, level, names, levels_of),
        positives,
        level_uses,
        source.shapes(boxes.shapes[0].tolist()),
        source,
    )


def best_of_all(
    boxes: ResizedBoxes, source: Source, clip: bool = False, progress: Progress | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per box the best IoU, and level, cell anchor and flat index of what has it; -1 where it is 0."""
    count = boxes.boxes.shape[0]
    iou = torch.empty(count, dtype=torch.float32)
    level, cell_anchor, index = torch.empty(3, count, dtype=torch.int64)
    done = 0
    for shape, indices in boxes.groups():
        grids, sides = source.over(shape)
        limits = shape if clip else None
        iou[indices], own = ops.best_anchor(source.config, boxes.boxes[indices], grids, sides, limits)
        index[indices] = own
        level[indices], cell_anchor[indices] = source.places(own, grids, sides)
        done += len(indices)
        if progress is not None:
            progress(done, count)
    return iou, level, cell_anchor, index


def _is_threshold(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


def _chosen(data: DataSet, most: int, seed: int) -> Tensor:
    """Some of the images that have boxes."""
    images: Tensor = data.image.unique()
    if 0 < most < len(images):
        images = images[torch.tensor(sorted(random.Random(seed).sample(range(len(images)), most)))]
    return images


def _positives(
    boxes: ResizedBoxes, source: Source, clip: bool, options: tuple[Any, ...], images: Tensor
) -> tuple[Positives, list[int], list[list[bool]]]:
    """Of the images' boxes; and per level how many, and which cell anchors are ever positive."""
    chosen = torch.zeros(len(boxes.shapes), dtype=torch.bool).index_fill(0, images, True)
    per_box = torch.zeros(boxes.boxes.shape[0], dtype=torch.int64)
    without = torch.zeros_like(per_box)
    uses = [torch.zeros(count, dtype=torch.int64) for count in source.counts]
    for shape, of_shape in boxes.groups():
        some = of_shape[chosen[boxes.image[of_shape]]]
        own = boxes.image[some].argsort(stable=True)
        of_images = some[own].split(boxes.image[some].unique(return_counts=True)[1].tolist())
        grids, sides = source.over(shape)
        limits = shape if clip else None
        for first in range(0, len(of_images), _BATCH):
            batch = of_images[first : first + _BATCH]
            given = [boxes.boxes[indices] for indices in batch]
            for to, rule in ((per_box, options), (without, (*options[:2], False, False))):
                matched = ops.match(source.config, given, grids, sides, limits, rule, None, False, None)
                for indices, of_image in zip(batch, matched, strict=True):
                    positive = (of_image >= 0).nonzero()[:, 0]
                    to[indices] = of_image[positive].bincount(minlength=len(indices))
                    if to is per_box:
                        level, cell_anchor = source.places(positive, grids, sides)
                        for i, use in enumerate(uses):
                            use += cell_anchor[level == i].bincount(minlength=len(use))
                if not options[2]:
                    without = per_box
                    break
    counted = chosen[boxes.image]
    per_box, without = per_box[counted], without[counted]
    positives = Positives(
        len(images),
        len(per_box),
        float(per_box.double().mean()),
        int(per_box.median()),
        int(((per_box > 0) & (without == 0)).sum()),
        int((per_box == 0).sum()),
        per_box,
    )
    return positives, [int(use.sum()) for use in uses], [(use > 0).tolist() for use in uses]


def _group(name: str, iou: Tensor, thresholds: Sequence[float]) -> Group:
    count = len(iou)
    recall = tuple(float((iou >= t).sum()) / count for t in thresholds)
    return Group(name, count, recall, float(iou.double().mean()))


def _groups(
    data: DataSet, boxes: ResizedBoxes, iou: Tensor, level: Tensor, names: list[str], thresholds: Sequence[float]
) -> dict[str, list[Group]]:
    sides = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]).double()
    size, ratio = sides.prod(1).sqrt(), sides[:, 1] / sides[:, 0]

    def of(groups: Tensor, names: Sequence[str]) -> list[Group]:
        """Of those that have boxes; a group -1 comes last."""
        present = [int(i) for i in groups.unique() if i >= 0]
        made = [_group(names[i], iou[groups == i], thresholds) for i in present]
        return [*made, _group("none", iou[groups < 0], thresholds)] if bool((groups < 0).any()) else made

    by_class = sorted(of(data.labels, data.class_names), key=lambda group: group.mean_iou)
    return {
        "size": of(torch.bucketize(size, torch.tensor(_SIZES, dtype=torch.float64), right=True), _intervals(_SIZES)),
        "ratio": of(
            torch.bucketize(ratio, torch.tensor(_RATIOS, dtype=torch.float64), right=True), _intervals(_RATIOS)
        ),
        "class": by_class,
        "level": of(level, names),
    }


def _intervals(edges: Sequence[float]) -> list[str]:
    inner = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    return [f"under {edges[0]:g}", *inner, f"{edges[-1]:g} and more"]
