"""Inside torch.compile: one graph for every image size, the bits of the eager call, the same errors."""

from __future__ import annotations

import copy
import os
import pickle
import random
from unittest import mock

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import anchor_ext
from anchor_ext.compat import mmdet
from anchor_ext.compat.detectron2 import DefaultAnchorGenerator

OWN = {"strides": [7, 16, 33, 64, 127], "sizes": [31, 64, 128, 256, 512], "ratios": (1, 2)}


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path):
    torch._dynamo.reset()
    with mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}):
        yield


class Head(nn.Module):
    """Anchors by every public way, and work whose length is theirs."""

    def __init__(self):
        super().__init__()
        self.anchors = anchor_ext.Anchors()
        self.grid = anchor_ext.AnchorGrid([[(-4, -4, 4, 4)], [(-9, -5, 9, 5), (0, 0, 1, 1)]], [8, 16.5])

    def forward(self, image):
        shape = image.shape[-2:]
        boxes = self.anchors(image)
        own = anchor_ext.generate(shape, device=image.device, **OWN)
        half = anchor_ext.generate(shape, dtype=torch.bfloat16, device=image.device)
        grids = [(shape[0] // 8 + 1, shape[1] // 8 + 1), (shape[0] // 16 + 1, shape[1] // 16 + 1)]
        moved = self.grid(grids, clip=shape, device=image.device)
        flags = self.grid.inside(grids, shape, device=image.device)
        valid = self.grid.valid_flags(grids, shape, device=image.device)
        some = self.grid.at(torch.arange(5, device=image.device), grids)
        levels = self.anchors.split(boxes, shape)
        scores = image.new_ones(boxes.shape[1]).cumsum(0)  # as long as the anchors
        return boxes, own, half, moved, flags, valid, some, boxes[0, :, 2] * scores, *[level + 1 for level in levels]


def sizes(count: int, most: int = 700) -> list[tuple[int, int]]:
    rng = random.Random(count)
    return [(rng.randint(33, most), rng.randint(33, most)) for _ in range(count)]


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("eager", marks=pytest.mark.quick),
        "aot_eager",
        pytest.param("inductor", marks=pytest.mark.slow),
    ],
)
def test_one_graph_for_twenty_sizes(backend, device):
    module, counter = Head().to(device), CompileCounterWithBackend(backend)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for shape in sizes(20):
        image = torch.zeros(2, 3, *shape, device=device)
        for ours, eager in zip(compiled(image), module(image), strict=True):
            assert ours.dtype == eager.dtype and torch.equal(ours, eager), shape
    assert counter.frame_count == 1


def test_a_configuration_that_is_an_attribute():
    """The compiler takes numbers in a module's lists for symbols, where sizes are dynamic."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes, self.ratios = [31.5, 64, 128.1, 256, 512], (0.4, 1, 2.5)

        def forward(self, image):
            return anchor_ext.generate(image.shape[-2:], sizes=self.sizes, ratios=self.ratios, device=image.device) + 0

    model = Model()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for first in (31.5, 40.0):
        model.sizes[0] = first
        for shape in sizes(3):
            assert torch.equal(compiled(torch.zeros(1, 3, *shape)), model(torch.zeros(1, 3, *shape)))


def test_other_anchors_are_other_graphs():
    """The configuration is a constant of the graph, and looked at in every call."""
    model = Head()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    image = torch.zeros(2, 3, 64, 96)
    compiled(image)
    model.anchors = anchor_ext.Anchors(strides=[9, 17, 33, 65, 127])
    assert torch.equal(compiled(image)[0], model.anchors(image))


def test_copies_share_a_graph():
    """What the compiler compares is the text of the anchors, not the object that holds it."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(lambda model, image: model(image), fullgraph=True, dynamic=True, backend=counter)
    model, image = Head(), torch.zeros(2, 3, 64, 96)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), Head()):
        assert all(map(torch.equal, compiled(copied, image), model(image)))
    assert counter.frame_count == 1
    own = Head()
    own.grid = anchor_ext.AnchorGrid([[(-4, -4, 4, 4)], [(-9, -5, 9, 5), (0, 0, 1, 2)]], [8, 16.5])
    assert all(map(torch.equal, compiled(own, image), own(image)))
    assert counter.frame_count == 2


def test_an_image_of_a_size_that_only_the_running_graph_knows():
    """A crop by numbers out of a tensor: no guard hangs on them."""
    anchors = anchor_ext.Anchors()

    def call(image, sides):
        height, width = sides.tolist()
        torch._check(height >= 2)
        torch._check(width >= 2)
        return anchor_ext.generate((height, width), device=image.device) + 0, anchors(image.new_zeros(1, height, width))

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        for shape in sizes(3):
            for boxes in compiled(torch.zeros(1, 3, 8, 8), torch.tensor(shape)):
                assert torch.equal(boxes, anchor_ext.generate(shape, device="cpu"))


