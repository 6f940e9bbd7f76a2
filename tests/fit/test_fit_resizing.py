"""Images are resized as each framework's transform resizes them."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from toolchain import ROOT

from anchor_ext.fit import (
    DataSet,
    Detectron2Resize,
    FixedResize,
    KeepSize,
    Letterbox,
    MmdetResize,
    TorchvisionResize,
    read,
    resized,
)

sys.path.insert(0, str(ROOT / "tests"))


def shapes_of(rng, count):
    shapes = [(rng.randint(20, 3000), rng.randint(20, 3000)) for _ in range(count)]
    return [*shapes, (480, 640), (800, 1333), (500, 500), (427, 640), (1, 4000), (3, 3)]


@pytest.mark.peers
def test_torchvision(rng):
    transform = pytest.importorskip("torchvision.models.detection.transform")
    for sizes in ((800, 1333), (320, 640)):
        rule = TorchvisionResize(*sizes)
        of = transform.GeneralizedRCNNTransform(*sizes, [0.0] * 3, [1.0] * 3)
        for shape in shapes_of(rng, 12):
            if min(shape) * sizes[1] < max(shape):  # interpolate refuses a side of 0
                continue
            boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]]) * torch.tensor([shape[1], shape[0]] * 2)
            images, targets = of([torch.zeros(3, *shape)], [{"boxes": boxes}])
            got = resized(read(boxes, image_shape=shape), rule)
            assert got.shapes.tolist() == [list(images.tensors.shape[-2:])]
            assert got.placed.scale.mul(torch.tensor(shape)).round().long().tolist() == [list(images.image_sizes[0])]
            torch.testing.assert_close(got.boxes, targets[0]["boxes"], rtol=1e-6, atol=0)


def detectron2_shape(height, width, short, long):
    """ResizeShortestEdge, by its formula."""
    scale = short * 1.0 / min(height, width)
    new = [short, scale * width] if height < width else [scale * height, short]
    if max(new) > long:
        scale = long * 1.0 / max(new)
        new = [side * scale for side in new]
    return [int(side + 0.5) for side in new]


@pytest.mark.quick
def test_detectron2(rng):
    shapes = [shape for shape in shapes_of(rng, 2000) if min(shape) > 3]
    placed = Detectron2Resize(800, 1333)(torch.tensor(shapes))
    wanted = [detectron2_shape(*shape, 800, 1333) for shape in shapes]
    assert placed.scale.mul(torch.tensor(shapes)).round().long().tolist() == wanted
    assert placed.shapes.tolist() == [[-(-side // 32) * 32 for side in shape] for shape in wanted]


@pytest.mark.peers
def test_mmdet(rng):
    mmcv = pytest.importorskip("mmcv")
    shapes = [shape for shape in shapes_of(rng, 2000) if min(shape) > 3]
    placed = MmdetResize(800, 1333)(torch.tensor(shapes))
    wanted = [list(mmcv.rescale_size((w, h), (1333, 800)))[::-1] for h, w in shapes]
    assert placed.scale.mul(torch.tensor(shapes)).round().long().tolist() == wanted


@pytest.mark.quick
def test_other_rules():
    shapes = torch.tensor([[100, 200], [300, 150]])
    fixed = FixedResize(64, 96)(shapes)
    assert fixed.shapes.tolist() == [[64, 96]] * 2 and fixed.scale.tolist() == [[0.64, 0.48], [64 / 300, 0.64]]
    middle, corner = Letterbox(320, 320)(shapes), Letterbox(320, 320, center=False)(shapes)
    assert middle.scale.tolist() == corner.scale.tolist() == [[1.6, 1.6], [320 / 300] * 2]
    assert middle.offset.tolist() == [[80, 0], [0, 80]] and corner.offset.tolist() == [[0, 0]] * 2
    assert KeepSize(64)(shapes).shapes.tolist() == [[128, 256], [320, 192]]
    assert KeepSize(1)(shapes).shapes.tolist() == shapes.tolist()


@pytest.mark.quick
def test_boxes_and_groups():
    boxes = torch.tensor([[0.0, 0, 10, 20], [5, 5, 15, 10], [1, 2, 3, 4], [9, 9, 19, 29]], dtype=torch.float64)
    data = DataSet(
        boxes, torch.tensor([2, 0, 1, 0]), torch.tensor([[40, 80], [80, 40], [40, 80]]), torch.zeros(4).long(), ("a",)
    )
    got = resized(data, Letterbox(160, 160))
    assert got.boxes.tolist() == [[0, 40, 20, 80], [10, 50, 30, 60], [42, 4, 46, 8], [18, 58, 38, 98]]
    assert [(shape, own.tolist()) for shape, own in got.groups()] == [((160, 160), [0, 1, 2, 3])]
    kept = resized(data, KeepSize(1)).groups()
    assert [shape for shape, _ in resized(data).groups()] == [(64, 96), (96, 64)]
    assert [(shape, own.tolist()) for shape, own in kept] == [((40, 80), [0, 1, 3]), ((80, 40), [2])]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchvisionResize(0), "min_size is 0; expected an integer"),
        (lambda: FixedResize(3.5, 2), "height is 3.5; expected an integer"),
        (lambda: Letterbox(3, True), "width is True; expected an integer"),
        (lambda: resized(types.SimpleNamespace(), 800), "resize is 800; expected None or a rule"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
