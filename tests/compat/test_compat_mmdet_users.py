"""anchor_ext.compat.mmdet beside mmdet 3.3 where users change, override, copy and call what the classes have, and pass
numbers of any kind. Each test does the same to mmdet's class and to ours."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import types
import warnings

import numpy as np
import peers
import pytest
import torch
from test_compat_mmdet import BOXES, GRIDS, NAMES, SIMPLE, check_error, same, theirs_of

from anchor_ext.compat import mmdet as compat

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*grid_anchors:UserWarning", "ignore:torch.meshgrid:UserWarning", "ignore:__array_wrap__:DeprecationWarning"
)
names = pytest.mark.parametrize("name", NAMES)
boxes_only = pytest.mark.parametrize("name", BOXES)


@pytest.fixture(scope="module")
def mmdet():
    return peers.mmdet()


def classes_of(name: str, mmdet) -> tuple[type, type]:
    return getattr(compat, name), theirs_of(mmdet, name)


def plain(result):
    """Box types as their tensors."""
    if isinstance(result, list):
        return [plain(item) for item in result]
    return result if isinstance(result, torch.Tensor) or not hasattr(result, "tensor") else ("boxes", result.tensor)


def answers(generator) -> dict[str, object]:
    """All that can be asked of a generator."""
    levels = generator.num_levels
    grids, index = GRIDS[:levels], torch.tensor([0, 37, 2, 5])
    found: dict[str, object] = {"num_levels": levels, "num_base_priors": generator.num_base_priors}
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        found[f"grid_priors, {dtype}"] = generator.grid_priors(grids, dtype, "cpu")
        for level in range(levels):
            found[f"single_level_grid_priors {level}, {dtype}"] = generator.single_level_grid_priors(
                grids[level], level, dtype, "cpu"
            )
            found[f"sparse_priors {level}, {dtype}"] = generator.sparse_priors(index, grids[level], level, dtype, "cpu")
    found["valid_flags"] = generator.valid_flags(grids, (30, 20), "cpu")
    if hasattr(generator, "grid_anchors"):
        found["num_base_anchors"] = generator.num_base_anchors
        found["grid_anchors"] = generator.grid_anchors(grids, "cpu")
        found["single_level_grid_anchors"] = generator.single_level_grid_anchors(
            generator.base_anchors[0], (2, 3), (5, 6.5), "cpu"
        )
        found["single_level_valid_flags"] = generator.single_level_valid_flags((2, 3), (1, 2), 4, "cpu")
    else:
        found["with_stride"] = generator.grid_priors(grids, torch.float16, "cpu", with_stride=True)
        found["single_level_valid_flags"] = generator.single_level_valid_flags((2, 3), (1, 2), "cpu")
    return {key: plain(value) for key, value in found.items()}


def assert_equal(ours, theirs) -> None:
    found, expected = answers(ours), answers(theirs)
    assert found.keys() == expected.keys()
    assert [key for key in expected if not same(found[key], expected[key])] == []


# What is changed after construction.


def base_anchors(change):
    def assign(generator):
        generator.base_anchors = [change(level) for level in generator.base_anchors]

    return assign


def in_place(generator):
    generator.base_anchors[0][0, 2] = 77.5


def one_level(generator):
    generator.base_anchors[1] = torch.tensor([[-1.0, -2.0, 1.0, 2.5]])


def stacked(generator):
    generator.base_anchors = torch.stack([level[:1] for level in generator.base_anchors])


def strides(generator):
    generator.strides = [(5, 4.5), (7, 9), (3.1, 3)][: len(generator.strides)]


def strides_as_array(generator):
    generator.strides = np.arange(2, 2 + 2 * len(generator.strides)).reshape(-1, 2)


def strides_in_place(generator):
    generator.strides[1] = (3, 4)


def fewer_strides(generator):
    generator.strides = generator.strides[:1]


def too_late(generator):
    generator.scales, generator.ratios, generator.centers = [3], [4], [(5, 6)] * 3
    generator.center_offset, generator.scale_major = 0.9, False


def fewer_sizes(generator):
    generator.base_sizes = generator.base_sizes[:-1]  # the number of levels, in YOLO's generator


def box_type(generator):
    generator.use_box_type = True


def offset(generator):
    generator.offset = -0.25


def offset_as_tensor(generator):
    generator.offset = torch.tensor(0.3, dtype=torch.float64)


ALL_CHANGES = [strides, strides_as_array, strides_in_place, box_type]
BOX_CHANGES = {
    "shifted": base_anchors(lambda level: level + 1.3),
    "another number": base_anchors(lambda level: level[:-1]),
    "float64": base_anchors(lambda level: level.double() + 0.1),
    "float16": base_anchors(lambda level: level.half()),
    "integers": base_anchors(lambda level: level.round().long()),
}
CHANGES = [
    *((name, change.__name__, change) for name in NAMES for change in ALL_CHANGES),
    *((name, change.__name__, change) for name in BOXES for change in (in_place, one_level, stacked, too_late)),
    *((name, f"base_anchors {what}", change) for name in BOXES for what, change in BOX_CHANGES.items()),
    *((name, "fewer_sizes", fewer_sizes) for name in BOXES),
    *((name, "fewer_strides", fewer_strides) for name in NAMES if name != "YOLOAnchorGenerator"),
    *(("MlvlPointGenerator", change.__name__, change) for change in (offset, offset_as_tensor)),
]


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize(("name", "what", "change"), CHANGES, ids=lambda value: value if isinstance(value, str) else "")
def test_changes_count(name, what, change, asked_before, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    if asked_before:
        assert_equal(ours, theirs)
    change(ours)
    change(theirs)
    assert_equal(ours, theirs)


@names
def test_changes_in_a_listconfig_count(name, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    for number in (6, 7):
        for generator in (ours, theirs):
            if number == 6:
                generator.strides = listconfig([[5, 4], [9, 3], [4, 4]][: len(generator.strides)])
            generator.strides[0][1] = number
        assert_equal(ours, theirs)


@boxes_only
def test_levels_from_the_last_need_as_many_strides_as_base_anchors(name):
    """mmdet takes the last of each, which may be of different levels."""
    generator = getattr(compat, name)(**SIMPLE[name])
    fewer_strides(generator)
    check_error(lambda: generator.single_level_grid_priors((2, 2), -1, device="cpu"), "level_idx", "-1")


@boxes_only
def test_changes_that_fit_only_together(name, mmdet):
    """Between the two assignments there are more strides than base anchors."""
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    for generator in (ours, theirs):
        generator.strides = [*generator.strides, (64, 64)]
        generator.base_anchors = [*generator.base_anchors, torch.tensor([[-9.0, -9.0, 9.0, 9.0]])]
        generator.base_sizes = [*generator.base_sizes, [(18, 18)]]
    grids = [(2, 3)] * ours.num_levels
    assert same(ours.grid_priors(grids, device="cpu"), theirs.grid_priors(grids, device="cpu"))


def test_refused_changes():
    boxes = compat.AnchorGenerator(**SIMPLE["AnchorGenerator"])
    for name, value, argument in (
        ("base_anchors", [torch.zeros(3, 5)] * 2, "base_anchors[0]"),
        ("base_anchors", [[[0, 0, 1, 1]]] * 2, "base_anchors[0]"),
        ("base_anchors", [torch.zeros(1, 4, requires_grad=True)] * 2, "base_anchors[0]"),
        ("base_anchors", [torch.full((1, 4), torch.inf)] * 2, "base_anchors[0][0][0]"),
        ("base_anchors", None, "base_anchors"),
        ("strides", [8, 16], "strides"),
        ("strides", [(8, 8), (-1, 2)], "strides[1]"),
        ("strides", None, "strides"),
    ):
        changed = copy.deepcopy(boxes)
        setattr(changed, name, value)
        with pytest.raises(ValueError, match=r"expected") as caught:
            changed.single_level_grid_priors((2, 2), 0, device="cpu")
        assert argument in str(caught.value)
        setattr(changed, name, getattr(boxes, name))
        assert_equal(changed, boxes)
    points = compat.MlvlPointGenerator([8, 16])
    points.offset = None
    check_error(lambda: points.grid_priors(GRIDS[:2], device="cpu"), "offset", "None")


# What is overridden.


def moved(base):
    class Mine(base):
        def single_level_grid_priors(self, *arguments, **keywords):
            return super().single_level_grid_priors(*arguments, **keywords) + 100

    return Mine


def by_hand(base):
    class Mine(base):
        def single_level_grid_priors(self, featmap_size, level_idx, dtype=None, device="cuda", with_stride=False):
            x, y = (torch.arange(float(side), device=device).to(dtype) for side in featmap_size[::-1])
            xx, yy = self._meshgrid(x * self.strides[level_idx][0], y, row_major=False)
            return torch.stack([xx, yy, xx, yy], -1)

    return Mine


def own_flags(base):
    class Mine(base):
        def single_level_valid_flags(self, featmap_size, valid_size, *arguments, **keywords):
            assert type(featmap_size) is type(valid_size) is tuple
            return ~super().single_level_valid_flags(featmap_size, valid_size, *arguments, **keywords)

    return Mine


def own_meshgrid(base):
    class Mine(base):
        def _meshgrid(self, x, y, row_major=True):
            return super()._meshgrid(y, x, not row_major)

    return Mine


def own_levels(base):
    class Mine(base):
        @property
        def num_levels(self):
            return 1

    return Mine


def own_grid_anchors(base):
    class Mine(base):
        def single_level_grid_anchors(self, *arguments, **keywords):
            return super().single_level_grid_anchors(*arguments, **keywords) - 1

    return Mine


def own_base_anchors(base):
    class Mine(base):
        def gen_base_anchors(self):
            return [level[1:] * 2 for level in super().gen_base_anchors()]

    return Mine


def own_single_level(base):
    class Mine(base):
        def gen_single_level_base_anchors(self, *arguments, **keywords):
            self.calls = [*getattr(self, "calls", []), (len(arguments), sorted(keywords))]
            return super().gen_single_level_base_anchors(*arguments, **keywords) + 0.3

    return Mine


def own_properties(base):
    class Mine(base):
        def __init__(self, **arguments):
            pass

        @property
        def strides(self):
            return [(5, 7), (9, 3), (4, 4)]

        @property
        def base_anchors(self):
            return [torch.tensor([[-1.0, -2.0, 3.0, 4.0]])] * 3

        base_sizes, use_box_type, offset = [1, 2, 3], False, 0.5

    return Mine


ALL_OVERRIDES = [moved, by_hand, own_flags, own_meshgrid, own_levels, own_properties]
BOX_OVERRIDES = [own_grid_anchors, own_base_anchors, own_single_level]
OVERRIDES = [
    (name, override)
    for name in NAMES
    for override in ALL_OVERRIDES + BOX_OVERRIDES * (name in BOXES)
    # mmdet divides the range of its built-in sizes by the number of levels less two.
    if (name, override) != ("LegacySSDAnchorGenerator", own_levels)
]
override_cases = pytest.mark.parametrize(
    ("name", "override"), OVERRIDES, ids=lambda value: getattr(value, "__name__", value)
)


@override_cases
def test_overrides_count(name, override, mmdet):
    ours, theirs = (override(cls)(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    assert_equal(ours, theirs)
    twice = 2 if name == "LegacySSDAnchorGenerator" else 1  # mmdet's constructor makes its base anchors twice
    assert getattr(ours, "calls", []) * twice == getattr(theirs, "calls", [])


@names
@pytest.mark.parametrize("override", [moved, own_flags, own_meshgrid], ids=lambda value: value.__name__)
def test_overrides_of_an_instance_count(name, override, mmdet):
    generators = []
    for cls in classes_of(name, mmdet):
        generator = cls(**SIMPLE[name])
        mine = override(cls)(**SIMPLE[name])  # whose super() is the class's method
        method = next(key for key in vars(type(mine)) if "level" in key or key == "_meshgrid")
        setattr(generator, method, getattr(mine, method))
        generators.append(generator)
    assert_equal(*generators)


@names
def test_overrides_of_a_class_count(name, mmdet, monkeypatch):
    for cls in classes_of(name, mmdet):
        original = cls.single_level_grid_priors
        monkeypatch.setattr(
            cls, "single_level_grid_priors", lambda *args, original=original, **kwargs: original(*args, **kwargs) * 2
        )
    assert_equal(*(cls(**SIMPLE[name]) for cls in classes_of(name, mmdet)))


@boxes_only
@pytest.mark.parametrize("counts", ["num_base_priors", "num_base_anchors"])
def test_own_counts(name, counts, mmdet):
    """Flags are as many as the counts say; where the counts are wrong, there are no sparse priors."""
    flags = []
    for cls in classes_of(name, mmdet):
        mine = type("Mine", (cls,), {counts: property(lambda self: [2, 5, 1])})(**SIMPLE[name])
        flags.append(mine.valid_flags(GRIDS[: mine.num_levels], (30, 20), "cpu"))
        if cls.__module__.startswith("anchor_ext"):
            index = torch.tensor([0])
            check_error(
                lambda mine=mine, index=index: mine.sparse_priors(index, (2, 2), 0), "num_base_anchors", "[2, 5, 1]"
            )
    assert same(*flags)


@names
def test_priors_of_all_levels_at_once_need_methods_of_ours(name):
    mine = moved(getattr(compat, name))(**SIMPLE[name])
    check_error(lambda: mine.sparse_priors(torch.tensor([0]), GRIDS[: mine.num_levels]), "level_idx", "None")


def test_own_methods_take_what_they_want(mmdet):
    """mmdet looks at base sizes, scales and ratios only in methods that a subclass may replace."""

    def sized(base):
        class Mine(base):
            def gen_single_level_base_anchors(self, base_size, scales, ratios, center=None):
                w, h = base_size
                return torch.tensor([[-w, -h, w, h]]) * scales[0, 0] * ratios[0]

        return Mine

    arguments = dict(strides=[8, 16], ratios=[0.5], scales=[[4.0, 1.0]], base_sizes=[(3, 4), (5, 6)])
    assert_equal(*(sized(cls)(**arguments) for cls in classes_of("AnchorGenerator", mmdet)))


# What the classes have.


@names
def test_everything_public_is_there(name, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    assert {key for key in dir(theirs) if not key.startswith("_")} - set(dir(ours)) == set()
    for key, method in inspect.getmembers(type(theirs), inspect.isfunction):
        if not key.startswith("_") or key in ("__init__", "_meshgrid"):
            expected = [(p.name, p.kind) for p in inspect.signature(method).parameters.values()]
            found = [(p.name, p.kind) for p in inspect.signature(getattr(type(ours), key)).parameters.values()]
            assert found == expected, key


@names
def test_repr(name, mmdet):
    ours, theirs = (type("Mine", (cls,), {})(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    if name == "MlvlPointGenerator":  # mmdet's has object's
        assert type(ours).__repr__ is object.__repr__
        return
    try:
        expected = repr(theirs)
    except AttributeError:  # mmdet's asks for what it has not
        assert repr(ours).startswith("Mine(") and f"strides={ours.strides}" in repr(ours)
    else:
        assert repr(ours) == expected


def test_repr_of_ssd_with_built_in_sizes(mmdet):
    arguments = dict(strides=[8, 16, 32], ratios=[[2]] * 3, basesize_ratio_range=(0.15, 0.9))
    ours, theirs = (cls(**arguments) for cls in classes_of("SSDAnchorGenerator", mmdet))
    assert repr(ours) == repr(theirs)


@names
def test_made_of_its_own_class(name, mmdet):
    for cls in classes_of(name, mmdet):
        mine = type("Mine", (cls,), {"twin": lambda self: self.__class__(**SIMPLE[name])})(**SIMPLE[name])
        assert type(mine.twin()) is type(mine)


@boxes_only
@pytest.mark.parametrize("override", [lambda cls: cls, own_grid_anchors, own_meshgrid])
def test_warnings(name, override, mmdet):
    """As many, of the same kind, as of mmdet's; and only of the old methods."""
    seen = []
    for cls in classes_of(name, mmdet):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generator = override(cls)(**SIMPLE[name])
            generator.grid_priors(GRIDS[: generator.num_levels], device="cpu")
            assert generator.num_base_anchors
            assert not caught
            generator.grid_anchors(GRIDS[: generator.num_levels], "cpu")
            generator.single_level_grid_anchors(generator.base_anchors[0], (1, 2), device="cpu")
        seen.append([warning.category for warning in caught])
        assert "grid_priors" in str(caught[0].message)
    assert seen[0] == seen[1]
    assert caught and all(issubclass(category, UserWarning) for category in seen[0])


