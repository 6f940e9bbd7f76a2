"""What users do around torchvision's drop-ins: assign, override, script, export, pickle; beside the original."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import types
import warnings

import pytest
import reference
import torch
from conftest import DTYPES
from test_compat_torchvision import images, maps
from torch import nn

from anchor_ext.compat import torchvision as ours

try:
    from torchvision.models import detection
    from torchvision.models.detection import anchor_utils as theirs
    from torchvision.models.detection.image_list import ImageList
except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
    pytest.skip(f"no torchvision to compare with: {error}", allow_module_level=True)

pytestmark = pytest.mark.peers

ARGUMENTS = {
    "AnchorGenerator": {"sizes": ((31.3,), (64, 100)), "aspect_ratios": ((0.5, 1.0, 2.0),) * 2},
    "DefaultBoxGenerator": {"aspect_ratios": [[2], [2, 3]], "scales": [0.6, 0.9, 1.2], "steps": [8.3, 16]},
}
names = pytest.mark.parametrize("name", ARGUMENTS)
GRIDS = [(7, 9), (4, 5)]


def made(kind, name: str, **changes):
    return getattr(kind, name)(**{**copy.deepcopy(ARGUMENTS[name]), **changes})


def boxes_of(generator, dtype=torch.float32, grids=GRIDS, shape=(60, 75)) -> torch.Tensor:
    return generator(images(*shape), maps(grids, dtype))[0]


def assign_cell_anchors(generator):
    generator.cell_anchors = [torch.tensor([[-1.5, -2.0, 1.0, 2.0]]), torch.tensor([[-9.0, -7.0, 3.0, 7.1]] * 3)]


def replace_one(generator):
    generator.cell_anchors[1] = torch.tensor([[-9.0, -7.0, 3.0, 7.1]])


def write_into_one(generator):
    generator.cell_anchors[0][1] += 3.25


def set_cell_anchors(generator):
    generator.set_cell_anchors(torch.bfloat16, torch.device("cpu"))


def assign_sizes(generator):
    generator.sizes = ((1,), (2,))  # of which no anchors are made any more


def assign_steps(generator):
    generator.steps = [4, 7.7]


def write_into_steps(generator):
    generator.steps[1] = 33


def without_steps(generator):
    generator.steps = None


def assign_clip(generator):
    generator.clip = not generator.clip


def assign_pairs(generator):
    generator._wh_pairs = [torch.tensor([[0.25, 0.3]]), torch.tensor([[0.1, 2.0], [0.5, 0.6]])]


def write_into_pairs(generator):
    generator._wh_pairs[0].mul_(0.7)


def grid_anchors(self, grid_sizes, strides):
    return [torch.full((4, 4), float(sum(sum(map(int, pair)) for pair in strides)))]


def grid_default_boxes(self, grid_sizes, image_size, dtype=torch.float32):
    return torch.tensor([[0.5, 0.25, 0.1, 0.7]]).to(dtype)


def own_grid_anchors(generator):
    generator.grid_anchors = types.MethodType(grid_anchors, generator)


def own_default_boxes(generator):
    generator._grid_default_boxes = types.MethodType(grid_default_boxes, generator)


CHANGES = {
    "AnchorGenerator": [
        assign_cell_anchors, replace_one, write_into_one, set_cell_anchors, assign_sizes, own_grid_anchors,
    ],
    "DefaultBoxGenerator": [
        assign_steps, write_into_steps, without_steps, assign_clip, assign_pairs, write_into_pairs, own_default_boxes,
    ],
}  # fmt: skip
changes = pytest.mark.parametrize("name, change", [(name, change) for name in CHANGES for change in CHANGES[name]])


@changes
@pytest.mark.parametrize("used", [False, True])
def test_what_is_changed_after_construction_counts(name, change, used):
    results = []
    for kind in (theirs, ours):
        generator = made(kind, name)
        before = boxes_of(generator) if used else None
        change(generator)
        results.append(boxes_of(generator))
        without_effect = change in (assign_sizes, set_cell_anchors)
        assert before is None or without_effect or not torch.equal(before, results[-1])
    assert reference.same_bits(*results)


@changes
def test_a_copy_is_its_own(name, change):
    generator = made(ours, name)
    before = boxes_of(generator)
    change(copy.deepcopy(generator))
    assert torch.equal(boxes_of(generator), before)
    change(generator)
    again = pickle.loads(pickle.dumps(generator)) if "own" not in change.__name__ else copy.deepcopy(generator)
    assert torch.equal(boxes_of(again), boxes_of(generator))


def test_attributes_that_do_not_fit_each_other():
    generator = made(ours, "DefaultBoxGenerator")
    generator.steps = [8]
    with pytest.raises(ValueError, match=r"steps is \[8\]; expected a sequence of numbers, 2 in all"):
        boxes_of(generator)
    generator._wh_pairs = generator._wh_pairs[:1]
    assert torch.equal(boxes_of(generator, grids=GRIDS[:1]), boxes_of(generator, grids=GRIDS[:1]))
    generator = made(ours, "AnchorGenerator")
    generator.cell_anchors = [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"cell_anchors\[0\] is \[1, 2, 3, 4\]; expected a tensor \(A, 4\)"):
        boxes_of(generator, grids=GRIDS[:1])


@changes
def test_a_compiled_model_sees_what_was_assigned(name, change):
    if "assign" not in change.__name__ and "own" not in change.__name__:
        return
    generator, eager = made(ours, name), made(ours, name)
    batch, features = ImageList(torch.zeros(1, 3, 60, 75), [(60, 75)]), maps(GRIDS)
    compiled = torch.compile(lambda: generator(batch, features)[0], backend="eager")
    compiled()
    change(generator)
    change(eager)
    assert torch.equal(compiled(), boxes_of(eager))


def subclasses(kind):
    class OwnGrids(kind.AnchorGenerator):
        grid_anchors = grid_anchors

    class OwnSet(kind.AnchorGenerator):
        def set_cell_anchors(self, dtype, device):
            self.cell_anchors = [cells.to(dtype) + 1 for cells in self.cell_anchors]

    class Shifted(kind.AnchorGenerator):
        def grid_anchors(self, grid_sizes, strides):
            return [anchors + 100 for anchors in super().grid_anchors(grid_sizes, strides)]

    class OwnCells(kind.AnchorGenerator):
        def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu"):
            return super().generate_anchors(scales, aspect_ratios, dtype, device) * 1.5

    class OwnBoxes(kind.DefaultBoxGenerator):
        def _grid_default_boxes(self, grid_sizes, image_size, dtype=torch.float32):
            return super()._grid_default_boxes(grid_sizes, image_size, dtype) * 0.5

    class OwnPairs(kind.DefaultBoxGenerator):
        def _generate_wh_pairs(self, num_outputs, dtype=torch.float32, device="cpu"):
            return [pairs * 0.5 for pairs in super()._generate_wh_pairs(num_outputs, dtype, device)]

    class OwnForward(kind.AnchorGenerator):
        def forward(self, image_list, feature_maps):
            return [boxes - 1 for boxes in super().forward(image_list, feature_maps)]

    return [OwnGrids, OwnSet, Shifted, OwnCells, OwnForward, OwnBoxes, OwnPairs]


@pytest.mark.parametrize("which", range(7))
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_subclass_overrides_is_called(which, dtype):
    results = []
    for kind in (theirs, ours):
        cls = subclasses(kind)[which]
        results.append(boxes_of(cls(**ARGUMENTS[cls.__mro__[1].__name__]), dtype))
    assert reference.same_bits(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strides", [[(8, 8), (16, 17)], [(8.3, 7.7), (16.0, 16.1)]])
@pytest.mark.parametrize("form", [tuple, torch.tensor])
def test_grid_anchors_at_given_strides(dtype, strides, form):
    results = []
    for kind in (theirs, ours):
        generator = made(kind, "AnchorGenerator")
        generator.set_cell_anchors(dtype, torch.device("cpu"))
        given = strides if form is tuple else [[torch.tensor(stride) for stride in pair] for pair in strides]
        results.append(generator.grid_anchors(GRIDS, given))
    for expected, result in zip(*results, strict=True):
        assert reference.same_bits(result, expected)


def test_fewer_feature_maps_than_levels():
    expected = boxes_of(made(theirs, "DefaultBoxGenerator"), grids=GRIDS[:1])
    assert reference.same_bits(boxes_of(made(ours, "DefaultBoxGenerator"), grids=GRIDS[:1]), expected)


@pytest.mark.parametrize("form", ["array", "tensor", "configuration", "scalars"])
def test_numbers_of_any_kind(form):
    numpy = pytest.importorskip("numpy")
    configuration = pytest.importorskip("omegaconf").OmegaConf if form == "configuration" else None
    as_form = {
        "array": numpy.array,
        "tensor": functools.partial(torch.tensor, dtype=torch.float64),
        "scalars": lambda values: [[numpy.float64(value) for value in row] for row in values],
        "configuration": lambda values: configuration.create(values),
    }[form]
    sizes, ratios, steps = [[32.0, 48.0], [64.0, 96.0]], [[0.5, 1.0, 2.0]] * 2, [8.0, 16.0]
    given = ours.AnchorGenerator(as_form(sizes), as_form(ratios))
    assert torch.equal(boxes_of(given), boxes_of(theirs.AnchorGenerator(tuple(sizes), tuple(ratios))))
    assert given.num_anchors_per_location() == [6, 6]
    of_ratios = as_form([[2.0, 3.0]] * 2)
    given = ours.DefaultBoxGenerator(of_ratios, steps=as_form([steps])[0], scales=as_form([[0.1, 0.4, 1.0]])[0])
    expected = theirs.DefaultBoxGenerator([[2.0, 3.0]] * 2, steps=steps, scales=[0.1, 0.4, 1.0])
    assert torch.equal(boxes_of(given), boxes_of(expected))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sizes": [[8], 16]}, r"sizes is \[\[8\], 16\]; expected numbers, or a sequence of numbers per level"),
        ({"sizes": (8, [16])}, r"sizes is \(8, \[16\]\); expected numbers"),
        ({"aspect_ratios": ((1.0,),) * 3}, "aspect_ratios is .*; expected at most 2 sequences, as sizes has"),
        ({"sizes": ((range(1, 99),) * 2)}, "the number of sizes times aspect_ratios is 588; expected at most 512"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(ours, "AnchorGenerator", **arguments)


# Pickles


class Counted(ours.AnchorGenerator):
    """Has state of its own, and says so."""

    calls = 0

    def __getstate__(self):
        return {**self.__dict__, "calls": self.calls + 1}

    def __setstate__(self, state):
        super().__setstate__({**state, "restored": True})


class Reduced(ours.AnchorGenerator):
    def __reduce__(self):
        return Reduced, (self.sizes, self.aspect_ratios), {"extra": "kept"}


def test_a_subclass_pickles_its_own_way():
    again = pickle.loads(pickle.dumps(Counted(**ARGUMENTS["AnchorGenerator"])))
    assert again.calls == 1 and again.restored and type(again) is Counted
    again = copy.deepcopy(Reduced(**ARGUMENTS["AnchorGenerator"]))
    assert again.extra == "kept" and type(again) is Reduced
    assert torch.equal(boxes_of(again), boxes_of(made(theirs, "AnchorGenerator")))


@names
def test_saved_with_weights_only(name):
    file = io.BytesIO()
    generator = made(ours, name)
    torch.save(generator, file)
    file.seek(0)
    with torch.serialization.safe_globals([getattr(ours, name)]):
        assert torch.equal(boxes_of(torch.load(file, weights_only=True)), boxes_of(generator))


# TorchScript


@names
@pytest.mark.parametrize("dtype", DTYPES)
def test_scripted(name, dtype, device):
    class Head(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.anchors = made(kind, name)

        def forward(self, image_list: ImageList, feature_maps: list[torch.Tensor]):
            return self.anchors(image_list, feature_maps), self.anchors.num_anchors_per_location()

    batch = ImageList(torch.zeros(2, 3, 60, 75, device=device), [(60, 75)] * 2)
    features = [torch.zeros(2, 1, *grid, dtype=dtype, device=device) for grid in GRIDS]
    expected, counts = Head(theirs)(batch, [feature.cpu() for feature in features])
    eager = Head(ours)
    scripted = torch.jit.script(eager)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for program in (scripted, torch.jit.load(file), eager):
        result, result_counts = program(batch, features)
        assert list(result_counts) == counts and len(result) == 2
        for boxes, of_image in zip(result, expected, strict=True):
            assert reference.same_bits(boxes, of_image)


def test_a_subclass_with_its_own_methods_is_not_scripted_away():
    class Own(ours.AnchorGenerator):
        grid_anchors = grid_anchors

    with pytest.raises(ValueError, match="Own is scripted with set_cell_anchors and grid_anchors of its own"):
        torch.jit.script(Own())


MODELS = [
    "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "ssd300_vgg16",
]  # fmt: skip


def with_ours(model):
    """The detector with the drop-in of the same configuration."""
    owner = model.rpn if hasattr(model, "rpn") else model
    old = owner.anchor_generator
    if isinstance(old, theirs.DefaultBoxGenerator):
        new = ours.DefaultBoxGenerator(old.aspect_ratios, scales=old.scales, steps=old.steps, clip=old.clip)
    else:
        new = ours.AnchorGenerator(old.sizes, old.aspect_ratios)
    owner.anchor_generator = new
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_detectors_script(name, one_thread):
    torch.manual_seed(0)
    options = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=7, **options).eval()
        picture = [torch.rand(3, 120, 160)]
        with torch.no_grad():
            expected = model(picture)[0]
            result = torch.jit.script(with_ours(model))(picture)[1][0]
    assert expected.keys() == result.keys()
    for key in expected:
        assert torch.equal(expected[key], result[key]), key


# The exporter without dynamo


@names
@pytest.mark.parametrize("opset", [11, 17])
def test_exported_without_dynamo(name, opset, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors = made(ours, name)

        def forward(self, image, a, b):
            return self.anchors(ImageList(image, [(1, 1)]), [a, b])[0]

    path, axes = (
        tmp_path / "head.onnx",
        {name: {2: name + "_rows", 3: name + "_columns"} for name in ("image", "a", "b")},
    )
    first = (torch.rand(1, 3, 64, 96), torch.rand(1, 1, 8, 12), torch.rand(1, 1, 4, 6))
    second = (torch.rand(1, 3, 100, 75), torch.rand(1, 1, 13, 10), torch.rand(1, 1, 7, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Head(), first, path, dynamo=False, opset_version=opset, input_names=list(axes), dynamic_axes=axes
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for inputs in (first, second):
        feeds = {node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), inputs, strict=False)}
        named = dict(zip(axes, inputs, strict=True))
        feeds = {node: named[node].numpy() for node in feeds}
        assert reference.same_bits(torch.from_numpy(session.run(None, feeds)[0]), Head()(*inputs))


@pytest.mark.slow
def test_a_detector_exported_without_dynamo(tmp_path, one_thread):
    pytest.importorskip("onnx")
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            with_ours(model), ([torch.rand(3, 128, 160)],), tmp_path / "model.onnx", dynamo=False, opset_version=17
        )
