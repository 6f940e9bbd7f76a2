"""Every drop-in's anchors can be matched: its grid gives what the original rule makes of its anchors."""

from __future__ import annotations

import types

import originals
import pytest
import torch
from test_match import PROPER, coco, some_boxes

from anchor_ext import matchers
from anchor_ext.compat import detectron2, effdet, mmdet, torchvision

pytestmark = pytest.mark.quick
SHAPE = (197, 260)  # no multiples of the strides
GRIDS = [(25, 33), (13, 17), (7, 9)]


def images(device):
    return types.SimpleNamespace(tensors=torch.zeros(1, 3, *SHAPE, device=device), image_sizes=[SHAPE])


def features(device):
    return [torch.zeros(1, 1, *grid, device=device) for grid in GRIDS]


def torchvision_anchors(device):
    generator = torchvision.AnchorGenerator(((32, 40), (64, 80), (128, 150)), ((0.5, 1.0, 2.0),) * 3)
    return generator.grid, GRIDS, generator(images(device), features(device))[0]


def torchvision_default_boxes(device):
    generator = torchvision.DefaultBoxGenerator([[2], [2, 3], [2]], steps=[8, 16, 32])
    return generator.grid, GRIDS, generator(images(device), features(device))[0]


def detectron2_anchors(device):
    generator = detectron2.DefaultAnchorGenerator(
        sizes=[[32], [64], [128]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8, 16, 32], offset=0.5
    )
    return generator.grid, GRIDS, torch.cat(generator.grid_anchors(GRIDS, device=device))


def mmdet_anchors(device):
    generator = mmdet.AnchorGenerator([8, 16, 32], [0.5, 1.0, 2.0], scales=[4, 5.3])
    return generator.grid, GRIDS, torch.cat(generator.grid_priors(GRIDS, device=device))


def mmdet_ssd_anchors(device):
    generator = mmdet.SSDAnchorGenerator(
        [8, 16, 32], [[2], [2, 3], [2]], basesize_ratio_range=(0.15, 0.9), input_size=300
    )
    return generator.grid, GRIDS, torch.cat(generator.grid_priors(GRIDS, device=device))


def effdet_anchors(device):
    anchors = effdet.Anchors(3, 5, 2, [1.0, 2.0, 0.5], 4.0, (192, 256))
    return *anchors.as_grid(), anchors.boxes.to(device)


MAKERS = [
    torchvision_anchors, torchvision_default_boxes, detectron2_anchors, mmdet_anchors, mmdet_ssd_anchors,
    effdet_anchors,
]  # fmt: skip
RULES = [
    matchers.Matcher(), matchers.SSDMatcher(), matchers.Detectron2Matcher(),
    matchers.MaxIoUAssigner(0.5, 0.4), matchers.ArgMaxMatcher(force_match_for_each_row=True),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_drop_in_s_grid(make, rule, device, rng):
    grid, shapes, made = make(device)
    if grid.layout == "yxyx":
        made = made[:, [1, 0, 3, 2]]
    for boxes in (coco(30, 1, SHAPE), some_boxes(rng, made, SHAPE, PROPER).float()):
        wanted, wanted_iou = originals.expected(rule, boxes.to(device), made)
        got, iou = grid.match(boxes.to(device), shapes, image_shape=SHAPE, matcher=rule, return_iou=True)
        pairs = zip(*[x if isinstance(x, tuple) else (x,) for x in (got, wanted)], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) and torch.equal(iou, wanted_iou)
