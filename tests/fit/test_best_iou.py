"""The best IoU of a box is the greatest of the whole matrix, bit for bit, and the anchor is the first that has it."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import grid_of, random_configuration, random_grid, random_shape
from toolchain import ROOT

import anchor_ext
from anchor_ext.compat import torchvision as compat
from anchor_ext.fit import best_iou

sys.path.insert(0, str(ROOT / "tests" / "match"))
import originals
import test_match_dropins as dropins
from test_match import ODD, PROPER, coco, some_boxes

pytestmark = pytest.mark.filterwarnings("ignore::anchor_ext.UnusualAnchorsWarning")


def check(got, boxes, anchors, counts, sizes):
    """`got` beside what the matrix gives; `counts` and `sizes`: cell anchors and anchors of each level."""
    matrix = originals.box_iou(boxes, anchors, quotient="zero_if_nothing").nan_to_num(0)
    matrix = matrix if anchors.shape[0] else torch.zeros(len(boxes), 1, dtype=boxes.dtype)
    wanted = matrix.amax(1)
    first = (matrix == wanted[:, None]).int().argmax(1)
    assert got.iou.dtype == wanted.dtype and torch.equal(got.iou, wanted), (got, wanted)
    assert torch.equal(got.index, first.where(wanted > 0, -1)), (got, first, boxes)
    for index, level, cell_anchor in zip(*(tensor.tolist() for tensor in got[1:]), strict=True):
        if index < 0:
            assert level == cell_anchor == -1
        else:
            assert 0 <= cell_anchor < counts[level]
            begin = sum(sizes[:level])
            assert begin <= index < begin + sizes[level] and (index - begin) % counts[level] == cell_anchor


@pytest.mark.parametrize("kinds", [PROPER, ODD], ids=["proper", "odd"])
def test_random_configurations(kinds, rng):
    for case in range(600):
        configuration = random_configuration(rng)
        shape = random_shape(rng, configuration, most=300)
        anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
        made = anchors.generate(shape)[0]
        boxes = some_boxes(rng, made, shape, kinds)
        boxes = boxes if case % 4 == 3 else boxes.float()
        boxes = boxes[(boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])]
        counts = [len(level) for level in anchors.cell_anchors]
        sizes = [level.shape[1] for level in anchors.split(made[None], shape)]
        check(best_iou(boxes, anchors, shape), boxes, made, counts, sizes)


def test_random_grids(rng):
    """Every arithmetic, both layouts of boxes, clipped or not, levels without cells, infinite anchors."""
    done = 0
    while done < 1200:
        arguments = random_grid(rng, 400)
        if arguments["layout"] not in ("xyxy", "yxyx") or not arguments["image_shape"]:
            continue
        grid, shape, shapes = grid_of(arguments), arguments["image_shape"], arguments["level_shapes"]
        made = grid(shapes, image_shape=shape, clip=arguments["clip"])
        made = made[:, [1, 0, 3, 2]] if arguments["layout"] == "yxyx" else made
        boxes = some_boxes(rng, made, shape, ODD).float()
        boxes = boxes[boxes.isfinite().all(1) & (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])]
        got = best_iou(boxes, grid, shape, level_shapes=shapes, clip=arguments["clip"])
        check(got, boxes, made, grid.num_cell_anchors, grid.level_sizes(shapes))
        done += 1


@pytest.mark.quick
@pytest.mark.parametrize("make", dropins.MAKERS, ids=lambda make: make.__name__)
def test_drop_ins(make):
    grid, shapes, made = make(torch.device("cpu"))
    made = made[:, [1, 0, 3, 2]] if grid.layout == "yxyx" else made
    boxes = coco(200, 3, dropins.SHAPE)
    got = best_iou(boxes, grid, dropins.SHAPE, level_shapes=shapes)
    check(got, boxes, made, grid.num_cell_anchors, grid.level_sizes(shapes))


@pytest.mark.quick
def test_a_generator_itself():
    generator = compat.AnchorGenerator(((32, 40), (64, 80), (128, 150)), ((0.5, 1.0, 2.0),) * 3)
    boxes = coco(50, 3, dropins.SHAPE)
    grid = generator.grid
    wanted = best_iou(boxes, grid, dropins.SHAPE, level_shapes=dropins.GRIDS)
    got = best_iou(boxes, generator, dropins.SHAPE, strides=[8, (16, 16), 32])
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    effdet = dropins.effdet.Anchors(3, 5, 2, [1.0, 2.0, 0.5], 4.0, (192, 256))
    grid, shapes = effdet.as_grid()
    got = best_iou(boxes, effdet, (192, 256))
    assert torch.equal(got.iou, best_iou(boxes, grid, (192, 256), level_shapes=shapes).iou)
    with pytest.raises(ValueError, match=r"image_shape is \(8, 8\); expected \(192, 256\)"):
        best_iou(boxes, effdet, (8, 8))


@pytest.mark.quick
def test_real_sizes():
    """RetinaNet's anchors, P2 to P6, and one anchor per cell, with many boxes: in both types, by any number of
    threads."""
    for anchors in (
        anchor_ext.Anchors(),
        anchor_ext.Anchors([2, 3, 4, 5, 6], sizes=[32, 64, 128, 256, 512], scales=[1]),
        anchor_ext.Anchors(sizes=[24, 48, 96, 192, 384], ratios=[1], scales=[1]),
    ):
        boxes = torch.cat([coco(150, 5), coco(50, 6) / 5, coco(20, 7) * 3 - 200])
        made = anchors.generate((320, 416))[0]
        counts = [len(level) for level in anchors.cell_anchors]
        sizes = [level.shape[1] for level in anchors.split(made[None], (320, 416))]
        for some in (boxes, boxes.double()):
            check(best_iou(some, anchors, (320, 416)), some, made, counts, sizes)
    many = coco(20_000, 8)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append(best_iou(many, anchors, (320, 416)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.quick
def test_what_is_returned():
    anchors = anchor_ext.Anchors()
    none = best_iou(torch.zeros(0, 4), anchors, (64, 64))
    assert [tuple(tensor.shape) for tensor in none] == [(0,)] * 4 and none.index.dtype == torch.int64
    half = best_iou(torch.tensor([[1.0, 2, 30, 40]], dtype=torch.bfloat16), anchors, (64, 64))
    assert half.iou.dtype == torch.float32
    outside = best_iou(torch.tensor([[900.0, 900, 950, 950], [3, 3, 3, 9]]), anchors, (64, 64))
    assert outside.iou.tolist() == [0, 0] and outside.index.tolist() == outside.level.tolist() == [-1, -1]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("boxes", "anchors", "keywords", "message"),
    [
        ([[1.0, 2, 3, 4]], None, {}, r"boxes is \[\[1.0, 2, 3, 4\]\]; expected a tensor \(n, 4\)"),
        (torch.zeros(4), None, {}, r"boxes has .* shape \(4,\); expected a tensor \(n, 4\)"),
        (torch.zeros(1, 4).long(), None, {}, r"boxes has dtype torch.int64"),
        (torch.tensor([[0.0, 0, 1, 1], [5, 0, 4, 9]]), None, {}, r"boxes\[1\] is \[5.0, .*finite x1 <= x2"),
        (torch.tensor([[0.0, 0, 1, float("nan")]]), None, {}, r"boxes\[0\] is \[.*nan\]; expected finite"),
        (torch.zeros(1, 4), 3, {}, r"anchors is 3; expected Anchors, AnchorGrid or a generator"),
        (torch.zeros(1, 4), None, {"strides": [8]}, r"strides is \[8\]; expected None"),
        (torch.zeros(1, 4), None, {"level_shapes": [(1, 1)]}, r"level_shapes is .*; expected None"),
        (torch.zeros(1, 4), compat.AnchorGenerator(), {}, r"strides is None; expected a number per level"),
        (torch.zeros(1, 4), compat.AnchorGenerator(), {"strides": [8, 9]}, r"strides is \[8, 9\]; expected 1 numb"),
        (torch.zeros(1, 4), compat.AnchorGenerator(), {"strides": [-8]}, r"strides is \[-8\]; expected 1 numbers > 0"),
        (torch.zeros(1, 4), compat.AnchorGenerator(), {"strides": 8}, r"strides is 8; expected 1 numbers > 0"),
    ],
)
def test_bad_input(boxes, anchors, keywords, message):
    with pytest.raises((TypeError, ValueError), match=message):
        best_iou(boxes, anchor_ext.Anchors() if anchors is None else anchors, (64, 64), **keywords)


def test_the_operator():
    spec, boxes = anchor_ext.Anchors().spec, torch.tensor([[1.0, 2, 30, 40]])
    operator = torch.ops.anchor_ext.best_anchor.default
    torch.library.opcheck(operator, (boxes, None, spec), {"image_shape": [64, 64]})
    on_meta = operator(boxes.to("meta"), None, spec, image_shape=[64, 64])
    assert [(tensor.shape, tensor.dtype) for tensor in on_meta] == [((1,), torch.float32), ((1,), torch.int64)]
    for wrong in (boxes.half(), boxes[0]):
        with pytest.raises((RuntimeError, ValueError), match="boxes"):
            operator(wrong, None, spec, image_shape=[64, 64])


@pytest.mark.gpu
def test_boxes_on_a_device():
    boxes = coco(50, 3)
    here, there = (
        best_iou(boxes, anchor_ext.Anchors(), (320, 416)),
        best_iou(boxes.cuda(), anchor_ext.Anchors(), (320, 416)),
    )
    assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
