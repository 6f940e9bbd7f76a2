"""How many boxes the anchors reach that one gets by fitting them: anchor_ext's search beside the usual ways.

    python benchmarks/fitting.py [--real FOLDER] [--quick] [--boxes COUNT] [--seed SEED]

Every way has the same levels P3..P7 and nine cell anchors a level, fits them to some boxes, and is scored by others of
the same kind: the recall, which is the share of boxes whose best IoU over all anchors of the grid is at least 0.5, and
the mean best IoU. Those that look at widths and heights alone believe another recall, which is printed as well. FOLDER
has Pascal VOC files, whose boxes are split in halves at random. One thread; needs SciPy and scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fit_rivals import RIVALS, best_shape_ious
from fit_sets import SIMULATED, Boxes, halves, real, simulated
from tables import markdown
from threadpoolctl import threadpool_limits

from anchor_ext.fit._search import CellAnchors, Problem, Shape, best_ious, search, search_free

LEVELS = (3, 4, 5, 6, 7)
STRIDES = tuple((2.0**level, 2.0**level) for level in LEVELS)
TODAY = Shape(tuple(4 * y for y, _ in STRIDES), (0.5, 1.0, 2.0), tuple(2 ** (i / 3) for i in range(3)))
BOUNDS = (1.0, 10.0)  # as suggest has them
OURS, FREE = "ours", "ours, free"


def problem_of(data: Boxes) -> Problem:
    return Problem(data.boxes, data.shapes, LEVELS, STRIDES)


def sides_of(data: Boxes) -> np.ndarray:
    return (data.boxes[:, 2:] - data.boxes[:, :2]).numpy()


def timed(function: Callable[[], Shape | CellAnchors]) -> tuple[Shape | CellAnchors, float]:
    begin = time.perf_counter()
    return function(), time.perf_counter() - begin


def fitted(train: Boxes, seed: int, rounds: dict[str, int]) -> dict[str, tuple[CellAnchors, float]]:
    """By way: cell anchors and the seconds that they took."""
    sides, problem = sides_of(train), problem_of(train)
    result = {}
    for name, rival in RIVALS.items():
        options = {"rounds": rounds[name]} if name in rounds else {}
        result[name] = timed(lambda rival=rival, options=options: rival(sides, seed, **options))
    shape, seconds = timed(lambda: search(problem, TODAY, ratios=3, scales=3, bounds=BOUNDS, seed=seed))
    cell_anchors, more = timed(lambda: search_free(problem, shape, bounds=BOUNDS, seed=seed))
    return {**result, OURS: (shape.cell_anchors, seconds), FREE: (cell_anchors, seconds + more)}


def recall(best: torch.Tensor) -> float:
    return (best >= 0.5).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="of Pascal VOC files")
    parser.add_argument("--quick", action="store_true", help="two sets of few boxes: shows that all of it runs")
    parser.add_argument("--boxes", type=int, default=20000, help="to fit to, and as many to score by")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, rounds = (400, {"evolution": 2, "ratios, scales": 3}) if arguments.quick else (arguments.boxes, {})
    names = ["small", "wide"] if arguments.quick else list(SIMULATED)
    sets = {name: [simulated(name, count, 2 * arguments.seed + i) for i in (0, 1)] for name in names}
    if arguments.real:
        sets["real"] = list(halves(real(arguments.real), arguments.seed))
    scores, beliefs, times = [], [], []
    for name, (train, test) in sets.items():
        with threadpool_limits(1):
            ways = fitted(train, arguments.seed, rounds)
        best = {way: best_ious(problem_of(test), cell_anchors) for way, (cell_anchors, _) in ways.items()}
        top = max(map(recall, best.values()))
        cells = {way: f"{recall(ious):.4f} ({ious.mean():.3f})" for way, ious in best.items()}
        cells = {way: f"**{cell}**" if recall(best[way]) == top else cell for way, cell in cells.items()}
        scores.append([name, f"{len(train):,}", *cells.values()])
        shape_ious = [best_shape_ious(sides_of(test), np.array(ways[way][0]).reshape(-1, 2)) for way in RIVALS]
        beliefs.append([name, *(f"{(ious >= 0.5).mean():.4f}" for ious in shape_ious)])
        times.append([name, *(f"{seconds:.1f}" for _, seconds in ways.values())])
        print(name, *(f"{way} {cell};" for way, cell in cells.items()), flush=True)
    print("\nRecall at IoU 0.5 and (mean best IoU) on the grid, of boxes that nothing was fitted to:\n")
    print(*markdown(["boxes", "fitted to", *RIVALS, OURS, FREE], scores), sep="\n")
    print("\nRecall that widths and heights alone promise for the same boxes:\n")
    print(*markdown(["boxes", *RIVALS], beliefs), sep="\n")
    print("\nSeconds to fit, one thread:\n")
    print(*markdown(["boxes", *RIVALS, OURS, FREE], times), sep="\n")


if __name__ == "__main__":
    main()
