"""Decoded boxes and deltas equal the originals': bit for bit but for exp and log, and these within one unit."""

from __future__ import annotations

import math

import coder_originals as originals
import peers
import pytest
import torch
from conftest import grid_of, random_configuration, random_grid, random_shape

import anchor_ext
from anchor_ext import AnchorGrid, Anchors, BoxCoder

pytestmark = pytest.mark.filterwarnings("ignore::anchor_ext.UnusualAnchorsWarning")
NAN, INF = float("nan"), float("inf")
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (0.3, 1.0, 7.0, 1.3)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


class Case:
    """Any anchors that are boxes, and some deltas and boxes of them."""

    def __init__(self, rng, device="cpu"):
        self.random = torch.Generator().manual_seed(rng.randrange(2**31))
        if rng.random() < 0.5:
            configuration = random_configuration(rng)
            self.shape = random_shape(rng, configuration, 2000)
            self.of = Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
            where = {"image_shape": self.shape}
            self.anchors = self.of.generate(self.shape, device="cpu")[0]
        else:
            arguments = random_grid(rng, 800)
            while arguments["layout"] not in ("xyxy", "yxyx"):
                arguments = random_grid(rng, 800)
            self.shape, self.of = arguments["image_shape"], grid_of(arguments)
            where = {"level_shapes": arguments["level_shapes"], "image_shape": self.shape}
            anchors = self.of(**where, device="cpu")
            self.anchors = anchors if arguments["layout"] == "xyxy" else anchors[:, [1, 0, 3, 2]]
        self.where, self.device = where, device

    def deltas(self, scale=1.0, images=1, dtype=torch.float32):
        made = torch.randn(images, len(self.anchors), 4, generator=self.random) * scale
        return made.to(self.device, dtype)

    def boxes(self, count):
        height, width = self.shape
        corners = torch.rand(count, 2, 2, generator=self.random) * torch.tensor([width, height])
        low, high = corners.amin(1), corners.amax(1)
        return torch.cat([low, high + 0.01], dim=1).to(self.device)

    def index(self, *sizes):
        return torch.randint(-len(self.anchors), len(self.anchors), sizes, generator=self.random).to(self.device)


def same(got, wanted):
    return torch.equal(got.nan_to_num(nan=1e30), wanted.nan_to_num(nan=1e30)) and bool(
        (got.isnan() == wanted.isnan()).all()
    )


def units_apart(a, b):
    """How many float32 numbers lie between."""
    a, b = (torch.where(x < 0, -(x & 0x7FFFFFFF), x) for x in (y.view(torch.int32).long() for y in (a, b)))
    return (a - b).abs()


def assert_as(got, wanted, clip=lambda boxes: boxes):
    """Within what one unit of exp's changes, two of half a side, and the last rounding; clipped, if they are, then."""
    got, clipped = got.reshape(-1, 4), clip(wanted.reshape(-1, 4))
    assert bool((got.isnan() == clipped.isnan()).all())
    finite = wanted.isfinite().all(1)
    side = (wanted[:, 2:] - wanted[:, :2]).abs()
    most = (wanted.abs().view(-1, 2, 2).amax(1) + side).repeat(1, 2) * 2.0**-22
    assert bool(((got - clipped).abs() <= most)[finite].all())
    a, b = got[~finite], clipped[~finite]
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3, equal_nan=True)


def without_sizes(deltas):
    """Deltas whose exp is 1, so that nothing but sums and products is left."""
    deltas = deltas.clone()
    deltas[..., 2:] = 0.0
    return deltas


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_torchvision_and_detectron2(weights, device, rng):
    for k in range(60):
        case = Case(rng, device)
        deltas, anchors = case.deltas(rng.choice([0.3, 1, 4])), case.anchors.to(device)
        if k % 4 == 0 and weights == WEIGHTS[0]:
            deltas[0, ::7, rng.randrange(4)] = rng.choice([NAN, INF, -INF, 1e30, -0.0])
        for preset in (BoxCoder.torchvision(weights), BoxCoder.detectron2(weights)):
            got = case.of.decode(deltas, **case.where, coder=preset, clip=False)
            # On CUDA torch multiplies by a weight's reciprocal, where on the CPU it divides, as is done here.
            assert_as(got[0].cpu(), originals.detectron2_decode(anchors.cpu(), deltas[0].cpu(), weights))
            exact = without_sizes(deltas)
            got = case.of.decode(exact, **case.where, coder=preset, clip=False)
            assert same(got[0].cpu(), originals.detectron2_decode(anchors.cpu(), exact[0].cpu(), weights))
        height, width = case.shape
        clipped = case.of.decode(exact, **case.where, coder=preset)[0]
        limits = torch.tensor([width, height, width, height], device=device)
        assert same(clipped, torch.minimum(got[0].clamp(min=0), limits))


