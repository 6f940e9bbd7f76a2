"""detectron2's RetinaNet with the losses of anchor_ext: no matrix of IoUs, no one-hot targets.

Call `anchor_ext.compat.detectron2.register()` before you build the model, and name this class in
`cfg.MODEL.META_ARCHITECTURE`. Losses and gradients are those of RetinaNet to 1e-6. What it does not know is refused by
`box_loss`: the losses diou and ciou.
"""

from __future__ import annotations

import torch
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.utils.events import get_event_storage

from anchor_ext import BoxCoder
from anchor_ext.losses import box_loss, focal_loss


@META_ARCH_REGISTRY.register()
class LeanRetinaNet(RetinaNet):
    def forward_training(self, images, features, predictions, gt_instances):
        logits, deltas = predictions
        grid, level_shapes = self.anchor_generator.grid, [level.shape[-2:] for level in logits]
        boxes = [one.gt_boxes.tensor for one in gt_instances]
        labels = [one.gt_classes for one in gt_instances]
        low, high = self.anchor_matcher.thresholds[1:-1]
        matched = grid.match(boxes, level_shapes, high=high, low=low)
        positives = int((matched >= 0).sum())
        get_event_storage().put_scalar("num_pos_anchors", positives / len(boxes))
        normalizer = self._ema_update("loss_normalizer", max(positives, 1), 100)
        of_classes = focal_loss(
            logits, matched, labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, normalize=False
        )
        flat = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas]
        of_boxes = box_loss(
            torch.cat(flat, dim=1),
            matched,
            boxes,
            grid,
            level_shapes=level_shapes,
            kind=self.box_reg_loss_type,
            beta=self.smooth_l1_beta,
            coder=BoxCoder.detectron2(self.box2box_transform.weights),
            normalize=False,
        )
        return {"loss_cls": of_classes / normalizer, "loss_box_reg": of_boxes / normalizer}
