"""anchor_ext.compat.mmdet against mmdet 3.3 itself: every bit of what its generators give on the CPU, and mmdet's own
documented numbers."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import launches
import peers
import pytest
import reference
import torch
from conftest import DTYPES

from anchor_ext.compat import mmdet as compat

NAMES = [
    *("AnchorGenerator", "SSDAnchorGenerator", "LegacyAnchorGenerator", "LegacySSDAnchorGenerator"),
    *("YOLOAnchorGenerator", "MlvlPointGenerator"),
]
BOXES = [name for name in NAMES if name != "MlvlPointGenerator"]
SIMPLE = {
    "AnchorGenerator": dict(strides=[8, 16], ratios=[0.5, 1.0, 2.0], scales=[8]),
    "SSDAnchorGenerator": dict(strides=[8, 16], ratios=[[2], [2, 3]], min_sizes=[21, 45], max_sizes=[45, 99]),
    "LegacyAnchorGenerator": dict(strides=[8, 16], ratios=[0.5, 1.0, 2.0], scales=[8], center_offset=0.5),
    "LegacySSDAnchorGenerator": dict(strides=[8, 16, 32], ratios=[[2]] * 3, basesize_ratio_range=(0.15, 0.9)),
    "YOLOAnchorGenerator": dict(strides=[16, 8], base_sizes=[[(116, 90), (30, 61)], [(10, 13), (16, 30)]]),
    "MlvlPointGenerator": dict(strides=[8, 16]),
}
GRIDS = [(5, 7), (3, 4), (2, 2)]

# mmdet announces the end of grid_anchors, and torch the end of meshgrid as mmdet calls it.
pytestmark = pytest.mark.filterwarnings("ignore:.*grid_anchors:UserWarning", "ignore:torch.meshgrid:UserWarning")
names = pytest.mark.parametrize("name", NAMES)
boxes_only = pytest.mark.parametrize("name", BOXES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(scope="module")
def mmdet():
    return peers.mmdet()


@pytest.fixture
def task_utils(mmdet) -> Iterator:
    """mmdet's registry while it hands out these classes; afterwards it hands out its own again."""
    compat.register()
    yield mmdet.anchor_generator.TASK_UTILS
    compat.unregister()


def theirs_of(mmdet, name: str) -> type:
    return getattr(mmdet.point_generator if name == "MlvlPointGenerator" else mmdet.anchor_generator, name)


