"""Matches equal, index for index, what the originals make of the whole matrix of boxes by anchors."""

from __future__ import annotations

import sys

import originals
import peers
import pytest
import torch
from conftest import grid_of, random_configuration, random_grid, random_shape
from toolchain import ROOT

import anchor_ext
from anchor_ext import matchers

sys.path.insert(0, str(ROOT / "benchmarks"))
import matching

pytestmark = pytest.mark.filterwarnings("ignore::anchor_ext.UnusualAnchorsWarning")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def mmdet():
    return peers.mmdet()


@pytest.fixture(scope="module")
def effdet():
    return peers.effdet()


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


@pytest.mark.parametrize("rule", [RULES[0], RULES[5], RULES[10]], ids=str)
def test_random_grids(rule, device, rng):
    """Every arithmetic, both layouts of boxes, other strides than powers of two, clipped or not."""
    done = 0
    while done < 150:
        arguments = random_grid(rng, 600)
        if arguments["layout"] not in ("xyxy", "yxyx"):
            continue
        grid, shape = grid_of(arguments), arguments["image_shape"]
        call = {key: arguments[key] for key in ("image_shape", "clip")}
        made = grid(arguments["level_shapes"], device=device, **call)
        made = made[:, [1, 0, 3, 2]] if arguments["layout"] == "yxyx" else made
        boxes = some_boxes(rng, made, shape, WRONG if done % 3 == 0 else PROPER).float().to(device)
        check(lambda b, g=grid, a=arguments, c=call, **o: g.match(b, a["level_shapes"], **c, **o), rule, boxes, made)
        done += 1


ANCHORS, SHAPE = anchor_ext.Anchors(), (320, 416)


def coco(count, seed=0, shape=SHAPE):
    return matching.coco_boxes(count, shape, seed)


@pytest.mark.quick
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_many_boxes(rule, device):
    made, boxes = ANCHORS.generate(SHAPE, device=device)[0], coco(300).to(device)
    check(lambda b, **options: ANCHORS.match(b, SHAPE, **options), rule, boxes, made)
    check(lambda b, **options: ANCHORS.match(b, SHAPE, **options), rule, boxes.double(), made)


@pytest.mark.quick
@pytest.mark.parametrize("needs_overlap", [False, True])
def test_the_arguments_are_those_of_the_matcher(needs_overlap, device):
    boxes = torch.cat([coco(20), torch.tensor([[-9e3, -9e3, -8e3, -8e3]])]).to(device)
    rule = matchers.Matcher(0.6, 0.2, True, needs_overlap)
    options = dict(high=0.6, low=0.2, low_quality_needs_overlap=needs_overlap)
    matched, iou = ANCHORS.match(boxes, SHAPE, **options, return_iou=True)
    wanted, wanted_iou = originals.expected(rule, boxes, ANCHORS.generate(SHAPE, device=device)[0])
    assert torch.equal(matched, wanted) and torch.equal(iou, wanted_iou)
    assert torch.equal(matched, ANCHORS.match(boxes, SHAPE, **options))
    assert bool((matched >= 0).all()) != needs_overlap  # one box outside makes positives of all
    low = ANCHORS.match(boxes, SHAPE, high=0.6, low=0.2, allow_low_quality=False)
    assert torch.equal(
        low, originals.torchvision(originals.box_iou(boxes, made_on(device)), matchers.Matcher(0.6, 0.2, False))
    )


def made_on(device):
    return ANCHORS.generate(SHAPE, device=device)[0]


@pytest.mark.quick
@pytest.mark.parametrize("rule", [None, *RULES[5:13:3]], ids=str)
def test_a_batch_is_its_images(rule, device):
    batch = [coco(count, seed).to(device) for seed, count in enumerate((7, 0, 300, 1, 0))]
    batch[3][0] = torch.tensor([9.0, 9, 5, 5])  # inside out
    together = ANCHORS.match(batch, SHAPE, matcher=rule)
    alone = [ANCHORS.match(boxes, SHAPE, matcher=rule) for boxes in batch]
    if isinstance(together, tuple):
        together, alone = torch.stack(together), torch.stack([torch.stack(one) for one in alone], dim=1)
    assert torch.equal(together, alone if isinstance(alone, torch.Tensor) else torch.stack(alone))
    _, iou = ANCHORS.match(batch, SHAPE, matcher=rule, return_iou=True)
    assert iou.shape == (5, ANCHORS.num_anchors(SHAPE)) and not iou[1].any()


