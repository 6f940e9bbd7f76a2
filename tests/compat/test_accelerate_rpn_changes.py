"""What `accelerate` leaves and refuses in a FasterRCNN of torchvision's, and what is changed afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from test_accelerate_rpn import (  # noqa: E402
    PARTS,
    assert_detects_alike,
    assert_losses_alike,
    assert_proposes_alike,
    assert_trains_alike,
    batch,
    both,
    detector,
    losses_of,
    proposals_of,
)
from torchvision.models.detection import _utils as det_utils  # noqa: E402
from torchvision.models.detection import rpn as stock_rpn  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator as Original  # noqa: E402

from anchor_ext.compat.torchvision import AnchorGenerator, accelerate, restore  # noqa: E402


def giou(boxes, anchors):
    return stock_rpn.box_ops.generalized_box_iou(boxes, anchors)


def test_what_is_not_known_is_left(one_thread):
    class Matcher(det_utils.Matcher):
        pass

    class Sampler(det_utils.BalancedPositiveNegativeSampler):
        pass

    class Coder(det_utils.BoxCoder):
        pass

    class Generator(Original):
        pass

    def generator(model):
        model.rpn.anchor_generator = Generator(model.rpn.anchor_generator.sizes, ((0.5, 1.0, 2.0),) * 5)

    cases = {
        "proposal_matcher is a Matcher": lambda model: setattr(model.rpn, "proposal_matcher", Matcher(0.7, 0.3, True)),
        "fg_bg_sampler is a Sampler": lambda model: setattr(model.rpn, "fg_bg_sampler", Sampler(64, 0.5)),
        "box_similarity is another": lambda model: setattr(model.rpn, "box_similarity", giou),
        "box_coder is a Coder": lambda model: setattr(model.rpn, "box_coder", Coder((1.0, 1.0, 1.0, 1.0))),
        "they need the anchors": generator,
    }
    for why, change in cases.items():
        stock, model, report = both(change=change)
        assert why in report.left["losses"]
        assert report.replaced == tuple(part for part in PARTS if part not in report.left)
        assert ("proposals" in report.replaced) == ("Coder" not in why)
        assert ("anchors" in report.replaced) == ("anchors" not in why)
        assert_trains_alike(model, stock)
        assert_detects_alike(model, stock)
        restore(model)
        assert type(model.rpn.anchor_generator) is type(stock.rpn.anchor_generator)


@pytest.mark.parametrize("name", ["forward", "assign_targets_to_anchors", "filter_proposals", "compute_loss"])
def test_what_is_refused(name):
    def own(self, *arguments):
        return getattr(stock_rpn.RegionProposalNetwork, name)(self, *arguments)

    model = detector()
    model.rpn.__class__ = type("Own", (stock_rpn.RegionProposalNetwork,), {name: own})
    with pytest.raises(ValueError, match=rf"Own.{name} is 'overridden'; expected torchvision's own"):
        accelerate(model)
    assert type(model) is detection.FasterRCNN and type(model.rpn).__name__ == "Own"
    model = detector()
    setattr(model.rpn, name, lambda *_: None)
    with pytest.raises(ValueError, match=rf"RegionProposalNetwork.{name} is 'overridden'"):
        accelerate(model)


def test_other_networks_for_proposals_are_refused():
    model = detector()
    model.rpn.__class__ = type("Own", (stock_rpn.RegionProposalNetwork,), {})
    with pytest.raises(ValueError, match=r"model.rpn is 'Own'; expected exactly torchvision's RegionProposalNetwork"):
        accelerate(model)
    model.rpn = nn.Identity()
    with pytest.raises(ValueError, match=r"model.rpn is 'Identity'; expected torchvision's RegionProposalNetwork"):
        accelerate(model)
    with pytest.raises(ValueError, match="model is 'FCOS'; expected a RetinaNet of torchvision's, or its FasterRCNN"):
        accelerate(detection.FCOS.__new__(detection.FCOS))


def test_what_is_changed_since_counts(one_thread):
    stock, model, _ = both()
    changes = {
        "nms_thresh": 0.3,
        "score_thresh": 0.505,
        "min_size": 20.0,
        "_pre_nms_top_n": {"training": 90, "testing": 70},
        "_post_nms_top_n": {"training": 30, "testing": 20},
        "proposal_matcher": det_utils.Matcher(0.5, 0.2, False),
        "fg_bg_sampler": det_utils.BalancedPositiveNegativeSampler(40, 0.25),
        "box_coder": det_utils.BoxCoder((2.0, 2.0, 1.5, 1.0)),
        "anchor_generator": Original(((24,), (32,), (64,), (128,), (200,)), ((0.5, 1.0, 1.7),) * 5),
        "box_similarity": giou,
    }
    before, _ = proposals_of(model)
    for name, value in changes.items():
        for one in (stock, model):
            setattr(one.rpn, name, copy.deepcopy(value))
        assert_proposes_alike(model, stock)
        assert_trains_alike(model, stock)
    assert all(len(a) != len(b) for a, b in zip(before, proposals_of(model)[0], strict=True))
    model.rpn.compute_loss = lambda *_: (torch.ones((), requires_grad=True) * 3,) * 2
    assert float(losses_of(model, *batch())[0]["loss_rpn_box_reg"]) == 3
    model.rpn.filter_proposals = lambda proposals, *_: ([torch.zeros(1, 4)] * len(proposals), None)
    model.eval()
    assert torch.equal(proposals_of(model)[0][0], torch.zeros(1, 4))


def test_other_dtypes_take_torchvisions_way(one_thread):
    stock, model, _ = both()
    images, targets = batch()
    model.train(), stock.train()
    results = []
    for one in (model, stock):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(one(images, [dict(target) for target in targets]))
    for name, loss in results[1].items():
        torch.testing.assert_close(results[0][name], loss, rtol=1e-5, atol=1e-6)
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets]
    assert_losses_alike(model, stock, images, targets)


@pytest.mark.parametrize("change", ["hook", "method"])
def test_a_generator_that_is_changed_since(change, one_thread):
    """Its anchors count, also where they are others than its grid's."""
    stock, model, _ = both()
    for generator in (stock.rpn.anchor_generator, model.rpn.anchor_generator):
        if change == "hook":
            generator.register_forward_hook(lambda _, __, anchors: [boxes + 3 for boxes in anchors])
        else:
            kind = AnchorGenerator if type(generator) is AnchorGenerator else Original
            generator.grid_anchors = lambda *sizes, own=generator, kind=kind: [
                boxes + 3 for boxes in kind.grid_anchors(own, *sizes)
            ]
    assert_proposes_alike(model, stock)
    assert_trains_alike(model, stock)
    fresh = detector()
    fresh.rpn.anchor_generator.register_forward_hook(lambda *_: None)
    assert accelerate(fresh).left == {"anchors": "anchor_generator has hooks", "losses": "they need the anchors"}
