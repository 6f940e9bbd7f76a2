"""anchor_ext.compat.detectron2 as a module among others: its buffers, what users change and override, what they pass.

What the anchors must be then, the formula of test_compat_detectron2.py says.
"""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import reference
import torch
from test_compat_detectron2 import CLASSES, GRIDS, NAMES, STRIDES, arguments_of, dims, expected, formula, same
from test_compat_detectron2 import detectron2 as detectron2  # a fixture

from anchor_ext.compat import detectron2 as compat

pytestmark = pytest.mark.quick
CONVERSIONS = {"float": torch.float32, "half": torch.float32, "bfloat16": torch.float32, "double": torch.float64}


def list_config(values):
    return pytest.importorskip("omegaconf").OmegaConf.create(values)


def of_cells(generator, grids=GRIDS) -> list[torch.Tensor]:
    """What detectron2 makes of the cell anchors that a generator has now."""
    levels = zip(grids, generator.strides, generator.cell_anchors, strict=False)
    return [formula(grid, stride, generator.offset, cells) for grid, stride, cells in levels]


# Cell anchors are buffers.


@dims
def test_cell_anchors_are_buffers(dim):
    generator = CLASSES[dim](**arguments_of(dim))
    names = [str(i) for i in range(len(STRIDES))]
    assert [name for name, _ in generator.cell_anchors.named_buffers()] == names
    assert [name for name, _ in generator.named_buffers()] == [f"cell_anchors.{name}" for name in names]
    assert isinstance(generator.cell_anchors, torch.nn.Module) and not generator.state_dict()
    assert next(generator.buffers()).device == torch.device("cpu")
    assert len(generator.cell_anchors) == len(STRIDES)
    assert all(a is b for a, b in zip(generator.cell_anchors, generator.buffers(), strict=True))
    assert generator.cell_anchors[-1] is list(generator.cell_anchors)[-1]


@dims
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_conversions_round(conversion, dim, device):
    """As a module of its own, and as a part of another one that is converted."""
    arguments = arguments_of(dim, sizes=[31.3], strides=[4, 7.3, 12, 32, 64], offset=0.3)
    for alone in (True, False):
        generator = CLASSES[dim](**arguments)
        getattr(generator if alone else torch.nn.Sequential(generator), conversion)()
        anchors = generator.grid_anchors(GRIDS, device)
        assert same(anchors, of_cells(generator)) and anchors[0].dtype == CONVERSIONS[conversion]
        assert (conversion in ("float", "double")) == same(
            [of_level.float() for of_level in anchors], expected(arguments, GRIDS)
        )


@dims
def test_moved_where_there_are_no_numbers(dim):
    generator = CLASSES[dim](**arguments_of(dim)).to("meta")
    assert generator.cell_anchors[0].is_meta and generator._grid_anchors(GRIDS)[0].is_meta
    assert same(generator.grid_anchors(GRIDS, "cpu"), expected(arguments_of(dim), GRIDS))
    generator.strides = [3] * 5
    assert same(generator.grid_anchors(GRIDS, "cpu"), expected(arguments_of(dim, strides=[3] * 5), GRIDS))


@dims
def test_levels_of_different_precision(dim):
    generator = CLASSES[dim](**arguments_of(dim, offset=0.3))
    generator.cell_anchors[1] = generator.cell_anchors[1].double() / 3
    assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator))


# What users change.


@dims
def test_what_is_assigned_counts(dim):
    generator = CLASSES[dim](**arguments_of(dim))
    generator.grid_anchors(GRIDS, "cpu")
    changed = {"strides": [5, 7.3, 12, 100, 3], "offset": 0.3}
    for name, value in changed.items():
        setattr(generator, name, value)
        assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator)), name
    assert same(generator.grid_anchors(GRIDS, "cpu"), expected(arguments_of(dim, **changed), GRIDS))
    generator.cell_anchors = [cells[:2] * 3 for cells in generator.cell_anchors]
    assert generator.num_anchors == generator.num_cell_anchors == [2] * 5
    assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator))


@dims
@pytest.mark.parametrize("kind", [list, np.array, pytest.param(list_config, marks=pytest.mark.peers)])
def test_what_is_written_into_counts(kind, dim):
    generator = CLASSES[dim](**arguments_of(dim, strides=kind(STRIDES)))
    generator.grid_anchors(GRIDS, "cpu")
    generator.strides[2] = 7
    assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator))
    generator.cell_anchors[1].mul_(3)
    assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator))
    assert same(copy.deepcopy(generator).grid_anchors(GRIDS, "cpu"), of_cells(generator))


