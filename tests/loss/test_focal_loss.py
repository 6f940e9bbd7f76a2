"""The focal loss is torchvision's, nearer to float64's, and the same on every device and by any number of threads."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from anchor_ext import Anchors
from anchor_ext.losses import focal_loss

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMS = [(0.25, 2.0), (None, 2.0), (0.7, 1.5), (None, 0.0), (0.5, 0.5), (0.0, 2.0), (1.0, 5.0)]  # alpha, gamma


def random_case(rng, device="cpu", dtype=torch.float32, most_anchors=300):
    random = torch.Generator().manual_seed(rng.randrange(2**31))
    images, anchors, classes = rng.randint(1, 3), rng.randint(1, most_anchors), rng.choice([1, 2, 20, 91, 300])
    logits = torch.randn(images, anchors, classes, generator=random) * rng.choice([1, 3, 10]) - 2
    labels = [torch.randint(classes, (rng.randint(0, 6),), generator=random) for _ in range(images)]
    matched = []
    for of_image in labels:
        own = torch.randint(max(len(of_image), 1), (anchors,), generator=random)
        kind = torch.rand(anchors, generator=random)
        matched.append(torch.where((kind < 0.2) & (len(of_image) > 0), own, torch.where(kind < 0.4, -2, -1)))
    labels = [of_image.to(device) for of_image in labels]
    return logits.to(device, dtype), torch.stack(matched).to(device), labels


def by_rows(logits, matched, labels, alpha, gamma, normalize=True):
    """As RetinaNet's head of torchvision: targets, and the rows that take part."""
    losses = []
    for x, of_image, own in zip(logits, matched, labels, strict=True):
        targets, positive = torch.zeros_like(x), of_image >= 0
        targets[positive, own[of_image[positive]]] = 1
        x, targets = x[of_image != -2], targets[of_image != -2]
        p = x.sigmoid()
        part = p * targets + (1 - p) * (1 - targets)
        loss = binary_cross_entropy_with_logits(x, targets, reduction="none") * (1 - part) ** gamma
        if alpha is not None:
            loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
        losses.append(loss.sum() / (max(1, int(positive.sum())) if normalize else 1))
    return sum(losses) / (len(losses) if normalize else 1)


def with_gradient(function, logits, *arguments, **keywords):
    at = logits.detach().clone().requires_grad_()
    loss = function(at, *arguments, **keywords)
    loss.backward()
    return loss.detach(), at.grad


@pytest.mark.parametrize(("alpha", "gamma"), FORMS)
@pytest.mark.parametrize("normalize", [True, False])
def test_beside_float64(alpha, gamma, normalize, device, rng):
    for _ in range(40):
        logits, matched, labels = random_case(rng, device)
        options = dict(alpha=alpha, gamma=gamma, normalize=normalize)
        loss, grad = with_gradient(focal_loss, logits, matched, labels, **options)
        wanted, wanted_grad = with_gradient(by_rows, logits.double(), matched, labels, **options)
        assert loss.dtype == torch.float32 and grad.dtype == torch.float32
        assert abs(float(loss) - float(wanted)) <= 1e-6 * abs(float(wanted))
        known = wanted_grad.isfinite()  # by rows, gamma < 1 makes 0 * inf of some
        assert bool(grad.isfinite().all()) and (gamma < 1 or bool(known.all()))
        assert float((grad - wanted_grad)[known].norm()) <= 1e-6 * float(wanted_grad[known].norm())
        loss, grad = with_gradient(focal_loss, logits.double(), matched, labels, **options)
        assert loss.dtype == torch.float64
        assert abs(float(loss) - float(wanted)) <= 1e-13 * abs(float(wanted))
        assert float((grad - wanted_grad)[known].norm()) <= 1e-13 * float(wanted_grad[known].norm())


