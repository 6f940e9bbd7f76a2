"""torch.jit.script and torch.jit.trace: programs that stay good for every image size."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import anchor_ext
from anchor_ext.compat import mmdet
from anchor_ext.compat.torchvision import DefaultBoxGenerator

pytestmark = [
    pytest.mark.quick,
    pytest.mark.skipif(not hasattr(torch.jit, "script"), reason="torch has no TorchScript any more"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SHAPES = [(64, 80), (640, 832), (77, 13), (1, 1)]


def reloaded(program):
    stream = io.BytesIO()
    torch.jit.save(program, stream)
    stream.seek(0)
    return torch.jit.load(stream)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.anchors = anchor_ext.Anchors(strides=[(8, 9.5), 16, 32, 64, 128], sizes=[30.5, 61, 122, 244, 488])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.anchors(image) * 2


def test_scripted(device):
    detector = Detector()
    program = reloaded(torch.jit.script(detector))
    for shape in SHAPES:
        for image in (torch.zeros(2, 3, *shape, device=device), torch.zeros(3, *shape, device=device)):
            assert torch.equal(program(image), detector(image))


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 0, 8), (1, 3, 8, 0)])
def test_scripted_errors(shape):
    with pytest.raises(torch.jit.Error, match="image has shape"):
        torch.jit.script(anchor_ext.Anchors())(torch.zeros(shape))


class Images:
    def __init__(self, tensors):
        self.tensors, self.image_sizes = tensors, [(1, 1)]


class Traced(nn.Module):
    """Sizes that are an image's, by every way that they take into the operator."""

    def __init__(self):
        super().__init__()
        self.detector, self.boxes = Detector(), DefaultBoxGenerator([[2], [2, 3]])
        self.mmdet = mmdet.AnchorGenerator([8, 16], [0.5, 1.0], [4])
        self.grid = anchor_ext.AnchorGrid([[(0, 0, 3, 5, 30)]], [7.7], layout="cxcywha", start=1.5)

    def forward(self, image, index):
        features = [image[..., ::8, ::8], image[..., ::16, ::16]]
        shape = image.shape[-2:]
        return (
            self.detector(image),
            anchor_ext.generate(shape, dtype=torch.bfloat16, device=image.device),
            self.grid([features[0].shape[-2:]], device=image.device),
            self.boxes(Images(image), features)[0],
            self.grid.at(index, [features[0].shape[-2:]]),
            self.grid.inside([features[0].shape[-2:]], shape, device=image.device),
            self.grid.valid_flags([features[0].shape[-2:]], shape, device=image.device),
            *self.mmdet.grid_priors([feature.shape[-2:] for feature in features], device=image.device),
            *self.mmdet.valid_flags([feature.shape[-2:] for feature in features], shape, device=image.device),
            self.mmdet.sparse_priors(index, features[1].shape[-2:], 1),
            self.mmdet.sparse_priors(index, [feature.shape[-2:] for feature in features]),
        )


def test_traced(device):
    module = Traced()
    index = torch.tensor([0, -1, 17], device=device)
    program = reloaded(torch.jit.trace(module, (torch.zeros(1, 3, 64, 80, device=device), index)))
    for shape in SHAPES:
        image = torch.zeros(1, 3, *shape, device=device)
        for ours, eager in zip(program(image, index), module(image, index), strict=True):
            assert ours.dtype == eager.dtype and torch.equal(ours, eager), shape


def test_a_trace_of_flags_alone():
    grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1)]], [8])
    program = torch.jit.trace(lambda image: grid.inside([image.shape[-2:]], (50, 60), device="cpu"), torch.zeros(9, 9))
    assert torch.equal(program(torch.zeros(12, 5)), grid.inside([(12, 5)], (50, 60), device="cpu"))


def test_traced_where_another_device_is_the_default():
    grid, image = anchor_ext.AnchorGrid([[(0, 0, 1, 1)]], [8]), torch.zeros(9, 7)
    with torch.device("meta"):
        program = torch.jit.trace(lambda image: image + grid([(3, 4)], device="cpu").sum(), image)
    assert torch.equal(program(image), image + grid([(3, 4)], device="cpu").sum())


def test_a_trace_does_not_warn_without_a_reason(recwarn):
    torch.jit.trace(anchor_ext.Anchors(), torch.zeros(1, 3, 64, 80))
    assert not [warning for warning in recwarn if issubclass(warning.category, torch.jit.TracerWarning)]


def test_trace_refuses_what_eager_refuses():
    with pytest.raises(ValueError, match=r"image_shape is \(0, 8\)"):
        torch.jit.trace(lambda image: anchor_ext.generate(image.shape[-2:], device="cpu"), torch.zeros(1, 3, 0, 8))


class Head(nn.Module):
    """What the heads of detectors call."""

    def __init__(self):
        super().__init__()
        self.anchors = anchor_ext.Anchors([3, 4], sizes=[20, 50.3])

    def forward(self, image: torch.Tensor, values: torch.Tensor):
        sides = [image.shape[-2], image.shape[-1]]
        boxes = self.anchors.generate(sides, clip=sides, dtype=torch.bfloat16, device=image.device)
        many = self.anchors.generate_many([sides, [9, 8]], device=image.device)
        index = torch.tensor([[0, -1], [7, 5]], device=image.device)
        flags = self.anchors.inside(sides, 2.0, device=image.device)
        return (
            (boxes, many, self.anchors.at(index, sides), self.anchors.at(index.int(), sides, clip=sides), flags),
            list(self.anchors.split(values, sides)),
            (self.anchors.num_anchors(sides), self.anchors.level_shapes(sides)),
            (self.anchors.num_anchors_per_location(), self.anchors.num_cell_anchors, self.anchors.pyramid_levels),
        )


def test_every_call_of_a_scripted_head(device):
    head = Head()
    program = reloaded(torch.jit.script(head))
    for shape in SHAPES[:3]:
        image = torch.zeros(1, 3, *shape, device=device)
        values = torch.rand(2, head.anchors.num_anchors(shape), 7, device=device)
        expected, result = head(image, values), program(image, values)
        flat, flat_expected = (torch.utils._pytree.tree_leaves(list(outputs)) for outputs in (result, expected))
        assert len(flat) == len(flat_expected)
        for one, other in zip(flat, flat_expected, strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    with pytest.raises(torch.jit.Error, match=r"dtype is another one; expected torch.float32"):
        torch.jit.script(anchor_ext.Anchors()).generate([4, 5], dtype=torch.int64)


def test_a_trace_follows_the_device_of_its_inputs():
    """The device meta stands for any other."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors, self.boxes = anchor_ext.Anchors(), DefaultBoxGenerator([[2]], scales=[0.2, 0.5])

        def forward(self, image):
            return self.anchors(image), self.boxes(Images(image), [image])[0]

    image = torch.rand(1, 3, 16, 24)
    traced = torch.jit.trace(Model(), image)
    assert [output.device.type for output in traced(image.to("meta"))] == ["meta", "meta"]
    assert [output.device.type for output in traced(image)] == ["cpu", "cpu"]
