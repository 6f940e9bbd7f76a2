"""The examples for detectron2 and mmdetection give the losses and gradients of what they replace."""

from __future__ import annotations

import copy
import functools
import importlib.util
import sys

import pytest
import torch
from toolchain import ROOT

SHAPE, CLASSES = (256, 320), 20


@functools.cache  # a class is registered once
def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def ground_truth(count, random):
    corners = torch.rand(count, 2, 2, generator=random) * 200
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 20], dim=1)
    return boxes, torch.randint(0, CLASSES, (count,), generator=random)


def assert_alike(losses_of, stock, lean):
    results = []
    for model in (stock, lean):
        losses = losses_of(model)
        sum(losses.values()).backward()
        grads = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
        results.append((losses, grads))
    (wanted, wanted_grads), (got, grads) = results
    assert got.keys() == wanted.keys() and grads.keys() == wanted_grads.keys()
    for name, loss in wanted.items():
        torch.testing.assert_close(got[name], loss, rtol=2e-6, atol=1e-7)
    for name, grad in wanted_grads.items():
        assert float((grads[name] - grad).norm()) <= 1e-4 * float(grad.norm()) + 1e-7, name


@pytest.mark.detectron2
@pytest.mark.parametrize("loss", ["smooth_l1", "giou"])
def test_detectron2(loss, one_thread):
    pytest.importorskip("detectron2.modeling")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    from anchor_ext.compat import detectron2 as compat

    compat.register()
    lean = example("detectron2_retinanet").LeanRetinaNet
    sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
            *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.NUM_CLASSES", CLASSES),
            *("MODEL.ANCHOR_GENERATOR.SIZES", sizes),
            *("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", loss, "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", 0.1),
        ]
    )
    torch.manual_seed(0)
    stock = build_model(cfg).train()
    model = copy.deepcopy(stock)
    model.__class__ = lean
    random = torch.Generator().manual_seed(1)
    batch = []
    for count in (7, 0, 30):
        instances = Instances(SHAPE)
        boxes, instances.gt_classes = ground_truth(count, random)
        instances.gt_boxes = Boxes(boxes)
        image = torch.randint(0, 255, (3, *SHAPE), generator=random).float()
        batch.append({"image": image, "instances": instances, "height": SHAPE[0], "width": SHAPE[1]})

    def losses_of(one):
        with EventStorage(0):
            return one(batch)

    assert_alike(losses_of, stock, model)


@pytest.mark.mmcv
def test_mmdetection(one_thread):
    pytest.importorskip("mmcv._ext")
    pytest.importorskip("mmdet.models")
    from mmdet.models import RetinaHead
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    from anchor_ext.compat import mmdet as compat

    compat.register()
    lean = example("mmdetection_retina_head").LeanRetinaHead
    strides = [8, 16, 32, 64, 128]
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
    stds = [0.1, 0.1, 0.2, 0.2]
    torch.manual_seed(0)
    stock = RetinaHead(
        num_classes=CLASSES,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator={
            "type": "AnchorGenerator",
            "octave_base_scale": 4,
            "scales_per_octave": 3,
            "ratios": [0.5, 1.0, 2.0],
            "strides": strides,
        },
        bbox_coder={"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds},
        loss_cls={"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 0.7},
        loss_bbox={"type": "L1Loss", "loss_weight": 1.3},
        train_cfg=ConfigDict(assigner=assigner, sampler={"type": "PseudoSampler"}, allowed_border=-1, pos_weight=-1),
    )
    model = copy.deepcopy(stock)
    model.__class__ = lean
    random = torch.Generator().manual_seed(1)
    maps = [torch.randn(3, 16, -(-SHAPE[0] // s), -(-SHAPE[1] // s), generator=random) for s in strides]
    truth = []
    for count in (7, 0, 30):
        boxes, labels = ground_truth(count, random)
        truth.append(InstanceData(bboxes=boxes, labels=labels))
    padded = [SHAPE, (224, 320), (192, 160)]  # images of a batch differ
    metas = [{"img_shape": shape, "pad_shape": shape, "scale_factor": 1} for shape in padded]

    def losses_of(head):
        losses = head.loss_by_feat(*head(maps), truth, metas)
        return {name: sum(loss) if isinstance(loss, list) else loss for name, loss in losses.items()}

    assert_alike(losses_of, stock, model)
