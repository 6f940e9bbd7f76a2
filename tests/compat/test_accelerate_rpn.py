"""Accelerated FasterRCNN, MaskRCNN and KeypointRCNN of torchvision's train and detect as the stock ones do."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from alike import assert_losses_alike, assert_steps_alike, losses_of, pictures  # noqa: E402
from torchvision.models.detection import _utils as det_utils  # noqa: E402
from torchvision.models.detection import rpn as stock_rpn  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator as Original  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead  # noqa: E402
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor  # noqa: E402
from torchvision.models.resnet import BasicBlock, ResNet  # noqa: E402
from torchvision.ops import MultiScaleRoIAlign  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool  # noqa: E402

from anchor_ext.compat.torchvision import AnchorGenerator, accelerate, restore  # noqa: E402

CLASSES = 4
PARTS = ("anchors", "losses", "proposals")


def detector(kind="FasterRCNN", **options):
    torch.manual_seed(0)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(ResNet(BasicBlock, [1] * 4), layers, [64, 128, 256, 512], 16, LastLevelMaxPool())
    options = {
        "rpn_anchor_generator": Original(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5),
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], 3, 2),
        "box_head": TwoMLPHead(16 * 9, 32),
        "box_predictor": FastRCNNPredictor(32, CLASSES),
        "rpn_pre_nms_top_n_train": 300,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_train": 150,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "min_size": 120,
        "max_size": 200,
        **options,
    }
    model = getattr(detection, kind)(backbone, **options)
    nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.2)  # scores and boxes of all sizes
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.1)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model.eval()


def batch(kind="FasterRCNN"):
    random, targets = torch.Generator().manual_seed(0), []
    images, truth = pictures()
    for image, boxes in zip(images, truth, strict=True):
        target = {"boxes": boxes, "labels": torch.arange(len(boxes)) % (CLASSES - 1) + 1}
        if kind == "MaskRCNN":
            target["masks"] = torch.rand(len(boxes), *image.shape[1:], generator=random).round().byte()
        if kind == "KeypointRCNN":
            target["labels"] = torch.ones(len(boxes), dtype=torch.int64)
            inside = boxes[:, None, :2] + 5 + torch.arange(17)[None, :, None] / 8
            target["keypoints"] = torch.cat([inside, torch.ones(len(boxes), 17, 1)], dim=2)
        targets.append(target)
    return images, targets


def both(kind="FasterRCNN", change=lambda model: None, **options):
    """A stock detector and an accelerated one, and the report."""
    stock = detector(kind, **options)
    change(stock)
    model = copy.deepcopy(stock)
    return stock, model, accelerate(model)


def assert_trains_alike(model, stock, kind="FasterRCNN"):
    assert_steps_alike(model, stock, *batch(kind))


def assert_detects_alike(model, stock):
    images, _ = batch()
    with torch.no_grad():
        for got, wanted in zip(model(images), stock(images), strict=True):
            assert len(wanted["scores"]) > 0 and torch.equal(got["labels"], wanted["labels"])
            torch.testing.assert_close(got["scores"], wanted["scores"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(got["boxes"], wanted["boxes"], rtol=1e-5, atol=1e-4)


def proposals_of(model, training=False):
    """Boxes of the network for proposals, and what `batched_nms` was given for each image."""
    images, targets = batch()
    model.train(training)
    together, own = model.transform(images, targets if training else None)
    given, original = [], stock_rpn.box_ops.batched_nms

    def watched(boxes, scores, levels, threshold):
        given.append((boxes, scores, levels))
        return original(boxes, scores, levels, threshold)

    stock_rpn.box_ops.batched_nms = watched
    try:
        boxes, _ = model.rpn(together, model.backbone(together.tensors), own)
    finally:
        stock_rpn.box_ops.batched_nms = original
        model.eval()
    return boxes, given


def assert_proposes_alike(model, stock, training=False):
    (got, given), (wanted, wanted_given) = proposals_of(model, training), proposals_of(stock, training)
    got, wanted = [*got, *(boxes for boxes, _, _ in given)], [*wanted, *(boxes for boxes, _, _ in wanted_given)]
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and len(one) > 0 and not one.requires_grad
        torch.testing.assert_close(one, other, rtol=1e-6, atol=2e-5)
    for (_, scores, levels), (_, wanted_scores, wanted_levels) in zip(given, wanted_given, strict=True):
        assert torch.equal(scores, wanted_scores) and torch.equal(levels, wanted_levels)


@pytest.mark.quick
def test_alike(one_thread):
    stock, model, report = both()
    assert report.replaced == PARTS and not report.left
    assert isinstance(model, detection.FasterRCNN) and isinstance(model.rpn, stock_rpn.RegionProposalNetwork)
    assert type(model.rpn.anchor_generator) is AnchorGenerator
    assert_trains_alike(model, stock)
    assert_detects_alike(model, stock)


@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_alike(training, one_thread):
    stock, model, _ = both()
    assert_proposes_alike(model, stock, training)
    model.double(), stock.double()
    images = [image.double() for image in batch()[0]]
    with torch.no_grad():
        for got, wanted in zip(model(images), stock(images), strict=True):
            torch.testing.assert_close(got["boxes"], wanted["boxes"])


def test_the_sampler_sees_the_same_labels(one_thread, monkeypatch):
    stock, model, _ = both()
    seen, original = [], det_utils.BalancedPositiveNegativeSampler.__call__

    def watched(self, labels):
        seen.append(labels)
        return original(self, labels)

    monkeypatch.setattr(det_utils.BalancedPositiveNegativeSampler, "__call__", watched)
    images, targets = batch()
    for one in (model, stock):
        losses_of(one, images, targets)
    for got, wanted in zip(seen[0], seen[2], strict=True):  # beside those of the box head
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)
    assert set(torch.cat(seen[0]).tolist()) == {-1.0, 0.0, 1.0} and set(seen[0][1].tolist()) == {0.0}


@pytest.mark.parametrize("kind", ["MaskRCNN", "KeypointRCNN"])
def test_with_masks_and_keypoints(kind, one_thread):
    options = {}
    if kind == "MaskRCNN":
        options["mask_predictor"] = MaskRCNNPredictor(256, 16, CLASSES)
    else:
        options |= {"num_keypoints": 17, "box_predictor": FastRCNNPredictor(32, 2)}
    stock, model, report = both(kind, **options)
    assert report.replaced == PARTS and isinstance(model, getattr(detection, kind))
    assert_trains_alike(model, stock, kind)
    assert_proposes_alike(model, stock)


def test_without_any_box(one_thread):
    stock, model, _ = both()
    images, _ = batch()
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 3
    assert_losses_alike(model, stock, images, targets)


def test_it_is_really_ours(one_thread, monkeypatch):
    """Nothing is computed for every anchor that is needed for a few."""
    _, model, _ = both()
    rows = {"encode_single": [], "decode_single": [], "__call__": []}
    for owner, name in zip((det_utils.BoxCoder, det_utils.BoxCoder, det_utils.Matcher), rows, strict=True):
        original = getattr(owner, name)

        def watched(self, *arguments, original=original, name=name):
            rows[name].append(arguments[-1].shape[1 if name == "__call__" else 0])
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, watched)

    def never(*_, **__):
        raise AssertionError("torchvision's own was called")

    for name in ("assign_targets_to_anchors", "filter_proposals", "compute_loss"):
        monkeypatch.setattr(stock_rpn.RegionProposalNetwork, name, never)
    monkeypatch.setattr(Original, "forward", never)
    images, targets = batch()
    losses_of(model, images, targets)
    with torch.no_grad():
        model(images)
    assert min(map(len, rows.values())) > 0
    assert max(rows["encode_single"]) <= 3 * 512 and max(rows["__call__"]) < 200  # the box head's
    assert max(rows["decode_single"]) <= 3 * 300 * 5


@pytest.mark.quick
def test_restored_copied_and_saved(one_thread):
    stock, model = detector(), detector()
    before, names = model.rpn.anchor_generator, list(model.state_dict())
    accelerate(model), accelerate(model)
    assert list(model.state_dict()) == names == list(stock.state_dict())
    model.load_state_dict(stock.state_dict())
    copied, file = copy.deepcopy(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for one in (copied, loaded):
        assert type(one) is type(model) and type(one.rpn) is type(model.rpn) and one.rpn is not model.rpn
        as_it_was = copy.deepcopy(stock)
        assert_proposes_alike(one, as_it_was)
        assert_trains_alike(one, as_it_was)
        restore(one)
        assert type(one) is detection.FasterRCNN and type(one.rpn.anchor_generator) is Original
    restore(model)
    assert type(model) is detection.FasterRCNN and type(model.rpn) is stock_rpn.RegionProposalNetwork
    assert model.rpn.anchor_generator is before and "_accelerated" not in {*vars(model), *vars(model.rpn)}
    assert_detects_alike(model, stock)
    with pytest.raises(ValueError, match="model is 'FasterRCNN'; expected one that accelerate has changed"):
        restore(model)


@pytest.mark.slow
def test_scripted_and_compiled(one_thread):
    stock, model, _ = both()
    images, _ = batch()
    inner = model.rpn
    scripted, scripted_stock = torch.jit.script(model), torch.jit.script(copy.deepcopy(stock))
    for got, wanted in zip(scripted(images)[1], scripted_stock(images)[1], strict=True):
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert model.rpn is inner and type(inner.anchor_generator) is AnchorGenerator  # it stays accelerated
    assert_trains_alike(model, stock)
    torch.compiler.reset()
    compiled = torch.compile(detector(), backend="eager")
    assert accelerate(compiled).replaced == PARTS
    assert_detects_alike(compiled, detector())
    restore(compiled)


def test_inside_of_data_parallel(one_thread, tmp_path):
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        wrapper = nn.parallel.DistributedDataParallel(detector(), find_unused_parameters=True)
        assert accelerate(wrapper).replaced == PARTS
        images, targets = batch()
        assert_losses_alike(wrapper, detector(), images, targets)
        restore(wrapper)
        assert type(wrapper.module.rpn) is stock_rpn.RegionProposalNetwork
    finally:
        distributed.destroy_process_group()


def test_many_sizes_in_turn(one_thread):
    stock, model, _ = both()
    random = torch.Generator().manual_seed(1)
    for k in range(3):
        images = [torch.rand(3, 90 + 17 * k, 140 - 9 * k, generator=random)]
        targets = [{"boxes": torch.tensor([[5.0, 9, 60, 70]]), "labels": torch.tensor([1 + k])}]
        assert_losses_alike(model, stock, images, targets)


def test_without_targets():
    model = detector()
    accelerate(model)
    with pytest.raises(ValueError, match="targets should not be None"):
        features = model.backbone(torch.rand(1, 3, 64, 64))
        model.rpn.train()(detection.image_list.ImageList(torch.rand(1, 3, 64, 64), [(64, 64)]), features)