def test_nothing_but_the_operator_is_called(device):
    """No copy between host and device, no other kernel: the graph is one call and a view."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    anchors, image = anchor_ext.Anchors(), torch.zeros(1, 3, 64, 96, device=device)
    torch.compile(lambda image: anchors(image), fullgraph=True, dynamic=True, backend=keep)(image)
    targets = [str(node.target) for node in graphs[0].graph.nodes if node.op in ("call_function", "call_method")]
    tensors = [name for name in targets if "built-in" not in name and name not in ("size", "getitem")]
    assert tensors == ["anchor_ext.generate.default", "unsqueeze"]


def test_mmdet_in_16_bits_on_the_first_call():
    generator = mmdet.AnchorGenerator([8, 16], [0.5, 1.0], [4])
    expected = mmdet.AnchorGenerator([8, 16], [0.5, 1.0], [4]).grid_priors([(4, 5), (2, 3)], torch.float16, "cpu")
    compiled = torch.compile(
        lambda: generator.grid_priors([(4, 5), (2, 3)], torch.float16, "cpu"), fullgraph=True, backend="eager"
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(compiled(), expected, strict=True))


CELLS = [[(0.0, 0.0, 1.0, 1.0)]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda image: anchor_ext.generate((0, 8), device="cpu"), r"image_shape is \(0, 8\)"),
        (lambda image: anchor_ext.generate((8, -1), device="cpu"), r"image_shape is \(8, -1\)"),
        (lambda image: anchor_ext.generate((8, 8), sizes=[-1.0] * 5, device="cpu"), r"sizes\[0\] is -1"),
        (lambda image: GRID([(-1, 4)], device="cpu"), r"level_shapes\[0\] is \(-1, 4\)"),
        (lambda image: GRID([(1, 4)], clip=(4, 0), device="cpu"), r"clip is \(4, 0\)"),
        (lambda image: GRID([(1, 4)] * 2, device="cpu"), "level_shapes has 2 levels; expected 1"),
        (lambda image: GRID.at(image.to(torch.int64), [(-1, 4)]), r"level_shapes\[0\] is \(-1, 4\)"),
        (lambda image: GRID.inside([(1, 4)], (0, 3), device="cpu"), r"image_shape is \(0, 3\)"),
        (lambda image: GRID.valid_flags([(1, 4)], (-1, 3), device="cpu"), r"padded_shape is \(-1, 3\)"),
        (lambda image: ANCHORS(image), r"image has shape \(1, 3, 0, 8\)"),
        (lambda image: ANCHORS(image.mean()), "image has shape"),
    ],
)
@pytest.mark.parametrize("fullgraph", [False, True])
def test_errors_are_the_same(call, message, fullgraph):
    image = torch.zeros(1, 3, 0, 8)
    with pytest.raises((TypeError, ValueError), match=message):
        call(image)
    compiled = torch.compile(call, fullgraph=fullgraph, backend="eager")
    with pytest.raises(Exception) as raised:  # the compiler's own, in which ours is
        compiled(image)
    texts, error = [], raised.value
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    assert any(message.replace("\\", "") in text for text in texts), texts


GRID, ANCHORS = anchor_ext.AnchorGrid(CELLS, [8]), anchor_ext.Anchors()
MMDET = mmdet.AnchorGenerator([8, 16], [0.5, 1.0], [4])
DETECTRON2 = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[0.5, 1.0]], strides=[8, 16])
GRIDS = [(4, 5), (2, 3)]


@pytest.mark.parametrize(
    "call",
    [
        lambda image: GRID.split(GRID([(3, 4)], device="cpu"), [(3, 4)]),
        lambda image: [count + image.sum() for count in GRID.num_cell_anchors],
        lambda image: MMDET.grid_priors(GRIDS, device="cpu"),
        lambda image: MMDET.valid_flags(GRIDS, (30, 40), device="cpu"),
        lambda image: DETECTRON2.grid_anchors(GRIDS, "cpu"),
        lambda image: ANCHORS.split(ANCHORS(image), image.shape[-2:]),
    ],
)
def test_generators_of_the_module(call):
    """Not attributes of a model: globals."""
    image = torch.zeros(1, 3, 40, 56)
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert all(map(torch.equal, compiled(image), call(image)))


@pytest.mark.parametrize("shape", [(0, 8), (-8, 8), (8,), (8, 8, 8), (8.5, 8), 8, "ab"], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda shape: anchor_ext.generate(shape, device="cpu"),
        lambda shape: ANCHORS.level_shapes(shape),
        lambda shape: ANCHORS.num_anchors(shape),
        lambda shape: GRID([(-1, 8) if shape == (0, 8) else shape], device="cpu"),
        lambda shape: GRID([(1, 1)], clip=shape, device="cpu"),
    ],
)
def test_odd_shapes_are_refused(shape, call):
    with pytest.raises((TypeError, ValueError), match="expected"):
        call(shape)
    compiled = torch.compile(lambda image: (call(shape), image + 1), backend="eager")
    with pytest.raises((TypeError, ValueError, torch._dynamo.exc.TorchRuntimeError), match="expected"):
        compiled(torch.zeros(1))


@pytest.mark.gpu
def test_reduce_overhead():
    """CUDA graphs of the compiler's own: one per size, replayed."""
    anchors = anchor_ext.Anchors()
    compiled = torch.compile(lambda image: anchors(image) + image[0, 0, 0, 0], mode="reduce-overhead", fullgraph=True)
    for shape in [(640, 832), (320, 416)]:
        for _ in range(4):
            image = torch.rand(1, 3, *shape, device="cuda")
            assert torch.equal(compiled(image).clone(), anchors(image) + image[0, 0, 0, 0])
