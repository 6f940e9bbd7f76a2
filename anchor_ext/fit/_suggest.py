"""Anchors that fit a data set better, and what they really reach."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .._arguments import show
from ..anchors import Anchors
from ._paste import FRAMEWORKS, constructor, generator
from ._report import best_of_all
from ._search import Problem, Shape, search, search_free
from ._source import Source, check_count, on_cpu
from ._tables import aligned, percent
from .data import read
from .resizing import ResizedBoxes, Resizing, resized

__all__ = ["Score", "Suggestion", "suggest"]

_FEW_IMAGES = 20  # are too few to hold some of them out: then boxes are


@dataclasses.dataclass(frozen=True)
class Score:
    """What anchors reach with some boxes, exactly: the share with an IoU of at least the threshold; the mean IoU."""

    recall: float
    mean_iou: float


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What `suggest` found. `str()` of it is a table and texts to paste."""

    anchors: Anchors
    iou: float
    searched: dict[str, Score]  # "today" and "suggested", with the boxes that the search saw
    held_out: dict[str, Score]  # with the others; also "suggested, as pasted in torchvision" and so on
    num_searched: int
    num_held_out: int

    def constructors(self) -> dict[str, str]:
        """Per framework what its users paste; or, after "# ", why it cannot have them."""
        texts = {}
        for framework in FRAMEWORKS:
            try:
                texts[framework] = constructor(self.anchors, framework)
            except ValueError as error:
                texts[framework] = f"# not expressible: {error}"
        return texts

    def rows(self) -> list[list[str]]:
        """A table: a header and a row per kind of anchors."""
        rows = [
            ["", f"recall at {self.iou:g}, held out", "mean IoU, held out", "recall, searched", "mean IoU, searched"],
            ["boxes", f"{self.num_held_out:,}", "", f"{self.num_searched:,}", ""],
        ]
        for name, score in self.held_out.items():
            seen = self.searched.get(name)
            more = ["", ""] if seen is None else [percent(seen.recall), f"{seen.mean_iou:.3f}"]
            rows.append([name, percent(score.recall), f"{score.mean_iou:.3f}", *more])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """All of it, as json can write it."""
        names = ("pyramid_levels", "strides", "sizes", "ratios", "scales", "spec")
        return {
            "anchors": {name: getattr(self.anchors, name) for name in names},
            "iou": self.iou,
            "boxes": {"searched": self.num_searched, "held_out": self.num_held_out},
            "searched": {name: dataclasses.asdict(score) for name, score in self.searched.items()},
            "held_out": {name: dataclasses.asdict(score) for name, score in self.held_out.items()},
            "constructors": self.constructors(),
        }

    def __str__(self) -> str:
        texts = [f"{framework}:\n{text}" for framework, text in self.constructors().items()]
        return "\n\n".join([aligned(self.rows()), *texts])


