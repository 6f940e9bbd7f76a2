"""mmdetection's RetinaHead with the losses of anchor_ext: no matrix of IoUs, no targets per anchor.

Call `anchor_ext.compat.mmdet.register()` before you build the model, and write `bbox_head=dict(type="LeanRetinaHead",
...)` in its configuration, with a FocalLoss, an L1Loss, a MaxIoUAssigner and no allowed border, as mmdetection's own
RetinaNets have; others are refused. Losses are sums over the levels; they and their gradients are those of RetinaHead
to 1e-6.
"""

from __future__ import annotations

import torch
from mmdet.models import FocalLoss, L1Loss, RetinaHead
from mmdet.models.task_modules import MaxIoUAssigner as Assigner
from mmdet.registry import MODELS

from anchor_ext import BoxCoder
from anchor_ext.losses import box_loss, focal_loss
from anchor_ext.matchers import MaxIoUAssigner


@MODELS.register_module()
class LeanRetinaHead(RetinaHead):
    def loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore=None):
        for part, kind in ((self.loss_cls, FocalLoss), (self.loss_bbox, L1Loss), (self.assigner, Assigner)):
            if type(part) is not kind:
                raise TypeError(f"{type(part).__name__} in the configuration; expected {kind.__name__}")
        if self.train_cfg["allowed_border"] >= 0 or self.assigner.ignore_iof_thr > 0:
            raise ValueError("allowed_border or ignore_iof_thr is given; expected -1, which is none")
        boxes = [one.bboxes for one in batch_gt_instances]
        labels = [one.labels for one in batch_gt_instances]
        level_shapes = [level.shape[-2:] for level in cls_scores]
        matched = torch.stack([self._matched(*one, level_shapes) for one in zip(boxes, batch_img_metas, strict=True)])
        average = (matched >= 0).sum(dim=1).clamp(min=1).sum()
        of_classes = focal_loss(
            cls_scores, matched, labels, alpha=self.loss_cls.alpha, gamma=self.loss_cls.gamma, normalize=False
        )
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in bbox_preds]
        of_boxes = box_loss(
            torch.cat(deltas, dim=1),
            matched,
            boxes,
            self.prior_generator.grid,
            level_shapes=level_shapes,
            kind="l1",
            coder=BoxCoder.mmdet(self.bbox_coder.means, self.bbox_coder.stds),
            normalize=False,
        )
        return {
            "loss_cls": self.loss_cls.loss_weight * of_classes / average,
            "loss_bbox": self.loss_bbox.loss_weight * of_boxes / average,
        }

    def _matched(self, boxes, meta, level_shapes):
        """Per anchor a box, -1 for background, or -2 where it takes no part: also beyond the image's own padding."""
        own, generator = self.assigner, self.prior_generator
        rule = MaxIoUAssigner(
            own.pos_iou_thr,
            own.neg_iou_thr,
            own.min_pos_iou,
            own.gt_max_assign_all,
            match_low_quality=own.match_low_quality,
        )
        height, width = meta["pad_shape"][:2]
        cells = [
            (min(-(-height // y), rows), min(-(-width // x), columns))
            for (rows, columns), (x, y) in zip(level_shapes, generator.strides, strict=True)
        ]
        inside = torch.cat(generator.valid_flags(level_shapes, (height, width), device=boxes.device))
        result = torch.full(inside.shape, -2, dtype=torch.int64, device=boxes.device)
        return result.masked_scatter_(inside, generator.grid.match(boxes, cells, matcher=rule) - 1)
