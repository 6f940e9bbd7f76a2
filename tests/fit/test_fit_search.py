"""The search finds anchors that reach more boxes on the grid that they lie on, within its bounds, and again."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
from toolchain import ROOT

import anchor_ext
from anchor_ext.fit import _search
from anchor_ext.fit._search import Problem, Shape, best_ious, search, search_free

pytest.importorskip("scipy.optimize")
sys.path.insert(0, str(ROOT / "benchmarks"))
import fit_sets
from matching import box_iou

pytestmark = [
    pytest.mark.tools("scipy"),
    pytest.mark.filterwarnings("ignore::anchor_ext.UnusualAnchorsWarning"),
]
LEVELS = (3, 4, 5, 6, 7)
STRIDES = tuple((2.0**level, 2.0**level) for level in LEVELS)
RETINANET = Shape((32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0), tuple(2 ** (i / 3) for i in range(3)))
BOUNDS = (0.5, 16.0)


@pytest.fixture(scope="module", autouse=True)
def few_starts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search, "_RANDOM_STARTS", 1)
        yield


def problem_of(name: str, count: int, seed: int = 0) -> Problem:
    data = fit_sets.simulated(name, count, seed)
    return Problem(data.boxes, data.shapes, LEVELS, STRIDES)


def boxes_in(*boxes: tuple[float, ...], shape=(96, 128), levels=(3, 4), strides=((8, 8), (16, 16))) -> Problem:
    return Problem(torch.tensor(boxes), torch.tensor([shape] * len(boxes)), levels, strides)


def recall(problem: Problem, anchors, iou: float = 0.5) -> float:
    return (best_ious(problem, anchors) >= iou).double().mean().item()


def sides(shape: Shape | tuple) -> list[list[float]]:
    cell_anchors = shape.cell_anchors if isinstance(shape, Shape) else shape
    return [[math.sqrt(w * h) for w, h in level] for level in cell_anchors]


def check_bounds(shape: Shape, problem: Problem, bounds: tuple[float, float]) -> None:
    for size, (y, x) in zip(shape.sizes, problem.strides, strict=True):
        stride = math.sqrt(y * x)
        assert bounds[0] * stride <= size * shape.scales[0]
        assert size * shape.scales[-1] <= bounds[1] * stride


@pytest.mark.quick
@pytest.mark.parametrize("case", range(12))
def test_best_ious_are_those_of_every_anchor(case, rng):
    levels = sorted(rng.sample(range(2, 7), rng.randint(1, 4)))
    strides = [tuple(2.0**level * rng.choice([1, 0.8, 1.25, 1.37]) for _ in "yx") for level in levels]
    shape = (rng.randint(20, 150), rng.randint(20, 150))
    sizes = tuple(2.0**level * rng.uniform(0.5, 6) for level in levels)
    numbers = Shape(sizes, tuple(rng.uniform(0.2, 5) for _ in range(2)), (1.0, 1.5))
    corner = torch.rand(300, 2, dtype=torch.float64) * 200 - 30
    boxes = torch.cat([corner, corner + 0.5 + 120 * torch.rand(300, 2, dtype=torch.float64) ** 3], dim=1)
    problem = Problem(boxes, torch.tensor([shape] * 300), levels, strides)
    made = anchor_ext.Anchors(levels, strides, numbers.sizes, numbers.ratios, numbers.scales)
    expected = box_iou(boxes, made.generate(shape, dtype=torch.float64)[0]).max(dim=1).values
    torch.testing.assert_close(best_ious(problem, numbers), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(best_ious(problem, numbers.cell_anchors), expected, rtol=0, atol=1e-9)


def test_boxes_of_images_of_different_shapes_have_grids_of_their_own():
    boxes = torch.tensor([[100.0, 100, 132, 132]] * 2)
    problem = Problem(boxes, torch.tensor([[200, 200], [64, 64]]), (3,), ((8.0, 8.0),))
    best = best_ious(problem, Shape((32.0,), (1.0,), (1.0,)))
    assert best[0] > 0.9 and best[1] == 0


def test_small_objects_are_reached_by_many_more():
    train, test = problem_of("small", 600), problem_of("small", 4000, seed=1)
    found = search(train, RETINANET, ratios=3, scales=3, bounds=BOUNDS)
    assert recall(train, found) > recall(train, RETINANET) + 0.2
    assert recall(test, found) > recall(test, RETINANET) + 0.2
    check_bounds(found, train, BOUNDS)
    free = search_free(train, found, bounds=BOUNDS)
    assert recall(train, free) > recall(train, found)
    assert recall(test, free) > recall(test, found)
    for level, (stride, _) in zip(sides(free), STRIDES, strict=True):
        assert 0.5 * stride <= min(level) and max(level) <= 16 * stride


def test_the_same_again():
    problem = problem_of("COCO-like", 200)
    seen: list[float] = []
    found = [
        search(problem, RETINANET, ratios=2, scales=2, bounds=BOUNDS, seed=3, max_boxes=100, progress=seen.append)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert seen == sorted(seen[: len(seen) // 2]) * 2 and seen[-1] == 1
    free = [search_free(problem, found[0], bounds=BOUNDS, seed=3, max_boxes=100) for _ in range(2)]
    assert free[0] == free[1]


@pytest.mark.parametrize("bounds", [(1.0, 10.0), (3.3333333, 5.4321), (7.1, 7.2)])
def test_bounds_hold_for_the_numbers_as_they_are_written(bounds):
    data = fit_sets.simulated("small", 100, 0)
    problem = Problem(data.boxes, data.shapes, (3, 4), ((7.0, 9.0), (16.0, 15.0)))
    found = search(problem, None, ratios=1, scales=2, bounds=bounds)
    check_bounds(found, problem, bounds)
    assert found.scales[0] == 1
    assert all(float(f"{number:.4g}") == number for number in found.ratios)
    if bounds[0] == 1:
        assert all(float(f"{number:.4g}") == number for number in (*found.sizes, *found.scales))
    free = search_free(problem, found, bounds=bounds)
    for level, (y, x) in zip(sides(free), problem.strides, strict=True):
        assert bounds[0] * math.sqrt(y * x) <= min(level) and max(level) <= bounds[1] * math.sqrt(y * x)


def test_octaves():
    problem = problem_of("tall", 300)
    found = search(problem, RETINANET, ratios=2, scales=3, bounds=BOUNDS, octaves=True)
    assert found.scales == pytest.approx([1, 2 ** (1 / 3), 2 ** (2 / 3)], rel=1e-15)
    check_bounds(found, problem, BOUNDS)
    with pytest.raises(ValueError, match="no room"):
        search(problem, None, ratios=1, scales=2, bounds=(4, 5), octaves=True)


def test_what_fits_already_is_not_made_worse():
    """Boxes that are today's anchors: no search meets all of them by chance."""
    today = Shape((32.0, 64.0), (0.37, 2.9), (1.0, 1.9))
    boxes = [(60 - w / 2, 60 - h / 2, 60 + w / 2, 60 + h / 2) for w, h in today.cell_anchors[0]]
    boxes += [(56 - w / 2, 56 - h / 2, 56 + w / 2, 56 + h / 2) for w, h in today.cell_anchors[1]]
    problem = boxes_in(*boxes)
    found = search(problem, today, ratios=2, scales=2, bounds=BOUNDS, iou=0.9999, max_boxes=2)
    assert recall(problem, found, 0.9999) == 1
    twice = Shape((16.0, 32.0), (0.37, 2.9), (3.8, 2.0))  # the same anchors, written in another way
    assert recall(problem, search(problem, twice, ratios=2, scales=2, bounds=BOUNDS, iou=0.9999), 0.9999) == 1


