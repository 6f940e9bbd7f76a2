"""`AnchorGrid`: any cell anchors over any grids, in every arithmetic and layout, equal to the formulas bit for bit."""

from __future__ import annotations

import copy
import math
import pickle
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import reference
import torch
from conftest import ARITHMETICS, DTYPES, grid_of, random_grid
from torch._subclasses.fake_tensor import FakeTensorMode

import anchor_ext
from anchor_ext import AnchorGrid

SHAPES = [(5, 7), (3, 4)]
CELLS = [[[-1.5, -2.0, 3.25, 4.0], [-9.0, -7.0, 9.0, 7.0]], [[-30.0, -20.0, 31.0, 22.0]]]


def make(arguments) -> tuple[AnchorGrid, dict]:
    """The grid, and what a call of it takes."""
    return grid_of(arguments), {"image_shape": arguments["image_shape"], "clip": arguments["clip"]}


@pytest.mark.parametrize("dtype", [pytest.param(DTYPES[0], marks=pytest.mark.quick), *DTYPES[1:]])
def test_random_grids(dtype, device, rng):
    for _ in range(600):
        arguments = random_grid(rng)
        grid, call = make(arguments)
        boxes = grid(arguments["level_shapes"], dtype=dtype, device=device, **call)
        expected = reference.rounded(reference.grid(**arguments), dtype)
        assert boxes.device.type == device.type
        assert reference.same_bits(boxes, expected), arguments


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_arithmetic_over_long_rows(dtype, device, rng):
    """Cell numbers and coordinates that the 16-bit types round, and the blocks of torch.arange and its rest."""
    for arithmetic in ARITHMETICS:
        for columns in (1, 15, 16, 17, 31, 407, 3000):
            arguments = random_grid(rng)
            arguments |= dict(
                arithmetic=arithmetic, layout="xyxy", level_shapes=[(1, columns), (columns, 1)], clip=None
            )
            arguments |= dict(cell_anchors=CELLS, strides=[(7.3, 12.0), (0.3, 100.1)], offsets=[(0.3, 0.5)] * 2)
            arguments |= dict(starts=None if "quotient" in arithmetic else [(3.6, -0.1), (2.2, 0.7)])
            grid, call = make(arguments)
            boxes = grid(arguments["level_shapes"], dtype=dtype, device=device, **call)
            assert reference.same_bits(boxes, reference.rounded(reference.grid(**arguments), dtype)), arguments


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_split_of_the_cpu_threads(dtype, rng):
    before = torch.get_num_threads()
    try:
        for _ in range(30):
            arguments = random_grid(rng, most=40000)
            grid, call = make(arguments)
            expected = reference.rounded(reference.grid(**arguments), dtype)
            index = torch.randint(-len(expected), len(expected), (5000,))
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                boxes = grid(arguments["level_shapes"], dtype=dtype, device="cpu", **call)
                assert reference.same_bits(boxes, expected), (threads, arguments)
                some = grid.at(index, arguments["level_shapes"], dtype=dtype, **call)
                assert reference.same_bits(some, expected[index]), (threads, arguments)
    finally:
        torch.set_num_threads(before)