@pytest.mark.parametrize("center", [(16, 16), torch.tensor([3.0, 4.0]), np.array([1, 2.5])], ids=str)
def test_base_anchors_of_one_level_of_yolo(center, mmdet):
    ours, theirs = (cls(**SIMPLE["YOLOAnchorGenerator"]) for cls in classes_of("YOLOAnchorGenerator", mmdet))
    sizes = [(10, 20), (30, 40.5)]
    expected = theirs.gen_single_level_base_anchors(sizes, center)
    assert same(ours.gen_single_level_base_anchors(base_sizes_per_level=sizes, center=center), expected)
    check_error(lambda: ours.gen_single_level_base_anchors(sizes), "center", "None")


# Numbers of any kind.


def listconfig(value):
    return pytest.importorskip("omegaconf").OmegaConf.create(value)


def configdict(value):
    mmengine = pytest.importorskip("mmengine")
    return mmengine.ConfigDict(value=value).value


def rows(value):
    return [np.array(item) for item in value] if isinstance(value[0], list) else [np.float64(item) for item in value]


KINDS = {
    "tuple": tuple,
    "ListConfig": listconfig,
    "ConfigDict": configdict,
    "array": np.array,
    "float32 array": lambda value: np.array(value, dtype=np.float32),
    "narrow array": lambda value: np.ceil(np.array(value)).astype(np.uint8),
    "rows": rows,
    "tensor": lambda value: torch.tensor(value) if isinstance(value[0], list) else [torch.tensor(x) for x in value],
    "float64 tensor": lambda value: torch.tensor(value, dtype=torch.float64) if isinstance(value[0], list) else value,
    "range": lambda value: range(2, 2 + len(value)) if isinstance(value[0], int) else value,
}
NUMBERS = {
    "AnchorGenerator": dict(
        strides=[[8, 9], [16, 15.3]], ratios=[0.5, 1.3], scales=[4, 7], base_sizes=[7, 9], centers=[[1, 2], [3, 4.5]]
    ),
    "LegacyAnchorGenerator": dict(
        strides=[[8, 9], [16, 15.3]], ratios=[0.5, 2.0], scales=[4.5, 7], base_sizes=[7.3, 9]
    ),
    "SSDAnchorGenerator": dict(
        strides=[[8, 9], [16, 15.3]], ratios=[[2, 3], [2, 3.5]], min_sizes=[21, 45], max_sizes=[45.3, 99]
    ),
    "LegacySSDAnchorGenerator": dict(strides=[8, 16, 32], ratios=[[2, 3]] * 3, basesize_ratio_range=(0.15, 0.9)),
    "YOLOAnchorGenerator": dict(
        strides=[[8, 9], [16, 15.3]], base_sizes=[[[116, 90], [156, 198]], [[10, 13], [16, 30.3]]]
    ),
    "MlvlPointGenerator": dict(strides=[[8, 9], [16, 15.3]]),
}


