"""torch.onnx.export: standard ONNX operators that give, in onnxruntime, the bits of the eager call at every size."""

from __future__ import annotations

import random
import warnings

import pytest
import reference
import torch
from conftest import ARITHMETICS, grid_of, random_grid
from torch import nn

import anchor_ext

pytestmark = pytest.mark.tools
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SHAPES = [(640, 832), (61, 100), (96, 160), (33, 500), (400, 31), (128, 128), (7, 9), (500, 333), (250, 64), (97, 211)]


def export(module: nn.Module, path, dynamo=True, opset=18, **keywords):
    """The exported file's session, of a module that takes an image (1, 1, H, W) of any size."""
    image = torch.rand(1, 1, 96, 160)
    if dynamo:
        sides = {2: torch.export.Dim("height", min=2, max=8192), 3: torch.export.Dim("width", min=2, max=8192)}
        keywords |= {"dynamic_shapes": ({**sides},), "external_data": False, "verbose": False}
    else:
        keywords = {"input_names": ["image"], "dynamic_axes": {"image": {2: "height", 3: "width"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter without dynamo is old, whoever uses it has heard
        torch.onnx.export(module.eval(), (image,), path, dynamo=dynamo, opset_version=opset, **keywords)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}  # standard operators
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


exporters = pytest.mark.parametrize(
    "exporter",
    [{}, {"dynamo": False, "opset": 11}, {"dynamo": False, "opset": 17}],
    ids=["dynamo", "opset11", "opset17"],
)


def assert_equal(session, module: nn.Module, shapes=SHAPES) -> None:
    for shape in shapes:
        image = torch.rand(1, 1, *shape)
        expected = module(image)
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        results = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        for i, (result, tensor) in enumerate(zip(results, expected, strict=True)):
            result = torch.from_numpy(result)
            if tensor.dtype == torch.bool:
                assert torch.equal(result, tensor), (shape, i)
            else:
                assert reference.same_bits(result, tensor), (shape, i)


class Detector(nn.Module):
    def __init__(self, anchors: anchor_ext.Anchors, dtype: torch.dtype):
        super().__init__()
        self.anchors, self.dtype = anchors, dtype

    def forward(self, image):
        boxes = self.anchors.generate(image.shape[-2:], dtype=self.dtype, device=image.device)
        return boxes if self.dtype != torch.float32 else self.anchors(image)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.quick), torch.float64])
@exporters
def test_anchors_at_any_size(exporter, dtype, tmp_path):
    module = Detector(anchor_ext.Anchors(strides=[8.3, 15.7, (31.9, 33), 64, 127.9]), dtype)
    path = tmp_path / "anchors.onnx"
    assert_equal(export(module, path, **exporter), module)