@on_cpu
def suggest(
    data: Any,
    resize: Resizing | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    today: Any = None,
    levels: Sequence[int] | Sequence[Sequence[int]] = (3, 4, 5, 6, 7),
    strides: Sequence[Any] | None = None,
    cell_anchors: int = 9,
    ratios: int | None = None,
    criterion: Literal["recall", "mean_iou"] = "recall",
    iou: float = 0.5,
    bounds: tuple[float, float] = (1.0, 10.0),
    octaves: bool = False,
    free: bool = False,
    held_out: float = 0.2,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Suggestion:
    """Sizes, ratios and scales that reach more boxes on the grid that the anchors lie on.

    They are searched for with a part of the data. What they reach is told for the rest, exactly, beside today's. The
    same arguments give the same result.

    Args:
        data, resize, image_shape: as for `report`.
        today: the anchors to compare with, as for `report`; default: `Anchors(levels)`, RetinaNet's. Where they are
            `Anchors` of such a form the search begins with them, too, and does not return what is worse.
        levels: the pyramid's; or several such pyramids, of which the best is taken, of equal ones the first.
        strides: per level a number or a pair (y, x); default `2**level`. Only with one pyramid.
        cell_anchors: how many there are per cell.
        ratios: how many of their ratios differ; `cell_anchors / ratios` scales do. Default: 3, where 3 divides
            `cell_anchors`.
        criterion: what is to be great: the "recall", or the "mean_iou".
        iou: of the recall.
        bounds: the least and the most that the square root of an anchor's area may be, in strides of its level: what
            a level's features see.
        octaves: whether the scales are to be `2**(i / scales)`, as RetinaNet's and effdet's are.
        free: whether every cell anchor of every level may have a width and a height of its own. It reaches a few boxes
            more, and only `Anchors.from_boxes` expresses it.
        held_out: the share of the images (of the boxes, where there are under 20 images) that the search does not see.
        seed: of that choice, and of the search.
        progress: called with the share of the work that is done.

    Raises:
        TypeError, ValueError, OSError: an argument is wrong, or the data cannot be read or is too little.
        ImportError: SciPy is not installed.
    """
    pyramids = _pyramids(levels, strides)
    ratio_count = _ratio_count(cell_anchors, ratios)
    _check(criterion, iou, bounds, held_out)
    check_count("seed", seed, 0, 2**63 - 1)
    if free and octaves:
        raise ValueError("free is True, and so is octaves; expected one of them")
    boxes = resized(read(data, image_shape=image_shape), resize)
    seen, unseen = _split(boxes, held_out, seed)
    of_today = _today(Anchors(pyramids[0]) if today is None else today, strides)
    start = _shape_of(of_today.grid)
    found = []
    for i, pyramid in enumerate(pyramids):
        given = Anchors(pyramid, strides).strides
        problem = Problem(boxes.boxes[seen], boxes.shapes[boxes.image[seen]], pyramid, given)
        options: dict[str, Any] = dict(criterion=criterion, iou=iou, bounds=tuple(bounds), seed=seed)
        if progress is not None:
            options["progress"] = functools.partial(_part, progress, i, len(pyramids))
        shape = search(
            problem,
            start if start is not None and len(start.sizes) == len(pyramid) else None,
            ratios=ratio_count,
            scales=cell_anchors // ratio_count,
            octaves=octaves,
            **options,
        )
        if free:
            found.append(Anchors.from_boxes(search_free(problem, shape, **options), pyramid, strides))
            continue
        found.append(Anchors(pyramid, strides, shape.sizes, shape.ratios, shape.scales))
    score = functools.partial(_score, boxes, iou)
    best = max(found, key=lambda anchors: getattr(score(Source(anchors), seen), criterion))
    sources = {"today": of_today, "suggested": Source(best)}
    searched = {name: score(source, seen) for name, source in sources.items()}
    for framework in ("torchvision", "detectron2", "mmdet"):
        try:
            sources[f"suggested, as pasted in {framework}"] = Source(*generator(best, framework))
        except ValueError:  # which constructors() tells
            continue
    return Suggestion(
        best, iou, searched, {name: score(source, unseen) for name, source in sources.items()}, len(seen), len(unseen)
    )


def _part(progress: Callable[[float], None], part: int, parts: int, share: float) -> None:
    progress((part + share) / parts)


def _today(anchors: Any, strides: Any) -> Source:
    """The strides are for those that have none."""
    source = Source(anchors)
    return source if source.strides is not None else Source(anchors, strides)


def _pyramids(levels: Any, strides: Any) -> list[list[int]]:
    expected = "expected pyramid levels, such as (3, 4, 5, 6, 7), or several such lists"
    if not isinstance(levels, (list, tuple, range)) or not levels:
        raise ValueError(f"levels is {show(levels)}; {expected}")
    several = [list(one) for one in levels if isinstance(one, (list, tuple, range))]
    if not several:
        return [list(levels)]
    if len(several) != len(levels):
        raise ValueError(f"levels is {show(levels)}; {expected}")
    if strides is not None and len(several) > 1:
        raise ValueError(f"strides is {show(strides)}; expected None with several pyramids in levels")
    return several


def _ratio_count(cell_anchors: Any, ratios: Any) -> int:
    check_count("cell_anchors", cell_anchors, 1, 64)
    if ratios is not None:
        check_count("ratios", ratios, 1, 64)
    else:
        ratios = next((divisor for divisor in (3, 2) if cell_anchors % divisor == 0), cell_anchors)
    if cell_anchors % ratios:
        raise ValueError(f"ratios is {ratios}; expected a divisor of cell_anchors, {cell_anchors}")
    return int(ratios)


def _check(criterion: Any, iou: Any, bounds: Any, held_out: Any) -> None:
    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    if criterion not in ("recall", "mean_iou"):
        raise ValueError(f"criterion is {show(criterion)}; expected 'recall' or 'mean_iou'")
    if not is_number(iou) or not 0 < iou < 1:
        raise ValueError(f"iou is {show(iou)}; expected a number between 0 and 1")
    if not is_number(held_out) or not 0 <= held_out < 1:
        raise ValueError(f"held_out is {show(held_out)}; expected a number in 0..1, below 1")
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2 or not all(map(is_number, bounds)):
        raise ValueError(f"bounds is {show(bounds)}; expected two numbers with 0 < least < most, in strides")


def _split(boxes: ResizedBoxes, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of boxes: those that the search sees, and the others; all and all, where none are held out."""
    count = boxes.boxes.shape[0]
    everything = torch.arange(count)
    if held_out == 0:
        return everything, everything
    images = boxes.image.unique()
    by_image = len(images) >= _FEW_IMAGES
    units = len(images) if by_image else count
    out = round(held_out * units)
    if not 0 < out < units:
        raise ValueError(f"held_out is {held_out}; expected a share of {units} boxes that leaves some on either side")
    chosen = torch.randperm(units, generator=torch.Generator().manual_seed(seed))[:out]
    is_out = torch.isin(boxes.image, images[chosen]) if by_image else torch.isin(everything, chosen)
    return everything[~is_out], everything[is_out]


def _shape_of(anchors: Any) -> Shape | None:
    """Where the search may begin: of Anchors with a size per level, and ratios and scales that all levels share."""
    if not isinstance(anchors, Anchors):
        return None
    sizes, ratios, scales = anchors.sizes, anchors.ratios, anchors.scales
    if sizes is None or ratios is None or scales is None:
        return None
    if any(len(level) != 1 for level in sizes) or any(len({map(tuple, of)}) > 1 for of in (ratios, scales)):
        return None
    return Shape(tuple(level[0] for level in sizes), tuple(ratios[0]), tuple(scales[0]))


def _score(boxes: ResizedBoxes, iou: float, source: Source, indices: Tensor) -> Score:
    some = dataclasses.replace(boxes, boxes=boxes.boxes[indices], image=boxes.image[indices])
    best = best_of_all(some, source)[0]
    return Score(float((best >= iou).double().mean()), float(best.double().mean()))
