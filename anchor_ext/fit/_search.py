"""Which anchors reach the most boxes of a data set, on the grid that they lie on: SciPy's optimisers, started well."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ._closed_form import CellAnchors, Places, Problem, Shape, best_ious, iou_of, sides_of
from ._forms import Form, Free, Limits, Structured, number_of_ratio

__all__ = ["CellAnchors", "Criterion", "Problem", "Progress", "Shape", "best_ious", "search", "search_free"]

Criterion = Literal["recall", "mean_iou"]
Progress = Callable[[float], None]  # told the share of the work that is done

_COARSE, _FINE = (0.1, 0.05, 0.025), (0.025, 0.0125)  # widths of the threshold: IoUs within it count in part
_FEW_BOXES = 4000  # tell good starts from bad ones
_RANDOM_STARTS = 6
_FINALISTS = 3


class _Objective:
    """The criterion on some of the boxes, for scipy, which looks for the least of a function of NumPy's arrays."""

    def __init__(self, problem: Problem, form: Form, criterion: Criterion, iou: float) -> None:
        self.places = Places.of(problem, torch.float32)
        self.form, self.criterion, self.iou = form, criterion, iou

    def true(self, point: Any) -> float:
        with torch.no_grad():
            best, _ = self.places.best(
                *(side.float() for side in self.form.sides(torch.as_tensor(point, device="cpu")))
            )
            return -_scores(best, self.criterion, self.iou)[0]

    def smooth(self, point: Any, temperature: float) -> tuple[float, Any]:
        """The value, in which an IoU near the threshold counts in part, and its gradient."""
        at = torch.tensor(point, device="cpu").requires_grad_()
        widths, heights = (side.float() for side in self.form.sides(at))
        places = self.places
        with torch.no_grad():
            _, own = places.best(widths, heights)
        level, box = own // widths.shape[1], torch.arange(len(own), device="cpu")
        own_sides = (side.flatten().index_select(0, own) for side in (widths, heights))
        iou = iou_of(places.width, places.height, places.dx[level, box], places.dy[level, box], *own_sides)
        gain = torch.sigmoid((iou - self.iou) / temperature) if self.criterion == "recall" else iou
        value = -gain.mean()
        (gradient,) = torch.autograd.grad(value, at)
        return value.item(), gradient.numpy()

    def climb(self, point: Tensor, temperatures: Sequence[float]) -> Tensor:
        """To a local optimum of the smooth criterion, by its gradient."""
        at = point.numpy()
        for temperature in temperatures if self.criterion == "recall" else temperatures[-1:]:
            at = (
                _scipy_optimize()
                .minimize(
                    self.smooth,
                    at,
                    (temperature,),
                    "L-BFGS-B",
                    True,
                    bounds=[(0, 1)] * len(at),
                    options={"maxiter": 60},
                )
                .x
            )
        return torch.from_numpy(at).clamp(0, 1)

    def polish(self, point: Tensor) -> Tensor:
        """To a local optimum of the criterion itself, which is flat nearly everywhere."""
        step = 0.03
        at = point[None] + torch.cat(
            [point.new_zeros(1, len(point)), step * torch.eye(len(point), device="cpu").to(point)]
        )
        simplex = torch.where(at > 1, at - 2 * step, at).numpy()
        bounds, options = [(0, 1)] * len(point), {"maxfev": 400, "initial_simplex": simplex}
        found = _scipy_optimize().minimize(
            self.true, point.numpy(), method="Nelder-Mead", bounds=bounds, options=options
        )
        return torch.from_numpy(found.x).clamp(0, 1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A search takes thousands of small steps, for which threads wait longer than they compute; and on one thread its
    sums, hence its result, are the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scipy_optimize() -> Any:
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise ImportError("fitting anchors needs SciPy, which is not installed: pip install scipy") from error


def _scores(best: Tensor, criterion: Criterion, iou: float) -> tuple[float, float]:
    """The criterion and, for those equal in it, the other one."""
    recall, mean = (best >= iou).double().mean().item(), best.double().mean().item()
    return (recall, mean) if criterion == "recall" else (mean, recall)


def _some(problem: Problem, most: int, seed: int) -> Problem:
    count = len(problem.boxes)
    if count <= most:
        return problem
    random = torch.Generator("cpu").manual_seed(seed)
    return problem.part(torch.randperm(count, generator=random, device="cpu")[:most].to(problem.boxes.device))


def _starts(problem: Problem, form: Structured, start: Shape | None, seed: int) -> list[Tensor]:
    """Today's anchors, sizes by the strides, sizes by the boxes, and random ones."""
    boxes = Places.of(problem, torch.float64)
    side, ratio = (boxes.width * boxes.height).sqrt(), boxes.height / boxes.width

    def quantiles(of: Tensor, count: int) -> list[float]:
        at = [(i + 0.5) / count for i in range(count)]
        return of.quantile(torch.tensor(at, dtype=torch.float64, device="cpu")).tolist()

    ratios, levels = quantiles(ratio, form.ratios), len(problem.levels)
    octaves, close = ([base ** (i / form.scales) for i in range(form.scales)] for base in (2.0, 1.6))
    points = []
    if start is not None and len(start.sizes) == levels:
        least, scales = min(start.scales), sorted(start.scales)
        points.append(
            form.point(
                [size * least for size in start.sizes],
                start.ratios if len(start.ratios) == form.ratios else ratios,
                [scale / least for scale in scales] if len(scales) == form.scales else octaves,
            )
        )
    strides = [math.sqrt(y * x) for y, x in problem.strides]
    points += [form.point([factor * stride for stride in strides], ratios, octaves) for factor in (1, 2, 4)]
    points += [form.point(quantiles(side, levels), ratios, scales) for scales in (octaves, close)]
    random = torch.Generator("cpu").manual_seed(seed)
    for _ in range(_RANDOM_STARTS):
        point = torch.rand(form.count, generator=random, dtype=torch.float64, device="cpu")
        own = torch.randint(len(ratio), (form.ratios,), generator=random, device="cpu")
        point[levels : levels + form.ratios] = number_of_ratio(ratio[own].log())
        points.append(point.clamp(0, 1))
    return points


def _greedy(problem: Problem, form: Free, criterion: Criterion, iou: float) -> Tensor:
    """One cell anchor after another, each the one of a lattice that adds most to the smooth criterion."""
    places = Places.of(problem, torch.float32)
    log_ratio = (places.height / places.width).log()
    low, high = log_ratio.quantile(0.01).item(), log_ratio.quantile(0.99).item()
    parts = torch.linspace(0, 1, 24, dtype=torch.float64, device="cpu") * form.limits.octaves
    halves = torch.linspace(low, high, 17, dtype=torch.float64, device="cpu") / 2
    side = form.limits.log_least[..., None] + parts[:, None]
    widths, heights = (side - halves).exp().flatten(1), (side + halves).exp().flatten(1)
    gains = torch.stack([
        iou_of(places.width, places.height, dx, dy, w[:, None], h[:, None])
        for dx, dy, w, h in zip(places.dx, places.dy, widths.float(), heights.float(), strict=True)
    ])  # fmt: skip
    if criterion == "recall":
        gains = gains.sub_(iou).div_(_COARSE[-1]).sigmoid_()
    reached = gains.new_zeros(gains.shape[-1])
    chosen: list[list[int]] = [[] for _ in widths]
    for _ in range(len(chosen) * form.cell_anchors):
        added = (gains - reached).clamp_(min=0).sum(dim=-1)
        for level, those in enumerate(chosen):
            added[level, those if len(those) < form.cell_anchors else slice(None)] = -1
        level, index = divmod(int(added.argmax()), widths.shape[1])
        chosen[level].append(index)
        reached = torch.maximum(reached, gains[level, index])
    own = torch.tensor(chosen, device="cpu")
    return form.point(widths.gather(1, own), heights.gather(1, own))


def search(
    problem: Problem,
    start: Shape | None,
    *,
    ratios: int,
    scales: int,
    criterion: Criterion = "recall",
    iou: float = 0.5,
    bounds: tuple[float, float],
    octaves: bool = False,
    seed: int = 0,
    max_boxes: int = 20000,
    progress: Progress | None = None,
) -> Shape:
    """Sizes, ratios and scales that reach the most boxes: the best local optimum of several starts.

    The same for the same arguments. No worse than `start` on the problem's boxes, where `start`
    is of this form.

    Args:
        problem: boxes and grid.
        start: today's anchors; another number of ratios or scales is no error.
        ratios, scales: how many; a level has `ratios * scales` cell anchors.
        criterion: "recall", the share of boxes whose best IoU is at least `iou`; or "mean_iou", the mean best IoU.
        iou: the recall's threshold.
        bounds: least and most sqrt(area) of a cell anchor, in strides of its level: sqrt(stride_y * stride_x).
        octaves: whether the scales are `2**(i / scales)`; else the first is 1 and the others are searched for.
        seed: of the random starts and of the choice of boxes.
        max_boxes: where there are more, the search sees as many, and only the final choice sees all.
        progress: is called with the share of the work that is done, up to 1.

    Returns:
        Numbers of four digits, more where the bounds need them; today's and an octave's scales as they are.

    Raises:
        ValueError: bounds are none, or leave no room for the scales of an octave.
        ImportError: there is no SciPy.
    """
    with torch.inference_mode(False), torch.enable_grad(), _one_thread():
        form = Structured(Limits.of(problem, bounds), ratios, scales, octaves)
        many, few = _some(problem, max_boxes, seed), _some(problem, min(_FEW_BOXES, max_boxes), seed)
        fine, coarse = _Objective(many, form, criterion, iou), _Objective(few, form, criterion, iou)
        points = _starts(many, form, start, seed)
        done = _Steps(progress, len(points) + _FINALISTS + 1)
        climbed = [done.then(coarse.climb(point, _COARSE)) for point in points]
        finalists = sorted(climbed, key=fine.true)[:_FINALISTS]
        finalists = [done.then(fine.climb(point, _FINE)) for point in finalists]
        finalists.append(done.then(fine.polish(min(finalists, key=fine.true))))
        candidates = [form.written(point) for point in finalists]
        same = None if start is None else form.same(start)
        return _best(problem, candidates if same is None else [*candidates, same], criterion, iou)


def search_free(
    problem: Problem,
    start: Shape | CellAnchors,
    *,
    criterion: Criterion = "recall",
    iou: float = 0.5,
    bounds: tuple[float, float],
    seed: int = 0,
    max_boxes: int = 20000,
    progress: Progress | None = None,
) -> CellAnchors:
    """Cell anchors of each level, with no ratios and scales in common, that reach the most boxes.

    Two local optima are compared: from `start`, and from cell anchors that are chosen greedily.

    Args:
        problem, criterion, iou, bounds, seed, max_boxes, progress: as for `search`.
        start: where to begin, and of how many cell anchors: what `search` found.

    Returns:
        Per level, pairs (width, height) that ascend in area, each number of four digits, more where the bounds need
        them. It is `start` as it is where that is within the bounds and nothing better was found.

    Raises:
        ValueError, ImportError: as for `search`.
    """
    with torch.inference_mode(False), torch.enable_grad(), _one_thread():
        today = start.cell_anchors if isinstance(start, Shape) else start
        form = Free(Limits.of(problem, bounds), len(today[0]))
        many, few = _some(problem, max_boxes, seed), _some(problem, min(_FEW_BOXES, max_boxes), seed)
        objective, done = _Objective(many, form, criterion, iou), _Steps(progress, 2)
        points = [form.point(*sides_of(today)), _greedy(few, form, criterion, iou)]
        candidates = [form.written(done.then(objective.climb(point, _COARSE[1:] + _FINE[1:]))) for point in points]
        return _best(problem, [*candidates, today] if form.limits.hold(today) else candidates, criterion, iou)


_Candidate = TypeVar("_Candidate", Shape, CellAnchors)


def _best(problem: Problem, candidates: list[_Candidate], criterion: Criterion, iou: float) -> _Candidate:
    """The first of the best, on all boxes."""
    return max(candidates, key=lambda anchors: _scores(best_ious(problem, anchors), criterion, iou))


@dataclass
class _Steps:
    progress: Progress | None
    total: int
    done: int = 0

    def then(self, result: Tensor) -> Tensor:
        """The result, after telling that a step is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done / self.total)
        return result
