"""anchor_ext.compat.detectron2: what detectron2's formulas give with torch's operators on the CPU, to the last bit.

No package index has detectron2, so its formulas are written down here a second time; where detectron2 can be imported,
it is asked as well. What takes the results from the generators, or hands the generators out, is played by the smallest
thing that behaves alike.
"""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import types
from collections.abc import Sequence

import launches
import pytest
import reference
import torch

import anchor_ext
from anchor_ext.compat import detectron2 as compat

CLASSES = {4: compat.DefaultAnchorGenerator, 5: compat.RotatedAnchorGenerator}
NAMES = {dim: cls.__name__ for dim, cls in CLASSES.items()}
STRIDES = [4, 8, 16, 32, 64]
GRIDS = [(50, 84), (25, 42), (13, 21), (7, 11), (4, 6)]

dims = pytest.mark.parametrize("dim", CLASSES, ids=NAMES.get)


def arguments_of(dim: int, **changed) -> dict[str, object]:
    arguments = {"sizes": [[32], [64], [128], [256], [512]], "aspect_ratios": [[0.5, 1.0, 2.0]], "strides": STRIDES}
    return {**arguments, **({"angles": [[-90, 0, 45.0]]} if dim == 5 else {}), **changed}


def cell_anchors(sizes, aspect_ratios, angles=None) -> torch.Tensor:
    """Boxes of area size**2 and height / width = ratio around the origin: Python's float64, rounded to float32."""
    rows = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            if angles is None:
                rows.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
            else:
                rows += [[0.0, 0.0, width, height, angle] for angle in angles]
    return torch.tensor(rows, dtype=torch.float32)


def centres(count: int, stride: float, offset: float) -> torch.Tensor:
    """Left to torch: its arange rounds the start of every block of the vector unit before it adds the steps to it."""
    return torch.arange(offset * stride, count * stride, step=stride, dtype=torch.float32, device="cpu")


def formula(grid, stride, offset, cells: torch.Tensor) -> torch.Tensor:
    y, x = torch.meshgrid(*(centres(count, stride, offset) for count in grid), indexing="ij")
    zero = torch.zeros_like(x)
    dim = cells.shape[1]
    shifts = torch.stack([x, y, x, y] if dim == 4 else [x, y, zero, zero, zero], dim=-1)
    return (shifts.reshape(-1, 1, dim) + cells).reshape(-1, dim)


def per_level(values, count: int) -> list:
    """A list for all levels, with or without a list around it, or a list for each."""
    if not isinstance(values[0], Sequence):
        values = [values]
    return list(values) * count if len(values) == 1 else list(values)


def expected_cells(arguments) -> list[torch.Tensor]:
    names = [name for name in ("sizes", "aspect_ratios", "angles") if name in arguments]
    lists = [per_level(arguments[name], len(arguments["strides"])) for name in names]
    return [cell_anchors(*level) for level in zip(*lists, strict=True)]


def expected(arguments, grids) -> list[torch.Tensor]:
    levels = zip(grids, arguments["strides"], expected_cells(arguments), strict=True)
    return [formula(grid, stride, arguments.get("offset", 0.5), cells) for grid, stride, cells in levels]


def same(boxes, references) -> bool:
    return (
        isinstance(boxes, list)
        and len(boxes) == len(references)
        and all(reference.same_bits(a, b) and a.is_contiguous() for a, b in zip(boxes, references, strict=True))
    )


def random_arguments(rng, dim: int) -> dict[str, object]:
    levels = rng.choice([1, 1, 2, 3, 5])

    def lists(draw):
        kind = rng.choice([list, tuple])
        count = {"for all": 1, "for all, in a list": 1, "for each": levels}
        form = rng.choice(list(count))
        result = kind(kind(draw() for _ in range(rng.randint(1, 3))) for _ in range(count[form]))
        return result[0] if form == "for all" else result

    def stride(kind):
        return {
            "power": 2 ** rng.randint(0, 7),
            "whole": rng.choice([12, 7, 100, rng.randint(1, 300)]),
            "fraction": rng.choice([7.3, float(rng.randint(1, 64)), rng.uniform(0.1, 300)]),
        }[kind]

    kind = rng.choice(["power", "whole", "fraction"])
    arguments = {
        "sizes": lists(lambda: rng.choice([2 ** rng.randint(2, 9), rng.randint(1, 600), rng.uniform(0.5, 700)])),
        "aspect_ratios": lists(lambda: rng.choice([0.25, 0.5, 1, 1.0, 2, rng.uniform(0.1, 5)])),
        "strides": [stride(kind) for _ in range(levels)],
        "offset": rng.choice([0, 0.0, 0.5, 0.3, rng.random(), rng.random()]),
    }
    if dim == 5:  # the minus of a zero gets lost in the sum with the shift's zero
        arguments["angles"] = lists(lambda: rng.choice([rng.randint(-180, 180), -0.0, rng.uniform(-180, 180)]))
    return arguments