@pytest.mark.peers
def test_beside_torchvision(rng):
    """On many logits, where torch's own sum in float32 is farther from float64's."""
    ops = pytest.importorskip("torchvision.ops")

    def original(logits, matched, labels):
        losses = []
        for x, of_image, own in zip(logits, matched, labels, strict=True):
            targets, positive = torch.zeros_like(x), of_image >= 0
            targets[positive, own[of_image[positive]]] = 1.0
            valid = of_image != -2
            total = ops.sigmoid_focal_loss(x[valid], targets[valid], reduction="sum")
            losses.append(total / max(1, int(positive.sum())))
        return sum(losses) / len(losses)

    ours, theirs = [], []
    for _ in range(10):
        logits, matched, labels = random_case(rng, most_anchors=4000)
        loss, grad = with_gradient(focal_loss, logits, matched, labels)
        stock, stock_grad = with_gradient(original, logits, matched, labels)
        exact, _ = with_gradient(original, logits.double(), matched, labels)
        torch.testing.assert_close(loss, stock, rtol=2e-6, atol=0)
        torch.testing.assert_close(grad, stock_grad, rtol=0, atol=2e-6 * float(stock_grad.abs().max()))
        ours.append(abs(float(loss) / float(exact) - 1)), theirs.append(abs(float(stock) / float(exact) - 1))
    assert sum(ours) <= sum(theirs)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_16_bits_are_computed_in_float32(dtype, device, rng):
    for _ in range(10):
        logits, matched, labels = random_case(rng, device, dtype)
        loss, grad = with_gradient(focal_loss, logits, matched, labels)
        wider = logits if dtype == torch.float64 else logits.float()
        wanted, wanted_grad = with_gradient(focal_loss, wider, matched, labels)
        assert torch.equal(loss, wanted) and torch.equal(grad, wanted_grad.to(dtype)) and grad.dtype == dtype


@pytest.mark.quick
def test_any_number_of_threads(rng):
    logits, matched, labels = random_case(rng, most_anchors=5000)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(with_gradient(focal_loss, logits, matched, labels))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


@pytest.mark.gpu
def test_the_same_bits_on_a_device(rng):
    for _ in range(20):
        logits, matched, labels = random_case(rng)
        here = with_gradient(focal_loss, logits, matched, labels)
        there = with_gradient(focal_loss, logits.cuda(), matched.cuda(), [one.cuda() for one in labels])
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))


@pytest.mark.quick
def test_of_what_match_gives(device):
    anchors, shape = Anchors(), (64, 96)
    boxes = [torch.tensor([[8.0, 8, 40, 40], [30, 20, 90, 60]], device=device), torch.zeros(0, 4, device=device)]
    matched = anchors.match(boxes, shape)
    labels = [torch.tensor([3, 1], device=device, dtype=torch.int32), torch.zeros(0, dtype=torch.int64, device=device)]
    logits = torch.linspace(-4, 2, 2 * matched.shape[1] * 5, device=device).view(2, -1, 5)
    loss, grad = with_gradient(focal_loss, logits, matched, labels)
    wanted, wanted_grad = with_gradient(by_rows, logits.double(), matched, labels, 0.25, 2.0)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), wanted_grad, rtol=2e-6, atol=0)
    assert bool((matched == -2).any()) and not grad[matched == -2].any()
    strided = logits.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(focal_loss(strided, matched, labels), loss)


@pytest.mark.quick
def test_extreme_logits(device):
    x = torch.tensor([-200.0, -104, -88, -30, -1e-30, 0, 30, 88, 200, 3e38, -3e38], device=device)
    logits, matched = x.view(1, -1, 1), torch.tensor([[0, -1] * 5 + [-1]], device=device)
    labels = [torch.zeros(1, dtype=torch.int64, device=device)]
    for gamma in (2.0, 1.5, 0.0):
        _, grad = with_gradient(focal_loss, logits, matched, labels, gamma=gamma)
        _, wanted = with_gradient(by_rows, logits.double(), matched, labels, 0.25, gamma)
        # By rows, 1 - (1 - p) leaves few digits of a small p, even in float64.
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-2, atol=1e-37)
    for none in (float("nan"), float("inf")):
        assert focal_loss(torch.full_like(logits, none), matched, labels).isfinite().item() is False


@pytest.mark.quick
def test_nothing(device):
    for sizes in ((0, 5, 3), (2, 0, 3), (2, 5, 0)):
        logits = torch.zeros(sizes, device=device)
        matched = torch.full(sizes[:2], -1, device=device)
        loss, grad = with_gradient(
            focal_loss, logits, matched, [torch.zeros(0, dtype=torch.int64, device=device)] * sizes[0]
        )
        assert float(loss) == 0 and grad.shape == logits.shape
    ignored = torch.full((1, 4), -2, device=device)
    loss, grad = with_gradient(
        focal_loss, torch.ones(1, 4, 3, device=device), ignored, [torch.tensor([1], device=device)]
    )
    assert float(loss) == 0 and not grad.any()