def same(ours, theirs) -> bool:
    """Equal in kind, shape, dtype and every bit, all the way down."""
    if isinstance(theirs, torch.Tensor):
        if theirs.dtype == torch.bool:
            return ours.dtype == torch.bool and torch.equal(ours.cpu(), theirs)
        return reference.same_bits(ours, theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def random_stride(rng, pairs: bool = True):
    def number():
        return {
            "power": 2 ** rng.randint(0, 9),
            "whole": rng.randint(1, 300),
            "fraction": rng.choice([7.3, 4.5, rng.uniform(0.1, 300)]),
            # Beside a tie of a 16-bit type, so that it matters whether the way there leads through float32.
            "tie": 2 ** rng.randint(0, 6) * (1 + 2.0 ** -rng.choice([8, 11]) + rng.choice([-1, 1]) * 2.0**-30),
        }[rng.choice(["power", "whole", "fraction", "tie"])]

    return number() if not pairs or rng.random() < 0.5 else rng.choice([tuple, list])((number(), number()))


def random_sizes(rng, count: int) -> list[float]:
    return [rng.choice([rng.randint(1, 600), rng.uniform(0.5, 700)]) for _ in range(count)]


def random_ratios(rng, least: int = 1) -> list[float]:
    return [rng.choice([0.5, 1.0, 2, 3, rng.uniform(0.1, 5)]) for _ in range(rng.randint(least, 4))]


def random_arguments(name: str, rng) -> dict[str, object]:
    levels = rng.randint(1, 5)
    arguments: dict[str, object] = {}
    if name in ("AnchorGenerator", "LegacyAnchorGenerator"):
        arguments["ratios"] = random_ratios(rng)
        if rng.random() < 0.5:
            arguments["scales"] = [rng.choice([rng.randint(1, 32), rng.uniform(0.2, 32)]) for _ in range(3)]
            arguments["scales"] = arguments["scales"][: rng.randint(1, 3)]
        else:
            arguments["octave_base_scale"] = rng.choice([4, rng.randint(1, 9), rng.uniform(0.3, 9)])
            arguments["scales_per_octave"] = rng.randint(1, 4)
        if rng.random() < 0.6:
            arguments["base_sizes"] = random_sizes(rng, levels)
        arguments["scale_major"] = rng.random() < 0.5
        place = rng.choice(["nothing", "centers", "center_offset"])
        if place == "centers":
            arguments[place] = [(rng.uniform(-50, 50), rng.choice([0, 3, rng.uniform(0, 300)])) for _ in range(levels)]
        elif place == "center_offset":
            arguments[place] = rng.choice([0, 0.5, 1, rng.random(), rng.random()])
    elif name == "SSDAnchorGenerator" and rng.random() < 0.6:
        arguments["min_sizes"] = random_sizes(rng, levels)
        arguments["max_sizes"] = [size * rng.uniform(1, 3) for size in arguments["min_sizes"]]
    elif name != "YOLOAnchorGenerator" and name != "MlvlPointGenerator":  # the built-in sizes
        levels = rng.randint(3, 6)
        size, least = rng.choice([(300, 0.15), (300, 0.2), (512, 0.1), (512, 0.15)])
        arguments["input_size"] = size
        arguments["basesize_ratio_range"] = (least, rng.choice([0.9, rng.uniform(0.5, 1)]))
    if "SSD" in name:
        arguments["ratios"] = [random_ratios(rng, least=0) for _ in range(levels)]
        arguments["scale_major"] = rng.random() < 0.5
    if name == "YOLOAnchorGenerator":
        each = rng.randint(1, 4)
        one = rng.random() < 0.2  # a number stands for a square
        arguments["base_sizes"] = [
            [random_sizes(rng, 1)[0] if one else tuple(random_sizes(rng, 2)) for _ in range(each)]
            for _ in range(levels)
        ]
    if name == "MlvlPointGenerator" and rng.random() < 0.8:
        arguments["offset"] = rng.choice([0, 0.0, 0.5, 1, -0.25, rng.random(), rng.random()])
    # mmdet's LegacySSDAnchorGenerator knows no strides in pairs.
    return {"strides": [random_stride(rng, name != "LegacySSDAnchorGenerator") for _ in range(levels)], **arguments}


def random_grids(rng, levels: int) -> list:
    def grid():
        sides = [rng.randint(1, 12), rng.randint(1, 12)]
        if rng.random() < 0.06:  # indices that a 16-bit type has to round
            sides = [1, rng.choice([rng.randint(257, 600), rng.randint(2049, 2600)])]
        rng.shuffle(sides)
        return rng.choice([tuple, list, torch.Size])(sides)

    return [grid() for _ in range(levels)]


def pairs(count: int, name: str, mmdet, rng) -> Iterator[tuple]:
    """Ours, theirs, feature map sizes, and what made them."""
    while count:
        arguments = random_arguments(name, rng)
        try:
            theirs = theirs_of(mmdet, name)(**arguments)
        except AssertionError:  # not every range of sizes can be divided into so many levels
            continue
        ours = getattr(compat, name)(**arguments)
        grids = random_grids(rng, len(arguments["strides"]))
        count -= 1
        yield ours, theirs, grids, (arguments, grids)


@names
def test_attributes(name, rng, mmdet):
    properties = ["num_levels", "num_base_priors"] + ["num_base_anchors"] * (name in BOXES)
    for ours, theirs, _, made_of in pairs(300, name, mmdet, rng):
        for attribute in [*vars(theirs), *properties]:
            assert same(getattr(ours, attribute), getattr(theirs, attribute)), (attribute, made_of)


@dtypes
@names
def test_grid_priors(name, dtype, device, rng, mmdet):
    for ours, theirs, grids, made_of in pairs(100, name, mmdet, rng):
        priors = ours.grid_priors(grids, dtype, device)
        expected = theirs.grid_priors(grids, dtype, "cpu")
        assert same(priors, expected), made_of
        assert {level.device.type for level in priors} == {device.type}
        level = rng.randrange(len(grids))
        assert same(ours.single_level_grid_priors(grids[level], level, dtype, device), expected[level]), made_of
        if name == "MlvlPointGenerator":
            priors = ours.grid_priors(grids, dtype, device, with_stride=True)
            expected = theirs.grid_priors(grids, dtype, "cpu", with_stride=True)
            assert same(priors, expected), made_of
            prior = ours.single_level_grid_priors(grids[level], level, dtype, device, with_stride=True)
            assert same(prior, expected[level]), made_of


@pytest.mark.quick
@boxes_only
def test_grid_anchors(name, device, rng, mmdet):
    for ours, theirs, grids, made_of in pairs(150, name, mmdet, rng):
        assert same(ours.grid_anchors(grids, device), theirs.grid_anchors(grids, "cpu")), made_of


@names
def test_valid_flags(name, device, rng, mmdet):
    """Padded images that end before the grid does, with it, one pixel on, and beyond."""
    for ours, theirs, grids, made_of in pairs(150, name, mmdet, rng):
        level = rng.randrange(len(grids))
        whole = [round(cells * stride) for cells, stride in zip(grids[level], theirs.strides[level][::-1], strict=True)]
        shapes = [
            [rng.randint(1, side + 1) for side in whole],
            [max(1, side + rng.choice([-1, 0, 1])) for side in whole],
            [whole[0] + 1 + rng.randint(0, 500), rng.randint(1, whole[1] + 1), 3],  # mmdet's shapes may have channels
        ]
        for shape in map(tuple, shapes):
            flags = ours.valid_flags(grids, shape, device)
            assert same(flags, theirs.valid_flags(grids, shape, "cpu")), (shape, made_of)
        grid = tuple(grids[level])
        valid = tuple(rng.randint(0, side) for side in grid)
        more = (theirs.num_base_priors[level],) if name in BOXES else ()
        flags = ours.single_level_valid_flags(grid, valid, *more, device=device)
        assert same(flags, theirs.single_level_valid_flags(grid, valid, *more, device="cpu")), (valid, made_of)


def random_indices(rng, count: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Of a level with so many priors: some, none, each several times, and outside of it on both sides."""
    some = [rng.randrange(count) for _ in range(rng.randint(1, 30))]
    limits = torch.iinfo(dtype)
    for values in (
        some,
        [],
        some[:3] * 4,
        [rng.randint(-3 * count, count - 1) for _ in range(10)],
        [rng.randint(0, 5 * count) for _ in range(10)],
        [limits.min, limits.min + 1, -count - 1, -count, -1, 0, count - 1, count, limits.max - 1, limits.max],
    ):
        yield torch.tensor(values, dtype=dtype)
    yield torch.tensor([some, some], dtype=dtype).T[:, 1]  # every other one in memory


@dtypes
@names
def test_sparse_priors(name, dtype, device, rng, mmdet):
    for ours, theirs, grids, made_of in pairs(50, name, mmdet, rng):
        for level, (height, width) in enumerate(grids):
            count = height * width * theirs.num_base_priors[level]
            for index in random_indices(rng, count, rng.choice([torch.int64, torch.int32])):
                priors = ours.sparse_priors(index.to(device), grids[level], level, dtype, device)
                expected = theirs.sparse_priors(index, grids[level], level, dtype, "cpu")
                assert same(priors, expected), (level, index, made_of)
                assert priors.device.type == device.type


@dtypes
@names
def test_sparse_priors_of_all_levels(name, dtype, device, rng, mmdet):
    for ours, theirs, grids, made_of in pairs(50, name, mmdet, rng):
        everything = torch.cat(theirs.grid_priors(grids, dtype, "cpu"))
        ends = torch.tensor([len(level) for level in theirs.grid_priors(grids, dtype, "cpu")]).cumsum(0)
        some = torch.tensor([rng.randrange(len(everything)) for _ in range(rng.randint(1, 60))])
        seams = torch.cat([ends - 1, ends[:-1], torch.zeros_like(ends[:1])])
        for index in (some, some[:0], some[:4].repeat(3), seams, torch.arange(len(everything))):
            index = index.to(rng.choice([torch.int64, torch.int32]))
            priors = ours.sparse_priors(index.to(device), grids, level_idx=None, dtype=dtype, device=device)
            assert same(priors, everything[index]), (index, made_of)


@boxes_only
def test_inside(name, rng, mmdet):
    """`grid.inside` is mmdet's anchor_inside_flags: the left border is in, the right one is out."""
    inside_flags = mmdet.utils.anchor_inside_flags
    for ours, theirs, grids, made_of in pairs(100, name, mmdet, rng):
        boxes = torch.cat(theirs.grid_priors(grids, device="cpu"))
        box = boxes[rng.randrange(len(boxes))].tolist()
        edge = abs(box[rng.randrange(2)])
        # A border or an image that ends where this box does.
        for border in (0, rng.randint(1, 30), edge, math.nextafter(edge, 0), math.nextafter(edge, math.inf)):
            shape = tuple(max(1, math.ceil(side - border) + rng.choice([-1, 0, 0, 1])) for side in box[:1:-1])
            inside = ours.grid.inside(grids, shape, border=border).cpu()
            everywhere = torch.ones(len(boxes), dtype=torch.bool)
            assert same(inside, inside_flags(boxes, everywhere, shape, border)), (shape, border, made_of)
            valid = torch.cat(theirs.valid_flags(grids, shape, "cpu"))
            assert same(inside & valid, inside_flags(boxes, valid, shape, border)), (shape, border, made_of)


@names
def test_valid_flags_of_an_image_without_pixels(name, device, mmdet):
    arguments = SIMPLE[name]
    ours, theirs = getattr(compat, name)(**arguments), theirs_of(mmdet, name)(**arguments)
    grids = GRIDS[: len(arguments["strides"])]
    for shape in ((0, 20), (20, 0), (0, 0)):
        assert same(ours.valid_flags(grids, shape, device), theirs.valid_flags(grids, shape, "cpu"))


@names
def test_empty_feature_maps(name, device, mmdet):
    arguments = SIMPLE[name]
    ours, theirs = getattr(compat, name)(**arguments), theirs_of(mmdet, name)(**arguments)
    for grid in ((0, 3), (3, 0), (0, 0)):
        grids = [grid, *GRIDS[1 : len(arguments["strides"])]]
        assert same(ours.grid_priors(grids, device=device), theirs.grid_priors(grids, device="cpu"))
        assert same(ours.valid_flags(grids, (30, 30), device), theirs.valid_flags(grids, (30, 30), "cpu"))
        none = torch.tensor([], dtype=torch.int64)
        priors = ours.sparse_priors(none.to(device), grid, 0, device=device)
        assert same(priors, theirs.sparse_priors(none, grid, 0, device="cpu"))
        assert same(ours.single_level_grid_priors(grid, 0, device=device), ours.grid_priors(grids, device=device)[0])
        check_error(lambda grid=grid: ours.sparse_priors(torch.tensor([0]), grid, 0), "prior_idxs", "has 1 entries")
        more = (theirs.num_base_priors[0],) if name in BOXES else ()
        flags = ours.single_level_valid_flags(grid, (0, 0), *more, device=device)
        assert same(flags, theirs.single_level_valid_flags(grid, (0, 0), *more, device="cpu"))
    everywhere = [(0, 3)] * len(grids)
    assert same(ours.grid_priors(everywhere, device=device), theirs.grid_priors(everywhere, device="cpu"))


@boxes_only
def test_box_type(name, device, mmdet):
    """As in mmdet only grid_priors wraps; grid_anchors and sparse_priors give tensors."""
    arguments = {**SIMPLE[name], "use_box_type": True}
    ours, theirs = getattr(compat, name)(**arguments), theirs_of(mmdet, name)(**arguments)
    grids = GRIDS[: len(arguments["strides"])]
    horizontal = mmdet.anchor_generator.HorizontalBoxes
    priors = ours.grid_priors(grids, device=device)
    assert [type(level) for level in priors] == [horizontal] * len(grids)
    expected = [level.tensor for level in theirs.grid_priors(grids, device="cpu")]
    assert same([level.tensor for level in priors], expected)
    single = ours.single_level_grid_priors(grids[1], 1, device=device)
    assert type(single) is horizontal and same(single.tensor, expected[1])
    assert same(ours.grid_anchors(grids, device=device), theirs.grid_anchors(grids, device="cpu"))
    index = torch.arange(4)
    sparse = ours.sparse_priors(index.to(device), grids[0], 0, device=device)
    assert same(sparse, theirs.sparse_priors(index, grids[0], 0, device="cpu"))


@names
def test_copies(name, device):
    """Models are copied and pickled with their generators in them."""
    generator = getattr(compat, name)(**SIMPLE[name])
    grids = GRIDS[: len(SIMPLE[name]["strides"])]
    expected = generator.grid_priors(grids, device=device)
    for other in (copy.copy(generator), copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert type(other) is type(generator)
        assert all(map(torch.equal, other.grid_priors(grids, device=device), expected))


CALLS = {
    "grid_priors": lambda generator, grids, index, device: generator.grid_priors(grids, device=device),
    "grid_anchors": lambda generator, grids, index, device: generator.grid_anchors(grids, device=device),
    "valid_flags": lambda generator, grids, index, device: generator.valid_flags(grids, (30, 40), device=device),
    "sparse_priors": lambda generator, grids, index, device: generator.sparse_priors(index, grids[1], 1, device=device),
    "sparse_priors of all levels": lambda generator, grids, index, device: generator.sparse_priors(
        index, grids, None, device=device
    ),
}


# Of points there are no grid_anchors, and only sparse_priors takes indices.
@pytest.mark.parametrize(
    ("name", "call", "index_dtype"),
    [
        (name, call, index_dtype)
        for name in NAMES
        for call in CALLS
        for index_dtype in ([torch.int64, torch.int32] if "sparse" in call else [torch.int64])
        if call != "grid_anchors" or name in BOXES
    ],
    ids=str,
)
def test_one_launch(name, call, index_dtype, device):
    generator = getattr(compat, name)(**SIMPLE[name])
    grids = GRIDS[: len(SIMPLE[name]["strides"])]
    index = torch.arange(0, 12, 2, dtype=index_dtype, device=device)
    seen = launches.operators(lambda: CALLS[call](generator, grids, index, device))
    assert launches.is_one_launch(seen), seen


def test_never_imports_mmdet(tmp_path):
    script = f"""if True:
        import sys, torch
        from anchor_ext.compat import mmdet as compat
        for name, arguments in {SIMPLE!r}.items():
            generator = getattr(compat, name)(**arguments)
            grids = {GRIDS!r}[: generator.num_levels]
            generator.grid_priors(grids, device="cpu")
            generator.valid_flags(grids, (30, 40), device="cpu")
            generator.sparse_priors(torch.tensor([0, 1]), grids[0], 0, device="cpu")
            generator.sparse_priors(torch.tensor([0, 1]), grids, None, device="cpu")
            if name != "MlvlPointGenerator":
                generator.grid_anchors(grids, device="cpu")
        print(*{{name.partition(".")[0] for name in sys.modules}} & {{"mmdet", "mmengine", "mmcv"}})
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_register(task_utils, mmdet):
    for name in NAMES:
        ours = getattr(compat, name)
        assert task_utils.get(name) is task_utils.get(f"mmdet.{name}") is ours
        assert type(task_utils.build(dict(type=name, **SIMPLE[name]))) is ours
        assert theirs_of(mmdet, name) is not ours
    assert task_utils.get("PointGenerator") is mmdet.PointGenerator  # there is no other
    compat.register()
    assert task_utils.get("AnchorGenerator") is compat.AnchorGenerator


def test_register_before_mmdet_has_registered_its_own(tmp_path, mmdet):
    """mmdet registers its classes while it is imported, and refuses names that are taken."""
    script = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import peers
        peers.mmdet_without_models()
        from anchor_ext.compat import mmdet as compat
        compat.register()
        peers.mmdet()
        from mmdet.registry import TASK_UTILS
        assert TASK_UTILS.get("AnchorGenerator") is compat.AnchorGenerator
    """
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1])]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


