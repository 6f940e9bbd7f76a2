"""Matches equal, index for index, what the originals make of the whole matrix of boxes by anchors."""

from __future__ import annotations

import originals
import pytest
import torch
from conftest import grid_of, random_configuration, random_grid, random_shape

import anchor_ext
from anchor_ext import matchers

pytestmark = pytest.mark.filterwarnings("ignore::anchor_ext.UnusualAnchorsWarning")
NAN, INF = float("nan"), float("inf")

RULES = [
    matchers.Matcher(),
    matchers.Matcher(0.7, 0.3),
    matchers.Matcher(0.5, 0.5, False),
    matchers.Matcher(0.6, 0.0),
    matchers.Matcher(low_quality_needs_overlap=True),
    matchers.SSDMatcher(),
    matchers.Detectron2Matcher(),
    matchers.Detectron2Matcher((0.3, 0.7), (0, -1, 1), False),
    matchers.Detectron2Matcher((0.2, 0.4, 0.6), (1, 0, -1, 1), True, True),
    matchers.MaxIoUAssigner(0.5, 0.4),
    matchers.MaxIoUAssigner(0.7, 0.3, 0.3),
    matchers.MaxIoUAssigner(0.5, (0.1, 0.4), 0.2, False),
    matchers.MaxIoUAssigner(0.5, 0.5, match_low_quality=False),
    matchers.ArgMaxMatcher(force_match_for_each_row=True),
    matchers.ArgMaxMatcher(0.6, 0.3, False),
    matchers.FocalLossMatcher(),
]


def some_boxes(rng, anchors, shape, kinds, most=12):
    """Boxes of all kinds, among them anchors themselves, near them, and duplicates."""
    height, width = shape
    boxes = []
    for _ in range(rng.randint(1, most)):
        kind = rng.choice(kinds)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        anchor = anchors[rng.randrange(len(anchors))].tolist() if len(anchors) else [0.0, 0.0, 8.0, 8.0]
        w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
        if kind == "any":
            boxes.append([x, y, x + rng.uniform(0, width), y + rng.uniform(0, height)])
        elif kind == "anchor":
            boxes.append(anchor)
        elif kind == "near":
            move = [rng.uniform(-0.3, 0.3) * side for side in (w, h, w, h)]
            boxes.append([a + m for a, m in zip(anchor, move, strict=True)])
        elif kind == "half":  # an IoU of exactly a half with an anchor, or nearly so
            boxes.append([anchor[0], anchor[1], anchor[0] + w / 2, anchor[3]])
        elif kind == "touching":
            boxes.append([anchor[2], anchor[1], anchor[2] + w, anchor[3]])
        elif kind == "tiny":
            boxes.append([x, y, x + rng.choice([1e-3, 1e-25, 1.0]), y + rng.choice([1e-3, 1e-25, 1.0])])
        elif kind == "huge":
            boxes.append([x - 10 * width, y - 10 * height, x + 10 * width, y + 1e5])
        elif kind == "outside":
            boxes.append([x + 100 * width + 1e5, y, x + 100 * width + 1e5 + 20, y + 20])
        elif kind == "flat":
            boxes.append([x, y, x, y + rng.choice([0, 5])])
        elif kind == "inverted":
            boxes.append([x + 10, y + rng.choice([-5, 5]), x, y])
        elif kind == "none":
            boxes.append([rng.choice([x, NAN, INF, -INF, 1e30]) for _ in range(4)])
        elif kind == "again" and boxes:
            boxes.append(rng.choice(boxes))
    return torch.tensor(boxes or [[0.0, 0.0, 9.0, 9.0]], dtype=torch.float64)


PROPER = ["any", "any", "anchor", "near", "near", "half", "touching", "tiny", "huge", "again"]
ODD = [*PROPER, "outside", "flat"]
WRONG = [*ODD, "inverted", "none"]


def check(call, rule, boxes, anchors):
    """Of a call that takes boxes, a rule and return_iou."""
    wanted, wanted_iou = originals.expected(rule, boxes, anchors.to(boxes.device))
    plain = call(boxes, matcher=rule, return_iou=False)
    with_iou, iou = call(boxes, matcher=rule, return_iou=True)
    for got in (plain, with_iou):
        for a, b in zip(*[(x if isinstance(x, tuple) else (x,)) for x in (got, wanted)], strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), (rule, boxes.tolist(), (a != b).nonzero().flatten()[:9])
    assert iou.dtype == wanted_iou.dtype and torch.equal(iou.nan_to_num(-1), wanted_iou.nan_to_num(-1)), (rule, boxes)


def detectron2_takes(rule, boxes):
    """It refuses what is no number."""
    return not isinstance(rule, matchers.Detectron2Matcher) or not bool(boxes.isnan().any())


@pytest.mark.parametrize("kinds", [PROPER, ODD, WRONG], ids=["proper", "odd", "wrong"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_random_cases(rule, kinds, device, rng):
    for case in range(40):
        configuration = random_configuration(rng)
        shape = random_shape(rng, configuration, most=400)
        anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
        made = anchors.generate(shape, device=device)[0]
        boxes = some_boxes(rng, made, shape, kinds).to(device)
        boxes = boxes if case % 4 == 3 else boxes.float()
        if not detectron2_takes(rule, boxes):
            continue
        check(lambda b, s=shape, a=anchors, **options: a.match(b, s, **options), rule, boxes, made)
