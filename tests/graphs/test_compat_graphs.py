"""The drop-ins inside of the user's graph: compiled, exported, traced, faked; the same bits as eager at every size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anchor_ext.compat import detectron2, effdet, mmdet, torchvision, ultralytics

pytestmark = pytest.mark.quick

STRIDES = [8, 16]
SHAPES = [(96, 160), (61, 100), (128, 333)]


class Features(nn.Module):
    """Feature maps of an image, as a backbone makes them."""

    def forward(self, image):
        return [image[..., ::stride, ::stride] for stride in STRIDES]


class Images:
    """What torchvision's ImageList is to a generator."""

    def __init__(self, tensors, image_sizes):
        self.tensors, self.image_sizes = tensors, image_sizes


class Torchvision(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.features, self.generator = Features(), make()

    def forward(self, image):
        return self.generator(Images(image, [(1, 1)] * 2), self.features(image))


class Sizes(nn.Module):
    """A generator that is asked with the sizes of the feature maps."""

    def __init__(self, make, call):
        super().__init__()
        self.features, self.generator, self.call = Features(), make(), call

    def forward(self, image):
        return self.call(self.generator, [feature.shape[-2:] for feature in self.features(image)], image)


class Ultralytics(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = Features()

    def forward(self, image):
        return list(ultralytics.make_anchors(self.features(image), STRIDES))


def anchors_of_mmdet():
    return mmdet.AnchorGenerator(STRIDES, [0.5, 1.0, 2.0], [4, 5.5])


MODULES = {
    "torchvision AnchorGenerator": lambda: Torchvision(
        lambda: torchvision.AnchorGenerator(((32, 40), (64,)), ((0.5, 1.0), (1.0, 2.0)))
    ),
    "torchvision DefaultBoxGenerator": lambda: Torchvision(lambda: torchvision.DefaultBoxGenerator([[2], [2, 3]])),
    "torchvision DefaultBoxGenerator, steps": lambda: Torchvision(
        lambda: torchvision.DefaultBoxGenerator([[2], [3]], steps=[8, 15])
    ),
    "detectron2 DefaultAnchorGenerator": lambda: Sizes(
        lambda: detectron2.DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[0.5, 1]], strides=STRIDES, offset=0.3),
        lambda generator, sizes, image: generator.grid_anchors(sizes, image.device),
    ),
    "detectron2 RotatedAnchorGenerator": lambda: Sizes(
        lambda: detectron2.RotatedAnchorGenerator(
            sizes=[[32]], aspect_ratios=[[0.5, 1]], strides=STRIDES, angles=[[0, 30]]
        ),
        lambda generator, sizes, image: generator.grid_anchors(sizes, image.device),
    ),
    "mmdet grid_priors": lambda: Sizes(
        anchors_of_mmdet, lambda generator, sizes, image: generator.grid_priors(sizes, device=image.device)
    ),
    "mmdet valid_flags": lambda: Sizes(
        anchors_of_mmdet,
        lambda generator, sizes, image: generator.valid_flags(sizes, image.shape[-2:], device=image.device),
    ),
    "mmdet sparse_priors": lambda: Sizes(
        anchors_of_mmdet,
        lambda generator, sizes, image: [
            generator.sparse_priors(image.new_ones(5, dtype=torch.int64), sizes[1], 1),
            generator.sparse_priors(image.new_ones(5, dtype=torch.int64), sizes),
        ],
    ),
    "mmdet MlvlPointGenerator": lambda: Sizes(
        lambda: mmdet.MlvlPointGenerator(STRIDES),
        lambda generator, sizes, image: generator.grid_priors(sizes, device=image.device),
    ),
    "ultralytics make_anchors": Ultralytics,
}


@pytest.fixture(params=MODULES)
def module(request) -> nn.Module:
    return MODULES[request.param]()


def same(ours, expected) -> bool:
    pairs = list(zip(ours, expected, strict=True))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_compiles_in_one_graph(module):
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=count)
    for shape in SHAPES:
        image = torch.zeros(2, 3, *shape)
        assert same(compiled(image), module(image)), shape
    assert len(graphs) == 1


def test_exports(module):
    sides = {name: torch.export.Dim(name, min=32, max=4096) for name in ("height", "width")}
    dynamic = {"image": {2: sides["height"], 3: sides["width"]}}
    exported = torch.export.export(module, (torch.zeros(2, 3, 96, 160),), dynamic_shapes=dynamic, strict=False)
    for shape in SHAPES:
        image = torch.zeros(2, 3, *shape)
        assert same(exported.module()(image), module(image)), shape


def test_grids_without_cells_in_a_graph():
    torch._dynamo.reset()
    generator = anchors_of_mmdet()

    def run(image):
        sizes = [(image.shape[0], 3), image.shape]
        index = torch.tensor([], dtype=torch.int64)
        return [*generator.grid_priors(sizes, torch.float16), generator.sparse_priors(index, sizes[0], 0)]

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((0, 4), (2, 0), (3, 5)):
        image = torch.zeros(shape)
        assert same(compiled(image), run(image)), shape


def test_traced_for_one_size(module):
    image = torch.zeros(2, 3, *SHAPES[0])
    traced = torch.jit.trace(lambda image: [tensor.clone() for tensor in module(image)], image)
    assert same(traced(image), module(image))


@pytest.mark.parametrize("name", MODULES)
def test_constructed_and_called_under_fake_tensors(name):
    with FakeTensorMode():
        module = MODULES[name]()
        fake = module(torch.zeros(2, 3, *SHAPES[1]))
    real = module(torch.zeros(2, 3, *SHAPES[1]))
    assert [(a.shape, a.dtype) for a in fake] == [(b.shape, b.dtype) for b in real]
    assert same(real, MODULES[name]()(torch.zeros(2, 3, *SHAPES[1])))


def test_effdet_under_fake_tensors():
    with FakeTensorMode():
        boxes = effdet.Anchors(3, 4, 2, [(1.0, 1.0)], 4.0, (64, 80)).boxes
    assert boxes.shape == effdet.Anchors(3, 4, 2, [(1.0, 1.0)], 4.0, (64, 80)).boxes.shape
