"""Every detector that torchvision builds, as its own tests build it: accelerated, or refused by name."""

from __future__ import annotations

import copy

import pytest
import torch

pytestmark = pytest.mark.peers
models = pytest.importorskip("torchvision.models")

from anchor_ext.compat.torchvision import accelerate  # noqa: E402

BUILDERS = models.list_models(module=models.detection)
RANDOM = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(3, 300, 300, generator=RANDOM), torch.rand(3, 250, 310, generator=RANDOM)]


def targets_of(name):
    boxes = torch.tensor([[20.0, 30, 90, 110], [100, 40, 240, 200], [5, 5, 30, 28]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 1])}
    if name.startswith("mask"):
        target["masks"] = torch.ones(3, 300, 300, dtype=torch.uint8)
    if name.startswith("keypoint"):
        seen = torch.cat([boxes.view(3, 2, 2).mean(1, keepdim=True), torch.ones(3, 1, 1)], dim=2)
        target["keypoints"] = seen.repeat(1, 17, 1)
        target["labels"] = torch.ones(3, dtype=torch.int64)
    none = {key: value[:0] for key, value in target.items()}
    return [target, none]


def losses_of(model, name):
    torch.manual_seed(1)
    return model.train()(list(IMAGES), copy.deepcopy(targets_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_as_stock(name, one_thread):
    torch.manual_seed(0)
    options = {} if name.startswith("keypoint") else {"num_classes": 50}
    if not name.startswith("ssd"):
        options |= {"min_size": 224, "max_size": 320}
    stock = models.get_model(name, weights=None, weights_backbone=None, **options).eval()
    if "fcos" in name:
        with pytest.raises(ValueError, match="model is 'FCOS'; expected"):
            accelerate(stock)
        return
    if hasattr(stock, "score_thresh"):
        stock.score_thresh = 0.0101 if "retinanet" in name else stock.score_thresh  # untrained scores are about 0.01
    model = copy.deepcopy(stock)
    assert "anchors" in accelerate(model).replaced
    with torch.no_grad():
        for got, wanted in zip(model(IMAGES), stock(IMAGES), strict=True):
            assert got.keys() == wanted.keys()
            assert torch.equal(got["labels"], wanted["labels"])
            torch.testing.assert_close(got["scores"], wanted["scores"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(got["boxes"], wanted["boxes"], rtol=1e-5, atol=1e-3)
    losses, wanted = losses_of(model, name), losses_of(stock, name)
    assert losses.keys() == wanted.keys()
    for key, loss in wanted.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-5, atol=1e-6)
