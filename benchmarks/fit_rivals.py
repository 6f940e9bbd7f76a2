"""Ways to fit anchors that people use. All but RetinaNet's numbers look at widths and heights alone, not at the grid.

Each takes the widths and heights `(G, 2)` of the boxes, in pixels, and a seed, and gives per level 9 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize
import sklearn.cluster

LEVELS, PER_LEVEL = 5, 9
SIZES = np.array([32.0, 64.0, 128.0, 256.0, 512.0])
CHUNK = 4096

Pairs = tuple[tuple[tuple[float, float], ...], ...]


def by_area(sides: np.ndarray) -> Pairs:
    """The smallest nine for the finest level, and so on."""
    ordered = sides[np.argsort(sides.prod(axis=1))].reshape(LEVELS, PER_LEVEL, 2)
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in ordered)


def shape_ious(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """[boxes, sides]: of boxes with a common centre."""
    inter = np.minimum(boxes[:, None, 0], sides[:, 0]) * np.minimum(boxes[:, None, 1], sides[:, 1])
    return inter / (boxes.prod(axis=1)[:, None] + sides.prod(axis=1) - inter)


def best_shape_ious(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    chunks = (boxes[begin : begin + CHUNK] for begin in range(0, len(boxes), CHUNK))
    return np.concatenate([shape_ious(chunk, sides).max(axis=1) for chunk in chunks])


def structured(ratios: np.ndarray, scales: np.ndarray) -> np.ndarray:
    side = SIZES[:, None, None] * scales
    root = np.sqrt(ratios)[:, None]
    return np.stack([side / root, side * root], axis=-1).reshape(-1, 2)


def retinanet(boxes: np.ndarray, seed: int) -> Pairs:
    return by_area(structured(np.array([0.5, 1.0, 2.0]), 2 ** (np.arange(3) / 3)))


def clusters(boxes: np.ndarray, seed: int) -> np.ndarray:
    count = min(LEVELS * PER_LEVEL, len(np.unique(boxes, axis=0)))
    found = sklearn.cluster.KMeans(count, n_init=3, random_state=seed).fit(boxes).cluster_centers_
    return np.resize(found, (LEVELS * PER_LEVEL, 2))


def k_means(boxes: np.ndarray, seed: int) -> Pairs:
    return by_area(clusters(boxes, seed))


def k_means_of_logarithms(boxes: np.ndarray, seed: int) -> Pairs:
    return by_area(np.exp(clusters(np.log(boxes), seed)))


def k_means_by_iou(boxes: np.ndarray, seed: int, rounds: int = 300) -> Pairs:
    """YOLOv2's: a box belongs to the centre of the greatest IoU, and a centre is its boxes' mean."""
    random = np.random.default_rng(seed)
    centres = boxes[random.choice(len(boxes), LEVELS * PER_LEVEL, replace=len(boxes) < LEVELS * PER_LEVEL)]
    own = np.full(len(boxes), -1)
    for _ in range(rounds):
        chunks = (boxes[begin : begin + CHUNK] for begin in range(0, len(boxes), CHUNK))
        nearest = np.concatenate([shape_ious(chunk, centres).argmax(axis=1) for chunk in chunks])
        if (nearest == own).all():
            break
        own = nearest
        count = np.bincount(own, minlength=len(centres))[:, None]
        sums = np.stack([np.bincount(own, boxes[:, i], minlength=len(centres)) for i in range(2)], axis=1)
        centres = np.where(count > 0, sums / np.maximum(count, 1), centres)
    return by_area(centres)


def genetic(boxes: np.ndarray, seed: int, generations: int = 1000) -> Pairs:
    """YOLOv5's: k-means, then random factors of the sides, kept where the boxes fit better.

    A box fits an anchor as well as the side in which they differ most, the shorter by the longer; below 1/4, not at
    all.
    """
    random = np.random.default_rng(seed)

    def fitness(sides: np.ndarray) -> float:
        total = 0.0
        for begin in range(0, len(boxes), CHUNK):
            quotient = boxes[begin : begin + CHUNK, None] / sides
            best = np.minimum(quotient, 1 / quotient).min(axis=2).max(axis=1)
            total += best[best > 0.25].sum()
        return total / len(boxes)

    spread = boxes.std(axis=0)
    sides = clusters(boxes / spread, seed) * spread
    best = fitness(sides)
    for _ in range(generations):
        is_changed = random.random(sides.shape) < 0.9
        factors = (is_changed * random.random() * random.standard_normal(sides.shape) * 0.1 + 1).clip(0.3, 3.0)
        mutant = (sides * factors).clip(min=2.0)
        if (score := fitness(mutant)) > best:
            best, sides = score, mutant
    return by_area(sides)


def evolve(
    cost: Callable[[np.ndarray], float], bounds: list[tuple[float, float]], seed: int, rounds: int
) -> np.ndarray:
    """With the options of mmdet's optimize_anchors.py."""
    return scipy.optimize.differential_evolution(
        cost,
        bounds,
        maxiter=rounds,
        popsize=15,
        tol=1e-4,
        mutation=(0.5, 1),
        recombination=0.7,
        seed=seed,
        polish=False,
    ).x


def evolution(boxes: np.ndarray, seed: int, rounds: int = 200) -> Pairs:
    """mmdet's: differential evolution of every width and height, for the mean best IoU.

    Between the least and the greatest side of the boxes, in logarithms; mmdet's own bounds, 0 and the input's sides,
    find less. On 1,000 boxes at random.
    """
    some = boxes[np.random.default_rng(seed).permutation(len(boxes))[:1000]]
    bounds = [(math.log(side), math.log(1.001 * most)) for side, most in zip(boxes.min(0), boxes.max(0), strict=True)]

    def cost(numbers: np.ndarray) -> float:
        return 1 - best_shape_ious(some, np.exp(numbers).reshape(-1, 2)).mean()

    return by_area(np.exp(evolve(cost, bounds * (LEVELS * PER_LEVEL), seed, rounds)).reshape(-1, 2))


def ratios_and_scales(boxes: np.ndarray, seed: int, rounds: int = 60) -> Pairs:
    """Differential evolution of three ratios and three scales of RetinaNet's sizes, for the mean best IoU."""
    some = boxes[np.random.default_rng(seed).permutation(len(boxes))[:4000]]
    bounds = [(math.log(1 / 12), math.log(12))] * 3 + [(math.log(0.2), math.log(2))] * 3

    def sides(numbers: np.ndarray) -> np.ndarray:
        return structured(np.exp(numbers[:3]), np.exp(numbers[3:]))

    return by_area(
        sides(evolve(lambda numbers: 1 - best_shape_ious(some, sides(numbers)).mean(), bounds, seed, rounds))
    )


RIVALS: dict[str, Callable[[np.ndarray, int], Pairs]] = {
    "RetinaNet's": retinanet,
    "k-means": k_means,
    "k-means, log": k_means_of_logarithms,
    "k-means, IoU": k_means_by_iou,
    "genetic": genetic,
    "evolution": evolution,
    "ratios, scales": ratios_and_scales,
}