@dims
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("strides", value) for value in (None, 8, [], [4, 8, 0, 32, 64], [4, 8, "x", 32, 64])),
        *(("offset", value) for value in (None, 1, -0.1, float("nan"), "x")),
        *(("cell_anchors", value) for value in ([[1.0, 2.0]], [torch.zeros(3, 9)], [torch.zeros(513, 1)])),
    ],
)
def test_what_cannot_be_followed_is_refused(name, value, dim):
    generator = CLASSES[dim](**arguments_of(dim))
    setattr(generator, name, value)
    with pytest.raises(compat.check.CompatError, match=rf"\b{name}\b.*expected"):
        generator.grid_anchors(GRIDS[:1], "cpu")
    setattr(generator, name, getattr(CLASSES[dim](**arguments_of(dim)), name))
    assert same(generator.grid_anchors(GRIDS, "cpu"), expected(arguments_of(dim), GRIDS))


# What subclasses override.


@dims
def test_grid_anchors_of_a_subclass(dim, device, detectron2):
    class Shifted(CLASSES[dim]):
        def _grid_anchors(self, grid_sizes):
            asked.append(grid_sizes)
            return [anchors + 1 for anchors in super()._grid_anchors(grid_sizes)]

    asked: list = []
    references = [of_level + 1 for of_level in expected(arguments_of(dim), GRIDS)]
    generator = Shifted(**arguments_of(dim)).to(device)
    features = [torch.zeros(1, 1, *grid, device=device) for grid in GRIDS]
    assert same([boxes.tensor for boxes in generator(features)], references)
    assert [tuple(map(tuple, sizes)) for sizes in asked] == [tuple(GRIDS)]
    assert same(generator.grid_anchors(GRIDS, device), references)
    plain = CLASSES[dim](**arguments_of(dim))
    plain._grid_anchors = lambda grid_sizes: [torch.ones(1, dim)] * 7  # of the instance's own
    assert len(plain(features)) == 7


@dims
def test_untouched_grid_anchors(dim):
    generator = CLASSES[dim](**arguments_of(dim))
    assert same(generator._grid_anchors(GRIDS), expected(arguments_of(dim), GRIDS))
    assert same(generator._grid_anchors([list(grid) for grid in GRIDS[:2]]), expected(arguments_of(dim), GRIDS)[:2])


@dims
@pytest.mark.parametrize("sizes", [[[(8, 4), (6, 6)], [(16, 2)]], [[(8, 4), (6, 6)]]])
def test_cell_anchors_of_a_subclass(sizes, dim):
    """Whose sizes are pairs: what is in the lists is the business of the hook."""

    class Pairs(CLASSES[dim]):
        def generate_cell_anchors(self, sizes, *others):
            return torch.tensor([[w, h, w, h] + [7] * (dim - 4) for w, h in sizes], dtype=torch.float64) / 3

    generator = Pairs(**arguments_of(dim, sizes=sizes, strides=[8, 16]))
    assert {cells.dtype for cells in generator.cell_anchors} == {torch.float32}
    assert generator.num_anchors == [len(of_level) for of_level in (sizes * 2)[:2]]
    assert same(generator.grid_anchors(GRIDS[:2], "cpu"), of_cells(generator))
    with pytest.raises(compat.check.CompatError, match="sizes"):
        CLASSES[dim](**arguments_of(dim, sizes=sizes, strides=[8, 16]))


@dims
@pytest.mark.parametrize("listed", [True, False])
def test_calculate_anchors_of_a_subclass(listed, dim):
    class Doubled(CLASSES[dim]):
        def _calculate_anchors(self, *lists):
            calls.append((self.strides, lists))
            buffers = super()._calculate_anchors(*lists)
            return [cells * 2 for cells in buffers] if listed else buffers.double()

    calls: list = []
    generator = Doubled(**arguments_of(dim))
    ((strides, lists),) = calls
    assert strides == STRIDES and [len(of_argument) for of_argument in lists] == [5] * (dim - 2)
    assert same(generator.grid_anchors(GRIDS, "cpu"), of_cells(generator))


@dims
def test_state_of_a_subclass(dim):
    class Named(CLASSES[dim]):
        def __init__(self, *, name, **arguments):
            super().__init__(**arguments)
            self.name = name

        def __getstate__(self):
            return {key: value for key, value in vars(self).items() if key not in ("name", "grid")}

        def __setstate__(self, state):
            vars(self).update(state, name="restored", _is_made=False)

        def again(self):
            return self.__class__(name="again", **arguments_of(dim))

    generator = Named(name="first", **arguments_of(dim))
    other = copy.deepcopy(generator)
    assert (generator.name, other.name, generator.again().name) == ("first", "restored", "again")
    for each in (generator, other, generator.again()):
        assert same(each.grid_anchors(GRIDS, "cpu"), expected(arguments_of(dim), GRIDS))


