"""anchor_ext.compat.detectron2 where it meets detectron2: TorchScript, and the places that `register` reaches."""

from __future__ import annotations

import copy
import io
import sys
import types

import pytest
import reference
import torch
from test_compat_detectron2 import CLASSES, NAMES, arguments_of, dims, stand_in
from test_compat_detectron2 import detectron2 as detectron2  # a fixture

from anchor_ext.compat import detectron2 as compat

pytestmark = pytest.mark.quick
script = [
    pytest.mark.skipif(not hasattr(torch.jit, "script"), reason="torch has no TorchScript any more"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SIZES = [(5, 7), (3, 4), (1, 2)]


class Boxes:
    """What TorchScript, too, knows of detectron2's."""

    def __init__(self, tensor):
        self.tensor = tensor.to(torch.float32)


class RotatedBoxes:
    def __init__(self, tensor):
        self.tensor = tensor.to(torch.float32)


@pytest.fixture
def scriptable(monkeypatch):
    played = stand_in(monkeypatch)
    for cls in (Boxes, RotatedBoxes):
        monkeypatch.setattr(sys.modules["detectron2.structures"], cls.__name__, cls)
    return played


def features(sizes=SIZES, device="cpu") -> list[torch.Tensor]:
    return [torch.zeros(1, 1, *size, device=device) for size in sizes]


def agree(scripted, generator, device="cpu") -> bool:
    """At any size, of as many feature maps as there are, or of fewer."""
    answers = []
    for sizes in (SIZES, SIZES[:2], SIZES[:1], [], [(1, 1), (41, 3), (3, 96)]):
        ours, eager = scripted(features(sizes, device)), generator(features(sizes, device))
        answers.append(len(ours) == len(eager) == len(sizes))
        answers += [
            reference.same_bits(a.tensor, b.tensor) and a.tensor.device == b.tensor.device
            for a, b in zip(ours, eager, strict=True)
        ]
    return all(answers)


def odd_arguments(dim: int, **changed):
    odd = {"sizes": [[31.3], [64, 3], [7]], "strides": [8, 7.3, 0.1], "offset": 0.3}
    return arguments_of(dim, **{**odd, **changed})


@dims
class TestScripted:
    pytestmark = script

    def test_gives_eagers_bits(self, dim, device, scriptable):
        for arguments in (odd_arguments(dim), odd_arguments(dim, offset=0), odd_arguments(dim, strides=range(7, 10))):
            generator = CLASSES[dim](**arguments)
            scripted = torch.jit.script(generator)
            assert agree(scripted, generator, device)
            file = io.BytesIO()
            torch.jit.save(scripted, file)
            file.seek(0)
            assert agree(torch.jit.load(file), generator, device)

    def test_leaves_the_generator_as_it_was(self, dim, scriptable):
        detector = torch.nn.ModuleList([CLASSES[dim](**odd_arguments(dim))])
        before = detector[0]
        torch.jit.script(detector)
        assert detector[0] is before and type(before) is CLASSES[dim]
        again = copy.deepcopy(before)
        again.strides = [3, 4, 5]
        assert agree(torch.jit.script(again), again) and agree(torch.jit.script(before), before)

    def test_what_was_changed_before_is_in_it(self, dim, scriptable):
        generator = CLASSES[dim](**odd_arguments(dim))
        generator.strides, generator.offset = [9, 12.7, 3], 0.1
        for convert in (torch.nn.Module.half, torch.nn.Module.double):
            convert(generator).cell_anchors[1].mul_(3)
            assert agree(torch.jit.script(generator), generator)

    def test_attributes(self, dim, scriptable):
        generator = CLASSES[dim](**odd_arguments(dim, strides=[8, 16, 32]))
        scripted = torch.jit.script(generator)
        assert scripted.box_dim == dim and scripted.num_features == 3
        for name in ("num_anchors", "num_cell_anchors", "strides", "offset"):
            assert getattr(scripted, name) == getattr(generator, name)
        assert all(map(torch.equal, scripted.buffers(), generator.buffers()))

    def test_a_subclass_of_its_own_grids(self, dim, scriptable):
        class Own(CLASSES[dim]):
            def _grid_anchors(self, grid_sizes: list[list[int]]):
                anchors: list[torch.Tensor] = []
                for size, stride in zip(grid_sizes, self.strides):  # noqa: B905  # TorchScript knows no strict
                    anchors.append(torch.full((size[0] * size[1], self.box_dim), stride + self.offset))
                return anchors

        generator = Own(**arguments_of(dim, strides=[4, 8, 16], sizes=[3]))
        assert agree(torch.jit.script(generator), generator)
        assert generator(features())[1].tensor[0, 0] == 8.5

    def test_a_subclass_that_asks_grid_anchors(self, dim, scriptable):
        class Asking(CLASSES[dim]):
            def forward(self, features: list[torch.Tensor]):
                return self._grid_anchors([[feature.shape[-2], feature.shape[-1]] for feature in features])

        generator = Asking(**odd_arguments(dim))
        assert all(map(reference.same_bits, torch.jit.script(generator)(features()), generator(features())))

    def test_refuses_what_eager_refuses(self, dim, scriptable):
        scripted = torch.jit.script(CLASSES[dim](**odd_arguments(dim)))
        with pytest.raises(torch.jit.Error, match="4 features; expected at most 3"):
            scripted(features([*SIZES, (1, 1)]))


# register


@pytest.fixture
def imported(monkeypatch, detectron2):
    """Modules that have imported the generators by name, as detectron2's FCOS and users have."""
    generators = {NAMES[dim]: cls for dim, cls in detectron2.original.items()}
    vars(sys.modules["detectron2.modeling.anchor_generator"]).update(generators)
    for name in ("detectron2.modeling.fcos", "detectron2_of_mine", "mine"):
        module = types.ModuleType(name)
        module.Stock = generators[NAMES[4]]
        module.other = detectron2.other
        monkeypatch.setitem(sys.modules, name, module)
    return detectron2


def test_register_reaches_every_module_of_detectron2(imported):
    report = compat.register()
    home, fcos = (sys.modules[f"detectron2.modeling.{name}"] for name in ("anchor_generator", "fcos"))
    assert fcos.Stock is home.DefaultAnchorGenerator is compat.DefaultAnchorGenerator
    assert home.RotatedAnchorGenerator is compat.RotatedAnchorGenerator
    assert fcos.other is imported.other
    assert sys.modules["mine"].Stock is sys.modules["detectron2_of_mine"].Stock is imported.original[4]
    places = "ANCHOR_GENERATOR_REGISTRY, detectron2.modeling.anchor_generator"
    assert report.splitlines() == [
        f"DefaultAnchorGenerator of anchor_ext is in {places}, detectron2.modeling.fcos",
        "DefaultAnchorGenerator of detectron2 is still in detectron2_of_mine, mine",
        f"RotatedAnchorGenerator of anchor_ext is in {places}",
    ]


def test_register_twice(imported):
    first = compat.register()
    assert compat.register() == first
    sys.modules["detectron2.modeling.fcos"].Stock = imported.original[4]  # imported from somewhere meanwhile
    assert compat.register() == first
    assert sys.modules["detectron2.modeling.fcos"].Stock is compat.DefaultAnchorGenerator
    assert {name for name, _ in imported.registry} == {*NAMES.values(), "SomebodysGenerator"}


# detectron2 itself


@pytest.mark.detectron2
class TestOriginal:
    pytestmark = script

    def test_scripting_with_instances(self):
        """A model as detectron2 exports it: with classes of its own in place of Instances and Boxes."""
        export = pytest.importorskip("detectron2.export", exc_type=ImportError)
        structures = pytest.importorskip("detectron2.structures")
        original = pytest.importorskip("detectron2.modeling.anchor_generator")
        for dim, cls in CLASSES.items():
            generators = [made(**odd_arguments(dim)).eval() for made in (cls, getattr(original, NAMES[dim]))]
            scripted = export.scripting_with_instances(generators[0], {"boxes": structures.Boxes})
            assert agree(scripted, generators[1])

    def test_subclasses_of_the_original_registry(self):
        config = pytest.importorskip("detectron2.config", exc_type=ImportError)

        class Mine(compat.DefaultAnchorGenerator):
            @config.configurable
            def __init__(self, *, extra, **arguments):
                super().__init__(**arguments)
                self.extra = extra

            @classmethod
            def from_config(cls, cfg, input_shape):
                return {**super().from_config(cfg, input_shape), "extra": cfg.VERSION}

        shapes = [types.SimpleNamespace(stride=8)]
        assert Mine(config.get_cfg(), shapes).extra == 2
        made = config.instantiate(config.LazyCall(Mine)(sizes=[[8]], aspect_ratios=[1.0], strides=[8], extra=3))
        assert made.extra == 3 and made.num_anchors == [1]