@pytest.mark.parametrize("kind", KINDS)
@names
def test_numbers_of_any_kind(name, kind, mmdet):
    """Each argument alone, in every form that mmdet takes."""
    taken = 0
    for argument, value in NUMBERS[name].items():
        if argument == "basesize_ratio_range":
            continue
        arguments = {**NUMBERS[name], argument: KINDS[kind](value)}
        mine, original = classes_of(name, mmdet)
        try:
            theirs = original(**arguments)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            continue
        ours = mine(**arguments)
        assert_equal(ours, theirs)
        taken += 1
    assert taken


@pytest.mark.parametrize("number", [np.int64, np.int32, np.float32, np.float64, np.float16, torch.tensor], ids=str)
def test_single_numbers_of_any_kind(number, mmdet):
    def both(name, **arguments):
        mine, original = classes_of(name, mmdet)
        try:
            theirs = original(**arguments)
        except (TypeError, AssertionError):
            return
        assert_equal(mine(**arguments), theirs)

    one = dict(strides=[8, 9.5], ratios=[0.7])
    both("AnchorGenerator", **one, octave_base_scale=number(4), scales_per_octave=3)
    both("AnchorGenerator", **one, octave_base_scale=4.3, scales_per_octave=number(3))
    both("AnchorGenerator", **one, scales=[number(3)], base_sizes=[number(5), 7])
    both("AnchorGenerator", strides=[number(8), (number(7), number(9))], ratios=[number(2)], scales=[4])
    both("AnchorGenerator", **one, scales=[4], center_offset=number(1))
    both("AnchorGenerator", **one, scales=[4], centers=[(number(1), 2), (3, number(4))])
    both("LegacyAnchorGenerator", **one, scales=[4], center_offset=number(1), base_sizes=[number(5), 7])
    both(
        "SSDAnchorGenerator",
        strides=[8, 16],
        ratios=[[number(2)], [3]],
        min_sizes=[number(21), 45],
        max_sizes=[number(45), 99],
    )
    both("YOLOAnchorGenerator", strides=[8, 16], base_sizes=[[(number(3), 4)], [(5, number(6))]])
    both("MlvlPointGenerator", strides=[(number(8), 9), (7, number(10))], offset=0.3)
    both("MlvlPointGenerator", strides=[8, 9.5], offset=number(1))
    both("LegacySSDAnchorGenerator", **SIMPLE["LegacySSDAnchorGenerator"], input_size=number(300))


