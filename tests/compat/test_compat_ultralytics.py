"""anchor_ext.compat.ultralytics: what ultralytics' formula gives with torch's operators on the CPU, to the last bit."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import launches
import numpy as np
import peers
import pytest
import reference
import torch
from conftest import DTYPES
from torch import nn

from anchor_ext.compat.ultralytics import make_anchors

GRIDS = [(80, 104), (40, 52), (20, 26)]
STRIDES = [8, 16, 32]


def formula(grids, strides, offset, dtype):
    """In grid units: every sum is rounded to the dtype, and so is the cell's number before it."""
    points, columns = [], []
    for (rows, cells), stride in zip(grids, strides, strict=True):
        x = torch.arange(cells, device="cpu").to(dtype) + offset
        y = torch.arange(rows, device="cpu").to(dtype) + offset
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2))
        columns.append(x.new_full((rows * cells, 1), stride))
    return torch.cat(points), torch.cat(columns)


def same(result, expected) -> bool:
    return (
        isinstance(result, tuple)
        and len(result) == 2
        and all(reference.same_bits(a.contiguous(), b) for a, b in zip(result, expected, strict=True))
    )


def features(grids, dtype=torch.float32, device="cpu") -> list[torch.Tensor]:
    """Of any size for nothing: all numbers share one address."""
    return [torch.zeros((), dtype=dtype, device=device).expand(2, 3, *grid) for grid in grids]


