"""The two modules do what torchvision's RetinaNet does with the same options."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_leaves

from anchor_ext import AnchorGrid, Anchors, BoxCoder
from anchor_ext.nn import RetinaNetLoss, RetinaNetPostprocess

SHAPE, SIZES, CLASSES = (120, 152), [(120, 152), (97, 130)], 6
ANCHORS = Anchors(pyramid_levels=[3, 4, 5], sizes=[16.0, 32.0, 64.0])


class Case:
    def __init__(self, dtype=torch.float32, as_levels=False):
        random = torch.Generator().manual_seed(0)
        self.levels = [torch.randn(2, 9 * CLASSES, *g, generator=random) - 2 for g in ANCHORS.level_shapes(SHAPE)]
        self.delta_levels = [torch.randn(2, 36, *g, generator=random) * 0.3 for g in ANCHORS.level_shapes(SHAPE)]
        self.logits, self.deltas = flat(self.levels, CLASSES).to(dtype), flat(self.delta_levels, 4).to(dtype)
        corners = torch.rand(5, 2, 2, generator=random) * 80
        boxes = torch.cat([corners.amin(1), corners.amax(1) + 9], dim=1)
        self.boxes = [boxes, torch.zeros(0, 4)]
        self.labels = [torch.tensor([0, 5, 2, 2, 1]), torch.zeros(0, dtype=torch.int64)]


def flat(levels, each):
    return torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, each) for level in levels], dim=1)


def stock(**options):
    detection = pytest.importorskip("torchvision.models.detection")
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone = torch.nn.Conv2d(3, 4, 1)
    backbone.out_channels = 4
    return detection.RetinaNet(backbone, CLASSES, AnchorGenerator(((1,),), ((1.0,) * 9,)), **options)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "giou"])
def test_the_losses_of_torchvision(kind):
    case, model = Case(), stock()
    model.head.regression_head._loss_type = kind
    anchors = ANCHORS.generate(SHAPE)[0]
    targets = [{"boxes": case.boxes[i], "labels": case.labels[i]} for i in range(2)]
    leaves = [case.logits.requires_grad_(), case.deltas.requires_grad_()]
    outputs = {"cls_logits": case.logits, "bbox_regression": case.deltas}
    wanted = model.compute_loss(targets, outputs, [anchors, anchors])
    module = RetinaNetLoss(ANCHORS, kind=kind, beta=1.0)
    got = module(*leaves, case.boxes, case.labels, SHAPE)
    assert got.keys() == wanted.keys()
    for name, loss in wanted.items():
        torch.testing.assert_close(got[name], loss, rtol=1e-6, atol=1e-7)
    for a, b in zip(*(torch.autograd.grad(sum(of.values()), leaves) for of in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    of_levels = module(case.levels, case.delta_levels, case.boxes, case.labels, SHAPE)
    for name, loss in got.items():
        torch.testing.assert_close(of_levels[name], loss.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.peers
def test_the_detections_of_torchvision(one_thread):
    case, model = Case(), stock(score_thresh=0.2, topk_candidates=200, nms_thresh=0.4, detections_per_img=150)
    sizes = ANCHORS.level_sizes(SHAPE)
    anchors = list(ANCHORS.generate(SHAPE)[0].split(sizes))
    outputs = {"cls_logits": list(case.logits.split(sizes, 1)), "bbox_regression": list(case.deltas.split(sizes, 1))}
    wanted = model.postprocess_detections(outputs, [anchors, anchors], SIZES)
    options = {"score_threshold": 0.2, "topk_per_level": 200, "nms_threshold": 0.4, "detections_per_image": 150}
    module = RetinaNetPostprocess(ANCHORS, **options)
    for logits, deltas in ((case.logits, case.deltas), (case.levels, case.delta_levels)):
        for got, expected in zip(module(logits, deltas, SHAPE, SIZES), wanted, strict=True):
            assert len(expected["scores"]) == 150
            assert torch.equal(got["scores"], expected["scores"]) and torch.equal(got["labels"], expected["labels"])
            torch.testing.assert_close(got["boxes"], expected["boxes"], rtol=1e-6, atol=2e-5)


def test_both_are_one_graph_and_wait_for_nothing():
    case = Case()
    loss, after = RetinaNetLoss(ANCHORS, kind="giou"), RetinaNetPostprocess(ANCHORS)
    arguments = (case.levels, case.delta_levels)
    for module, more in ((loss, (case.boxes, case.labels, SHAPE)), (after.candidates, (SHAPE, SIZES))):
        torch.compiler.reset()
        got = torch.compile(module, backend="eager", fullgraph=True)(*arguments, *more)
        for a, b in zip(tree_leaves(got), tree_leaves(module(*arguments, *more)), strict=True):
            assert torch.equal(a, b)
    mode = FakeTensorMode()
    fake = [[mode.from_tensor(tensor) for tensor in of] for of in (*arguments, case.boxes, case.labels)]
    with mode:
        loss(*fake, SHAPE)
        found, _ = after.candidates(*fake[:2], SHAPE)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            found.counts.tolist()  # what `forward` waits for


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype):
    case = Case(dtype)
    leaves = [case.logits.requires_grad_(), case.deltas.requires_grad_()]
    losses = RetinaNetLoss(ANCHORS)(*leaves, case.boxes, case.labels, SHAPE)
    wanted = RetinaNetLoss(ANCHORS)(case.logits.double(), case.deltas.double(), case.boxes, case.labels, SHAPE)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.double(), wanted[name], rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(sum(losses.values()), leaves)
    assert all(grad.dtype == dtype and bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_detections_of_16_bits(dtype):
    pytest.importorskip("torchvision")
    case = Case()
    for found in AFTER(case.logits.to(dtype), case.deltas, SHAPE):
        assert found["scores"].dtype == dtype and found["boxes"].dtype == torch.float32 and len(found["scores"]) > 0


def test_the_boxes_are_the_coders():
    case, coder = Case(), BoxCoder.torchvision((2.0, 2.0, 3.0, 3.0))
    found, boxes = RetinaNetPostprocess(ANCHORS, coder=coder).candidates(case.logits, case.deltas, SHAPE)
    every = ANCHORS.decode(case.deltas, SHAPE, coder=coder)
    assert torch.equal(boxes, every.gather(1, found.indices[..., None].expand(-1, -1, 4)))


@pytest.mark.quick
def test_modules_without_a_state():
    case = Case()
    loss = RetinaNetLoss(ANCHORS, high=0.6, gamma=1.5, coder=BoxCoder.mmdet(), kind="l1")
    after = RetinaNetPostprocess(ANCHORS, topk_per_level=50, coder=BoxCoder.mmdet())
    assert "gamma=1.5" in repr(loss) and "topk_per_level=50" in repr(after)
    for module, arguments in (
        (loss, (case.logits, case.deltas, case.boxes, case.labels, SHAPE)),
        (after.candidates, (case.logits, case.deltas, SHAPE)),
    ):
        owner = getattr(module, "__self__", module)
        assert not owner.state_dict() and not list(owner.parameters())
        file = io.BytesIO()
        torch.save(owner, file)
        file.seek(0)
        for one in (copy.deepcopy(owner), torch.load(file, weights_only=False)):
            call = one if module is loss else one.candidates
            assert str(call(*arguments)) == str(module(*arguments))
    another = RetinaNetLoss(ANCHORS)(case.logits, case.deltas, case.boxes, case.labels, SHAPE)
    assert str(another) != str(loss(case.logits, case.deltas, case.boxes, case.labels, SHAPE))


AFTER = RetinaNetPostprocess(ANCHORS)


def of_case(call):
    return call(Case())


def loss(logits, deltas, boxes=None, labels=()):
    case = Case()
    given = case.boxes if boxes is None else boxes
    return RetinaNetLoss(ANCHORS)(logits, deltas, given, case.labels if labels == () else labels, SHAPE)


def test_integers_of_numpy():
    assert RetinaNetPostprocess(ANCHORS, detections_per_image=np.int64(5)).detections_per_image == 5
    case = Case()
    array = [np.array(size) for size in SIZES]
    got, wanted = (AFTER.candidates(case.logits, case.deltas, SHAPE, sizes) for sizes in (array, SIZES))
    assert torch.equal(got[1], wanted[1])


def test_no_images():
    case = Case()
    logits, deltas = [of[:0] for of in case.levels], [of[:0] for of in case.delta_levels]
    assert AFTER.candidates(logits, deltas, SHAPE)[1].shape[0] == 0


def sizes_given(sizes):
    case = Case()
    return AFTER.candidates(case.logits, case.deltas, SHAPE, sizes)


BAD = [
    (lambda: RetinaNetLoss("anchors"), "anchors is 'anchors'; expected Anchors"),
    (lambda: RetinaNetLoss(AnchorGrid([[[0.0, 0, 1, 1]]], [8])), "anchors is .*; expected Anchors"),
    (lambda: RetinaNetLoss(ANCHORS, kind="l2"), "kind is 'l2'; expected l1, smooth_l1 or giou"),
    (lambda: RetinaNetLoss(ANCHORS, high=math.nan), "high is nan"),
    (lambda: RetinaNetLoss(ANCHORS, alpha=2.0), "alpha is 2.0; expected a number in 0..1"),
    (lambda: RetinaNetLoss(ANCHORS, coder="torchvision"), "coder is 'torchvision'"),
    (lambda: RetinaNetPostprocess(None), "anchors is None; expected Anchors"),
    (lambda: RetinaNetPostprocess(ANCHORS, topk_per_level=0), "topk_per_level is 0; expected an integer >= 1"),
    (lambda: RetinaNetPostprocess(ANCHORS, score_threshold="x"), "score_threshold is 'x'"),
    (lambda: RetinaNetPostprocess(ANCHORS, nms_threshold=None), "nms_threshold is None"),
    (lambda: sizes_given([(64, 96)]), r"image_sizes is \[\(64, 96\)\]; expected a list of 2 pairs"),
    (lambda: sizes_given([(64, -1)] * 2), r"image_sizes\[0\] is \(64, -1\); expected two positive integers"),
    (lambda: sizes_given([(64, 96), 64.5]), r"image_sizes\[1\] is 64.5; expected two positive integers"),
    (lambda: RetinaNetPostprocess(ANCHORS, detections_per_image=0), "detections_per_image is 0; expected an integer"),
    (lambda: RetinaNetPostprocess(ANCHORS, detections_per_image=2.5), "detections_per_image is 2.5; expected an int"),
    (lambda: RetinaNetPostprocess(ANCHORS, coder="x"), "coder is 'x'; expected a BoxCoder"),
    (
        lambda: of_case(lambda c: loss(c.logits, c.deltas[:, :-1])),
        r"deltas has shape .*; expected \(images, \d+, 4\)",
    ),
    (lambda: of_case(lambda c: loss(c.logits, None)), "deltas is None; expected a tensor"),
    (lambda: of_case(lambda c: loss(c.logits, c.deltas, c.boxes[:1])), "boxes is .*; expected a list of 2 tensors"),
    (lambda: of_case(lambda c: loss(c.logits, c.deltas, labels=None, boxes=3)), "boxes is 3; expected a list of 2"),
    (
        lambda: of_case(lambda c: loss(c.logits, c.deltas, labels=c.labels[::-1])),
        r"labels\[0\] has 0 labels; expected 5, as boxes\[0\] has",
    ),
    (
        lambda: of_case(lambda c: AFTER(c.logits[:, :-1], c.deltas, SHAPE)),
        r"logits has shape .*; expected \(2, \d+,",
    ),
    (
        lambda: of_case(lambda c: AFTER(c.levels, c.deltas, (64, 64))),
        r"deltas has shape .*; expected \(images, \d+, 4\)",
    ),
    (lambda: of_case(lambda c: AFTER(c.levels[:2], c.deltas, SHAPE)), r"logits is a list of 2; expected 3 tensors"),
    (
        lambda: of_case(lambda c: AFTER([*c.levels[:2], c.levels[2][:, :7]], c.deltas, SHAPE)),
        r"logits\[2\] has 7 channels; expected a multiple of 9",
    ),
    (lambda: of_case(lambda c: AFTER(None, c.deltas, SHAPE)), "logits is None; expected a list of 3 tensors"),
    (lambda: RetinaNetLoss(ANCHORS)(Case().logits, [], [], [], SHAPE), "deltas is a list of 0; expected 3 tensors"),
    (
        lambda: of_case(lambda c: AFTER(c.logits, [c.delta_levels[0][:, :9], *c.delta_levels[1:]], SHAPE)),
        r"deltas\[0\] has shape \(2, 9, 15, 19\); expected a tensor \(images, cell anchors \* 4, rows, columns\)",
    ),
    (
        lambda: of_case(lambda c: AFTER(c.levels, c.delta_levels, SHAPE[::-1])),
        r"deltas\[0\] has a grid of 15x19; expected 19x15, .* image of \(152, 120\), \(height, width\)",
    ),
    (
        lambda: of_case(lambda c: loss(c.levels[::-1], c.delta_levels)),
        r"logits\[0\] has a grid of 4x5; expected 15x19",
    ),
    (lambda: of_case(lambda c: loss(c.levels, c.delta_levels[::-1])), r"deltas\[0\] has a grid of 4x5; expected 15x19"),
    (lambda: of_case(lambda c: AFTER(c.levels[::-1], c.deltas, SHAPE)), r"logits\[0\] has a grid of 4x5"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
