"""torch.ops.anchor_ext.generate: registered in C++, seen by whatever watches torch's operators."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import reference
import torch
from conftest import DTYPES
from toolchain import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import anchor_ext

pytestmark = pytest.mark.quick

SHAPE = (60, 100)
EXPECTED = reference.rounded(reference.anchors(SHAPE), torch.float32)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def operands(shape=SHAPE):
    levels = reference.LEVELS
    level_shapes = [-(-side // 2**level) for level in levels for side in shape]
    cells = [reference.cell_anchors([2 ** (level + 2)], reference.RATIOS, reference.SCALES) for level in levels]
    strides = [float(2**level) for level in levels for _ in range(2)]
    return level_shapes, strides, [float(x) for cell in cells for x in cell.ravel()], [9] * 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_eager_call(dtype, device):
    boxes = torch.ops.anchor_ext.generate(*operands(), dtype=name_of(dtype), device=device)
    assert boxes.shape == (len(EXPECTED), 4) and boxes.device.type == device.type
    assert reference.same_bits(boxes, anchor_ext.generate(SHAPE, dtype=dtype, device=device)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, device):
    keywords = {"dtype": name_of(dtype), "device": device}
    torch.library.opcheck(torch.ops.anchor_ext.generate.default, operands(), keywords)
    torch.library.opcheck(torch.ops.anchor_ext.generate.default, ([3, 4], [5.5, 7.0], [0.0, 1, 2, 3], [1]), keywords)


@pytest.mark.parametrize("name", ["generate", "gather", "inside", "valid_flags"])
def test_schema_is_the_documented_one(name):
    schema = str(getattr(torch.ops.anchor_ext, name).default._schema)
    documented = (ROOT / "docs/operators.md").read_text().splitlines()
    assert schema in documented, schema


def test_meta():
    boxes = torch.ops.anchor_ext.generate(*operands(), dtype="bfloat16", device="meta")
    assert boxes.is_meta and boxes.shape == (len(EXPECTED), 4) and boxes.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, [1, 2], "level_shapes has 1 levels; expected 5"),
        (0, [1, 2, 3], "level_shapes: expected two numbers"),
        (1, [1.0], "strides: expected two numbers"),
        (1, [1.0, 2.0], "strides has 1 levels; expected 5"),
        (0, [0, 1] * 5, r"level_shapes\[0\] is \(0, 1\)"),
        (0, [2**31, 1] * 5, r"level_shapes\[0\] is"),
        (0, [2**31 - 1] * 10, "expected at most 2.*58 - 1 anchors"),
        (1, [0.0] * 10, r"strides\[0\] is \(0, 0\)"),
        (1, [float("nan")] * 10, r"strides\[0\] is \(nan, nan\)"),
        (1, [float("inf"), 1.0] * 5, r"strides\[0\] is \(inf, 1\)"),
        (1, [1.0, float("inf")] * 5, r"strides\[0\] is \(1, inf\)"),
        (2, [1.0] * 179, "cell_anchors: expected 4 numbers"),
        (2, [1.0] * 184, "cell_anchors: expected 4 numbers"),
        (2, [float("inf")] * 180, r"cell_anchors\[0\]\[0\]\[0\] is inf"),
        (3, [9, 9, 9, 9, 0], "cell_anchors"),
        (3, [-1] * 5, "cell_anchors"),
        (3, [], "cell_anchors: expected 4 numbers"),
    ],
)
def test_bad_operands(position, value, message):
    arguments = list(operands())
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.anchor_ext.generate(*arguments, dtype="float32", device="cpu")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("fake", [False, True])
def test_bad_dtype(device, fake):
    with pytest.raises(ValueError, match="dtype is 'int64'"), FakeTensorMode() if fake else nullcontext():
        torch.ops.anchor_ext.generate(*operands(), dtype="int64", device=device)


@pytest.mark.parametrize("out", [False, True])
def test_fake_tensors(out):
    with FakeTensorMode():
        boxes = anchor_ext.generate(SHAPE, device="cpu", out=torch.empty(1, len(EXPECTED), 4) if out else None)
    assert type(boxes).__name__ == "FakeTensor" and boxes.shape == (1, len(EXPECTED), 4)


@pytest.mark.parametrize("out", [False, True])
def test_transforms_of_something_else(out):
    """grad, jvp, vmap and functionalize run around the anchors, and see or ignore them as torch's own factories."""
    anchors, image = anchor_ext.Anchors(), torch.zeros(1, 3, *SHAPE)

    def loss(x):
        boxes = anchors.generate(SHAPE, device="cpu", out=torch.empty(1, len(EXPECTED), 4)) if out else anchors(image)
        return (boxes * x).sum()

    x, total = torch.tensor(1.0), EXPECTED.sum()
    assert torch.equal(torch.func.grad(loss)(x), total)
    assert torch.equal(torch.func.jvp(loss, (x,), (x,))[1], total)
    assert torch.equal(torch.func.functionalize(loss)(x), total)
    if not out:  # torch refuses to write into what is not a batch
        assert torch.equal(torch.func.vmap(loss)(torch.ones(2)), total.expand(2))


def test_default_device_and_out_compile_too():
    anchors = anchor_ext.Anchors()

    def call(image, out):
        shape = image.shape[-2:]
        levels = anchors.split(out, shape)
        assert len(levels) == len(anchors.level_shapes(shape)) and anchors.num_anchors(shape) == out.shape[1]
        boxes = anchor_ext.generate(image.shape[-2:], device=image.device, out=out)
        return boxes + 0, anchor_ext.generate(image.shape[-2:])

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="eager")
    out = torch.zeros(1, len(EXPECTED), 4)
    boxes, by_default = compiled(torch.zeros(1, 3, *SHAPE), out)
    assert torch.equal(boxes[0], EXPECTED) and torch.equal(out[0], EXPECTED)
    assert torch.equal(by_default[0].cpu(), EXPECTED)


def test_tracers_see_the_operator():
    """What records operators must not record an empty tensor and miss that we filled it."""

    def call(image):
        return anchor_ext.Anchors()(image) + 0

    image = torch.zeros(1, 3, *SHAPE)
    graph = make_fx(call)(image)
    assert "anchor_ext.generate" in graph.code
    assert torch.equal(graph(image)[0], EXPECTED)
    traced = torch.jit.trace(call, image)
    assert torch.equal(traced(image)[0], EXPECTED)


def test_compiles_and_exports_in_one_graph():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors = anchor_ext.Anchors()

        def forward(self, image):
            return self.anchors(image) * 2 + image.mean()

    model = Model()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    sides = {name: torch.export.Dim(name, min=8, max=4096) for name in ("height", "width")}
    dynamic = {"image": {2: sides["height"], 3: sides["width"]}}
    exported = torch.export.export(model, (torch.zeros(1, 3, 96, 160),), dynamic_shapes=dynamic)
    for shape in ((96, 160), (61, 100), (128, 333)):
        image = torch.rand(1, 3, *shape)
        assert torch.equal(compiled(image), model(image))
        assert torch.equal(exported.module()(image), model(image))
