from __future__ import annotations

import importlib.util
import random

import pytest
import torch
from may_skip import pytest_addoption, pytest_configure  # noqa: F401  # pytest finds its hooks here
from toolchain import PROGRAMS

import anchor_ext

HAS_CUDA = torch.cuda.is_available() and anchor_ext.build_info()["cuda"] is not None
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# Fixtures that skip, and the marker of what they need.
NEEDED_BY_FIXTURES = {"mmdet": "peers", "effdet": "peers", "pictures": "tools"}


@pytest.hookimpl(tryfirst=True)  # -m chooses by these markers as well
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in NEEDED_BY_FIXTURES.keys() & getattr(item, "fixturenames", []):
            item.add_marker(NEEDED_BY_FIXTURES[fixture])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what the markers say cannot run here. For other markers the test itself finds out."""
    if not HAS_CUDA and item.get_closest_marker("gpu"):
        pytest.skip("no CUDA here")
    if HAS_CUDA and item.get_closest_marker("no_gpu"):
        pytest.skip("CUDA is here")
    for marker in item.iter_markers("tools"):
        for name in marker.args:
            if PROGRAMS[name] is None if name in PROGRAMS else importlib.util.find_spec(name) is None:
                pytest.skip(f"no {name}")


# Centres at the ends of every output type's range, at its subnormals, and halfway between two of its numbers.
EXTREME_STRIDES = [
    *(1e-310, 1e-45, 1e-41, 3e-39, 1e-8, 5e-8, 3.1e-5, 6.1e-5, 1.3e5, 65519 * 2, 65520 * 2, 3e38, 7e38, 1e300),
    *(2 + odd * 2.0**-digits for digits in (7, 10) for odd in (1, 3)),
]


def extreme_configuration(stride: float) -> dict[str, list]:
    # A cell anchor of no size leaves the centre as it is; others must have a finite square.
    size = 1e-200 if 2 < stride < 3 else min(stride, 1e150)
    return {"levels": [0], "strides": [(stride, stride)], "sizes": [[size]], "ratios": [[1.5]], "scales": [[1.1]]}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
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


ARITHMETICS = [
    *("float64", "float32", "float16", "bfloat16", "arange", "quotient"),
    *(f"{position}/{centre}/{centre}" for position in ("float64", "float32") for centre in ("float16", "bfloat16")),
    *("quotient/float16/float32", "quotient/bfloat16/float32", "quotient/float64/float64"),
    *("float32/float32/float64", "float64/float16/float32", "float32/bfloat16/float32", "arange/float32/float64"),
]


def random_grid(rng: random.Random, most: int = 1500) -> dict[str, object]:
    """Arguments of `reference.grid`: any arithmetic and layout, any numbers, grids of any shape."""
    components = {"xyxy": 4, "yxyx": 4, "cxcywha": 5, "point": 2, "point_stride": 4}
    layout = rng.choice(["xyxy", "xyxy", *components])
    arithmetic = rng.choice(ARITHMETICS)
    count = rng.choice([1, 1, 2, 3, 5, 16])

    def number() -> float:
        return rng.choice([rng.randint(1, 40), rng.uniform(0.1, 300), 7.3, 12.0, 2.0 ** rng.randint(0, 7)])

    def pairs(draw) -> list[tuple[float, float]]:
        return [(draw(), draw()) for _ in range(count)]

    shapes = []
    for _ in range(count):
        rows = rng.randint(1, rng.choice([3, 40, max(1, most // 3)]))
        shape = [rows, rng.randint(1, max(1, most // (3 * rows)))]
        rng.shuffle(shape)
        shapes.append(tuple(shape))
    quotient, arange = arithmetic.startswith("quotient"), arithmetic.startswith("arange")
    size = 0.5 if quotient else 200.0
    return {
        "level_shapes": shapes,
        "cell_anchors": [
            [
                [rng.uniform(-size, size) for _ in range(components[layout])]
                for _ in range(rng.randint(1, rng.choice([9, 17])))
            ]
            for _ in range(count)
        ],
        "strides": pairs(number) if arange or rng.random() < 0.7 else None,
        "offsets": rng.choice([None, pairs(lambda: rng.choice([0, 0.5, 0.3, rng.random()]))]),
        "starts": None if quotient else rng.choice([None, pairs(lambda: rng.choice([0.0, rng.uniform(-20, 20)]))]),
        "arithmetic": arithmetic,
        "layout": layout,
        "image_shape": (rng.randint(1, 3000), rng.randint(1, 3000)),
        "clip": (rng.randint(1, 900), rng.randint(1, 900)) if layout != "cxcywha" and rng.random() < 0.3 else None,
    }


def grid_of(arguments: dict[str, object]) -> anchor_ext.AnchorGrid:
    """The grid that `random_grid`'s arguments describe."""
    return anchor_ext.AnchorGrid(
        arguments["cell_anchors"],
        arguments["strides"],
        offset=0.5 if arguments["offsets"] is None else arguments["offsets"],
        start=0.0 if arguments["starts"] is None else arguments["starts"],
        arithmetic=arguments["arithmetic"],
        layout=arguments["layout"],
    )


@pytest.fixture
def one_thread():
    """On a busy machine torch's threads spend most of their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
