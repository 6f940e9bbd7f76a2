"""An accelerated SSD of torchvision's trains and detects as the stock one does."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from alike import assert_steps_alike, losses_of, pictures  # noqa: E402
from torchvision.models.detection import _utils as det_utils  # noqa: E402
from torchvision.models.detection import ssd as stock_ssd  # noqa: E402
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator as Original  # noqa: E402
from torchvision.models.detection.ssd import SSD  # noqa: E402

from anchor_ext.compat.torchvision import DefaultBoxGenerator, accelerate, restore  # noqa: E402

CLASSES = 5
WHY = "its loop over classes stays torchvision's"


class Backbone(nn.Module):
    out_channels = (8, 8, 8)

    def __init__(self):
        super().__init__()
        sizes = ((3, 8, 8), (8, 8, 2), (8, 8, 2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b, stride in sizes
        )

    def forward(self, x):
        features = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            features[str(i)] = x
        return features


def detector(**options) -> SSD:
    torch.manual_seed(0)
    generator = Original([[2], [2, 3], [2]], scales=[0.1, 0.3, 0.6, 0.9], steps=[8, 16, 32])
    model = SSD(Backbone(), generator, (96, 96), CLASSES, **options)
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.2)
    return model.eval()


def batch(boxes=5):
    images, truth = pictures(boxes=boxes)
    return images, [{"boxes": own, "labels": torch.arange(len(own)) % (CLASSES - 1) + 1} for own in truth]


def both(change=lambda model: None):
    """A stock detector and an accelerated one, and the report."""
    stock = detector()
    change(stock)
    model = copy.deepcopy(stock)
    return stock, model, accelerate(model)


def assert_trains_alike(model, stock):
    assert_steps_alike(model, stock, *batch())
    for (name, got), kept in zip(model.state_dict().items(), stock.state_dict().values(), strict=True):
        assert torch.equal(got, kept), name  # what normalisation keeps: the network has run once


def assert_detects_alike(model, stock):
    images, _ = batch()
    with torch.no_grad():
        for got, wanted in zip(model(images), stock(images), strict=True):
            assert len(wanted["scores"]) > 0
            assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def matches_of(model, monkeypatch):
    seen, original = [], SSD.compute_loss

    def watched(self, targets, outputs, anchors, matched):
        seen.extend(matched)
        return original(self, targets, outputs, anchors, matched)

    with monkeypatch.context() as patch:
        patch.setattr(SSD, "compute_loss", watched)
        losses_of(model, *batch())
    return seen


@pytest.mark.quick
def test_alike(one_thread, monkeypatch):
    stock, model, report = both()
    assert report.replaced == ("anchors", "matching") and report.left == {"postprocessing": WHY}
    assert isinstance(model, SSD) and type(model.anchor_generator) is DefaultBoxGenerator
    assert_trains_alike(model, stock)
    assert_detects_alike(model, stock)
    for got, wanted in zip(matches_of(model, monkeypatch), matches_of(stock, monkeypatch), strict=True):
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)


def test_it_is_really_ours(one_thread, monkeypatch):
    _, model, _ = both()

    def never(*_, **__):
        raise AssertionError("torchvision's own was called")

    monkeypatch.setattr(stock_ssd.box_ops, "box_iou", never)
    monkeypatch.setattr(det_utils.SSDMatcher, "__call__", never)
    monkeypatch.setattr(Original, "forward", never)
    images, targets = batch()
    losses_of(model, images, targets)
    with torch.no_grad():
        model(images)


@pytest.mark.quick
def test_restored_copied_and_saved(one_thread):
    stock, model = detector(), detector()
    before, names = model.anchor_generator, list(model.state_dict())
    accelerate(model), accelerate(model)
    assert list(model.state_dict()) == names == list(stock.state_dict())
    copied, file = copy.deepcopy(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for one in (copied, torch.load(file, weights_only=False)):
        assert type(one) is type(model) is not SSD
        as_it_was = copy.deepcopy(stock)
        assert_detects_alike(one, as_it_was)
        assert_trains_alike(one, as_it_was)
    restore(model)
    assert type(model) is SSD and model.anchor_generator is before and "_accelerated" not in vars(model)
    assert_trains_alike(model, stock)


@pytest.mark.slow
def test_scripted_and_compiled(one_thread):
    stock, model, _ = both()
    images, _ = batch()
    scripted, scripted_stock = torch.jit.script(model), torch.jit.script(copy.deepcopy(stock))
    for got, wanted in zip(scripted(images)[1], scripted_stock(images)[1], strict=True):
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert type(model.anchor_generator) is DefaultBoxGenerator
    assert_trains_alike(model, stock)
    torch.compiler.reset()
    compiled = torch.compile(detector(), backend="eager")
    assert accelerate(compiled).replaced == ("anchors", "matching")
    assert_trains_alike(compiled._orig_mod, detector())


def test_what_is_not_known_is_left(one_thread):
    class Matcher(det_utils.SSDMatcher):
        pass

    class Generator(Original):
        pass

    def generator(model):
        own = model.anchor_generator
        model.anchor_generator = Generator(own.aspect_ratios, scales=own.scales, steps=own.steps)

    def pairs(model):
        model.anchor_generator._wh_pairs[1] *= 0.9

    cases = {
        "proposal_matcher is a Matcher": lambda model: setattr(model, "proposal_matcher", Matcher(0.4)),
        "two thresholds": lambda model: setattr(model.proposal_matcher, "low_threshold", 0.3),
        "needs the anchors": generator,
        "it needs the anchors": pairs,
    }
    for why, change in cases.items():
        stock, model, report = both(change)
        assert why in report.left["matching"] and ("anchors" in report.left) == ("anchors" in why)
        assert_trains_alike(model, stock)
        assert_detects_alike(model, stock)


def test_what_is_refused():
    class Own(SSD):
        def forward(self, *arguments):
            return super().forward(*arguments)

    model = detector()
    model.__class__ = Own
    with pytest.raises(ValueError, match=r"Own.forward is 'overridden'; expected torchvision's own"):
        accelerate(model)
    assert type(model) is Own


def test_what_is_changed_since_counts(one_thread):
    stock, model, _ = both()
    changes = {
        "proposal_matcher": det_utils.SSDMatcher(0.3),
        "box_coder": det_utils.BoxCoder((5.0, 5.0, 2.0, 2.0)),
        "neg_to_pos_ratio": 1.0,
        "score_thresh": 0.3,
        "anchor_generator": Original([[3], [2, 4], [2]], 0.1, 0.8, clip=False),
    }
    for name, value in changes.items():
        for one in (stock, model):
            setattr(one, name, copy.deepcopy(value))
        assert_trains_alike(model, stock)
        assert_detects_alike(model, stock)
    model.compute_loss = lambda *_: {"all": torch.ones((), requires_grad=True)}
    assert list(model.train()(*batch())) == ["all"]


def test_other_dtypes_take_torchvisions_way(one_thread):
    stock, model, _ = both()
    images, targets = batch(boxes=60)
    model.train(), stock.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = model(images, targets), stock(images, targets)
    for name, loss in wanted.items():
        torch.testing.assert_close(got[name], loss, rtol=1e-5, atol=1e-6)
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets]
    got, wanted = losses_of(model, images, targets)[0], losses_of(stock, images, targets)[0]
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_wrong_targets_are_named_as_before():
    _, model, _ = both()
    images, targets = batch()
    model.train()
    with pytest.raises(AssertionError, match="targets should not be none"):
        model(images)
    with pytest.raises(AssertionError, match="Expected target boxes to be a tensor of shape"):
        model(images, [{**target, "boxes": target["boxes"][:, :3]} for target in targets])
    with pytest.raises(AssertionError, match="Expected target boxes to be of type Tensor"):
        model(images, [{**target, "boxes": target["boxes"].tolist()} for target in targets])
    with pytest.raises(AssertionError, match="positive height and width"):
        model(images, [{**target, "boxes": target["boxes"][:, [2, 1, 0, 3]]} for target in targets])


@pytest.mark.slow
def test_ssdlite(one_thread):
    torch.manual_seed(0)
    stock = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    model = copy.deepcopy(stock)
    assert accelerate(model).replaced == ("anchors", "matching")
    losses = []
    for one in (model, stock):
        torch.manual_seed(1)  # of dropout
        losses.append(one.train()(*batch()))
    for name, loss in losses[1].items():
        torch.testing.assert_close(losses[0][name], loss, rtol=1e-6, atol=1e-7)