@pytest.mark.peers
def test_beside_torchvision(rng):
    utils = pytest.importorskip("torchvision.models.detection._utils")
    ops = pytest.importorskip("torchvision.ops")
    for weights in WEIGHTS:
        stock, ours = utils.BoxCoder(weights), BoxCoder.torchvision(weights)
        for _ in range(80):
            case = Case(rng)
            deltas = case.deltas(rng.choice([0.3, 1, 4]), images=2)
            sizes = [case.shape, (rng.randint(1, 500), rng.randint(1, 500))]
            got = case.of.decode(deltas, **case.where, coder=ours, clip=sizes)
            for one, delta, size in zip(got, deltas, sizes, strict=True):
                wanted = stock.decode_single(delta, case.anchors)
                assert_as(one, wanted, lambda boxes, size=size: ops.clip_boxes_to_image(boxes, size))
                exact = without_sizes(delta)
                one = case.of.decode(exact[None], **case.where, coder=ours, clip=size)[0]
                assert same(one, ops.clip_boxes_to_image(stock.decode_single(exact, case.anchors), size))
            boxes, index = case.boxes(50), case.index(50)
            got = case.of.encode(boxes, index, **case.where, coder=ours)
            assert_deltas(got, stock.encode_single(boxes, case.anchors[index]))
    assert BoxCoder.torchvision_ssd() == BoxCoder.torchvision((10, 10, 5, 5))


def assert_deltas(got, wanted):
    """Shifts bit for bit; sizes within a unit of log's, and one of the product or the quotient that follows."""
    assert same(got[..., :2], wanted[..., :2])
    a, b = got[..., 2:], wanted[..., 2:]
    assert bool((a.isnan() == b.isnan()).all())
    finite = b.isfinite()
    assert same(a[~finite], b[~finite])
    if bool(finite.any()):
        assert int(units_apart(a[finite].contiguous(), b[finite].contiguous()).max()) <= 2


@pytest.mark.quick
def test_encode_as_detectron2(device, rng):
    for weights in WEIGHTS:
        for _ in range(40):
            case = Case(rng, device)
            boxes, index = case.boxes(40), case.index(40)
            got = case.of.encode(boxes, index, **case.where, coder=BoxCoder.detectron2(weights))
            assert_deltas(got, originals.detectron2_encode(case.anchors.to(device)[index], boxes, weights))


@pytest.mark.peers
def test_beside_mmdet(rng):
    peers.mmdet()
    coders = peers.mmdet_coders()
    forms = [
        {},
        {"target_stds": (0.1, 0.1, 0.2, 0.2)},
        {"target_means": (0.1, -0.2, 0.3, 0.0), "target_stds": (0.3, 0.7, 1.1, 2.0), "clip_border": False},
        {"add_ctr_clamp": True, "ctr_clamp": 32},
        {"add_ctr_clamp": True, "ctr_clamp": 7, "target_stds": (0.1, 0.1, 0.2, 0.2)},
    ]
    for form in forms:
        stock, ours = coders.DeltaXYWHBBoxCoder(**form, use_box_type=False), BoxCoder.mmdet(**form)
        for _ in range(60):
            case = Case(rng)
            deltas = case.deltas(rng.choice([0.3, 1, 6]))
            for given in (deltas, torch.cat([deltas[..., :2], torch.zeros_like(deltas[..., 2:])], dim=-1)):
                got = case.of.decode(given, **case.where, coder=ours)[0]
                wanted = stock.decode(case.anchors, given[0], max_shape=case.shape)
                height, width = case.shape
                free = stock.decode(case.anchors, given[0])
                most = torch.tensor([width, height] * 2) if form.get("clip_border", True) else INF
                least = 0.0 if form.get("clip_border", True) else -INF
                assert_as(got, free, lambda boxes, a=least, b=most: boxes.clamp(min=a).minimum(torch.as_tensor(b)))
                if given is not deltas and not any(form.get("target_means", (0,) * 4)[2:]):
                    assert same(got, wanted)
            boxes, index = case.boxes(50), case.index(50)
            got, wanted = (
                case.of.encode(boxes, index, **case.where, coder=ours),
                stock.encode(case.anchors[index], boxes),
            )
            if "target_means" not in form:
                assert_deltas(got, wanted)
            else:  # what a mean leaves of a logarithm may have few digits
                assert same(got[:, :2], wanted[:, :2])
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.peers
def test_beside_effdet(rng):
    effdet = peers.effdet()
    from effdet.object_detection import BoxList, FasterRcnnBoxCoder

    ours = BoxCoder.effdet()
    for _ in range(150):
        case = Case(rng)
        yxyx = case.anchors[:, [1, 0, 3, 2]]
        deltas = case.deltas(rng.choice([0.3, 1, 3]))
        for given in (deltas, without_sizes(deltas)):
            got = case.of.decode(given, **case.where, coder=ours)[0]
            wanted = effdet.anchors.decode_box_outputs(given[0], yxyx, output_xyxy=True)
            size = torch.tensor(case.shape[::-1])
            assert_as(got, wanted, lambda boxes, size=size: effdet.anchors.clip_boxes_xyxy(boxes, size))
            assert given is deltas or same(got, effdet.anchors.clip_boxes_xyxy(wanted, size))
        boxes, index = case.boxes(50), case.index(50)
        stock = FasterRcnnBoxCoder()
        wanted = stock.encode(BoxList(boxes[:, [1, 0, 3, 2]].clone()), BoxList(yxyx[index].clone()))
        assert_deltas(case.of.encode(boxes, index, **case.where, coder=ours), wanted)