def test_size_of_the_file_does_not_depend_on_the_image(tmp_path):
    sizes = []
    for i, shape in enumerate([(96, 160), (4000, 6000)]):
        path = tmp_path / f"{i}.onnx"
        image = torch.rand(1, 1, *shape)
        torch.onnx.export(
            anchor_ext.Anchors(), (image,), path, dynamo=True, optimize=False, external_data=False, verbose=False
        )
        sizes.append(path.stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 10_000


COUNTS = (6, 52)  # grids of other calls, and of generate: every arithmetic and layout is among them


class Grids(nn.Module):
    """Many grids, whose levels have shapes that follow from the image's."""

    def __init__(self, rng: random.Random, count: int, call, has_bfloat16=True):
        super().__init__()
        self.call, self.grids, self.arguments, self.rng = call, [], [], rng
        while len(self.grids) < count:
            arguments = random_grid(rng, 300)
            arguments["cell_anchors"] = [level[:3] for level in arguments["cell_anchors"][:3]]
            for name in ("strides", "offsets", "starts"):
                arguments[name] = arguments[name] and arguments[name][:3]
            arguments["divisors"] = [(rng.randint(9, 70), rng.randint(9, 70)) for _ in arguments["cell_anchors"]]
            arguments["clipped"] = arguments["clip"] is not None
            arguments["seed"] = rng.random()
            if not has_bfloat16 and ("bfloat16" in arguments["arithmetic"] or dtype_of(arguments) == torch.bfloat16):
                continue
            self.arguments.append(arguments)
            self.grids.append(grid_of(arguments))

    def forward(self, image):
        height, width = image.shape[-2:]
        outputs = []
        for grid, arguments in zip(self.grids, self.arguments, strict=True):
            level_shapes = [(height // y + 1, width // x + 1) for y, x in arguments["divisors"]]
            output = self.call(grid, arguments, level_shapes, (height, width))
            outputs.append(output.float() if output.dtype == torch.bfloat16 else output)  # NumPy has no bfloat16
        return outputs


def sums_of(arguments) -> str:
    return arguments["arithmetic"].split("/")[-1]


def dtype_of(arguments, dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16)) -> torch.dtype:
    """Any, but that ONNX cannot round sums of float64 once to 16 bits."""
    rng = random.Random(arguments["seed"])
    return rng.choice(dtypes[: 2 if sums_of(arguments) == "float64" else None])


def generate(grid, arguments, level_shapes, image_shape):
    clip = image_shape if arguments["clipped"] else None
    return grid(level_shapes, image_shape=image_shape, clip=clip, dtype=dtype_of(arguments), device="cpu")


def at(grid, arguments, level_shapes, image_shape):
    index = torch.tensor([[0, 5, -1], [10**9 + 7, -(10**8), 3]], dtype=random.Random(arguments["seed"]).choice(
        [torch.int64, torch.int32]
    ))  # fmt: skip
    return grid.at(index, level_shapes, image_shape=image_shape, dtype=dtype_of(arguments))


def inside(grid, arguments, level_shapes, image_shape):
    border = random.Random(arguments["seed"]).choice([0.0, -3.5, 20.1])
    dtype = dtype_of(arguments, (torch.float32, torch.float64))
    return grid.inside(level_shapes, image_shape, border, dtype=dtype, device="cpu")


def valid_flags(grid, arguments, level_shapes, image_shape):
    height, width = image_shape
    return grid.valid_flags(level_shapes, (height // 2 + 1, width // 3 + 1), image_shape=image_shape, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("call", [generate, at, inside, valid_flags], ids=lambda call: call.__name__)
@exporters
def test_any_grid_at_any_size(exporter, call, tmp_path):
    has_bfloat16 = exporter.get("opset") != 11  # whose Cast does not know it
    count = (
        COUNTS[call is generate] if exporter else 4 + 6 * (call is generate)
    )  # with dynamo a grid takes a second and more
    module = Grids(random.Random(call.__name__), count, call, has_bfloat16)
    if call is generate and has_bfloat16 and exporter:
        assert {arguments["arithmetic"] for arguments in module.arguments} == set(ARITHMETICS)
        assert {arguments["layout"] for arguments in module.arguments} == set(reference.LAYOUTS)
    session = export(module, tmp_path / "grids.onnx", **{"optimize": False, **exporter})
    assert_equal(session, module, SHAPES[1:])


class Clipped(nn.Module):
    """Anchors at and beside the edges, zeros of either sign among them."""

    def __init__(self):
        super().__init__()
        cells = [[(-8.0, -8.0, 8.0, 8.0), (-0.0, -0.0, 0.0, 0.0)]]
        self.grid = anchor_ext.AnchorGrid(cells, [15.99999999], arithmetic="float64/float64/float16")

    def forward(self, image):
        height, width = image.shape[-2:]
        return self.grid([(height // 8 + 1, width // 8 + 1)], clip=(height, width), device=image.device)


def test_zeros_of_clipped_anchors(tmp_path):
    assert_equal(export(Clipped(), tmp_path / "clipped.onnx", optimize=False), Clipped())


class Inside(nn.Module):
    def forward(self, image):
        return anchor_ext.AnchorGrid(CELLS, [8], arithmetic="float32").inside([(4, 4)], (9, 9), dtype=torch.float16)


CELLS = [[(0.0, 0.0, 1.0, 1.0)]]


@pytest.mark.quick
def test_refuses_flags_in_16_bits(tmp_path):
    with pytest.raises(Exception) as raised:
        export(Inside(), tmp_path / "flags.onnx")
    assert "dtype is torch.float16, to which ONNX" in str(raised.value) + str(raised.value.__cause__.__cause__)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_says_what_onnx_cannot_express(dtype, tmp_path):
    with pytest.raises(Exception) as raised:  # the exporter's own, in which ours is
        export(Detector(anchor_ext.Anchors(), dtype), tmp_path / "anchors.onnx")
    causes, error = [], raised.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert any(f"dtype is {dtype} with an arithmetic that adds in float64" in cause for cause in causes)
    assert not (tmp_path / "anchors.onnx").exists()