@dims
def test_saved_and_shown(dim):
    generator = CLASSES[dim](**arguments_of(dim)).half()
    file = io.BytesIO()
    torch.save(generator, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(generator))):
        assert same(other.grid_anchors(GRIDS, "cpu"), of_cells(generator))
        other.cell_anchors[0].mul_(2)
        assert same(other.grid_anchors(GRIDS, "cpu"), of_cells(other))
    assert NAMES[dim] in repr(generator) and "strides=[4, 8, 16, 32, 64]" in repr(generator)


def test_from_config_of_a_subclass():
    class Configured(compat.DefaultAnchorGenerator):
        @classmethod
        def from_config(cls, cfg):
            return {"sizes": [cfg], "aspect_ratios": [1], "strides": [8]}

    assert Configured(32).cell_anchors[0].tolist() == [[-16, -16, 16, 16]]
    with pytest.raises(TypeError, match=r"cfg is \[\[32\]\]; expected .* by name"):
        compat.DefaultAnchorGenerator([[32]], [[1]])


# What users pass.


@dims
def test_fewer_feature_maps_than_levels(dim, device, detectron2):
    generator = CLASSES[dim](**arguments_of(dim, strides=[4, 7.3, 12, 32, 64]))
    references = expected(arguments_of(dim, strides=[4, 7.3, 12, 32, 64]), GRIDS)
    features = [torch.zeros(1, 1, *grid, dtype=torch.int32, device=device) for grid in GRIDS]
    for count in range(6):
        assert same([boxes.tensor for boxes in generator(features[:count])], references[:count])
        assert same(generator.grid_anchors(GRIDS[:count], device), references[:count])
    for call in (lambda: generator([*features, features[0]]), lambda: generator.grid_anchors([*GRIDS, (1, 1)])):
        with pytest.raises(compat.check.CompatError, match=r"(features|grid_sizes) .*expected .*at most 5"):
            call()
    for wrong in ([3], [torch.zeros(4)], [None]):
        with pytest.raises(compat.check.CompatError, match=r"features\[0\] is .*expected"):
            generator(wrong)
    assert same([boxes.tensor for boxes in generator(dict(enumerate(features)).values())], references)


KINDS = {
    "ListConfig": list_config,
    "array": np.array,
    "list of arrays": lambda values: [np.array(value) for value in values] if isinstance(values[0], list) else values,
    "list of NumPy's numbers": lambda values: [
        [np.float64(number) for number in value] if isinstance(value, list) else np.int64(value) for value in values
    ],
    "tensor": lambda values: torch.tensor(values, dtype=torch.float64),
    "list of tensors": lambda values: [torch.tensor(value, dtype=torch.float64) for value in values],
}


@dims
@pytest.mark.parametrize("kind", [pytest.param("ListConfig", marks=pytest.mark.peers), *list(KINDS)[1:]])
def test_kinds_of_lists(kind, dim):
    arguments = arguments_of(dim, sizes=[[32, 7]] * 5, offset=0.3)
    converted = {name: KINDS[kind](value) if name != "offset" else value for name, value in arguments.items()}
    generator = CLASSES[dim](**converted)
    grids = KINDS[kind]([list(grid) for grid in GRIDS])
    grids = grids.to(torch.int32) if isinstance(grids, torch.Tensor) else grids
    if kind in ("ListConfig", "array", "tensor", "list of arrays"):
        grids = [grid.long() if isinstance(grid, torch.Tensor) else grid for grid in grids]
        assert same(generator.grid_anchors(grids, "cpu"), expected(arguments, GRIDS))
    assert same(generator.grid_anchors(GRIDS, "cpu"), expected(arguments, GRIDS))
    assert generator.num_features == 5


@dims
def test_ranges_and_single_precision(dim):
    arguments = arguments_of(dim, sizes=range(3, 5), aspect_ratios=range(1, 3), strides=range(7, 9))
    assert same(CLASSES[dim](**arguments).grid_anchors(GRIDS[:2], "cpu"), expected(arguments, GRIDS[:2]))
    # Numbers of single precision compute in single precision.
    strides = [np.float32(4.1), torch.tensor(12.7)]
    for offset in (0, 0.3, np.float32(0.3)):
        arguments = arguments_of(dim, sizes=[np.float32(31.3)], strides=strides, offset=offset)
        for grid in [(count, 3) for count in range(1, 60)]:
            ours = CLASSES[dim](**arguments).grid_anchors([grid, grid], "cpu")
            assert same(ours, expected(arguments, [grid, grid])), (offset, grid)