def test_the_seed_family(device, rng):
    ours = BoxCoder.retinanet()
    for _ in range(60):
        case = Case(rng, device)
        anchors, deltas = case.anchors.to(device), case.deltas(rng.choice([1, 4]))
        for given in (deltas, without_sizes(deltas)):
            got = case.of.decode(given, **case.where, coder=ours)[0]
            wanted = originals.retinanet_decode(anchors, given[0])
            assert_as(got, wanted, lambda boxes, shape=case.shape: originals.retinanet_clip(boxes, shape))
            assert given is deltas or same(got, originals.retinanet_clip(wanted, case.shape))
        boxes, index = case.boxes(50), case.index(50)
        boxes[:9, 2:] = boxes[:9, :2] + 0.3  # sides count one pixel at least
        assert_deltas(
            case.of.encode(boxes, index, **case.where, coder=ours), originals.retinanet_encode(anchors[index], boxes)
        )


# A cell anchor of side 2 around 0: its decoded high end is exp itself, and the size of what is encoded is log itself.
UNIT = AnchorGrid([[(-1.0, -1.0, 1.0, 1.0)]], [1], offset=0.0)
BARE = BoxCoder(max_log_ratio=None, clip="no")


def test_exp_is_torchs_within_one_unit(device):
    most = 1 if device.type == "cpu" else 2  # CUDA's own is off by as much as one
    numbers = torch.arange(-120 * 2**14, 88 * 2**14, 3) / 2**14
    small = torch.logspace(-40, 0, 100001)
    x = torch.cat([numbers, small, -small, torch.tensor([0.0, -0.0, INF, -INF, NAN])]).to(device)
    deltas = torch.zeros(1, len(x), 4, device=device)
    deltas[0, :, 2] = x
    index = torch.zeros(1, len(x), dtype=torch.int64, device=device)
    got = UNIT.decode(deltas, [(1, 1)], coder=BARE, index=index, clip=False)[0, :, 2]
    wanted = x.exp()
    assert bool((got.isnan() == wanted.isnan()).all())
    known = ~wanted.isnan()
    assert int(units_apart(got[known].contiguous(), wanted[known].contiguous()).max()) <= most


def test_log_is_torchs_within_one_unit(device):
    x = torch.cat([torch.logspace(-37, 37, 500001), torch.linspace(0.5, 2.0, 300001)]).to(device)
    boxes = torch.zeros(len(x), 4, device=device)
    boxes[:, 2] = 2 * x
    index = torch.zeros(len(x), dtype=torch.int64, device=device)
    got = UNIT.encode(boxes, index, [(1, 1)], coder=BARE)[:, 2]
    assert int(units_apart(got.contiguous(), x.log()).max()) <= 1
    strange = torch.tensor([0.0, -1.0, INF, NAN], device=device)
    boxes = torch.zeros(4, 4, device=device)
    boxes[:, 2] = strange
    assert same(UNIT.encode(boxes, index[:4], [(1, 1)], coder=BARE)[:, 2], strange.log())


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types(dtype, device, rng):
    for _ in range(10):
        case = Case(rng, device)
        deltas = case.deltas(1.0, 2, dtype)
        got = case.of.decode(deltas, **case.where)
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        wider = deltas if dtype == torch.float64 else deltas.float()
        assert same(got, case.of.decode(wider, **case.where))
        if dtype == torch.float64:
            wanted = originals.detectron2_decode(case.anchors.to(device), deltas[0])
            apart = (case.of.decode(deltas, **case.where, clip=False)[0] - wanted).abs()
            assert float(apart.max()) <= 1e-11 * max(1, float(wanted.abs().max()))
        boxes, index = case.boxes(20), case.index(20)
        wanted = case.of.encode(boxes.to(dtype).to(got.dtype), index, **case.where)
        assert same(case.of.encode(boxes.to(dtype), index, **case.where), wanted) and wanted.dtype == got.dtype