def test_octaves_are_float64(mmdet):
    arguments = dict(strides=[8, 9], ratios=[0.7], octave_base_scale=np.float32(4.3), scales_per_octave=np.int64(7))
    assert_equal(*(cls(**arguments) for cls in classes_of("AnchorGenerator", mmdet)))


SIZES = {
    "array": np.array,
    "arrays": lambda grids: [np.array(grid) for grid in grids],
    "narrow arrays": lambda grids: [np.array(grid, dtype=np.uint8) for grid in grids],
    "sizes": lambda grids: [torch.Size(grid) for grid in grids],
    "tensor": torch.tensor,
    "narrow tensor": lambda grids: torch.tensor(grids, dtype=torch.uint8),
    "NumPy integers": lambda grids: [tuple(map(np.int32, grid)) for grid in grids],
    "ListConfig": lambda grids: listconfig([list(grid) for grid in grids]),
    "ConfigDict": lambda grids: configdict([list(grid) for grid in grids]),
}


@pytest.mark.parametrize("kind", SIZES)
@names
def test_sizes_of_any_kind(name, kind, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    usual = [(41, 37), (3, 4), (2, 2)][: theirs.num_levels]  # more cells than a byte can count
    grids = SIZES[kind](usual)
    assert same(ours.grid_priors(grids, device="cpu"), theirs.grid_priors(usual, device="cpu"))
    assert same(ours.valid_flags(grids, (30, 20), device="cpu"), theirs.valid_flags(usual, (30, 20), device="cpu"))
    more = (np.int64(3),) if name in BOXES else ()
    for level in (np.int64(1), torch.tensor(1), -1):
        one = theirs.single_level_grid_priors(usual[level], int(level), device="cpu")
        assert same(ours.single_level_grid_priors(grids[int(level)], level, device="cpu"), one)
        index = torch.tensor([0, 3])
        expected = theirs.sparse_priors(index, usual[level], int(level), device="cpu")
        assert same(ours.sparse_priors(index, grids[int(level)], level, device="cpu"), expected)
    flags = ours.single_level_valid_flags(grids[0], np.array([2, 3]), *more, device="cpu")
    assert same(flags, theirs.single_level_valid_flags(usual[0], (2, 3), *more, device="cpu"))
    if name in BOXES:
        assert same(ours.grid_anchors(grids, "cpu"), theirs.grid_anchors(usual, "cpu"))
    mine, original = own_flags(type(ours))(**SIMPLE[name]), own_flags(type(theirs))(**SIMPLE[name])
    assert same(mine.valid_flags(grids, (30, 20), "cpu"), original.valid_flags(usual, (30, 20), "cpu"))


PADDED = [np.array([30, 20, 3]), torch.tensor([30, 20]), torch.Size([30, 20]), [30.0, 20.0], (24.5, 32.3)]
PADDED += [(np.int16(30), np.float32(20)), torch.tensor([30.0, 20.5]), np.array([16.5, 20])]


@pytest.mark.parametrize("shape", PADDED, ids=str)
@names
def test_padded_shapes_of_any_kind(name, shape, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    grids = GRIDS[: theirs.num_levels]
    assert same(ours.valid_flags(grids, shape, "cpu"), theirs.valid_flags(grids, shape, "cpu"))


def test_errors_name_what_was_given():
    one = dict(strides=[8], ratios=[1.0])
    for call, argument, value in (
        (lambda: compat.YOLOAnchorGenerator([8], [[(1e39, 1)]]), "base_sizes", "inf"),
        (lambda: compat.AnchorGenerator(**one, scales=[1e38], base_sizes=[1e20]), "base_sizes, scales", "inf"),
        (lambda: compat.SSDAnchorGenerator([8], [[2]], [1e38], [3e38 * 10]), "min_sizes, max_sizes", "inf"),
        (lambda: compat.AnchorGenerator([8] * 17, [1.0], [4]), "strides", "17"),
        (lambda: compat.MlvlPointGenerator([8] * 17), "strides", "17"),
        (lambda: compat.AnchorGenerator(**one, scales=[1.0] * 600), "scales", "600"),
        (lambda: compat.AnchorGenerator(**one, octave_base_scale=4, scales_per_octave=2.5), "scales_per_octave", "2.5"),
        (lambda: compat.MlvlPointGenerator([8]).single_level_grid_priors((1, 1), 0.5), "level_idx", "0.5"),
        (lambda: compat.MlvlPointGenerator([8]).valid_flags([(1, 1)], (float("inf"), 2)), "pad_shape", "inf"),
    ):
        with pytest.raises(ValueError, match="expected") as caught:
            call()
        assert argument in str(caught.value) and value in str(caught.value)
        assert "cell_anchors" not in str(caught.value)


# Copies.


def saved(generator):
    file = io.BytesIO()
    torch.save(generator, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda generator: pickle.loads(pickle.dumps(generator)),
    "torch.save": saved,
}
copies = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


class Stateful:
    """A subclass with more to keep, and its own mind about what."""

    def __init__(self, *args, note="none", **kwargs):
        super().__init__(*args, **kwargs)
        self.note, self.forgotten = note, 1

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "forgotten"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.restored = True


class Reduced:
    def __reduce__(self):
        return _rebuilt, (type(self), self.arguments, self.strides)


def _rebuilt(cls, arguments, strides):
    made = cls(**arguments)
    made.arguments, made.strides = arguments, strides
    return made


# Of module level, for pickle.
for _name in NAMES:
    for _mixin in (Stateful, Reduced):
        _full = f"{_mixin.__name__}{_name}"
        globals()[_full] = types.new_class(_full, (_mixin, getattr(compat, _name)))
        globals()[_full].__module__ = __name__


@copies
@names
def test_copies_are_their_own(name, make, mmdet):
    ours, theirs = (cls(**SIMPLE[name]) for cls in classes_of(name, mmdet))
    strides(ours)
    ours.extra = "kept"
    other = make(ours)
    assert type(other) is type(ours) and other.extra == "kept"
    assert_equal(other, ours)
    other.strides = [(2, 3)] * len(ours.strides)
    if name in BOXES and make is not copy.copy:
        other.base_anchors[0][0] = 1.5
        assert not torch.equal(other.base_anchors[0], ours.base_anchors[0])
    strides(theirs)
    assert_equal(ours, theirs)
    assert not same(answers(other)["grid_priors, torch.float32"], answers(ours)["grid_priors, torch.float32"])


@copies
@names
def test_copies_of_subclasses(name, make):
    mine = globals()[f"Stateful{name}"](**SIMPLE[name], note="mine")
    other = make(mine)
    assert other.note == "mine" and other.restored and not hasattr(other, "forgotten")
    assert_equal(other, mine)
    mine = globals()[f"Reduced{name}"](**SIMPLE[name])
    mine.arguments = SIMPLE[name]
    strides(mine)
    other = make(mine)
    assert type(other) is type(mine)
    assert_equal(other, mine)


def test_made_in_inference_mode():
    """Base anchors can be written into later, and that counts."""
    with torch.inference_mode():
        generator = compat.AnchorGenerator(**SIMPLE["AnchorGenerator"])
        before = generator.grid_priors(GRIDS[:2], device="cpu")
        generator.base_anchors[0] += 1
        after = generator.grid_priors(GRIDS[:2], device="cpu")
    assert torch.equal(after[0], before[0] + 1)


def compiled_and_eager(generator):
    """Whether one compiled program still says what an eager call says, before and after changes."""

    def run(image):
        sizes = [image.shape, (3, image.shape[1])]
        return generator.grid_priors(sizes, device="cpu") + generator.valid_flags(sizes, (20, 30), "cpu")

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="eager")
    return lambda shape: same(compiled(torch.zeros(shape)), run(torch.zeros(shape)))


@pytest.mark.parametrize("override", [lambda cls: cls, moved, own_flags, own_meshgrid, own_levels])
@pytest.mark.parametrize("name", ["AnchorGenerator", "MlvlPointGenerator"])
def test_compiled(name, override):
    if override is own_levels:  # of which mmdet wants as many sizes as there are
        generator = type("Mine", (getattr(compat, name),), {"num_levels": 2})(
            **{**SIMPLE[name], "strides": [8, 16, 32]}
        )
    else:
        generator = override(getattr(compat, name))(**SIMPLE[name])
    are_equal = compiled_and_eager(generator)
    assert are_equal((2, 5)) and are_equal((4, 3))
    strides(generator)
    assert are_equal((2, 5))
    if name == "AnchorGenerator":
        in_place(generator)
        generator.grid_priors([(1, 1)] * generator.num_levels, device="cpu")  # a compiled program reads no tensors
    else:
        offset(generator)
    assert are_equal((2, 5))


@pytest.mark.parametrize("name", ["AnchorGenerator", "MlvlPointGenerator"])
def test_compiled_before_an_instance_has_its_own(name):
    generator = getattr(compat, name)(**SIMPLE[name])
    are_equal = compiled_and_eager(generator)
    assert are_equal((2, 5))
    generator.single_level_grid_priors = lambda size, level_idx=0, **options: torch.full((2, 4), float(level_idx))
    assert are_equal((2, 5))
    del generator.single_level_grid_priors
    assert are_equal((2, 5))