ONE = dict(strides=[8], ratios=[1.0])
SSD = dict(strides=[8, 16, 32], ratios=[[2], [2], [2]])
BAD_ARGUMENTS = [
    ("AnchorGenerator", dict(**ONE, scales=[8], center_offset=2), "center_offset", "2"),
    ("AnchorGenerator", dict(**ONE, scales=[8], center_offset=-0.5), "center_offset", "-0.5"),
    ("AnchorGenerator", dict(**ONE, scales=[8], center_offset=0.5, centers=[(4, 4)]), "centers", "[(4, 4)]"),
    ("AnchorGenerator", dict(**ONE, scales=[8], centers=[(4, 4), (8, 8)]), "centers", "[(4, 4), (8, 8)]"),
    ("AnchorGenerator", dict(**ONE, scales=[8], base_sizes=[4, 8]), "base_sizes", "[4, 8]"),
    ("AnchorGenerator", dict(**ONE, scales=[8], octave_base_scale=4, scales_per_octave=3), "scales", "[8]"),
    ("AnchorGenerator", dict(**ONE), "scales", "None"),
    ("AnchorGenerator", dict(**ONE, octave_base_scale=4), "scales_per_octave", "None"),
    ("AnchorGenerator", dict(**ONE, scales_per_octave=3), "octave_base_scale", "None"),
    ("LegacyAnchorGenerator", dict(**ONE, scales=[8], base_sizes=[4, 8]), "base_sizes", "[4, 8]"),
    ("SSDAnchorGenerator", dict(strides=[8, 16], ratios=[[2]], min_sizes=[3, 4], max_sizes=[4, 5]), "ratios", "[[2]]"),
    ("SSDAnchorGenerator", dict(**SSD, min_sizes=[30, 60, 90]), "max_sizes", "None"),
    ("SSDAnchorGenerator", dict(**SSD, max_sizes=[30, 60, 90]), "min_sizes", "None"),
    ("SSDAnchorGenerator", dict(**SSD, min_sizes=[30, 60, 90], max_sizes=[60, 90]), "max_sizes", "[60, 90]"),
    ("SSDAnchorGenerator", dict(**SSD, min_sizes=[30, 60], max_sizes=[60, 90]), "min_sizes", "[30, 60]"),
    ("SSDAnchorGenerator", dict(**SSD, input_size=400), "input_size", "400"),
    ("SSDAnchorGenerator", dict(**SSD, basesize_ratio_range=(0.3, 0.9)), "basesize_ratio_range", "0.3"),
    ("LegacySSDAnchorGenerator", dict(**SSD, basesize_ratio_range=(0.3, 0.9)), "basesize_ratio_range", "0.3"),
    ("YOLOAnchorGenerator", dict(strides=[8, 16], base_sizes=[[(1, 2)], [(1, 2), (3, 4)]]), "base_sizes", "(3, 4)"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("name", "arguments", "argument", "value"), BAD_ARGUMENTS)
def test_bad_arguments(name, arguments, argument, value, mmdet):
    with pytest.raises((ValueError, AssertionError)):
        theirs_of(mmdet, name)(**arguments)
    check_error(lambda: getattr(compat, name)(**arguments), argument, value)


def check_error(call, argument: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert isinstance(caught.value, AssertionError)
    message = str(caught.value)
    assert argument in message and value in message and "expected" in message, message


@names
def test_bad_sizes(name):
    generator = getattr(compat, name)(**SIMPLE[name])
    one = [(2, 2)]
    index = torch.tensor([0])
    for call in (
        lambda: generator.grid_priors(one, device="cpu"),
        lambda: generator.valid_flags(one, (8, 8), device="cpu"),
        lambda: generator.sparse_priors(index, one, None, device="cpu"),
        *((lambda: generator.grid_anchors(one, device="cpu"),) if name in BOXES else ()),
    ):
        check_error(call, "featmap_size", "[(2, 2)]")
    more = (generator.num_base_priors[0],) if name in BOXES else ()
    for valid in ((3, 2), (2, 3)):
        check_error(
            lambda valid=valid: generator.single_level_valid_flags((2, 2), valid, *more, device="cpu"),
            "valid_size",
            str(valid),
        )


@names
def test_errors_name_the_arguments_of_mmdet(name):
    generator = getattr(compat, name)(**SIMPLE[name])
    grids = GRIDS[: generator.num_levels]
    index = torch.tensor([0])
    for call, argument, value in (
        (lambda: generator.grid_priors([(-1, 2), *grids[1:]], device="cpu"), "featmap_sizes[0]", "(-1, 2)"),
        (lambda: generator.grid_priors(grids, torch.int32, "cpu"), "dtype", "torch.int32"),
        (lambda: generator.grid_priors(grids, device="nowhere"), "device", "nowhere"),
        (lambda: generator.valid_flags(grids, (5, -5), device="cpu"), "pad_shape", "(5, -5)"),
        (lambda: generator.valid_flags(grids, 5, device="cpu"), "pad_shape", "5"),
        (lambda: generator.single_level_grid_priors((2, -2), 1, device="cpu"), "featmap_size is", "(2, -2)"),
        (lambda: generator.single_level_grid_priors((2, 2), 7, device="cpu"), "level_idx", "7"),
        (lambda: generator.sparse_priors(index, (2, -2), 1), "featmap_size is", "(2, -2)"),
        (lambda: generator.sparse_priors(index, [(2, -2), *grids[1:]]), "featmap_size[0] is", "(2, -2)"),
    ):
        check_error(call, argument, value)
    with pytest.raises(TypeError, match=r"prior_idxs is .*expected"):
        generator.sparse_priors(index.float(), (2, 2), 0)


@names
def test_holds_one_grid(name):
    """The grids of other dtypes and levels come when they are asked for; a pickle is small."""
    generator = getattr(compat, name)(**SIMPLE[name])
    assert len(pickle.dumps(generator)) < 8192


# From here on: the cases of mmdet's own tests and docstrings, with their numbers.


@pytest.fixture(params=["class", pytest.param("registry", marks=pytest.mark.peers)])
def build(request):
    """A generator of a configuration, made directly and the way mmdet makes it."""
    if request.param == "class":
        return lambda type, **arguments: getattr(compat, type)(**arguments)
    registry = request.getfixturevalue("task_utils")
    return lambda **configuration: registry.build(configuration)


def equal_to_four_digits(base_anchors, documented) -> bool:
    """mmdet writes its expectations down with four digits after the point."""
    pairs = zip(base_anchors, documented, strict=True)
    return all(torch.allclose(ours, torch.tensor(rows), rtol=0, atol=1e-4) for ours, rows in pairs)


@pytest.mark.quick
def test_points_as_documented(build, device):
    generator = build(type="MlvlPointGenerator", strides=[4, 8], offset=0)
    assert generator.num_base_priors == [1, 1]
    generator = build(type="MlvlPointGenerator", strides=[4, 10], offset=0)
    assert generator.num_levels == 2
    with pytest.raises(AssertionError):
        generator.grid_priors(featmap_sizes=[(2, 2)], device=device)
    grids = [(2, 2), (4, 8)]
    priors = generator.grid_priors(featmap_sizes=grids, device=device)
    with_stride = generator.grid_priors(featmap_sizes=grids, with_stride=True, device=device)
    assert [tuple(level.shape) for level in with_stride] == [(4, 4), (32, 4)]
    assert with_stride[0][0, 2:].tolist() == [4, 4] and with_stride[1][0, 2:].tolist() == [10, 10]
    assert [tuple(level.shape) for level in priors] == [(4, 2), (32, 2)]
    assert [(level[1] - level[0]).sum().item() for level in priors] == [4, 10]
    half = build(type="MlvlPointGenerator", strides=[4, 10], offset=0.5).grid_priors(grids, device=device)
    assert [(a[0] - b[0]).sum().item() for a, b in zip(half, priors, strict=True)] == [4 * 0.5 * 2, 10 * 0.5 * 2]


YOLO = dict(
    strides=[32, 16, 8],
    base_sizes=[
        [(116, 90), (156, 198), (373, 326)],
        [(30, 61), (62, 45), (59, 119)],
        [(10, 13), (16, 30), (33, 23)],
    ],
)
SSD300 = dict(scale_major=False, input_size=300, basesize_ratio_range=(0.15, 0.9))
FEW, OTHERS = [0, 2, 4, 5, 6, 9], [0, 3, 4, 5, 6, 7, 1, 2, 4, 5, 6, 9]
MANY = [4, 5, 6, 7, 0, 2, 50, 4, 5, 6, 9]
SPARSE = [
    (dict(type="MlvlPointGenerator", strides=[4, 10], offset=0), [(3, 5), (6, 4)], FEW),
    (dict(type="MlvlPointGenerator", strides=[4, 10], offset=0), [(6, 8), (6, 4)], OTHERS),
    (dict(type="AnchorGenerator", strides=[16, 32], ratios=[1.0], scales=[1.0], base_sizes=[4, 8]), None, FEW),
    (
        dict(type="AnchorGenerator", strides=[16, 32], ratios=[1.0, 2.5], scales=[1.0, 5.0], base_sizes=[4, 8]),
        [(13, 5), (16, 4)],
        MANY,
    ),
    (
        dict(type="SSDAnchorGenerator", **SSD300, strides=[8, 16, 32], ratios=[[2], [2, 3], [2, 3]]),
        [(38, 38), (19, 19), (10, 10)],
        FEW,
    ),
    (dict(type="YOLOAnchorGenerator", **YOLO), [(38, 38), (19, 19), (10, 10)], FEW),
]


@pytest.mark.quick
@pytest.mark.parametrize(("configuration", "grids", "index"), SPARSE)
def test_sparse_priors_as_documented(configuration, grids, index, build, device):
    generator = build(**configuration)
    grids = grids or [(3, 5), (6, 4)]
    index = torch.tensor(index, device=device)
    for level, priors in enumerate(generator.grid_priors(grids, device=device)):
        sparse = generator.sparse_priors(prior_idxs=index, featmap_size=grids[level], level_idx=level, device=device)
        assert sparse.device.type == device.type
        assert torch.equal(sparse, priors[index])


@pytest.mark.quick
def test_anchors_as_documented(build, device):
    generator = build(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8])
    assert generator.num_base_priors == generator.num_base_anchors == [3, 3]

    cases = [
        ([10], 10, [[-5, -5, 5, 5], [5, -5, 15, 5], [-5, 5, 5, 15], [5, 5, 15, 15]]),
        ([(10, 20)], 10, [[-5, -5, 5, 5], [5, -5, 15, 5], [-5, 15, 5, 25], [5, 15, 15, 25]]),
        ([16], 9, [[-4.5, -4.5, 4.5, 4.5], [11.5, -4.5, 20.5, 4.5], [-4.5, 11.5, 4.5, 20.5], [11.5, 11.5, 20.5, 20.5]]),
    ]
    for strides, size, documented in cases:
        generator = build(type="AnchorGenerator", strides=strides, ratios=[1.0], scales=[1.0], base_sizes=[size])
        documented = torch.tensor(documented, dtype=torch.float32)
        assert torch.equal(generator.grid_anchors([(2, 2)], device=device)[0].cpu(), documented)
        assert torch.equal(generator.grid_priors([(2, 2)], device=device)[0].cpu(), documented)
    generator = build(type="AnchorGenerator", strides=[16, 32], ratios=[1.0], scales=[1.0], base_sizes=[9, 18])
    priors = generator.grid_priors([(2, 2), (1, 1)], device=device)
    assert priors[0].tolist() == cases[2][2] and priors[1].tolist() == [[-9, -9, 9, 9]]

    legacy = dict(strides=[16], ratios=[1.0], scales=[1.0], base_sizes=[9], center_offset=0.5)
    priors = build(type="LegacyAnchorGenerator", **legacy).grid_anchors(((2, 2),), device=device)
    assert priors[0].tolist() == [[0, 0, 8, 8], [16, 0, 24, 8], [0, 16, 8, 24], [16, 16, 24, 24]]


SSD_GRIDS = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
SSD_BY_HAND = [
    [
        [-16.0000, -16.0000, 32.0000, 32.0000],
        [-26.6410, -26.6410, 42.6410, 42.6410],
        [-25.9411, -8.9706, 41.9411, 24.9706],
        [-8.9706, -25.9411, 24.9706, 41.9411],
        [-33.5692, -5.8564, 49.5692, 21.8564],
        [-5.8564, -33.5692, 21.8564, 49.5692],
    ],
    [
        [-34.0000, -34.0000, 66.0000, 66.0000],
        [-45.2372, -45.2372, 77.2372, 77.2372],
        [-54.7107, -19.3553, 86.7107, 51.3553],
        [-19.3553, -54.7107, 51.3553, 86.7107],
        [-70.6025, -12.8675, 102.6025, 44.8675],
        [-12.8675, -70.6025, 44.8675, 102.6025],
    ],
    [
        [-43.0000, -43.0000, 107.0000, 107.0000],
        [-55.0345, -55.0345, 119.0345, 119.0345],
        [-74.0660, -21.0330, 138.0660, 85.0330],
        [-21.0330, -74.0660, 85.0330, 138.0660],
        [-97.9038, -11.3013, 161.9038, 75.3013],
        [-11.3013, -97.9038, 75.3013, 161.9038],
    ],
    [
        [-47.5000, -47.5000, 154.5000, 154.5000],
        [-59.5332, -59.5332, 166.5332, 166.5332],
        [-89.3356, -17.9178, 196.3356, 124.9178],
        [-17.9178, -89.3356, 124.9178, 196.3356],
        [-121.4371, -4.8124, 228.4371, 111.8124],
        [-4.8124, -121.4371, 111.8124, 228.4371],
    ],
    [
        [-46.5000, -46.5000, 206.5000, 206.5000],
        [-58.6651, -58.6651, 218.6651, 218.6651],
        [-98.8980, -9.4490, 258.8980, 169.4490],
        [-9.4490, -98.8980, 169.4490, 258.8980],
        [-139.1044, 6.9652, 299.1044, 153.0348],
        [6.9652, -139.1044, 153.0348, 299.1044],
    ],
    [
        [8.0000, 8.0000, 312.0000, 312.0000],
        [4.0513, 4.0513, 315.9487, 315.9487],
        [-54.9605, 52.5198, 374.9604, 267.4802],
        [52.5198, -54.9605, 267.4802, 374.9604],
        [-103.2717, 72.2428, 423.2717, 247.7572],
        [72.2428, -103.2717, 247.7572, 423.2717],
    ],
]
SSD_OF_VGG = [
    [
        [-6.5000, -6.5000, 14.5000, 14.5000],
        [-11.3704, -11.3704, 19.3704, 19.3704],
        [-10.8492, -3.4246, 18.8492, 11.4246],
        [-3.4246, -10.8492, 11.4246, 18.8492],
    ],
    [
        [-14.5000, -14.5000, 30.5000, 30.5000],
        [-25.3729, -25.3729, 41.3729, 41.3729],
        [-23.8198, -7.9099, 39.8198, 23.9099],
        [-7.9099, -23.8198, 23.9099, 39.8198],
        [-30.9711, -4.9904, 46.9711, 20.9904],
        [-4.9904, -30.9711, 20.9904, 46.9711],
    ],
    [
        [-33.5000, -33.5000, 65.5000, 65.5000],
        [-45.5366, -45.5366, 77.5366, 77.5366],
        [-54.0036, -19.0018, 86.0036, 51.0018],
        [-19.0018, -54.0036, 51.0018, 86.0036],
        [-69.7365, -12.5788, 101.7365, 44.5788],
        [-12.5788, -69.7365, 44.5788, 101.7365],
    ],
    [
        [-44.5000, -44.5000, 108.5000, 108.5000],
        [-56.9817, -56.9817, 120.9817, 120.9817],
        [-76.1873, -22.0937, 140.1873, 86.0937],
        [-22.0937, -76.1873, 86.0937, 140.1873],
        [-100.5019, -12.1673, 164.5019, 76.1673],
        [-12.1673, -100.5019, 76.1673, 164.5019],
    ],
    [
        [-53.5000, -53.5000, 153.5000, 153.5000],
        [-66.2185, -66.2185, 166.2185, 166.2185],
        [-96.3711, -23.1855, 196.3711, 123.1855],
        [-23.1855, -96.3711, 123.1855, 196.3711],
    ],
    [
        [19.5000, 19.5000, 280.5000, 280.5000],
        [6.6342, 6.6342, 293.3658, 293.3658],
        [-34.5549, 57.7226, 334.5549, 242.2774],
        [57.7226, -34.5549, 242.2774, 334.5549],
    ],
]
VGG = dict(**SSD300, ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]])


