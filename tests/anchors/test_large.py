"""Outputs larger than most caches, of rows that the CPU writes in parts: what the same flat indices give one by one."""

from __future__ import annotations

import pytest
import torch
from test_api import ODD

import anchor_ext

LARGE, MORE_THAN_CACHES = 20 << 20, 32 << 20  # bytes: the latter is kFreshBytes of csrc/anchors/op.cpp
WIDE = 8323  # columns: more than the CPU's table holds, see kTileBytes of csrc/anchors/anchors_cpu.cpp


@pytest.mark.parametrize(("layout", "components"), [("xyxy", 4), ("yxyx", 4), ("point", 2), ("cxcywha", 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("count", "least", "columns"),
    [
        *((count, LARGE, 151) for count in (1, 6, 7, 9)),
        *((count, LARGE, WIDE) for count in (1, 9, 10)),
        *((count, MORE_THAN_CACHES, 1003) for count in (1, 3, 4, 9, 12)),
        *((count, MORE_THAN_CACHES, WIDE) for count in (5, 9, 12)),
    ],
)
def test_every_layout(layout, components, dtype, count, least, columns):
    cell_anchors = [[[1.7 * a - k / 3 for k in range(components)] for a in range(count)]] * 2
    grid = anchor_ext.AnchorGrid(cell_anchors, [3.3, 7], layout=layout)
    rows = least // (columns * count * components * dtype.itemsize) + 1
    shapes = [(rows, columns), (5, 9)]  # whose rows begin at no line of a cache
    out = torch.full((sum(grid.level_sizes(shapes)) * components + 3,), torch.nan, dtype=dtype)
    view = out[1:-2].view(-1, components)
    assert least <= view.nbytes <= least + (columns + 5 * 9) * count * components * dtype.itemsize  # by a row at most
    grid(shapes, dtype=dtype, out=view)
    assert out[0].isnan() and out[-2:].isnan().all()
    for index in torch.arange(len(view)).split(1 << 20):
        assert torch.equal(view[index[0] : index[-1] + 1], grid.at(index, shapes, dtype=dtype))


@pytest.mark.parametrize("configuration", [{}, ODD])
def test_new_tensors(configuration):
    shape = (3000, 4111)
    boxes = anchor_ext.generate(shape, **configuration, device="cpu")
    assert boxes.nbytes >= MORE_THAN_CACHES
    given = anchor_ext.generate(shape, **configuration, device="cpu", dtype=torch.float64).float()
    assert torch.equal(boxes, given)


def test_flags():
    grid = anchor_ext.AnchorGrid([[(-1, -1, 1, 1)]], [1])
    flags = grid.valid_flags([(6000, 5701)], (4000, 5000), device="cpu")
    expected = torch.zeros(6000, 5701, dtype=torch.bool)
    expected[:4000, :5000] = True
    assert flags.nbytes >= MORE_THAN_CACHES and torch.equal(flags, expected.view(-1))
