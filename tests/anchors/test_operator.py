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


def text(number):
    return str(int(number)) if number == int(number) else float(number).hex()


def parts():
    """What the spec says of RetinaNet's anchors, key by key."""
    levels = reference.LEVELS
    cells = [reference.cell_anchors([2 ** (level + 2)], reference.RATIOS, reference.SCALES) for level in levels]
    return {
        "levels": " ".join(map(str, levels)),
        "strides": " ".join(f"{2**level},{2**level}" for level in levels),
        "cell_anchors": "|".join(" ".join(",".join(map(text, box)) for box in level) for level in cells),
    }


def spec_of(entries):
    return ";".join(["anchors/1", *(f"{key}={value}" for key, value in entries.items())])


def operands(shape=SHAPE):
    return [-(-side // 2**level) for level in reference.LEVELS for side in shape], spec_of(parts())


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_eager_call(dtype, device):
    boxes = torch.ops.anchor_ext.generate(*operands(), dtype=name_of(dtype), device=device)
    assert boxes.shape == (len(EXPECTED), 4) and boxes.device.type == device.type
    assert reference.same_bits(boxes, anchor_ext.generate(SHAPE, dtype=dtype, device=device)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, device):
    keywords = {"dtype": name_of(dtype), "device": device}
    torch.library.opcheck(torch.ops.anchor_ext.generate.default, operands(), keywords)
    small = "anchors/1;strides=5.5,7;cell_anchors=0,1,2,3"
    torch.library.opcheck(torch.ops.anchor_ext.generate.default, ([3, 4], small), keywords)
    levels = {**keywords, "image_shape": list(SHAPE)}
    torch.library.opcheck(torch.ops.anchor_ext.generate.default, (None, operands()[1]), levels)
    torch.library.opcheck(torch.ops.anchor_ext.generate_many.default, ([*SHAPE, 64, 33], operands()[1]), keywords)


@pytest.mark.parametrize("name", ["generate", "generate_many", "gather", "inside", "valid_flags"])
def test_schema_is_the_documented_one(name):
    schema = str(getattr(torch.ops.anchor_ext, name).default._schema)
    documented = (ROOT / "docs/operators.md").read_text().splitlines()
    assert schema in documented, schema


def test_meta():
    boxes = torch.ops.anchor_ext.generate(*operands(), dtype="bfloat16", device="meta")
    assert boxes.is_meta and boxes.shape == (len(EXPECTED), 4) and boxes.dtype == torch.bfloat16


@pytest.mark.parametrize("level_shapes", [[1, 2], [1, 2, 3], [-1, 1] * 5, [2**31, 1] * 5, [2**31 - 1] * 10])
def test_bad_level_shapes(level_shapes):
    message = {
        2: "level_shapes has 1 levels; expected 5",
        3: "level_shapes: expected two numbers",
        10: r"level_shapes\[0\] is \((-1|2147483648), 1\)|expected at most 2.*58 - 1 anchors",
    }[len(level_shapes)]
    with pytest.raises(ValueError, match=message):
        torch.ops.anchor_ext.generate(level_shapes, operands()[1], dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("strides", "1", "strides has '1' at character 35; expected two numbers"),
        ("strides", "1,2", "strides has 1 levels; expected 5"),
        ("strides", " ".join(["0,0"] * 5), r"strides\[0\] is \(0, 0\)"),
        ("strides", " ".join(["nan,nan"] * 5), r"strides\[0\] is \(nan, nan\)"),
        ("strides", " ".join(["inf,1"] * 5), r"strides\[0\] is \(inf, 1\)"),
        ("strides", " ".join(["1,inf"] * 5), r"strides\[0\] is \(1, inf\)"),
        ("strides", " ".join(["1,--1"] * 5), "strides has '--1' at character 37; expected a number"),
        ("strides", "1,0x", "strides has '0x'"),
        ("strides", "1,1e999", "strides has '1e999'.*; expected a number that float64 holds"),
        ("strides", "1,", "strides has ''"),
        ("cell_anchors", "1,2,3", r"cell_anchors\[0\] has '1,2,3' at character .*; expected 4 numbers"),
        ("cell_anchors", "", r"cell_anchors\[0\] has ''"),
        ("cell_anchors", "|".join(["1,2,3,4"] * 4), "levels; expected"),
        ("cell_anchors", "|".join(["1,2,inf,4"] * 5), r"cell_anchors\[0\]\[0\]\[2\] is inf"),
        ("cell_anchors", "|".join([" ".join(["1,2,3,4"] * 103)] * 5), "515 cell anchors over all levels"),
        ("levels", "3 4 5 6 31", r"pyramid_levels\[4\] is 31; expected an integer in 0..30"),
        ("levels", "3 4 5 6 6", r"pyramid_levels is \[3, 4, 5, 6, 6\]; expected distinct"),
        ("levels", "3 4 5 6", "pyramid_levels has 4 levels; expected 5"),
        ("levels", "3  4", "levels has ''"),
        ("levels", "3.0", "levels has '3.0'"),
        ("layout", "xywh", "layout is 'xywh'"),
        ("arithmetic", "int8", "arithmetic is 'int8'"),
        ("offset", "1", "spec has the key 'offset=1' at character .*; expected one of layout, arithmetic"),
        ("strides=1,1;strides", "1,1", "spec has the key 'strides=1,1' at character .* again"),
        ("x;y", "1", "spec has 'x' at character .*; expected key=value"),
    ],
)
def test_bad_specs(key, value, message):
    entries = {**parts(), key: value}
    if key.startswith("strides="):
        del entries["strides"]
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match=message):
            torch.ops.anchor_ext.generate(operands()[0], spec_of(entries), dtype="float32", device=device)


@pytest.mark.parametrize("start", ["", "anchors/2;", "anchors/1 ;", "Anchors/1;", "anchors;"])
def test_other_versions_are_refused(start):
    with pytest.raises(ValueError, match=r"spec begins with .*expected anchors/1"):
        torch.ops.anchor_ext.generate([1, 1], start + "cell_anchors=0,0,1,1", dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="spec has no key cell_anchors"):
        torch.ops.anchor_ext.generate([1, 1], "anchors/1", dtype="float32", device="cpu")


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