@pytest.mark.quick
@pytest.mark.parametrize("integers", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at(dtype, integers, device, rng):
    for _ in range(60):
        arguments = random_grid(rng)
        grid, call = make(arguments)
        expected = reference.rounded(reference.grid(**arguments), dtype)
        n = len(expected)
        least, most = max(-2 * n, torch.iinfo(integers).min), min(2 * n, torch.iinfo(integers).max)
        index = torch.randint(least, most, (rng.randint(0, rng.choice([200, 2000])),)).to(integers)
        boxes = grid.at(index.to(device), arguments["level_shapes"], dtype=dtype, **call)
        assert boxes.device.type == device.type
        assert reference.same_bits(boxes, expected[index.long() % n]), arguments


def test_at_takes_any_shape_and_strides(device):
    grid = AnchorGrid(CELLS, [8, 16])
    expected = grid(SHAPES, device="cpu")
    index = torch.arange(2 * 3 * 4, device=device).view(2, 3, 4)
    assert torch.equal(grid.at(index, SHAPES).cpu(), expected[index.cpu()])
    assert torch.equal(grid.at(index.transpose(0, 2), SHAPES).cpu(), expected[index.cpu().transpose(0, 2)])
    assert grid.at(index[:0], SHAPES).shape == (0, 3, 4, 4)
    assert torch.equal(grid.at(torch.tensor(-1, device=device), SHAPES).cpu(), expected[-1])
    assert torch.equal(grid.at(torch.tensor(2**62, device=device), SHAPES).cpu(), expected[2**62 % len(expected)])


def test_at_in_pyramids_that_fit_no_memory(device):
    """Around 2**30 anchors, up to which the CPU divides in another way, around 2**31, and far beyond."""
    cells = [[[float(-a - k) for k in range(4)] for a in range(count)] for count in (49, 7)]
    grid = AnchorGrid(cells, [3, 5])
    for columns, last in (
        (5349, (9, 1)),
        (5350, (1, 5)),
        (8100, (77, 3)),
        (8192, (70000, 999)),
        (8192, (1, 2**31 - 1)),
    ):
        shapes = [(4096, columns), last]
        first = 4096 * columns * 49
        n = first + last[0] * last[1] * 7
        edges = [0, -1, n - 1, n, -n, -n - 1, first, first - 1, first // 2, 2**31, 2**31 - 1, -(2**31), 2**62]
        edges = torch.tensor(edges)
        for index in (edges, torch.cat([edges, torch.randint(-n, n, (20000,))]), torch.randint(0, n, (20000,))):
            flat = index % n
            behind = flat >= first
            within = torch.where(behind, flat - first, flat)
            a, cell = within % torch.where(behind, 7, 49), within // torch.where(behind, 7, 49)
            width, stride = torch.where(behind, last[1], columns), torch.where(behind, 5, 3)
            centre = [(number.double() + 0.5) * stride for number in (cell % width, cell // width)]
            expected = torch.stack([centre[k % 2] - a.double() - k for k in range(4)], dim=1)
            boxes = grid.at(index.to(device), shapes, dtype=torch.float64)
            assert torch.equal(boxes.cpu(), expected), shapes
            if n < 2**31:
                narrow = grid.at(flat.to(torch.int32).to(device), shapes, dtype=torch.float64)
                assert torch.equal(narrow.cpu(), expected), shapes


@pytest.mark.parametrize("dtype", DTYPES)
def test_inside(dtype, device, rng):
    both = set()
    for _ in range(300):
        arguments = random_grid(rng) | {"clip": None}
        arguments["image_shape"] = (rng.randint(1, 900), rng.randint(1, 900))
        grid, call = make(arguments)
        border = rng.choice([0, 0.0, 1, 16, 100.3, -3, -0.1, math.inf])
        boxes = reference.rounded(reference.grid(**arguments), dtype)
        expected = reference.inside(boxes, arguments["layout"], arguments["image_shape"], border)
        flags = grid.inside(arguments["level_shapes"], call["image_shape"], border, dtype=dtype, device=device)
        assert flags.dtype == torch.bool and flags.device.type == device.type
        assert torch.equal(flags.cpu(), expected), (border, arguments)
        both.update(flags.cpu().tolist())
    assert both == {True, False}


@pytest.mark.quick
@pytest.mark.parametrize("border", [0, 8, -8])
def test_inside_at_the_very_edge(border, device):
    """Anchors that touch the limits: a lower bound on its limit is inside, an upper bound on its limit is not."""
    grid, shapes, image = AnchorGrid([[(-4, -4, 4, 4)]], [8]), [(5, 6)], (32, 40)
    boxes = grid(shapes, device="cpu")
    flags = grid.inside(shapes, image, border, device=device).cpu()
    assert torch.equal(flags, reference.inside(boxes, "xyxy", image, border))
    touching = (boxes[:, 2] == 40 + border) | (boxes[:, 3] == 32 + border)
    assert touching.any() and not flags[touching].any()


@pytest.mark.quick
def test_valid_flags(device, rng):
    for _ in range(300):
        arguments = random_grid(rng)
        grid, call = make(arguments)
        padded = (rng.randint(1, 3000), rng.randint(1, 3000))
        expected = []
        for i, (rows, columns) in enumerate(arguments["level_shapes"]):
            covered = []
            for axis, cells in enumerate((rows, columns)):
                image = arguments["image_shape"][axis]
                if arguments["strides"]:
                    covered.append(math.ceil(padded[axis] / arguments["strides"][i][axis]))
                elif arguments["arithmetic"].startswith("quotient"):
                    covered.append(math.ceil(Fraction(padded[axis] * cells, image)))
                else:
                    covered.append(math.ceil(Fraction(padded[axis], image // cells)) if image >= cells else cells)
            valid = np.zeros((rows, columns, len(arguments["cell_anchors"][i])), bool)
            valid[: covered[0], : covered[1]] = True
            expected.append(torch.from_numpy(valid.reshape(-1)))
        flags = grid.valid_flags(arguments["level_shapes"], padded, image_shape=call["image_shape"], device=device)
        assert torch.equal(flags.cpu(), torch.cat(expected)), (padded, arguments)


@pytest.mark.quick
def test_clipped_to_the_image(device):
    grid = AnchorGrid(CELLS, [8, 16])
    boxes = grid(SHAPES, clip=(21, 33), device=device).cpu()
    plain = grid(SHAPES, device=device).cpu()
    expected = torch.stack([plain[:, k].clamp(0, (33, 21)[k % 2]) for k in range(4)], dim=1)
    assert torch.equal(boxes, expected) and not torch.equal(boxes, plain)


@pytest.mark.quick
def test_anchors_are_the_grid_of_retinanet(device):
    anchors = anchor_ext.Anchors()
    grid = AnchorGrid(anchors.cell_anchors, anchors.strides)
    shape = (100, 170)
    assert torch.equal(grid(anchors.level_shapes(shape), device=device), anchors.generate(shape, device=device)[0])


@pytest.mark.quick
def test_out(device):
    grid = AnchorGrid(CELLS, [8, 16], arithmetic="float32")
    expected = grid(SHAPES, device=device)
    out = torch.full_like(expected, math.nan)
    assert grid(SHAPES, out=out) is out and torch.equal(out, expected)
    with pytest.raises(ValueError, match="out has shape"):
        grid(SHAPES, out=out[None])


@pytest.mark.quick
def test_split_and_sizes():
    grid = AnchorGrid(CELLS, None, offset=0.0)
    boxes = grid(SHAPES, image_shape=(40, 56), device="cpu")
    assert grid.level_sizes(SHAPES) == [70, 12] and grid.num_cell_anchors == [2, 1]
    first, second = grid.split(boxes, SHAPES)
    assert first.data_ptr() == boxes.data_ptr() and first.shape == (70, 4) and second.shape == (12, 4)
    scores = torch.zeros(2, 82)
    assert [level.shape for level in grid.split(scores, SHAPES, dim=1)] == [(2, 70), (2, 12)]
    with pytest.raises(ValueError, match="values has shape"):
        grid.split(scores, SHAPES)


@pytest.mark.quick
def test_pickle_copy_and_repr(rng):
    for _ in range(20):
        arguments = random_grid(rng)
        grid, call = make(arguments)
        expected = grid(arguments["level_shapes"], device="cpu", **call)
        for other in (pickle.loads(pickle.dumps(grid)), copy.deepcopy(grid)):
            assert torch.equal(other(arguments["level_shapes"], device="cpu", **call), expected)
        assert arguments["layout"] in repr(grid)


def operator_calls(grid, call, shapes, dtype, device):
    index, image_shape = torch.tensor([0, -1, 5], device=device), call["image_shape"]
    return {
        "generate": lambda: grid(shapes, dtype=dtype, device=device, **call),
        "gather": lambda: grid.at(index, shapes, dtype=dtype, **call),
        "inside": lambda: grid.inside(shapes, image_shape, 2.5, dtype=dtype, device=device),
        "valid_flags": lambda: grid.valid_flags(shapes, (50, 60), image_shape=image_shape, device=device),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_equal_the_eager_calls(dtype, device, rng):
    """Under a mode that watches torch's operators, ours are among them, with the whole configuration."""

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            seen.append(str(function))
            return function(*arguments, **(keywords or {}))

    for _ in range(25):
        arguments = random_grid(rng, most=300)
        grid, call = make(arguments)
        calls = operator_calls(grid, call, arguments["level_shapes"], dtype, device)
        for name, function in calls.items():
            seen = []
            with Watch():
                watched = function()
            assert f"anchor_ext.{name}.default" in seen
            assert torch.equal(watched, function())
            with FakeTensorMode():
                if name != "gather":
                    fake = function()
                    assert fake.shape == watched.shape and fake.dtype == watched.dtype


def test_opcheck(device, rng):
    """Every operator, over arithmetics, layouts and dtypes: schema, fake and meta results, strides, compiled calls."""
    operators = torch.ops.anchor_ext
    for dtype in ["float32", "float64", "float16", "bfloat16"] * 3:
        arguments = random_grid(rng, most=60)
        spec = grid_of(arguments)._config.spec
        grids = [side for shape in arguments["level_shapes"] for side in shape]
        image, clip = list(arguments["image_shape"]), arguments["clip"] and list(arguments["clip"])
        common, keywords = (grids, spec), {"dtype": dtype}
        generated = {**keywords, "image_shape": image, "clip": clip}
        torch.library.opcheck(operators.generate.default, common, {**generated, "device": device})
        for index in (torch.tensor([[0, -1, 3]], device=device), torch.empty(2, 0, dtype=torch.int32, device=device)):
            torch.library.opcheck(operators.gather.default, (index, *common), generated)
        torch.library.opcheck(operators.inside.default, (*common, image, 2.5), {**keywords, "device": device})
        torch.library.opcheck(
            operators.valid_flags.default, (*common, [40, 50]), {"device": device, "image_shape": image}
        )


SPEC = "anchors/1;strides=8,8;cell_anchors=0,0,1,1"


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_meta_and_fake_tensors_are_like_real_ones(device, rng):
    for dtype in DTYPES:
        arguments = random_grid(rng, most=60)
        grid, shapes, image = grid_of(arguments), arguments["level_shapes"], arguments["image_shape"]

        def everything(device, grid=grid, shapes=shapes, image=image, dtype=dtype):
            index = torch.zeros(2, 3, dtype=torch.int64, device=device)
            none = torch.zeros(2, 0, dtype=torch.int64, device=device)
            return [
                torch.ops.anchor_ext.gather(none, [1, 1], SPEC, dtype="float32"),
                torch.ops.anchor_ext.gather(index.t(), [1, 1], SPEC, dtype="float32"),
                grid(shapes, image_shape=image, dtype=dtype, device=device),
                grid.at(index, shapes, image_shape=image, dtype=dtype),
                grid.inside(shapes, image, dtype=dtype, device=device),
                grid.valid_flags(shapes, (40, 50), image_shape=image, device=device),
            ]

        real = everything("cpu")
        with FakeTensorMode() if device == "fake" else nullcontext():
            unreal = everything("cpu" if device == "fake" else "meta")
        for a, b in zip(unreal, real, strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_compiles_in_one_graph():
    grid = AnchorGrid(CELLS, None, offset=0.0, arithmetic="float64/float32/float32")

    def call(image, index):
        shapes = [(-(-image.shape[-2] // stride), -(-image.shape[-1] // stride)) for stride in (8, 16)]
        boxes = grid(shapes, image_shape=image.shape[-2:], device="cpu")
        flags = grid.valid_flags(shapes, image.shape[-2:], image_shape=image.shape[-2:], device="cpu")
        some = grid.at(index, shapes, image_shape=image.shape[-2:])
        return boxes * 2, flags, some, grid.inside(shapes, image.shape[-2:], device="cpu"), grid.split(boxes, shapes)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((40, 56), (61, 100), (128, 333)):
        image, index = torch.zeros(1, 3, *shape), torch.tensor([0, 7, -1])
        for ours, expected in zip(compiled(image, index), call(image, index), strict=True):
            assert all(map(torch.equal, ours, expected)) if isinstance(ours, tuple) else torch.equal(ours, expected)


BAD_GRIDS = [
    (dict(layout="xywh"), ValueError, "layout is 'xywh'; expected one of xyxy"),
    (dict(arithmetic="int8"), ValueError, "arithmetic is 'int8'; expected float64"),
    (dict(arithmetic="float32/float32"), ValueError, "arithmetic is"),
    (dict(arithmetic="float32/arange/float32"), ValueError, "arithmetic is"),
    (dict(arithmetic=32), TypeError, "arithmetic is 32"),
    (dict(cell_anchors=[[[1, 2, 3]]], strides=[8]), ValueError, r"cell_anchors\[0\]\[0\] is \[1, 2, 3\]; expected 4"),
    (dict(cell_anchors=[[]], strides=[8]), ValueError, r"cell_anchors\[0\] is empty"),
    (dict(cell_anchors=[[[1, 2, 3, math.nan]]], strides=[8]), ValueError, r"cell_anchors\[0\]\[0\]\[3\] is nan"),
    (dict(cell_anchors=[[[1, 2, 3, 4]]] * 17, strides=[8] * 17), ValueError, "17 levels; expected 1 to 16"),
    (dict(cell_anchors=[[[1, 2, 3, 4]] * 513], strides=[8]), ValueError, "513 cell anchors; expected at most 512"),
    (
        dict(cell_anchors=[[[1, 2, 3, 4]] * 257] * 2),
        ValueError,
        "514 cell anchors over all levels; expected at most 512",
    ),
    (dict(strides=[8]), ValueError, r"strides is \[8\], of length 1"),
    (dict(strides=[8, 0]), ValueError, r"strides\[1\] is 0"),
    (dict(offset=math.inf), ValueError, "offset is inf"),
    (dict(offset=[1, 2, 3]), ValueError, r"offset is \[1, 2, 3\], of length 3"),
    (dict(start="3"), TypeError, "start is '3'"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_GRIDS)
def test_bad_configuration(arguments, error, message):
    with pytest.raises(error, match=message):
        AnchorGrid(**{"cell_anchors": CELLS, "strides": [8, 16], **arguments})


BAD_CALLS = [
    (lambda g: g([(5, 7)], device="cpu"), ValueError, "level_shapes has 1 levels; expected 2"),
    (lambda g: g([(5, -1), (3, 4)], device="cpu"), ValueError, r"level_shapes\[0\] is \(5, -1\)"),
    (lambda g: g([(5, 7), (3, 4.5)], device="cpu"), TypeError, r"level_shapes\[1\]\[1\] is 4.5"),
    (lambda g: g(None, device="cpu"), TypeError, "image_shape|level_shapes"),
    (lambda g: g(SHAPES, clip=(0, 5), device="cpu"), ValueError, r"clip is \(0, 5\)"),
    (lambda g: g(SHAPES, clip="ab", device="cpu"), TypeError, "clip is 'ab'"),
    (lambda g: g(SHAPES, dtype=torch.int32, device="cpu"), ValueError, "dtype is torch.int32"),
    (lambda g: g.inside(SHAPES, (5, -1), device="cpu"), ValueError, r"image_shape is \(5, -1\)"),
    (lambda g: g.inside(SHAPES, (5, 5), math.nan, device="cpu"), ValueError, "border is nan"),
    (lambda g: g.inside(SHAPES, (5, 5), None, device="cpu"), TypeError, "border is None"),
    (lambda g: g.valid_flags(SHAPES, (5,), device="cpu"), ValueError, r"padded_shape is \(5,\)"),
    (lambda g: g.at(torch.tensor([0.5]), SHAPES), TypeError, "index is a Tensor"),
    (lambda g: g.at([0], SHAPES), TypeError, r"index is \[0\]"),
    (lambda g: g.at(torch.tensor([0]), [(5, 7)]), ValueError, "level_shapes has 1 levels"),
    (lambda g: g([(2**31 - 1, 2**31 - 1)] * 2, device="cpu"), ValueError, r"at most 2\*\*58 - 1 anchors"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_call(call, error, message):
    with pytest.raises(error, match=message):
        call(AnchorGrid(CELLS, [8, 16]))


@pytest.mark.quick
def test_what_a_call_needs():
    with pytest.raises(ValueError, match=r"image_shape is None; expected .* strides=None"):
        AnchorGrid(CELLS, None)(SHAPES, device="cpu")
    with pytest.raises(ValueError, match=r"image_shape is None; expected .* quotient"):
        AnchorGrid(CELLS, [8, 16], arithmetic="quotient")(SHAPES, device="cpu")
    turned = AnchorGrid([[[0, 0, 4, 5, 90]]], [8], layout="cxcywha")
    with pytest.raises(ValueError, match=r"clip is \(4, 4\); expected None for layout cxcywha"):
        turned([(2, 2)], clip=(4, 4), device="cpu")


def test_meta_and_devices_without_a_kernel(monkeypatch):
    grid = AnchorGrid(CELLS, [8, 16])
    meta = grid(SHAPES, device="meta")
    assert meta.is_meta and meta.shape == (82, 4)
    assert grid.at(torch.zeros(3, dtype=torch.int64, device="meta"), SHAPES).shape == (3, 4)
    assert grid.inside(SHAPES, (4, 4), device="meta").is_meta
    assert grid.valid_flags(SHAPES, (4, 4), device="meta").shape == (82,)


@pytest.mark.parametrize(
    ("make_index", "message"),
    [
        (lambda: torch._efficientzerotensor((4,), dtype=torch.int64), "index has a storage of"),
        (lambda: torch.zeros(4, dtype=torch.int64).to_sparse(), "index has layout torch.sparse_coo"),
        (lambda: torch.nested.nested_tensor([torch.zeros(4, dtype=torch.int64)]), "shape nested; expected a dense"),
    ],
)
def test_indices_without_memory_of_their_own(make_index, message):
    grid = AnchorGrid(CELLS, [8, 16])
    with pytest.raises(ValueError, match=message):
        grid.at(make_index(), SHAPES)
    emptied = torch.arange(10)
    emptied.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="index has a storage of 0 bytes"):
        grid.at(emptied, SHAPES)


def test_meta_makes_nothing():
    grid, huge = AnchorGrid(CELLS, [8, 16]), [(2**28, 2**28)] * 2
    assert grid.inside(huge, (9, 9), device="meta").shape == grid.valid_flags(huge, (9, 9), device="meta").shape
    with pytest.raises(ValueError, match="border is -inf"):
        grid.inside(huge, (9, 9), -math.inf, device="meta")


def test_constants_of_a_jit_trace():
    grid, index = AnchorGrid(CELLS, [8, 16]), torch.tensor([3, -1])

    def call(image):
        shape = image.shape[-2:]
        flags = grid.inside(SHAPES, shape, device="cpu") & grid.valid_flags(SHAPES, shape, device="cpu")
        return grid(SHAPES, device="cpu") + 0, flags.clone(), grid.at(index, SHAPES) + 0

    image = torch.zeros(1, 3, 40, 56)
    for traced, eager in zip(torch.jit.trace(call, image)(image), call(image), strict=True):
        assert torch.equal(traced, eager)


def test_what_16_bits_cannot_hold(device):
    """Infinite summands of either sign: no number, as in torch; and infinities stay."""
    grid = AnchorGrid([[(-1e5, -1e5, 1e5, 1e5)]], [1e5], arithmetic="float16")
    boxes = grid([(1, 2)], dtype=torch.float16, device=device).cpu()
    assert boxes[1].isnan().tolist() == [True, False, False, False] and boxes[1, 2:].tolist() == [math.inf] * 2


def test_split_says_what_is_wrong():
    grid, boxes = AnchorGrid(CELLS, [8, 16]), torch.zeros(82, 4)
    for shapes in (5, [(5, 7)], [(5, 7), (3, 4), (1, 1)], [(5, 7), 3]):
        with pytest.raises((TypeError, ValueError), match="level_shapes"):
            grid.split(boxes, shapes)
    with pytest.raises(TypeError, match="dim is 'a'"):
        grid.split(boxes, SHAPES, dim="a")
    with pytest.raises(ValueError, match=r"layout is \['point'\]"):
        AnchorGrid(CELLS, [8, 16], layout=["point"])


def test_clip_is_checked_under_fake_tensors():
    turned = AnchorGrid([[[0, 0, 4, 5, 90]]], [8], layout="cxcywha")
    with FakeTensorMode(), pytest.raises(ValueError, match=r"clip is \(4, 4\)"):
        turned([(2, 2)], clip=(4, 4), device="cpu")