@pytest.mark.quick
def test_ssd_as_documented(build, device):
    sizes = [48, 100, 150, 202, 253, 300]
    for maximum in (None, [100, 150, 202, 253]):
        with pytest.raises(AssertionError):
            build(
                type="SSDAnchorGenerator",
                scale_major=False,
                min_sizes=sizes,
                max_sizes=maximum,
                strides=[8, 16, 32, 64, 100, 300],
                ratios=VGG["ratios"],
            )
    by_hand = build(
        type="SSDAnchorGenerator",
        scale_major=False,
        min_sizes=[48, 100, 150, 202, 253, 304],
        max_sizes=[100, 150, 202, 253, 304, 320],
        strides=[16, 32, 64, 107, 160, 320],
        ratios=[[2, 3]] * 6,
    )
    assert equal_to_four_digits(by_hand.base_anchors, SSD_BY_HAND)
    flags = by_hand.valid_flags(SSD_GRIDS, (320, 320), device)
    assert [level.sum().item() for level in flags] == [2400, 600, 150, 54, 24, 6]
    assert by_hand.num_base_anchors == [6, 6, 6, 6, 6, 6]
    assert len(by_hand.grid_anchors(SSD_GRIDS, device)) == 6

    vgg = build(type="SSDAnchorGenerator", **VGG, strides=[8, 16, 32, 64, 100, 300])
    assert equal_to_four_digits(vgg.base_anchors, SSD_OF_VGG)
    flags = vgg.valid_flags(SSD_GRIDS, (300, 300), device)
    assert [level.sum().item() for level in flags] == [5776, 2166, 600, 150, 36, 4]
    assert vgg.num_base_anchors == [4, 6, 6, 6, 4, 4]
    anchors = vgg.grid_anchors(SSD_GRIDS, device)
    in_pairs = build(type="SSDAnchorGenerator", **VGG, strides=[(s, s) for s in (8, 16, 32, 64, 100, 300)])
    assert all(map(torch.equal, anchors, in_pairs.grid_anchors(SSD_GRIDS, device)))