@dims
@pytest.mark.parametrize("name", ["sizes", "aspect_ratios", "angles"])
@pytest.mark.parametrize("value", [[[8.0], 16], [8, [16.0]], ([8.0], 16), [np.array([8.0]), 16]])
def test_mixed_nesting(value, name, dim):
    name = "sizes" if name == "angles" and dim == 4 else name
    with pytest.raises(compat.check.CompatError, match=rf"^{name} is .*8.*16.*; expected .*2 in all"):
        CLASSES[dim](**arguments_of(dim, **{"sizes": [8], "strides": [4, 8], name: value}))


@dims
def test_limits_name_the_users_arguments(dim):
    turns = {"angles": [0]} if dim == 5 else {}
    named = "sizes, aspect_ratios, angles" if dim == 5 else "sizes, aspect_ratios"
    with pytest.raises(compat.check.CompatError, match=rf"^{named} make 514 .*\[257, 257\]; expected at most 512"):
        CLASSES[dim](sizes=range(1, 258), aspect_ratios=[1], strides=[4, 8], **turns)
    with pytest.raises(compat.check.CompatError, match=r"^strides has 17 levels; expected 1 to 16"):
        CLASSES[dim](sizes=[1], aspect_ratios=[1], strides=[4] * 17, **turns)


# Graphs.


class Detector(torch.nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, image):
        return [boxes.tensor for boxes in self.generator([image[..., ::8, ::8], image[..., ::16, ::16]])]


@dims
def test_compiled(dim, detectron2):
    """What was changed before is in the graph; a subclass's own method as well; a later change makes another graph."""

    class Shifted(CLASSES[dim]):
        def _grid_anchors(self, grid_sizes):
            return [anchors + 1 for anchors in super()._grid_anchors(grid_sizes)]

    for cls in (CLASSES[dim], Shifted):
        torch._dynamo.reset()
        detector = Detector(cls(**arguments_of(dim, sizes=[31.3], strides=[8, 16])))
        detector.generator.offset = 0.25
        detector.half()
        compiled = torch.compile(detector, fullgraph=True, dynamic=True, backend="eager")
        for shape in ((64, 96), (61, 100), (128, 333)):
            image = torch.zeros(1, 3, *shape)
            assert all(map(reference.same_bits, compiled(image), detector(image)))
        detector.generator.strides = [9, 7.3]
        assert all(map(reference.same_bits, compiled(image), detector(image)))


@dims
@pytest.mark.parametrize("strict", [True, False])
def test_exported(strict, dim, detectron2, recwarn):
    detector = Detector(CLASSES[dim](**arguments_of(dim, sizes=[31.3], strides=[8, 16])).half())
    image = torch.zeros(1, 3, 64, 96)
    exported = torch.export.export(detector, (image,), strict=strict)
    assert all(map(reference.same_bits, exported.module()(image), detector(image)))
    assert not [warning for warning in recwarn if "during export" in str(warning.message)]
    detector.generator.cell_anchors[0].mul_(2)  # is followed as before
    assert same(detector(image), of_cells(detector.generator, [(8, 12), (4, 6)]))


# detectron2 itself


@pytest.mark.detectron2
@dims
def test_the_original_converted_and_changed(dim):
    original = pytest.importorskip("detectron2.modeling.anchor_generator", exc_type=ImportError)
    features = [torch.zeros(1, 1, *grid) for grid in GRIDS]
    for conversion, dtype in CONVERSIONS.items():
        pair = [cls(**arguments_of(dim, sizes=[31.3])) for cls in (CLASSES[dim], getattr(original, NAMES[dim]))]
        for generator in pair:
            getattr(generator, conversion)()
            generator.strides, generator.offset = [7.3, 8, 9, 32], 0.3
            list(generator.cell_anchors)[1].mul_(1.7)
        ours, theirs = (generator._grid_anchors(GRIDS[:3]) for generator in pair)
        assert same(ours, theirs) and theirs[0].dtype == dtype
        ours, theirs = ([boxes.tensor for boxes in generator(features[:3])] for generator in pair)
        assert same(ours, theirs)
        assert pair[0].num_anchors == pair[1].num_anchors
    missing = {name for name in dir(pair[1]) if name not in dir(pair[0])}
    assert not missing
