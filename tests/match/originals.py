"""The frameworks' rules as plain torch on the whole matrix of boxes by anchors: what a match must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from anchor_ext import matchers


def box_iou(boxes: Tensor, anchors: Tensor, least: float | None = None, quotient: str = "plain") -> Tensor:
    """[boxes, anchors]; the areas in the type of their own boxes, all else in that of both."""

    def area(of: Tensor) -> Tensor:
        return (of[:, 2] - of[:, 0]) * (of[:, 3] - of[:, 1])

    low = torch.maximum(boxes[:, None, :2], anchors[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    inter = width * height
    union = (area(boxes)[:, None] + area(anchors)[None]) - inter
    if least is not None:
        union = torch.maximum(union, union.new_tensor(least))
    if quotient == "plain":
        return inter / union
    is_zero = ~(inter > 0) if quotient == "zero_if_apart" else inter == 0
    return torch.where(is_zero, torch.zeros_like(inter), inter / union)


def torchvision(iou: Tensor, rule: matchers.Matcher) -> Tensor:
    best, own = iou.max(dim=0)
    matched = own.clone()
    matched[best < rule.low_threshold] = -1
    matched[(best >= rule.low_threshold) & (best < rule.high_threshold)] = -2
    if rule.allow_low_quality_matches:
        row_max = iou.max(dim=1, keepdim=True)[0]
        restored = (iou == row_max) & (row_max > 0 if rule.low_quality_needs_overlap else True)
        matched = torch.where(restored.any(dim=0), own, matched)
    return matched


def ssd(iou: Tensor, rule: matchers.SSDMatcher) -> Tensor:
    matched = torchvision(iou, matchers.Matcher(rule.threshold, rule.threshold, False))
    for box, anchor in enumerate(iou.max(dim=1)[1].tolist()):
        matched[anchor] = box
    return matched


def detectron2(iou: Tensor, rule: matchers.Detectron2Matcher) -> tuple[Tensor, Tensor]:
    best, own = iou.max(dim=0)
    labels = torch.full_like(own, rule.labels[0], dtype=torch.int8)
    for threshold, label in zip(rule.thresholds, rule.labels[1:], strict=True):
        labels[best >= threshold] = label
    if rule.allow_low_quality_matches:
        row_max = iou.max(dim=1, keepdim=True)[0]
        labels[((iou == row_max) & (row_max > 0 if rule.low_quality_needs_overlap else True)).any(dim=0)] = 1
    return own, labels


def ignored_by(regions: Tensor, anchors: Tensor, rule: matchers.MaxIoUAssigner) -> Tensor:
    low = torch.maximum(regions[:, None, :2], anchors[None, :, :2])
    high = torch.minimum(regions[:, None, 2:], anchors[None, :, 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    of = anchors[None] if rule.ignore_wrt_candidates else regions[:, None]
    area = ((of[..., 2] - of[..., 0]) * (of[..., 3] - of[..., 1])).to(regions.dtype)
    part = width * height / torch.maximum(area, area.new_tensor(1e-6))
    return part.max(dim=0)[0] > rule.ignore_iof_thr


def mmdet(iou: Tensor, rule: matchers.MaxIoUAssigner) -> Tensor:
    best, own = iou.max(dim=0)
    assigned = torch.full_like(own, -1)
    low, high = rule.neg_iou_thr if isinstance(rule.neg_iou_thr, tuple) else (0, rule.neg_iou_thr)
    assigned[(best >= low) & (best < high)] = 0
    positive = best >= rule.pos_iou_thr
    assigned[positive] = own[positive] + 1
    if rule.match_low_quality:
        row_max, first = iou.max(dim=1)
        for box in range(len(iou)):
            if row_max[box] >= rule.min_pos_iou:
                assigned[iou[box] == row_max[box] if rule.gt_max_assign_all else first[box]] = box + 1
    return assigned


def effdet(iou: Tensor, rule: matchers.ArgMaxMatcher) -> Tensor:
    unmatched = rule.matched_threshold if rule.unmatched_threshold is None else rule.unmatched_threshold
    best, matched = iou.max(dim=0)
    below, between = (-1, -2) if rule.negatives_lower_than_unmatched else (-2, -1)
    is_below, is_between = best < unmatched, (best >= unmatched) & (best < rule.matched_threshold)
    matched[is_below], matched[is_between] = below, between
    if rule.force_match_for_each_row:
        for box, anchor in reversed(list(enumerate(iou.argmax(dim=1).tolist()))):
            matched[anchor] = box
    return matched


def focal_loss(iou: Tensor, rule: matchers.FocalLossMatcher) -> Tensor:
    best, own = iou.max(dim=0)
    matched = torch.full_like(own, -2)
    matched[best < rule.low] = -1
    return torch.where(best >= rule.high, own, matched)


def expected(rule: matchers.Rule, boxes: Tensor, anchors: Tensor):
    """What the original of the rule gives, and its greatest IoU of every anchor."""
    how, iou = {
        matchers.Matcher: (torchvision, {}),
        matchers.SSDMatcher: (ssd, {}),
        matchers.Detectron2Matcher: (detectron2, {"quotient": "zero_if_apart"}),
        matchers.MaxIoUAssigner: (mmdet, {"least": 1e-6}),
        matchers.ArgMaxMatcher: (effdet, {"quotient": "zero_if_nothing"}),
        matchers.FocalLossMatcher: (focal_loss, {"least": 1e-8}),
    }[type(rule)]
    matrix = box_iou(boxes, anchors, **iou)
    return how(matrix, rule), matrix.max(dim=0)[0]