def test_gradients(device):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 3, generator=random, dtype=torch.float64).to(device).requires_grad_()
    matched = torch.tensor([[0, -1, -2, 1, -1, 0, 0], [-1, -1, 0, -2, -1, -1, 0]], device=device)
    labels = [torch.tensor([2, 0], device=device), torch.tensor([1], device=device)]
    for alpha, gamma in FORMS:
        torch.autograd.gradcheck(lambda x, a=alpha, g=gamma: focal_loss(x, matched, labels, alpha=a, gamma=g), logits)
    (first,) = torch.autograd.grad(focal_loss(logits, matched, labels), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.tools("c++")
def test_compiled(device):
    torch.compiler.reset()
    compiled = torch.compile(focal_loss, fullgraph=True, dynamic=True)
    for anchors in (40, 57):
        logits = torch.linspace(-4, 2, 2 * anchors * 5, device=device).view(2, anchors, 5)
        matched = torch.arange(2 * anchors, device=device).view(2, anchors) % 4 - 2
        labels = [torch.tensor([3, 1], device=device), torch.tensor([0, 4, 2], device=device)]
        wanted = with_gradient(focal_loss, logits, matched, labels)
        got = with_gradient(compiled, logits, matched, labels)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_the_operators():
    flat = torch.linspace(-4, 2, 30).view(2, 3, 5).requires_grad_()
    levels = [
        x.detach().clone().requires_grad_() for x in (flat[:, :2].reshape(2, 5, 1, 2), flat[:, 2].view(2, 5, 1, 1))
    ]
    matched, labels = torch.tensor([[0, -1, -2], [1, 0, -1]]), torch.tensor([3, 1, 4])
    operators = torch.ops.anchor_ext
    for parts in ([flat], levels):
        torch.library.opcheck(operators.focal_loss.default, (parts, matched, labels, [1, 2], 0.25, 2.0, True))
        parts = [part.detach() for part in parts]
        loss, weights = operators.focal_loss(parts, matched, labels, [1, 2], 0.25, 2.0, True)
        given = (torch.ones(()), weights, parts, matched, labels, [1, 2], 0.25, 2.0)
        torch.library.opcheck(operators.focal_loss_backward.default, given)
        assert weights.tolist() == [0.5, 0.25] and loss.shape == ()


def as_levels(rng, logits):
    """The same logits as a head gives them, of some levels, and how to make one tensor of theirs."""
    images, anchors, classes = logits.shape
    levels, forms, begin = [], [], 0
    while begin < anchors:
        rows, columns, each = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 9)
        if begin + rows * columns * each > anchors or len(forms) == 15:
            rows, columns, each = 1, 1, anchors - begin
        end = begin + rows * columns * each
        part = logits[:, begin:end].reshape(images, rows, columns, each * classes)
        levels.append(part.permute(0, 3, 1, 2))
        forms.append((rows, columns, each))
        begin = end
    return levels


def together(levels, classes):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, classes) for x in levels], dim=1)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_levels_as_heads_give_them(dtype, device, rng):
    for k in range(25):
        logits, matched, labels = random_case(rng, device, dtype, most_anchors=rng.choice([3, 300, 2000]))
        if k % 5 == 0:
            matched = torch.where(matched < 0, -2, matched)  # nearly none takes part
        levels = as_levels(rng, logits)
        if k % 2:
            levels = [level.contiguous() for level in levels]
        levels = [level.detach().requires_grad_() for level in levels]
        options = dict(gamma=rng.choice([2.0, 1.5]), alpha=rng.choice([0.25, None]), normalize=rng.random() < 0.5)
        loss = focal_loss(levels, matched, labels, **options)
        grads = torch.autograd.grad(loss, levels)
        wanted, wanted_grad = with_gradient(focal_loss, logits, matched, labels, **options)
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
        assert all(a.shape == b.shape and a.dtype == dtype for a, b in zip(grads, levels, strict=True))
        assert torch.equal(together(grads, logits.shape[2]), wanted_grad)