@pytest.mark.quick
def test_yolo_as_documented(build, device):
    generator = build(type="YOLOAnchorGenerator", **YOLO)
    documented = [
        [[-42.0, -29.0, 74.0, 61.0], [-62.0, -83.0, 94.0, 115.0], [-170.5, -147.0, 202.5, 179.0]],
        [[-7.0, -22.5, 23.0, 38.5], [-23.0, -14.5, 39.0, 30.5], [-21.5, -51.5, 37.5, 67.5]],
        [[-1.0, -2.5, 9.0, 10.5], [-4.0, -11.0, 12.0, 19.0], [-12.5, -7.5, 20.5, 15.5]],
    ]
    assert [level.tolist() for level in generator.base_anchors] == documented
    assert generator.num_base_anchors == [3, 3, 3]
    assert len(generator.grid_anchors([(14, 18), (28, 36), (56, 72)], device)) == 3


# Half the width and half the height of each box; the boxes lie around the origin.
RETINA = [
    [
        *((22.6274, 11.3137), (28.5088, 14.2544), (35.9188, 17.9594)),
        *((16.0, 16.0), (20.1587, 20.1587), (25.3984, 25.3984)),
        *((11.3137, 22.6274), (14.2544, 28.5088), (17.9594, 35.9188)),
    ],
    [
        *((45.2548, 22.6274), (57.0175, 28.5088), (71.8376, 35.9188)),
        *((32.0, 32.0), (40.3175, 40.3175), (50.7968, 50.7968)),
        *((22.6274, 45.2548), (28.5088, 57.0175), (35.9188, 71.8376)),
    ],
    [
        *((90.5097, 45.2548), (114.0350, 57.0175), (143.6751, 71.8376)),
        *((64.0, 64.0), (80.6349, 80.6349), (101.5937, 101.5937)),
        *((45.2548, 90.5097), (57.0175, 114.0350), (71.8376, 143.6751)),
    ],
    [
        *((181.0193, 90.5097), (228.0701, 114.0350), (287.3503, 143.6751)),
        *((128.0, 128.0), (161.2699, 161.2699), (203.1873, 203.1873)),
        *((90.5097, 181.0193), (114.0350, 228.0701), (143.6751, 287.3503)),
    ],
    [
        *((362.0387, 181.0193), (456.1401, 228.0701), (574.7006, 287.3503)),
        *((256.0, 256.0), (322.5398, 322.5398), (406.3747, 406.3747)),
        *((181.0193, 362.0387), (228.0701, 456.1401), (287.3503, 574.7006)),
    ],
]
RETINA_STRIDES = [8, 16, 32, 64, 128]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("grids", "shape", "valid"),
    [
        ([(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)], (640, 640), [57600, 14400, 3600, 900, 225]),
        ([(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)], (800, 1216), [136800, 34200, 8550, 2223, 630]),
    ],
)
def test_heads_as_documented(grids, shape, valid, build, device):
    """The generators of mmdet's RetinaNet and guided anchoring heads."""
    octaves = dict(octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0])
    generator = build(type="AnchorGenerator", **octaves, strides=RETINA_STRIDES)
    documented = [[[-w, -h, w, h] for w, h in level] for level in RETINA]
    assert equal_to_four_digits(generator.base_anchors, documented)
    flags = generator.valid_flags(grids, shape, device)
    assert [level.sum().item() for level in flags] == valid
    assert generator.num_base_anchors == [9, 9, 9, 9, 9]
    assert len(generator.grid_anchors(grids, device)) == 5

    squares = build(type="AnchorGenerator", ratios=[1.0], scales=[4], strides=RETINA_STRIDES)
    sides = [16.0, 32.0, 64.0, 128.0, 256.0]
    assert [level.tolist() for level in squares.base_anchors] == [[[-side, -side, side, side]] for side in sides]
    assert squares.num_base_anchors == [1, 1, 1, 1, 1]
    assert len(squares.grid_anchors(grids, device)) == 5