def random_grids(rng, arguments) -> list[tuple[int, int]]:
    """Long rows and long columns, for which torch's arange gives as many centres as there are cells."""
    grids = []
    while len(grids) < len(arguments["strides"]):
        longer = rng.randint(1, rng.choice([8, 70, 400]))
        grid = [longer, rng.randint(1, max(1, 1500 // longer))]
        rng.shuffle(grid)
        stride = arguments["strides"][len(grids)]
        if all(len(centres(count, stride, arguments["offset"])) == count for count in grid):
            grids.append(tuple(grid))
    return grids


@dims
def test_random_configurations(dim, device, rng):
    for _ in range(1000):
        arguments = random_arguments(rng, dim)
        generator = CLASSES[dim](**arguments)
        for _ in range(2):
            grids = random_grids(rng, arguments)
            boxes = generator.grid_anchors(grids, device=device)
            assert same(boxes, expected(arguments, grids)), (arguments, grids)
            assert {box.device.type for box in boxes} == {device.type}


@dims
@pytest.mark.parametrize("offset", [0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("stride", [7, 12, 16, 100, 7.3, 4.1, 1 / 3])
def test_rows_of_every_length(stride, offset, dim, device):
    """Where torch's blocks begin, and what is left behind the last one, depends on the length of the row."""
    arguments = arguments_of(dim, sizes=[9], aspect_ratios=[1], strides=[stride], offset=offset)
    generator = CLASSES[dim](**arguments)
    for count in [*range(1, 70), 127, 128, 129, 255, 256, 257, 399, 400]:
        if len(centres(count, stride, offset)) == count:
            for grid in ((count, 1), (2, count)):
                boxes = generator.grid_anchors([grid], device=device)
                assert same(boxes, expected(arguments, [grid])), grid


@dims
@pytest.mark.parametrize(("stride", "offset"), [(4.1, 0), (12.7, 0.0), (0.1, 0), (8, math.nextafter(1, 0))])
def test_as_many_centres_as_torch_counts(stride, offset, dim, device):
    """The end of the range is rounded, so that there can be a centre more or less in a row than there are cells."""
    arguments = arguments_of(dim, sizes=[9], aspect_ratios=[1], strides=[stride], offset=offset)
    generator = CLASSES[dim](**arguments)
    odd = [count for count in range(2, 400) if len(centres(count, stride, offset)) != count]
    assert odd
    for count in odd[:20] + odd[-2:]:
        for grid in ((count, 3), (2, count), (count, count)):
            boxes = generator.grid_anchors([grid], device=device)
            assert same(boxes, expected(arguments, [grid])), grid


@dims
def test_cell_anchors(dim, rng):
    for _ in range(100):
        arguments = random_arguments(rng, dim)
        generator = CLASSES[dim](**arguments)
        cells = expected_cells(arguments)
        assert same(list(generator.cell_anchors), cells)
        assert generator.num_anchors == generator.num_cell_anchors == [len(cell) for cell in cells]
        assert all(type(count) is int for count in generator.num_anchors)
        own = [per_level(arguments[n], 1)[0] for n in ("sizes", "aspect_ratios", "angles") if n in arguments]
        assert reference.same_bits(generator.generate_cell_anchors(*own), cell_anchors(*own))


@dims
def test_cell_anchors_beside_a_tie(dim, rng):
    """Where the last bit of the float64 decides which float32 is taken, so that no other way to the sides will do."""
    sizes = []
    for _ in range(300):
        ratio = rng.uniform(0.1, 5)
        tie = rng.randint(2**23, 2**24 - 1) + 0.5  # between two float32
        side = math.ldexp(tie, rng.randint(-20, -13))
        size = side * math.sqrt(ratio) if rng.random() < 0.5 else side / math.sqrt(ratio)
        sizes.append((math.nextafter(size, rng.choice([0, size, math.inf])), ratio))
    for size, ratio in sizes:
        arguments = arguments_of(dim, sizes=[size], aspect_ratios=[ratio], strides=[4])
        assert same(list(CLASSES[dim](**arguments).cell_anchors), expected_cells(arguments)), (size, ratio)


@dims
def test_default_cell_anchors(dim):
    turned = [(-90, -60, -30, 0, 30, 60, 90)] if dim == 5 else []
    cells = cell_anchors((32, 64, 128, 256, 512), (0.5, 1, 2), *turned)
    assert reference.same_bits(CLASSES[dim](**arguments_of(dim)).generate_cell_anchors(), cells)


@dims
def test_attributes(dim):
    generator = CLASSES[dim](**arguments_of(dim))
    assert isinstance(generator, torch.nn.Module)
    assert CLASSES[dim].box_dim == generator.box_dim == dim
    assert generator.strides == STRIDES and generator.num_features == len(STRIDES) and generator.offset == 0.5
    assert CLASSES[dim](**arguments_of(dim, offset=0.25)).offset == 0.25


@dims
def test_nothing_in_a_checkpoint(dim):
    """Checkpoints of detectron2 hold nothing of its generators."""
    generator = CLASSES[dim](**arguments_of(dim))
    assert not generator.state_dict() and not list(generator.parameters())
    generator.load_state_dict({}, strict=True)


@dims
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies(copied, dim):
    arguments = arguments_of(dim, strides=[4, 7.3, 12, 32, 64], offset=0.3)
    generator = CLASSES[dim](**arguments)
    before = copied(generator)
    generator.grid_anchors(GRIDS)  # whatever a first call keeps must not get in the way
    for other in (before, copied(generator)):
        assert type(other) is CLASSES[dim]
        assert same(other.grid_anchors(GRIDS), expected(arguments, GRIDS))
        assert other.num_anchors == generator.num_anchors


@dims
def test_surroundings_have_no_influence(dim):
    arguments = arguments_of(dim, strides=[4, 7.3, 12, 32, 64], offset=0.3)
    references = expected(arguments, GRIDS)
    default_dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            assert same(CLASSES[dim](**arguments).grid_anchors(GRIDS), references)
    finally:
        torch.set_default_dtype(default_dtype)


@dims
def test_results_are_the_callers_own(dim):
    """Nobody else sees what a caller writes into its anchors, not even in another level."""
    generator = CLASSES[dim](**arguments_of(dim))
    references = expected(arguments_of(dim), GRIDS)
    first = generator.grid_anchors(GRIDS)
    first[1].fill_(7)
    assert same(first[:1] + first[2:], references[:1] + references[2:])
    assert same(generator.grid_anchors(GRIDS), references)


@pytest.mark.quick
@dims
def test_one_launch(dim):
    for arguments in (arguments_of(dim), arguments_of(dim, strides=[7.3, 12, 4, 100, 3], offset=0.3)):
        generator = CLASSES[dim](**arguments)
        seen = launches.operators(lambda generator=generator: generator.grid_anchors(GRIDS, device="cpu"))
        assert launches.is_one_launch(seen), seen


# detectron2's configuration


def config(dim: int, **values) -> types.SimpleNamespace:
    arguments = arguments_of(dim)
    node = {name.upper(): arguments[name] for name in ("sizes", "aspect_ratios", "angles") if name in arguments}
    node |= {"OFFSET": 0.0, "NAME": NAMES[dim], **values}
    return types.SimpleNamespace(MODEL=types.SimpleNamespace(ANCHOR_GENERATOR=types.SimpleNamespace(**node)))


def shapes(strides) -> list[types.SimpleNamespace]:
    return [types.SimpleNamespace(channels=256, height=None, width=None, stride=stride) for stride in strides]


@dims
def test_from_config(dim):
    explicit = CLASSES[dim].from_config(config(dim, OFFSET=0.25), shapes(STRIDES))
    assert explicit == arguments_of(dim, offset=0.25)


@dims
@pytest.mark.parametrize(
    "made",
    [
        lambda cls, cfg, shape: cls(cfg, shape),
        lambda cls, cfg, shape: cls(cfg, input_shape=shape),
        lambda cls, cfg, shape: cls(cfg=cfg, input_shape=shape),
        lambda cls, cfg, shape: cls(**cls.from_config(cfg, shape)),
    ],
    ids=["positional", "shape by name", "both by name", "explicit"],
)
def test_made_from_a_config(made, dim):
    generator = made(CLASSES[dim], config(dim, OFFSET=0.3), shapes([4, 12, 16, 32, 7]))
    assert type(generator) is CLASSES[dim] and generator.offset == 0.3
    arguments = arguments_of(dim, strides=[4, 12, 16, 32, 7], offset=0.3)
    assert same(generator.grid_anchors(GRIDS), expected(arguments, GRIDS))


@dims
def test_an_argument_beside_the_config_wins(dim):
    generator = CLASSES[dim](config(dim), shapes(STRIDES), offset=0.75)
    assert generator.offset == 0.75
    assert same(generator.grid_anchors(GRIDS), expected(arguments_of(dim, offset=0.75), GRIDS))


# The cases of detectron2's own suite: a feature map of one row and two columns, stride 4.

SIX_CELLS = torch.tensor(
    [
        [-32.0, -8.0, 32.0, 8.0],
        [-16.0, -16.0, 16.0, 16.0],
        [-8.0, -32.0, 8.0, 32.0],
        [-64.0, -16.0, 64.0, 16.0],
        [-32.0, -32.0, 32.0, 32.0],
        [-16.0, -64.0, 16.0, 64.0],
    ]
)
TWELVE_ROTATED_CELLS = torch.tensor(
    [
        [0.0, 0.0, width, height, angle]
        for width, height in [(64, 16), (32, 32), (16, 64), (128, 32), (64, 64), (32, 128)]
        for angle in (0, 45)
    ]
)


@pytest.mark.quick
def test_detectron2s_default_case():
    cfg = config(4, SIZES=[[32, 64]], ASPECT_RATIOS=[[0.25, 1, 4]])
    (boxes,) = compat.DefaultAnchorGenerator(cfg, shapes([4])).grid_anchors([(1, 2)], device="cpu")
    assert torch.equal(boxes, torch.cat([SIX_CELLS, SIX_CELLS + torch.tensor([4.0, 0, 4, 0])]))


@pytest.mark.quick
def test_detectron2s_centred_case():
    generator = compat.DefaultAnchorGenerator(sizes=[32, 64], aspect_ratios=[0.25, 1, 4], strides=[4])
    (boxes,) = generator.grid_anchors([(1, 2)], device="cpu")
    assert torch.equal(boxes, torch.cat([SIX_CELLS + 2, SIX_CELLS + 2 + torch.tensor([4.0, 0, 4, 0])]))


@pytest.mark.quick
def test_detectron2s_rotated_case():
    cfg = config(5, SIZES=[[32, 64]], ASPECT_RATIOS=[[0.25, 1, 4]], ANGLES=[0, 45])
    (boxes,) = compat.RotatedAnchorGenerator(cfg, shapes([4])).grid_anchors([(1, 2)], device="cpu")
    cells = TWELVE_ROTATED_CELLS
    assert torch.equal(boxes, torch.cat([cells, cells + torch.tensor([4.0, 0, 0, 0, 0])]))


# Errors


EMPTY = r"empty|\[\]"
ERRORS = [
    ("offset", 1, "1"),
    ("offset", 1.0, "1.0"),
    ("offset", -0.1, "-0.1"),
    ("offset", math.inf, "inf"),
    ("offset", math.nan, "nan"),
    ("sizes", [], EMPTY),
    ("sizes", [[32], []] + [[64]] * 3, EMPTY),
    ("sizes", [[32], [64]], r"\[\[32\], \[64\]\]"),
    ("sizes", [[32]] * 6, r"\[\[32\](, \[32\]){5}\]"),
    ("aspect_ratios", [], EMPTY),
    ("aspect_ratios", [[1.0], [2.0]], r"\[\[1.0\], \[2.0\]\]"),
    ("aspect_ratios", [[0.5, -1.0]], "-1.0"),
    ("aspect_ratios", [0], "0"),
    ("strides", [], EMPTY),
    ("strides", [4, 8, 0, 32, 64], "0"),
    ("strides", [4, 8, -16, 32, 64], "-16"),
    ("strides", [4, 8, math.nan, 32, 64], "nan"),
    ("angles", [], EMPTY),
    ("angles", [[30], [60]], r"\[\[30\], \[60\]\]"),
]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("dim", "name", "value", "shown"),
    [(dim, *case) for dim in CLASSES for case in ERRORS if dim == 5 or case[0] != "angles"],
)
def test_errors(dim, name, value, shown):
    """Of both kinds: detectron2 asserts, anchor_ext raises ValueError."""
    with pytest.raises(ValueError, match=rf"(?s)\b{name}\b.*({shown}).*expected") as info:
        CLASSES[dim](**arguments_of(dim, **{name: value}))
    assert isinstance(info.value, AssertionError)


# detectron2 itself, played


class Registry:
    """The behaviour of fvcore's: a name is registered once, and an unknown one is a KeyError."""

    def __init__(self, *objects):
        self._name = "ANCHOR_GENERATOR"
        self._obj_map = {}
        for each in objects:
            self.register(each)

    def _do_register(self, name, obj):
        assert name not in self._obj_map, f"An object named '{name}' was already registered!"
        self._obj_map[name] = obj

    def register(self, obj=None):
        if obj is not None:
            return self._do_register(obj.__name__, obj)
        return lambda obj: (self._do_register(obj.__name__, obj), obj)[1]

    def get(self, name):
        if name not in self._obj_map:
            raise KeyError(f"No object named '{name}' found!")
        return self._obj_map[name]

    def __contains__(self, name):
        return name in self._obj_map

    def __iter__(self):
        return iter(self._obj_map.items())


def stand_in(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A package with nothing in it but what anchor_ext may use, and generators that would be noticed."""

    class Boxes:
        def __init__(self, tensor):
            self.tensor = tensor

    played = types.SimpleNamespace(
        boxes={4: type("Boxes", (Boxes,), {}), 5: type("RotatedBoxes", (Boxes,), {})},
        original={dim: type(NAMES[dim], (torch.nn.Module,), {}) for dim in CLASSES},
        other=type("SomebodysGenerator", (), {}),
    )
    played.registry = Registry(*played.original.values(), played.other)
    contents = {
        "detectron2": {},
        "detectron2.structures": {box.__name__: box for box in played.boxes.values()},
        "detectron2.modeling": {"ANCHOR_GENERATOR_REGISTRY": played.registry},
        "detectron2.modeling.anchor_generator": {"ANCHOR_GENERATOR_REGISTRY": played.registry},
    }
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return played


@pytest.fixture
def detectron2(monkeypatch) -> types.SimpleNamespace:
    return stand_in(monkeypatch)


@pytest.fixture
def no_detectron2(monkeypatch):
    for name in ("", ".structures", ".modeling", ".modeling.anchor_generator"):
        monkeypatch.setitem(sys.modules, "detectron2" + name, None)


@dims
def test_forward(dim, device, detectron2):
    arguments = arguments_of(dim, strides=[4, 12, 16, 32, 7.3], offset=0.3)
    generator = CLASSES[dim](**arguments)
    features = [torch.zeros(2, 3, *grid, device=device) for grid in GRIDS]
    boxes = generator(features)
    assert isinstance(boxes, list) and {type(box) for box in boxes} == {detectron2.boxes[dim]}
    assert same([box.tensor for box in boxes], expected(arguments, GRIDS))
    assert {box.tensor.device.type for box in boxes} == {device.type}
    seen = launches.operators(lambda: generator(features))
    assert launches.is_one_launch(seen), seen


@dims
def test_forward_takes_nothing_but_the_grids_from_the_features(dim, detectron2):
    generator = CLASSES[dim](**arguments_of(dim, sizes=[32], strides=[4]))
    references = [box.tensor for box in generator([torch.zeros(1, 1, 3, 5)])]
    for feature in (torch.zeros(7, 2, 3, 5, dtype=torch.float16), torch.zeros(3, 5, dtype=torch.bfloat16)):
        assert same([box.tensor for box in generator([feature])], references)


@dims
def test_without_detectron2(dim, no_detectron2):
    generator = CLASSES[dim](**arguments_of(dim))
    with pytest.raises(ImportError, match="grid_anchors"):
        generator([torch.zeros(1, 1, *grid) for grid in GRIDS])
    assert same(generator.grid_anchors(GRIDS), expected(arguments_of(dim), GRIDS))
    with pytest.raises(ImportError, match="detectron2"):
        compat.register()


@pytest.mark.quick
def test_register(detectron2):
    compat.register()
    compat.register()  # twice is as good as once
    for dim, cls in CLASSES.items():
        assert detectron2.registry.get(NAMES[dim]) is cls
        made = detectron2.registry.get(NAMES[dim])(config(dim), shapes(STRIDES))
        assert same([box.tensor for box in made([torch.zeros(1, 1, *grid) for grid in GRIDS])],
                    expected(arguments_of(dim, offset=0.0), GRIDS))  # fmt: skip
    assert detectron2.registry.get("SomebodysGenerator") is detectron2.other
    assert len(list(detectron2.registry)) == 3


def test_register_where_the_names_are_free(detectron2):
    detectron2.registry._obj_map.clear()
    compat.register()
    assert dict(detectron2.registry) == {NAMES[dim]: cls for dim, cls in CLASSES.items()}


def test_nothing_is_imported(tmp_path):
    """A package of that name lies in the way and says so when it is touched, even where the error is swallowed."""
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("print('imported')\nraise ImportError\n")
    script = """if True:
        import sys
        import anchor_ext.compat.detectron2 as compat
        generators = [
            compat.DefaultAnchorGenerator(sizes=[32], aspect_ratios=[1], strides=[4]),
            compat.RotatedAnchorGenerator(sizes=[32], aspect_ratios=[1], strides=[4], angles=[0]),
        ]
        print([tuple(g.grid_anchors([(2, 3)], device="cpu")[0].shape) for g in generators])
        print([name for name in sys.modules if name.split(".")[0] in ("detectron2", "fvcore", "torchvision")])
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[(6, 4), (6, 5)]", "[]"], run.stdout


# What the generators have beyond detectron2's


def boxes_with_ties(rng, dim: int):
    """Whole coordinates, so that many boxes end just on a border."""
    strides = rng.sample([4, 8, 12, 16, 7], rng.randint(1, 3))
    sizes = [[rng.choice([8, 16, 32, 64]) for _ in range(2)] for _ in strides]
    arguments = arguments_of(dim, sizes=sizes, aspect_ratios=[0.25, 1, 4], strides=strides, offset=rng.choice([0, 0.5]))
    grids = [(rng.randint(1, 12), rng.randint(1, 12)) for _ in strides]
    return CLASSES[dim](**arguments), grids, torch.cat(expected(arguments, grids))


@dims
def test_inside(dim, rng):
    answers = set()
    for _ in range(200):
        generator, grids, boxes = boxes_with_ties(rng, dim)
        height, width = rng.randint(1, 100), rng.randint(1, 100)
        border = rng.choice([0, 0, 1, 8, 0.5, -3, rng.randint(0, 30)])
        left, top, right, bottom = (boxes[:, i] for i in ((0, 1, 2, 3) if dim == 4 else (0, 1, 0, 1)))
        inside = (left >= -border) & (top >= -border) & (right < width + border) & (bottom < height + border)
        flags = generator.grid.inside(grids, (height, width), border=border)
        assert flags.dtype == torch.bool and torch.equal(flags.cpu(), inside), (generator, grids, height, width, border)
        answers |= set(inside.tolist())
    assert isinstance(generator.grid, anchor_ext.AnchorGrid) and answers == {True, False}


@dims
def test_inside_has_no_border_unless_told(dim, rng):
    generator, grids, _ = boxes_with_ties(rng, dim)
    assert torch.equal(generator.grid.inside(grids, (50, 60)), generator.grid.inside(grids, (50, 60), border=0))


def test_clip(rng):
    for _ in range(200):
        generator, grids, boxes = boxes_with_ties(rng, 4)
        height, width = rng.randint(1, 100), rng.randint(1, 100)
        x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
        clipped = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
        result = generator.grid(grids, clip=(height, width)).cpu()
        assert result.dtype == torch.float32 and torch.equal(result, clipped), (grids, height, width)


@pytest.mark.detectron2
@dims
def test_the_original(dim, rng):
    original = pytest.importorskip("detectron2.modeling.anchor_generator", exc_type=ImportError)
    for _ in range(100):
        arguments = random_arguments(rng, dim)
        grids = random_grids(rng, arguments)
        features = [torch.zeros(1, 1, *grid) for grid in grids]
        theirs = [box.tensor for box in getattr(original, NAMES[dim])(**arguments)(features)]
        assert same(CLASSES[dim](**arguments).grid_anchors(grids), theirs), (arguments, grids)
        assert same(theirs, expected(arguments, grids)), (arguments, grids)
