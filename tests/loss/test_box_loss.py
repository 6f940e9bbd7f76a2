"""The box loss and the seed family's FocalLoss are the originals', and the same by any number of threads."""

from __future__ import annotations

import sys

import pytest
import torch
from toolchain import ROOT

import anchor_ext
from anchor_ext import Anchors, BoxCoder
from anchor_ext.losses import FocalLoss, box_loss

sys.path.insert(0, str(ROOT / "tests" / "boxes"))
import coder_originals as originals

ANCHORS, SHAPE = Anchors(), (96, 160)
N = ANCHORS.num_anchors(SHAPE)
KINDS = ["l1", "smooth_l1", "giou"]
CODERS = [None, BoxCoder.torchvision((10.0, 10.0, 5.0, 5.0)), BoxCoder.retinanet(), BoxCoder.effdet()]


def random_case(rng, device="cpu", dtype=torch.float32, images=3):
    random = torch.Generator().manual_seed(rng.randrange(2**31))
    boxes = []
    for image in range(images):
        corners = torch.rand(0 if image == 1 else rng.randint(1, 6), 2, 2, generator=random) * 90
        boxes.append(torch.cat([corners.amin(1), corners.amax(1) + 3], dim=1).to(device))
    matched = ANCHORS.match(boxes, SHAPE)
    deltas = (torch.randn(images, N, 4, generator=random) * 0.3).to(device, dtype)
    return deltas, matched, boxes


def giou_loss(a, b, eps=1e-7):
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inside = (high > low).all(1)
    inter = torch.where(inside, (high - low).clamp(min=0).prod(1), 0)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return 1 - (inter / (union + eps) - (around - union) / (around + eps))


def by_rows(deltas, matched, boxes, kind, coder=None, beta=1 / 9, normalize=True):
    """As RetinaNet's head of torchvision: the positives' rows, by operators of ours and torch's."""
    losses = []
    for i, own in enumerate(boxes):
        at = (matched[i] >= 0).nonzero()[:, 0]
        truth = own[matched[i][at]].to(deltas.dtype)
        if kind == "giou":
            made = ANCHORS.decode(deltas[i : i + 1, at], SHAPE, index=at[None], coder=coder, clip=False)[0]
            loss = giou_loss(made, truth).sum()
        else:
            target = ANCHORS.encode(truth, at, SHAPE, coder=coder)
            loss = torch.nn.functional.smooth_l1_loss(
                deltas[i, at], target, beta=0 if kind == "l1" else beta, reduction="sum"
            )
        losses.append(loss / (max(1, len(at)) if normalize else 1))
    return sum(losses) / (len(losses) if normalize else 1)


def with_gradient(function, deltas, *arguments, **keywords):
    at = deltas.detach().clone().requires_grad_()
    loss = function(at, *arguments, **keywords)
    return loss.detach(), torch.autograd.grad(loss, at)[0]


def ours(deltas, matched, boxes, kind, **options):
    return box_loss(deltas, matched, boxes, ANCHORS, SHAPE, kind=kind, **options)


