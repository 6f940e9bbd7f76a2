"""`accelerate(model, float32=True)` under autocast: torchvision's code in float32, of the outputs in 16 bits."""

from __future__ import annotations

import copy
import io

import pytest
import torch

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from alike import assert_steps_alike, losses_of  # noqa: E402
from test_accelerate import batch, retinanet  # noqa: E402
from test_accelerate_rpn import batch as batch_of_rpn  # noqa: E402
from test_accelerate_rpn import detector, proposals_of  # noqa: E402

from anchor_ext.compat.torchvision import accelerate, restore  # noqa: E402

TYPES = [torch.bfloat16, torch.float16]


def widened(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in TYPES else value
    if isinstance(value, dict):
        return {name: widened(one) for name, one in value.items()}
    return type(value)(map(widened, value)) if isinstance(value, (list, tuple)) else value


def in_float32(stock, part):
    """torchvision's detector whose head's outputs and whose anchors are float32, whatever autocast makes of them."""
    part(stock).head.register_forward_hook(lambda _, __, outputs: widened(outputs))
    part(stock).anchor_generator.register_forward_pre_hook(lambda _, given: (given[0], widened(given[1])))
    return stock


def pair_of_retinanets():
    model = retinanet()
    accelerate(model, float32=True)
    return model, in_float32(retinanet(), lambda one: one)


def pair_of_rcnns():
    model = detector()
    accelerate(model, float32=True)
    return model, in_float32(detector(), lambda one: one.rpn)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_retinanet(dtype, one_thread):
    model, stock = pair_of_retinanets()
    images, targets = batch()
    with torch.autocast("cpu", dtype=dtype):
        assert_steps_alike(model, stock, images, targets)
        with torch.no_grad():
            for got, wanted in zip(model(images), stock(images), strict=True):
                assert len(wanted["scores"]) > 0 and got["boxes"].dtype == torch.float32
                assert torch.equal(got["scores"], wanted["scores"]) and torch.equal(got["labels"], wanted["labels"])
                torch.testing.assert_close(got["boxes"], wanted["boxes"], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rpn(dtype, one_thread):
    model, stock = pair_of_rcnns()
    with torch.autocast("cpu", dtype=dtype):
        assert_steps_alike(model, stock, *batch_of_rpn())
        (boxes, _), (wanted, _) = proposals_of(model), proposals_of(stock)
        for one, other in zip(boxes, wanted, strict=True):
            assert one.dtype == torch.float32 and len(other) > 0
            torch.testing.assert_close(one, other, rtol=1e-6, atol=2e-5)


def test_it_is_nearer_to_float32_than_torchvision_is(one_thread):
    """By its anchors: those of bfloat16 lie pixels beside where they belong, above 256."""
    accurate, stock, plain = (retinanet() for _ in range(3))
    for model in (accurate, stock, plain):
        model.transform.min_size, model.transform.max_size = (600,), 800
    accelerate(accurate, float32=True)
    images, targets = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (losses_of(one, images, targets)[0]["bbox_regression"] for one in (accurate, stock))
    wanted = losses_of(plain, images, targets)[0]["bbox_regression"]
    assert abs(ours - wanted) < abs(theirs - wanted)


def test_it_is_really_ours(one_thread, monkeypatch):
    def never(*_, **__):
        raise AssertionError("torchvision's own was called")

    monkeypatch.setattr("torchvision.models.detection.retinanet.sigmoid_focal_loss", never)
    monkeypatch.setattr("torchvision.models.detection.retinanet._box_loss", never)
    monkeypatch.setattr("torchvision.models.detection.retinanet.box_ops.box_iou", never)
    model, _ = pair_of_retinanets()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses_of(model, *batch())


def test_without_autocast_nothing_changes(one_thread):
    for model, plain, some in (
        (pair_of_retinanets()[0], retinanet(), batch()),
        (pair_of_rcnns()[0], detector(), batch_of_rpn()),
    ):
        accelerate(plain)
        (losses, grads, _), (wanted, wanted_grads, _) = (losses_of(one, *some) for one in (model, plain))
        assert losses == wanted
        assert all(torch.equal(grads[name], grad) for name, grad in wanted_grads.items())


@pytest.mark.parametrize("how", ["copied", "saved"])
def test_copies_keep_it_and_restore_ends_it(how, one_thread):
    for (model, stock), plain, some in (
        (pair_of_retinanets(), retinanet(), batch()),
        (pair_of_rcnns(), detector(), batch_of_rpn()),
    ):
        if how == "copied":
            model = copy.deepcopy(model)
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            model = torch.load(file, weights_only=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_steps_alike(model, stock, *some)
            restore(model)
            (losses, _, _), (wanted, _, _) = (losses_of(one, *some) for one in (model, plain))
        assert losses == wanted


def test_losses_that_are_left_are_float32_too(one_thread):
    model, stock = retinanet(), in_float32(retinanet(), lambda one: one)
    for one in (model, stock):
        one.head.regression_head._loss_type = "ciou"
    assert "ciou" in accelerate(model, float32=True).left["losses"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_steps_alike(model, stock, *batch())


def test_called_again_it_counts_anew(one_thread):
    model, _ = pair_of_retinanets()
    accelerate(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses_of(model, *batch())[0] == losses_of(retinanet(), *batch())[0]


def test_what_is_refused():
    ssd = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(ValueError, match="float32 is True; expected False for an SSD, whose losses"):
        accelerate(ssd, float32=True)
    model = retinanet()
    model.anchor_generator.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="float32 is True; expected False, since anchors are left: anchor_gen"):
        accelerate(model, float32=True)
    assert type(model) is type(retinanet())
    with pytest.raises(ValueError, match="float32 is 1; expected True or False"):
        accelerate(retinanet(), float32=1)
