from __future__ import annotations

import random

import pytest
import torch

import anchor_ext

HAS_CUDA = torch.cuda.is_available() and anchor_ext.build_info()["cuda"] is not None
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


# Centres at the ends of every output type's range, at its subnormals, and halfway between two of its numbers.
EXTREME_STRIDES = [
    *(1e-310, 1e-45, 1e-41, 3e-39, 1e-8, 5e-8, 3.1e-5, 6.1e-5, 1.3e5, 65519 * 2, 65520 * 2, 3e38, 7e38, 1e300),
    *(2 + odd * 2.0**-digits for digits in (7, 10) for odd in (1, 3)),
]


def extreme_configuration(stride: float) -> dict[str, list]:
    # A cell anchor of no size leaves the centre as it is; others must have a finite square.
    size = 1e-200 if 2 < stride < 3 else min(stride, 1e150)
    return {"levels": [0], "strides": [(stride, stride)], "sizes": [[size]], "ratios": [[1.5]], "scales": [[1.1]]}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_CUDA, reason="no CUDA here"))])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of the test's own, the same in every run."""
    torch.manual_seed(0)
    return random.Random(request.node.name)


def random_configuration(rng: random.Random) -> dict[str, list]:
    """Per-level arguments of `Anchors` in their longest form, over everything that it accepts."""
    count = rng.choice([1, 1, 2, 3, 5, 16])
    levels = rng.sample(range(17 if count > 8 else 9), count)
    level_by_level = rng.random() < 0.5

    def numbers(low: float, high: float) -> list[list[float]]:
        def draw() -> list[float]:
            return [rng.choice([rng.uniform(low, high), rng.randint(1, 8)]) for _ in range(rng.randint(1, 3))]

        return [draw() for _ in levels] if level_by_level else [draw()] * count

    def stride(level: int) -> tuple[float, float]:
        kind = rng.choice(["power", "whole", "fraction"])
        y, x = {
            "power": (2**level, 2**level),
            "whole": (rng.randint(1, 300), rng.randint(1, 300)),
            "fraction": (rng.uniform(0.1, 300), rng.uniform(0.1, 300)),
        }[kind]
        return (y, x) if rng.random() < 0.7 else (y, y)

    return {
        "levels": levels,
        "strides": [stride(level) for level in levels],
        "sizes": [[rng.uniform(0.5, 700) for _ in range(rng.randint(1, 2))] for _ in levels],
        "ratios": numbers(0.1, 5),
        "scales": numbers(0.1, 4),
    }


def random_shape(rng: random.Random, configuration: dict[str, list], most: int = 20000) -> tuple[int, int]:
    """An image shape of any aspect that the configuration turns into at most so many cells on its finest level."""
    finest = 4 ** min(configuration["levels"])
    area = rng.uniform(1, most * min(finest, 4**6))
    height = max(1, int(area ** rng.uniform(0.05, 0.95)))
    return height, max(1, int(area / height))