@pytest.mark.quick
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_beside_float64(kind, normalize, device, rng):
    for k in range(24):
        deltas, matched, boxes = random_case(rng, device)
        options = dict(coder=CODERS[k % 4], normalize=normalize)
        if kind == "smooth_l1":
            options["beta"] = rng.choice([1 / 9, 1.0, 0.02])
        loss, grad = with_gradient(ours, deltas, matched, boxes, kind, **options)
        wanted, wanted_grad = with_gradient(by_rows, deltas.double(), matched, boxes, kind, **options)
        assert loss.dtype == grad.dtype == torch.float32
        assert abs(float(loss) - float(wanted)) <= 1e-7 * abs(float(wanted))
        assert float((grad - wanted_grad).norm()) <= 1e-7 * float(wanted_grad.norm())
        loss, grad = with_gradient(ours, deltas.double(), matched, boxes, kind, **options)
        torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_beside_torchvision(kind, rng):
    """Its head's own box loss, on its own matches."""
    retinanet = pytest.importorskip("torchvision.models.detection.retinanet")
    head = retinanet.RetinaNetRegressionHead(4, 9)
    head._loss_type = kind
    head.box_coder = retinanet.det_utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    anchors = ANCHORS.generate(SHAPE, device="cpu")[0]
    for _ in range(20):
        deltas, matched, boxes = random_case(rng)
        at = deltas.clone().requires_grad_()
        targets = [{"boxes": one} for one in boxes]
        stock = head.compute_loss(targets, {"bbox_regression": at}, [anchors] * 3, list(matched))
        (stock_grad,) = torch.autograd.grad(stock, at)
        options = {"beta": 1.0} if kind == "smooth_l1" else {}
        loss, grad = with_gradient(ours, deltas, matched, boxes, kind, **options)
        torch.testing.assert_close(loss, stock.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad, stock_grad, rtol=1e-3, atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(dtype, device, rng):
    for kind in KINDS:
        deltas, matched, boxes = random_case(rng, device, dtype)
        loss, grad = with_gradient(ours, deltas, matched, boxes, kind)
        wanted, wanted_grad = with_gradient(ours, deltas.double(), matched, boxes, kind)
        assert torch.equal(loss, wanted.float()) and torch.equal(grad, wanted_grad.to(dtype))


@pytest.mark.quick
def test_any_number_of_threads(rng):
    threads, results = torch.get_num_threads(), []
    deltas, matched, boxes = random_case(rng)
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append([x for kind in KINDS for x in with_gradient(ours, deltas, matched, boxes, kind)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


@pytest.mark.gpu
def test_the_same_bits_on_a_device(rng):
    for kind in KINDS:
        for _ in range(5):
            deltas, matched, boxes = random_case(rng)
            here = with_gradient(ours, deltas, matched, boxes, kind)
            there = with_gradient(ours, deltas.cuda(), matched.cuda(), [one.cuda() for one in boxes], kind)
            assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))


def test_gradients(device, rng):
    deltas, matched, boxes = random_case(rng, device, torch.float64, images=1)
    shape = (16, 16)
    matched = ANCHORS.match([boxes[0] / 6], shape)
    deltas = deltas[:, : matched.shape[1]].clone().requires_grad_()
    for kind in KINDS:
        for coder in CODERS:
            torch.autograd.gradcheck(
                lambda x, k=kind, c=coder: box_loss(x, matched, [boxes[0] / 6], ANCHORS, shape, kind=k, coder=c), deltas
            )
    with pytest.raises(NotImplementedError, match="no second derivative"):
        loss = box_loss(deltas, matched, [boxes[0] / 6], ANCHORS, shape)
        torch.autograd.grad(loss, deltas, create_graph=True)[0].sum().backward()


def test_the_operators(rng):
    deltas, matched, boxes = random_case(rng)
    counts, together = [len(one) for one in boxes], torch.cat(boxes).double()
    form = (counts, None, ANCHORS.spec, BoxCoder.retinanet()._text, "giou", 0.1)
    keywords = {"image_shape": list(SHAPE)}
    operators = torch.ops.anchor_ext
    arguments = (deltas.requires_grad_(), matched, together, *form, True)
    torch.library.opcheck(operators.box_loss.default, arguments, keywords)
    deltas = deltas.detach()
    _, weights = operators.box_loss(deltas, matched, together, *form, True, **keywords)
    backward = (torch.ones(()), weights, deltas, matched, together, *form)
    torch.library.opcheck(operators.box_loss_backward.default, backward, keywords)


def test_compiled(device, rng):
    torch.compiler.reset()

    def step(deltas, boxes, image):
        matched = ANCHORS.match(boxes, image.shape[-2:])
        return box_loss(deltas, matched, boxes, ANCHORS, image.shape[-2:], kind="giou", coder=CODERS[2])

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((96, 160), (61, 100), (128, 130)):
        _, _, boxes = random_case(rng, device, images=2)
        boxes[1] = boxes[0][:1]
        image = torch.zeros(1, 3, *shape, device=device)
        deltas = torch.randn(2, ANCHORS.num_anchors(shape), 4, device=device)
        results = [with_gradient(function, deltas, boxes, image) for function in (compiled, step)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.quick
def test_of_a_grid_and_of_nothing(device, rng):
    deltas, matched, boxes = random_case(rng, device)
    grid = anchor_ext.AnchorGrid.from_spec(
        anchor_ext.AnchorGrid([x.tolist() for x in ANCHORS.cell_anchors], ANCHORS.strides).spec
    )
    shapes = ANCHORS.level_shapes(SHAPE)
    assert torch.equal(
        box_loss(deltas, matched, boxes, grid, level_shapes=shapes), box_loss(deltas, matched, boxes, ANCHORS, SHAPE)
    )
    background = torch.full_like(matched, -1)
    for kind in KINDS:
        loss, grad = with_gradient(ours, deltas, background, boxes, kind)
        assert float(loss) == 0 and not grad.any()
        loss, grad = with_gradient(ours, deltas * float("nan"), background, boxes, kind)
        assert float(loss) == 0 and not grad.any()


class TheirFocalLoss:
    """yhenon's, formula by formula, in the inputs' type."""

    def __call__(self, classifications, regressions, anchors, annotations):
        alpha, gamma, of_classes, of_boxes = 0.25, 2.0, [], []
        for p, deltas, rows in zip(classifications, regressions, annotations, strict=True):
            rows = rows[rows[:, 4] != -1]
            p = p.clamp(1e-4, 1.0 - 1e-4)
            if len(rows) == 0:
                of_classes.append(((1 - alpha) * p**gamma * -torch.log(1.0 - p)).sum())
                of_boxes.append(p.new_zeros(()))
                continue
            low = torch.maximum(anchors[:, None, :2], rows[None, :, :2])
            high = torch.minimum(anchors[:, None, 2:], rows[None, :, 2:4])
            inter = (high - low).clamp(min=0).prod(2)
            areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (anchors, rows)]
            iou = inter / (areas[0][:, None] + areas[1][None] - inter).clamp(min=1e-8)
            best, own = iou.max(1)
            targets = torch.full_like(p, -1)
            targets[best < 0.4] = 0
            positive = best >= 0.5
            targets[positive] = 0
            targets[positive, rows[own[positive], 4].long()] = 1
            weight = torch.where(targets == 1, alpha, 1 - alpha) * torch.where(targets == 1, 1 - p, p) ** gamma
            loss = weight * -(targets * torch.log(p) + (1 - targets) * torch.log(1 - p))
            loss = torch.where(targets != -1, loss, 0)
            of_classes.append(loss.sum() / positive.sum().clamp(min=1))
            if not positive.any():
                of_boxes.append(p.new_zeros(()))
                continue
            truth = originals.retinanet_encode(anchors[positive], rows[own[positive], :4])
            apart = (truth - deltas[positive]).abs()
            of_boxes.append(torch.where(apart <= 1 / 9, 0.5 * 9 * apart**2, apart - 0.5 / 9).mean())
        return torch.stack(of_classes).mean()[None], torch.stack(of_boxes).mean()[None]


@pytest.mark.quick
@pytest.mark.parametrize("from_logits", [False, True])
def test_the_seed_familys_loss(from_logits, device, rng):
    anchors = ANCHORS.generate(SHAPE, device=device)[0].double()
    for _ in range(12):
        deltas, _, boxes = random_case(rng, device)
        logits = torch.randn(3, N, 7, device=device) * 4 - 3
        annotations = torch.full((3, 8, 5), -1.0, device=device)
        for i, own in enumerate(boxes):
            annotations[i, : len(own), :4] = own
            annotations[i, : len(own), 4] = torch.arange(len(own), device=device) % 7
        given = logits if from_logits else logits.sigmoid()
        module = FocalLoss(ANCHORS, from_logits=from_logits)
        leaves = [x.clone().requires_grad_() for x in (given, deltas)]
        got = module(*leaves, SHAPE, annotations)
        wide = [x.detach().double().requires_grad_() for x in (given, deltas)]
        p = wide[0].sigmoid() if from_logits else wide[0]
        wanted = TheirFocalLoss()(p, wide[1], anchors, annotations.double())
        for a, b in zip(got, wanted, strict=True):
            assert a.shape == (1,)
            torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=1e-9)
        grads = torch.autograd.grad(sum(got), leaves)
        wanted_grads = torch.autograd.grad(sum(wanted), wide, materialize_grads=True)
        for a, b in zip(grads, wanted_grads, strict=True):
            assert float((a - b).norm()) <= 1e-3 * float(b.norm())


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_seed_familys_loss_of_sure_probabilities(dtype):
    annotations = torch.tensor([[[8.0, 8, 60, 60, 1]]])
    for value in (0.0, 0.999, 1.0):
        losses = FocalLoss(ANCHORS)(torch.full((1, N, 3), value, dtype=dtype), torch.zeros(1, N, 4), SHAPE, annotations)
        assert all(bool(loss.isfinite()) for loss in losses)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"deltas": torch.zeros(3, N)}, r"deltas has shape .*; expected a tensor \(images, anchors, 4\)"),
        ({"deltas": torch.zeros(3, N - 1, 4)}, rf"deltas has shape \(3, {N - 1}, 4\); expected \(3, {N}, 4\)"),
        ({"deltas": torch.zeros(3, N, 4).int()}, r"deltas has dtype torch.int32"),
        ({"matched": torch.zeros(3, N - 1).long()}, rf"matched has shape \(3, {N - 1}\); expected \(3, {N}\)"),
        ({"matched": torch.zeros(2, N).long()}, r"matched has shape .*; expected \(3, anchors\)"),
        ({"matched": torch.full((3, N), 1)}, r"matched has 1 in image 0; expected less than its boxes, 1"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes is .*; expected a list of 3 tensors"),
        ({"boxes": [torch.zeros(1, 4)]}, r"boxes is .*; expected a list of 3 tensors"),
        ({"boxes": [torch.zeros(1, 5)] * 3}, r"boxes\[0\] has layout .* and shape \(1, 5\)"),
        ({"anchors": "retinanet"}, r"anchors is 'retinanet'; expected Anchors or an AnchorGrid"),
        ({"image_shape": None}, r"image_shape is None"),
        ({"kind": "l2"}, r"kind is 'l2'; expected l1, smooth_l1 or giou"),
        ({"kind": "smooth_l1", "beta": -1}, r"beta is -1; expected a number >= 0"),
        ({"coder": 1}, r"coder is 1; expected a BoxCoder"),
        ({"normalize": None}, r"normalize is None; expected True or False"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"deltas": torch.zeros(3, N, 4), "matched": torch.full((3, N), -1), "boxes": [torch.zeros(1, 4)] * 3}
    arguments |= {"anchors": ANCHORS, "image_shape": SHAPE} | changed
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        box_loss(**arguments)