def test_the_mean_is_searched_for_where_it_is_asked_for():
    problem = problem_of("wide", 200)
    found = {
        name: best_ious(problem, search(problem, None, ratios=2, scales=2, bounds=BOUNDS, criterion=name))
        for name in ("recall", "mean_iou")
    }
    assert found["mean_iou"].mean() > found["recall"].mean()
    assert (found["mean_iou"] >= 0.5).double().mean() <= (found["recall"] >= 0.5).double().mean()


DEGENERATE = {
    "one box": boxes_in((10, 10, 40, 30)),
    "all equal": boxes_in(*[(10.5, 10, 40, 30)] * 50),
    "far smaller than the stride": boxes_in((10, 10, 10.25, 10.5), (50, 50, 50.5, 50.25)),
    "larger than the image": boxes_in((-500, -400, 900, 800), (-5000, 0, 5000, 20)),
    "one level": boxes_in((10, 10, 40, 30), (3, 5, 9, 70), levels=(3,), strides=((8, 8),)),
    "odd strides": boxes_in((10, 10, 40, 30), (3, 5, 9, 70), levels=(2, 5), strides=((5, 4.5), (33, 31))),
    "P2 to P6": boxes_in(
        (1, 1, 9, 20), (3, 5, 90, 70), levels=(2, 3, 4, 5, 6), strides=[(2**i, 2**i) for i in range(2, 7)]
    ),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize(("ratios", "scales"), [(1, 1), (2, 2)])
def test_degenerate_boxes(name, ratios, scales):
    problem = DEGENERATE[name]
    found = search(problem, None, ratios=ratios, scales=scales, bounds=BOUNDS)
    counts = (len(found.sizes), len(found.ratios), len(found.scales))
    assert counts == (len(problem.levels), ratios, scales) and found.scales[0] == 1
    check_bounds(found, problem, BOUNDS)
    free = search_free(problem, found, bounds=BOUNDS)
    assert [len(level) for level in free] == [ratios * scales] * len(problem.levels)
    assert recall(problem, free) >= recall(problem, found)
    if name in ("one box", "all equal"):
        assert recall(problem, found) == 1


def test_no_boxes_and_boxes_that_are_none_are_errors():
    with pytest.raises(ValueError, match="G > 0"):
        Problem(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64), LEVELS, STRIDES)
    for box in ((1, 1, 1, 2), (1, 1, 0, 2), (1, 1, math.nan, 2), (0, 0, math.inf, 1)):
        with pytest.raises(ValueError, match="without an area"):
            boxes_in(box)
    with pytest.raises(ValueError, match="least < most"):
        search(DEGENERATE["one box"], None, ratios=1, scales=1, bounds=(2, 2))


def test_without_gradients_and_with_another_default_type():
    problem = DEGENERATE["one level"]
    expected = search(problem, None, ratios=1, scales=1, bounds=BOUNDS)
    with torch.inference_mode():
        assert search(problem, None, ratios=1, scales=1, bounds=BOUNDS) == expected
    with torch.no_grad(), torch.device("meta"):
        assert search(problem, None, ratios=1, scales=1, bounds=BOUNDS) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert search(problem, None, ratios=1, scales=1, bounds=BOUNDS) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_scipy_is_asked_for(monkeypatch):
    def missing(name, *args):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install scipy"):
        search(DEGENERATE["one box"], None, ratios=1, scales=1, bounds=BOUNDS)