@pytest.mark.quick
def test_no_boxes(device):
    none = torch.zeros(0, 4, device=device)
    n = ANCHORS.num_anchors(SHAPE)
    assert torch.equal(ANCHORS.match(none, SHAPE), torch.full((n,), -1, device=device))
    matched, iou = ANCHORS.match([none, none], SHAPE, return_iou=True)
    assert torch.equal(matched, torch.full((2, n), -1, device=device)) and torch.equal(
        iou, torch.zeros(2, n, device=device)
    )
    assert not ANCHORS.match(none, SHAPE, matcher=matchers.MaxIoUAssigner(0.5, 0.4)).any()
    matches, labels = ANCHORS.match(none, SHAPE, matcher=matchers.Detectron2Matcher((0.3, 0.7), (0, -1, 1)))
    assert not matches.any() and not labels.any() and labels.dtype == torch.int8
    grid = anchor_ext.AnchorGrid([[(-4, -4, 4, 4)]], [8])
    assert grid.match(coco(3).to(device), [(0, 5)]).shape == (0,)


def test_threads_change_nothing():
    batch = [coco(50, seed) for seed in range(9)]
    batch[4][0, 0] = NAN
    before, expected = torch.get_num_threads(), ANCHORS.match(batch, SHAPE, return_iou=True)
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            got = ANCHORS.match(batch, SHAPE, return_iou=True)
            assert torch.equal(got[0], expected[0]) and torch.equal(got[1].nan_to_num(-1), expected[1].nan_to_num(-1))
    finally:
        torch.set_num_threads(before)


@pytest.mark.quick
def test_shuffled_boxes_give_the_same_matches(rng):
    boxes = coco(60)
    order = torch.randperm(60)
    matched, shuffled = ANCHORS.match(boxes, SHAPE), ANCHORS.match(boxes[order], SHAPE)
    positive = matched >= 0
    iou = originals.box_iou(boxes, made_on("cpu"))
    tied = (iou == iou.max(dim=0)[0]).sum(dim=0) > 1
    assert torch.equal(order[shuffled[positive & ~tied]], matched[positive & ~tied])
    assert torch.equal(shuffled[~positive], matched[~positive])


@pytest.mark.quick
def test_a_far_box_changes_nothing(device):
    boxes = coco(60).to(device)
    more = torch.cat([boxes, boxes.new_tensor([[1e6, 1e6, 1e6 + 50, 1e6 + 50]])])
    call = dict(low_quality_needs_overlap=True, return_iou=True)
    for a, b in zip(ANCHORS.match(boxes, SHAPE, **call), ANCHORS.match(more, SHAPE, **call), strict=True):
        assert torch.equal(a, b)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_boxes_of_16_bits_are_float32(dtype, device):
    boxes = coco(30).to(device, dtype)
    matched, iou = ANCHORS.match(boxes, SHAPE, return_iou=True)
    wanted = ANCHORS.match(boxes.float(), SHAPE, return_iou=True)
    assert torch.equal(matched, wanted[0]) and torch.equal(iou, wanted[1]) and iou.dtype == torch.float32


@pytest.mark.quick
def test_boxes_that_are_views_or_need_gradients(device):
    boxes = coco(30).to(device)
    expected = ANCHORS.match(boxes, SHAPE)
    for same in (boxes.t().contiguous().t(), torch.stack([boxes, boxes], dim=1)[:, 1], boxes.clone().requires_grad_()):
        matched, iou = ANCHORS.match(same, SHAPE, return_iou=True)
        assert torch.equal(matched, expected) and not iou.requires_grad