def random_case(rng, dtype, device) -> tuple[tuple, list[tuple[int, int]]]:
    """Arguments, and the grids in them. Rows of cells whose numbers the 16-bit types round, too."""
    levels = rng.choice([1, 2, 3, 3, 4, 6])
    grids = []
    for _ in range(levels):
        longer = rng.randint(1, rng.choice([10, 100, 100, 300, 3000]))
        grid = [longer, rng.randint(1, min(100, max(1, 2000 // longer)))]
        rng.shuffle(grid)
        grids.append(tuple(grid))
    if rng.random() < 0.5:
        feats = features(grids, dtype, device)
        for i in range(1, levels):  # only the first one's dtype counts
            feats[i] = feats[i].to(rng.choice(DTYPES))
    else:
        # A size of many cells is no number of the 16-bit types, and a fraction of a cell is cut off.
        feats = torch.tensor(grids, dtype=dtype, device=device) + rng.choice([0, 0.25])
        grids = [(int(rows), int(cells)) for rows, cells in feats.tolist()]
    # Just beside the middle of two numbers of float16 or bfloat16, and on the middle once it is a float32.
    ties = [1 + 2.0**-11 + 2.0**-30, 1 + 2.0**-8 - 2.0**-30, 1 + 3 * 2.0**-11 - 2.0**-30, 0.5 + 2.0**-12 + 2.0**-40]
    strides = [rng.choice([2 ** rng.randint(2, 7), 12, 7.3, rng.uniform(0.1, 300), *ties]) for _ in grids]
    if rng.random() < 0.5:
        strides = torch.tensor(strides, dtype=rng.choice([dtype, torch.float32, torch.float64]), device=device)
    offset = rng.choice([0.5, 0.5, 0, 0.0, 1, 0.3, -0.25, 1 / 3, rng.random(), *ties])
    return (feats, strides, offset), grids


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_cases(dtype, device, rng):
    for _ in range(1000):
        (feats, strides, offset), grids = random_case(rng, dtype, device)
        result = make_anchors(feats, strides, offset)
        assert same(result, formula(grids, strides, offset, dtype)), (grids, strides, offset)
        assert {tensor.device.type for tensor in result} == {device.type}


@pytest.mark.quick
@pytest.mark.peers
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_original(dtype, rng):
    theirs = peers.ultralytics_tal().make_anchors
    for _ in range(400):
        arguments, grids = random_case(rng, dtype, "cpu")
        expected = theirs(*arguments)
        assert same(make_anchors(*arguments), expected), (grids, *arguments[1:])
        assert same(formula(grids, *arguments[1:], dtype), expected), (grids, *arguments[1:])


@pytest.mark.peers
def test_the_originals_signature():
    theirs = inspect.signature(peers.ultralytics_tal().make_anchors).parameters.values()
    ours = inspect.signature(make_anchors).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strides", [STRIDES, tuple(STRIDES), torch.tensor(STRIDES), torch.tensor(STRIDES) / 3])
def test_kinds_of_strides(strides, dtype):
    expected = formula(GRIDS, strides, 0.5, dtype)
    for feats in (features(GRIDS, dtype), torch.tensor(GRIDS, dtype=dtype)):
        assert same(make_anchors(feats, strides), expected)
        assert same(make_anchors(feats=feats, strides=strides, grid_cell_offset=0.5), expected)


def test_rows_beyond_what_the_type_can_count():
    """Above 256 bfloat16 knows every second number only, above 2048 float16."""
    for dtype, cells in ((torch.bfloat16, 1500), (torch.float16, 5000), (torch.float16, 70000)):
        for grid in ((1, cells), (cells, 2)):
            for offset in (0.5, 0.3, 1, 1.5):
                expected = formula([grid], [8], offset, dtype)
                assert same(make_anchors(features([grid], dtype), [8], offset), expected), (grid, dtype, offset)


def test_surroundings_have_no_influence():
    feats = [feature.clone().requires_grad_() for feature in features(GRIDS, torch.float16)]
    expected = formula(GRIDS, STRIDES, 0.3, torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = make_anchors(feats, STRIDES, 0.3)
        assert same(result, expected) and not any(tensor.requires_grad for tensor in result)
    with torch.inference_mode():
        assert same(make_anchors(feats, STRIDES, 0.3), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_contiguous_on_the_cpu(dtype):
    """As ultralytics' are. Larger grids are shared out among threads."""
    grids = [(300, 400), (1, 7), (90, 3)]
    expected = formula(grids, STRIDES, 0.3, dtype)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            points, strides = make_anchors(features(grids, dtype), STRIDES, 0.3)
            assert points.is_contiguous() and strides.is_contiguous()
            assert same((points, strides), expected)
            assert points.storage_offset() == strides.storage_offset() == 0
    finally:
        torch.set_num_threads(before)


def test_memory_that_there_is_not():
    with pytest.raises(RuntimeError, match=r"(?i)memory|storage size"):
        make_anchors(torch.tensor([[2.0**24, 2.0**24]]), [8])


def test_results_are_the_callers_own():
    expected = formula(GRIDS, STRIDES, 0.5, torch.float32)
    points, strides = make_anchors(features(GRIDS), STRIDES)
    points.fill_(-1)
    assert reference.same_bits(strides, expected[1])
    assert same(make_anchors(features(GRIDS), STRIDES), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_launch_and_a_copy_of_each(dtype):
    copying = ("aten::clone", "aten::empty_like", "aten::copy_")
    feats, sizes = features(GRIDS, dtype), torch.tensor(GRIDS, dtype=dtype)
    strides = torch.tensor(STRIDES, dtype=torch.float32)
    for seen, reads in (
        (launches.operators(lambda: make_anchors(feats, STRIDES)), False),
        (launches.operators(lambda: make_anchors(feats, strides)), True),
        (launches.operators(lambda: make_anchors(sizes, strides)), True),
    ):
        assert all(seen.pop(name) == 2 for name in copying), seen
        assert launches.is_one_launch(seen, outputs=3, reads=reads), seen


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("feats", (None, STRIDES)),
        ("feats", ([], STRIDES)),
        ("strides", (features(GRIDS), [8, 16])),
        ("strides", (features(GRIDS), torch.tensor([8.0, 16.0]))),
        ("strides", (torch.tensor(GRIDS, dtype=torch.float32), [])),
        ("strides", (features(GRIDS), [8, math.nan, 32])),
        ("grid_cell_offset", (features(GRIDS), STRIDES, math.nan)),
        ("grid_cell_offset", (features(GRIDS), STRIDES, math.inf)),
    ],
)
def test_errors(name, arguments):
    with pytest.raises(ValueError, match=rf"(?s)\b{name}\b.*expected") as info:
        make_anchors(*arguments)
    assert isinstance(info.value, AssertionError)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "strides",
    [
        *(np.array(STRIDES), np.array(STRIDES, np.float32) / 3, range(8, 11)),
        *([np.float32(8), np.int64(16), np.array(32.0)], [torch.tensor(8), torch.tensor(16.3), 32.5]),
    ],
    ids=lambda strides: type(strides).__name__,
)
def test_numpy_and_single_tensors(strides, dtype):
    expected = formula(GRIDS, [float(stride) for stride in strides], 0.5, dtype)
    assert same(make_anchors(features(GRIDS, dtype), strides), expected)
    assert same(make_anchors(features(GRIDS, dtype), strides, np.float64(0.5)), expected)
    with pytest.raises(ValueError, match=r"strides is 8.0; expected 3"):
        make_anchors(features(GRIDS, dtype), torch.tensor(8.0))


# Graphs.


class Head(nn.Module):
    """As ultralytics' heads call it, with strides that are an attribute; or an argument."""

    def __init__(self, function=make_anchors):
        super().__init__()
        self.function, self.stride = function, torch.tensor([8.0, 16.3])

    def forward(self, first, second, strides=None):
        points, column = self.function([first * 2, second * 2], self.stride if strides is None else strides, 0.5)
        return points * 2, column * 3


def two_maps(dtype=torch.float32, grids=((9, 7), (4, 3))) -> list[torch.Tensor]:
    return [torch.zeros(1, 2, *grid, dtype=dtype) for grid in grids]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_of_strides_is_an_input_of_the_graph(dtype):
    """The numbers in it may change, and are rounded as eager ones are; one graph, where ultralytics' own has two."""
    torch._dynamo.reset()
    ties = [1 + 2.0**-11 + 2.0**-30, 1 + 3 * 2.0**-11 - 2.0**-30]
    compiled = torch.compile(Head(), fullgraph=True, dynamic=True, backend="eager")
    for grids in (((9, 7), (4, 3)), ((20, 30), (10, 15))):
        for strides in (None, *(torch.tensor(values, dtype=torch.float64) for values in ([8, 16], ties))):
            maps = two_maps(dtype, grids)
            assert same(compiled(*maps, strides), Head()(*maps, strides)), (grids, strides)
    with pytest.raises(Exception, match=r"strides.*expected"):
        compiled(*two_maps(dtype), torch.tensor([[8.0], [16.0]]))


@pytest.mark.peers
@pytest.mark.parametrize("strides", [None, torch.tensor([8.0, 16.0]), [8.0, 16.0]])
def test_no_more_graph_breaks_than_the_original(strides):
    counts = []
    for function in (make_anchors, peers.ultralytics_tal().make_anchors):
        torch._dynamo.reset()
        explained = torch._dynamo.explain(Head(function))(*two_maps(), strides)
        counts.append(explained.graph_break_count)
    assert counts[0] == 0 <= counts[1]


@pytest.mark.parametrize("strict", [True, False])
def test_exports_with_a_tensor_of_strides(strict):
    exported = torch.export.export(Head(), tuple(two_maps()), strict=strict)
    assert same(exported.module()(*two_maps()), Head()(*two_maps()))


@pytest.mark.quick
@pytest.mark.skipif(not hasattr(torch.jit, "trace"), reason="torch has no TorchScript any more")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_follows_its_inputs():
    """In size and device: meta stands for CUDA here. But for sizes in a tensor, which are constants of a trace."""
    traced = torch.jit.trace(Head(), two_maps())
    for grids in (((9, 7), (4, 3)), ((20, 30), (10, 15))):
        maps = two_maps(grids=grids)
        assert same(traced(*maps), Head()(*maps)), grids
        on_meta = traced(*(feature.to("meta") for feature in maps))
        assert [(result.device.type, result.shape) for result in on_meta] == [
            ("meta", result.shape) for result in traced(*maps)
        ]
    sizes = torch.tensor([[9.0, 7], [4, 3]])
    traced = torch.jit.trace(lambda sizes: make_anchors(sizes, [8, 16]), sizes, check_trace=False)
    assert same(traced(sizes), make_anchors(sizes, [8, 16]))
    assert traced(sizes.to("meta"))[0].is_meta


def test_nothing_is_imported(tmp_path):
    """A package of that name lies in the way and says so when it is touched, even where the error is swallowed."""
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "__init__.py").write_text("print('imported')\nraise ImportError\n")
    script = """if True:
        import sys, torch
        from anchor_ext.compat.ultralytics import make_anchors
        print([tuple(tensor.shape) for tensor in make_anchors([torch.zeros(1, 1, 2, 3)], [8])])
        print([name for name in sys.modules if name.split(".")[0] in ("ultralytics", "cv2", "torchvision")])
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[(6, 2), (6, 1)]", "[]"], run.stdout
