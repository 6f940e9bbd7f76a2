"""mmdetection's RetinaHead with the losses of anchor_ext: no matrix of IoUs, no targets per anchor.

Call `anchor_ext.compat.mmdet.register()` before you build the model, and write `bbox_head=dict(type="LeanRetinaHead",
...)` in its configuration, with a FocalLoss, an L1Loss, a MaxIoUAssigner and no allowed border, as mmdetection's own
RetinaNets have. Losses are sums over the levels; they and their gradients are those of RetinaHead to 1e-6.
"""

from __future__ import annotations

import torch
from mmdet.models import RetinaHead
from mmdet.registry import MODELS

from anchor_ext import BoxCoder
from anchor_ext.losses import box_loss, focal_loss
from anchor_ext.matchers import MaxIoUAssigner


@MODELS.register_module()
class LeanRetinaHead(RetinaHead):
    def loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore=None):
        grid, level_shapes = self.prior_generator.grid, [level.shape[-2:] for level in cls_scores]
        boxes = [one.bboxes for one in batch_gt_instances]
        labels = [one.labels for one in batch_gt_instances]
        rule = MaxIoUAssigner(self.assigner.pos_iou_thr, self.assigner.neg_iou_thr, self.assigner.min_pos_iou)
        matched = grid.match(boxes, level_shapes, matcher=rule) - 1  # from 0 on; -1 background, -2 ignored
        average = (matched >= 0).sum(dim=1).clamp(min=1).sum()
        of_classes = focal_loss(
            cls_scores, matched, labels, alpha=self.loss_cls.alpha, gamma=self.loss_cls.gamma, normalize=False
        )
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in bbox_preds]
        of_boxes = box_loss(
            torch.cat(deltas, dim=1),
            matched,
            boxes,
            grid,
            level_shapes=level_shapes,
            kind="l1",
            coder=BoxCoder.mmdet(self.bbox_coder.means, self.bbox_coder.stds),
            normalize=False,
        )
        return {"loss_cls": of_classes / average, "loss_bbox": of_boxes / average}