@pytest.mark.peers
@pytest.mark.quick
def test_torchvision_itself(rng):
    pytest.importorskip("torchvision.ops", exc_type=(ImportError, OSError, RuntimeError))
    from torchvision.models.detection._utils import Matcher, SSDMatcher
    from torchvision.ops import box_iou

    for case in range(300):
        configuration = random_configuration(rng)
        shape = random_shape(rng, configuration, most=400)
        anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
        made = anchors.generate(shape, device="cpu")[0]
        boxes = some_boxes(rng, made, shape, (PROPER, ODD, WRONG)[case % 3])
        boxes = boxes if case % 2 else boxes.float()
        iou = box_iou(boxes, made)
        matched, best = anchors.match(boxes, shape, return_iou=True)
        assert torch.equal(matched, Matcher(0.5, 0.4, True)(iou)) and torch.equal(matched, anchors.match(boxes, shape))
        assert torch.equal(best.nan_to_num(-1), iou.max(dim=0)[0].nan_to_num(-1))
        assert torch.equal(anchors.match(boxes, shape, matcher=matchers.SSDMatcher(0.4)), SSDMatcher(0.4)(iou))


@pytest.mark.quick
def test_mmdet_itself(mmdet, rng):
    from mmdet.models.task_modules.assigners import MaxIoUAssigner
    from mmengine.structures import InstanceData

    for case in range(150):
        made = made_on("cpu")
        boxes = some_boxes(rng, made, SHAPE, (PROPER, ODD, WRONG)[case % 3]).float()
        options = dict(
            pos_iou_thr=rng.choice([0.5, 0.7]), neg_iou_thr=rng.choice([0.3, 0.4, (0.1, 0.4)]),
            min_pos_iou=rng.choice([0.0, 0.3]), gt_max_assign_all=rng.random() < 0.5,
            match_low_quality=rng.random() < 0.8,
            ignore_iof_thr=rng.choice([-1, 0.3, 0.5]), ignore_wrt_candidates=rng.random() < 0.5,
        )  # fmt: skip
        regions = some_boxes(rng, made, SHAPE, ODD, most=4).float() if case % 2 else None
        original = MaxIoUAssigner(**options).assign(
            InstanceData(priors=made), InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long)),
            None if regions is None else InstanceData(bboxes=regions),
        )  # fmt: skip
        rule = matchers.MaxIoUAssigner(**options)
        matched, iou = ANCHORS.match(boxes, SHAPE, matcher=rule, ignored=regions, return_iou=True)
        assert torch.equal(matched, original.gt_inds)
        assert torch.equal(iou.nan_to_num(-2), original.max_overlaps.nan_to_num(-2))