@pytest.mark.quick
def test_at_indices(device, rng):
    for _ in range(30):
        case = Case(rng, device)
        deltas = case.deltas(1.0, 3)
        everything = case.of.decode(deltas, **case.where)
        for dtype in (torch.int64, torch.int32, torch.int16):
            index = case.index(3, rng.randint(0, 700)).to(dtype)
            at = (torch.arange(3, device=device)[:, None], index.long() % len(case.anchors))
            assert same(case.of.decode(deltas[at], **case.where, index=index), everything[at])
        beyond = case.index(2, 5) + 3 * len(case.anchors)
        assert same(
            case.of.decode(deltas[:2, :5], **case.where, index=beyond),
            case.of.decode(deltas[:2, :5], **case.where, index=beyond % len(case.anchors)),
        )
        strided = deltas.transpose(0, 1).contiguous().transpose(0, 1)
        assert same(case.of.decode(strided, **case.where), everything)


@pytest.mark.quick
def test_any_number_of_threads(rng):
    anchors, shape = Anchors(), (333, 500)
    deltas = torch.randn(3, anchors.num_anchors(shape), 4)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            at = deltas.clone().requires_grad_()
            boxes = anchors.decode(at, shape)
            results.append((boxes.detach(), torch.autograd.grad(boxes.square().sum(), at)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


@pytest.mark.gpu
def test_the_same_bits_on_a_device(rng):
    for coder in (BoxCoder.torchvision(WEIGHTS[2]), BoxCoder.mmdet(add_ctr_clamp=True), BoxCoder.effdet()):
        for _ in range(10):
            case = Case(rng)
            deltas = case.deltas(2.0, 2)
            here, there = deltas.clone().requires_grad_(), deltas.cuda().requires_grad_()
            a, b = (case.of.decode(at, **case.where, coder=coder) for at in (here, there))
            assert same(a.detach(), b.detach().cpu())
            grads = [torch.autograd.grad(x.square().sum(), at)[0].cpu() for x, at in ((a, here), (b, there))]
            assert same(*grads)
            boxes, index = case.boxes(40), case.index(40)
            assert same(
                case.of.encode(boxes, index, **case.where, coder=coder),
                case.of.encode(boxes.cuda(), index.cuda(), **case.where, coder=coder).cpu(),
            )


@pytest.mark.quick
def test_targets(device, rng):
    for coder in (None, BoxCoder.retinanet(), BoxCoder.effdet()):
        for _ in range(15):
            case = Case(rng, device)
            anchors = case.anchors.to(device)
            boxes = [case.boxes(5), case.boxes(0), case.boxes(300)]
            labels = [torch.arange(len(one), device=device, dtype=torch.int32) % 7 for one in boxes]
            matched = torch.stack(
                [torch.randint(-3, max(len(one), 1), (len(anchors),), generator=case.random) for one in boxes]
            ).to(device)
            matched[1].clamp_(max=-1)
            deltas, own = case.of.targets(boxes, labels, matched, **case.where, coder=coder)
            assert deltas.shape == (3, len(anchors), 4) and own.dtype == torch.int64
            for i in range(3):
                positive = (matched[i] >= 0).nonzero()[:, 0]
                of = matched[i][positive]
                wanted = case.of.encode(boxes[i][of], positive, **case.where, coder=coder)
                assert same(deltas[i][positive], wanted)
                assert torch.equal(own[i][positive], labels[i][of].long())
                assert torch.equal(own[i][matched[i] < 0], matched[i][matched[i] < 0])
                assert not deltas[i][matched[i] < 0].any()


def test_coders_are_readable():
    coder = BoxCoder.mmdet(target_stds=[0.1, 0.1, 0.2, 0.2])
    assert coder.stds == (0.1, 0.1, 0.2, 0.2) and coder.means == (0.0,) * 4 and coder.clamp_both
    assert coder == BoxCoder.mmdet(target_stds=torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64))
    assert hash(coder) != hash(BoxCoder()) and math.isclose(BoxCoder().max_log_ratio, math.log(62.5))
    assert anchor_ext.BoxCoder.retinanet().max_log_ratio is None