def test_levels_compiled(device, rng):
    torch.compiler.reset()
    compiled = torch.compile(focal_loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for sides in ((4, 6), (3, 9), (7, 5)):
        levels = [torch.randn(2, 3 * 5, *sides, device=device), torch.randn(2, 5, 2, 2, device=device)]
        levels = [level.requires_grad_() for level in levels]
        anchors = 3 * sides[0] * sides[1] + 4
        matched = torch.arange(2 * anchors, device=device).view(2, anchors) % 4 - 2
        labels = [torch.tensor([3, 1], device=device), torch.tensor([0, 4, 2], device=device)]
        results = [(f(levels, matched, labels),) for f in (compiled, focal_loss)]
        results = [(loss, *torch.autograd.grad(loss, levels)) for (loss,) in results]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


LEVELS = [torch.zeros(2, 10, 1, 1), torch.zeros(2, 5, 1, 1)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": LEVELS[:1]}, r"logits are 10 an image; expected a multiple of 3, as many as matched has"),
        ({"logits": [LEVELS[0], torch.zeros(2, 8, 1, 1)]}, r"logits\[0\] has 10 channels; expected a multiple of 6"),
        ({"logits": [LEVELS[0], LEVELS[1][:1]]}, r"logits\[1\] has 1 images; expected 2"),
        ({"logits": [LEVELS[0], LEVELS[1].double()]}, r"logits\[1\] has dtype torch.float64; expected torch.float32"),
        ({"logits": [LEVELS[0], LEVELS[1][0]]}, r"logits\[1\] has shape \(5, 1, 1\); expected"),
        ({"logits": []}, r"logits has 0 tensors; expected 1 to 16 levels"),
        ({"logits": LEVELS + LEVELS[1:] * 15}, r"logits has 17 tensors; expected 1 to 16 levels"),
        ({"logits": [[1.0]]}, r"logits is \[\[1.0\]\]; expected a tensor"),
        ({"logits": torch.zeros(2, 3)}, r"logits has shape \(2, 3\); expected"),
        ({"logits": torch.zeros(2, 3, 5).int()}, r"logits has dtype torch.int32"),
        ({"matched": torch.zeros(2, 4).long()}, r"matched has shape \(2, 4\); expected \(2, 3\)"),
        ({"matched": torch.zeros(2, 3)}, r"matched is .*; expected a tensor of int64"),
        ({"matched": torch.full((2, 3), 1)}, r"matched has 1 in image 0; expected less than its labels, 1"),
        ({"labels": torch.zeros(2)}, r"labels is .*; expected 2 tensors of integers"),
        ({"labels": [torch.tensor([1])]}, r"labels has 1 images; expected 2 tensors"),
        ({"labels": [torch.tensor([1.0])] * 2}, r"labels\[0\] is .*; expected a tensor of integers"),
        ({"labels": [torch.tensor([5])] * 2}, r"labels has 5; expected 0 to 4"),
        ({"labels": [torch.tensor([-1])] * 2}, r"labels has -1; expected 0 to 4"),
        ({"alpha": 1.5}, r"alpha is 1.5; expected a number in 0..1"),
        ({"alpha": "a"}, r"alpha is 'a'; expected a number in 0..1"),
        ({"gamma": -1}, r"gamma is -1; expected a number >= 0"),
        ({"gamma": float("nan")}, r"gamma is nan; expected a number >= 0"),
        ({"normalize": 1}, r"normalize is 1; expected True or False"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"logits": torch.zeros(2, 3, 5), "matched": torch.zeros(2, 3).long(), "labels": [torch.tensor([1])] * 2}
    arguments |= changed
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        focal_loss(arguments.pop("logits"), arguments.pop("matched"), arguments.pop("labels"), **arguments)


@pytest.mark.gpu
def test_what_is_out_of_range_on_a_device_is_no_number():
    logits, matched = torch.zeros(1, 3, 5).cuda(), torch.tensor([[0, -1, -1]]).cuda()
    assert focal_loss(logits, matched, [torch.tensor([5]).cuda()]).isnan()
    assert focal_loss(logits, matched + 1, [torch.tensor([1]).cuda()]).isnan()