@pytest.mark.parametrize("all_of_them", [False, True])
@pytest.mark.parametrize("of_anchors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ignored_regions(of_anchors, all_of_them, dtype, device, rng):
    made = made_on(device)
    for case in range(30):
        rule = matchers.MaxIoUAssigner(0.5, (0.1, 0.4), 0.0, all_of_them, 0.4, of_anchors)
        batch, regions = (
            [some_boxes(rng, made, SHAPE, WRONG, 6).to(device, dtype) for _ in range(3)] for _ in range(2)
        )
        regions[1] = regions[1][:0]
        if case == 0:  # all of an image
            regions[0] = regions[0].new_tensor([[-1e4, -1e4, 1e4, 1e4]])
        matched, iou = ANCHORS.match(batch, SHAPE, matcher=rule, ignored=regions, return_iou=True)
        for boxes, of_image, one, best in zip(batch, regions, matched, iou, strict=True):
            matrix = originals.box_iou(boxes, made, least=1e-6)
            if len(of_image):
                matrix[:, originals.ignored_by(of_image, made, rule)] = -1
            assert torch.equal(one, originals.mmdet(matrix, rule))
            assert torch.equal(best.nan_to_num(-2), matrix.max(dim=0)[0].nan_to_num(-2))


@pytest.mark.quick
def test_effdet_itself(effdet, rng):
    from effdet.object_detection import ArgMaxMatcher, BoxList, IouSimilarity

    for case in range(150):
        made = made_on("cpu")
        boxes = some_boxes(rng, made, SHAPE, (PROPER, ODD, WRONG)[case % 3]).float()
        options = dict(
            matched_threshold=0.5, unmatched_threshold=rng.choice([0.3, 0.4]),
            negatives_lower_than_unmatched=rng.random() < 0.5, force_match_for_each_row=rng.random() < 0.5,
        )  # fmt: skip
        yxyx = [1, 0, 3, 2]
        similarity = IouSimilarity().compare(BoxList(boxes[:, yxyx]), BoxList(made[:, yxyx]))
        original = ArgMaxMatcher(**options).match(similarity).match_results
        assert torch.equal(ANCHORS.match(boxes, SHAPE, matcher=matchers.ArgMaxMatcher(**options)), original)


LEAST = 1.4e-45  # float32's
SQUARE = [(-8.0, -8.0, 8.0, 8.0)]


@pytest.mark.quick
@pytest.mark.parametrize("rule", [RULES[0], *RULES[4:6], *RULES[9:12], RULES[13]], ids=str)
@pytest.mark.parametrize(
    ("cell_anchors", "stride", "grid", "box"),
    [
        (SQUARE, 16, (4, 4), [-1e38, 0.5, 1.3e-4, 1.5]),  # an IoU that is subnormal
        (SQUARE, 16, (4, 4), [-1e38, 0.5, 0.00156, 1.5]),
        (SQUARE, 16, (4, 4), [-7.3, 0.2, 75 * LEAST, 7.5]),
        ([(-0.1, 0, 6 * LEAST, 0.1)], 8, (1, 1), [0, 0, 0.1, 0.1]),
        ([(-1e-3, -1e-3, 1e-3, 1e-3), (-9e-4, -9e-4, 9e-4, 9e-4)], 8, (1, 1), [0, 0, 2.8e-23, 2.8e-23]),
        ([(-1e-25, -1e-25, 1e-25, 1e-25)], 8, (1, 1), [5, 5, 5, 5]),  # an area that is 0 in float32 only
        (SQUARE, 3e38, (3, 3), [0, 0, 8, 8]),  # anchors that are infinite
    ],
)
def test_where_numbers_end(rule, cell_anchors, stride, grid, box, device):
    made = anchor_ext.AnchorGrid([cell_anchors], [stride], offset=0.0)
    anchors = made([grid], device=device)
    for boxes in ([box], [box, [1, 1, 9, 9]]):
        check(
            lambda b, **o: made.match(b, [grid], **o),
            rule,
            torch.tensor(boxes, dtype=torch.float32, device=device),
            anchors,
        )


@pytest.mark.quick
def test_anchors_that_are_infinite_on_either_side(device):
    for start in (-5e38, -3e38):  # the first ones, or the last ones
        grid = anchor_ext.AnchorGrid([SQUARE], [2e38], offset=0.0, start=start)
        anchors = grid([(5, 5)], device=device)
        assert anchors[0].isfinite().all() != anchors[-1].isfinite().all()
        boxes = torch.tensor([[0.0, 0, 8, 8]], device=device)
        check(lambda b, g=grid, **o: g.match(b, [(5, 5)], **o), RULES[0], boxes, anchors)


@pytest.mark.quick
def test_centres_that_leave_float16(device):
    grid, shapes = anchor_ext.AnchorGrid([SQUARE], [64], arithmetic="float16", offset=0.0), [(2, 1100)]
    anchors = grid(shapes, device=device)
    assert not anchors.isfinite().all()
    boxes = torch.tensor([[0.0, 0, 8, 8]], device=device)
    check(lambda b, **o: grid.match(b, shapes, **o), RULES[0], boxes, anchors)


@pytest.mark.quick
@pytest.mark.parametrize("low", [1e-46, 1e-40, 1e-3])
def test_thresholds_next_to_nothing(low, device):
    rule = matchers.Matcher(0.5, low)
    check(lambda b, **o: ANCHORS.match(b, SHAPE, **o), rule, coco(5).to(device), made_on(device))


@pytest.mark.quick
@pytest.mark.parametrize("rule", [RULES[0], RULES[9], RULES[10]], ids=str)
def test_boxes_of_which_all_anchors_have_the_same_iou(rule, device):
    grid, shapes = anchor_ext.AnchorGrid([[(-16, -16, 16, 16)]], [8]), [(60, 70)]
    boxes = torch.tensor([[-50.0, -50, 700, 700]], device=device).repeat(120, 1)
    boxes[7] += 300
    check(lambda b, **o: grid.match(b, shapes, **o), rule, boxes, grid(shapes, device=device))
