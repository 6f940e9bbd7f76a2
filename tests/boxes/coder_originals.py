"""The frameworks' coders as they are written there, on anchors (n, 4) x1, y1, x2, y2: what ours must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST = math.log(1000 / 16)


def detectron2_decode(anchors: Tensor, deltas: Tensor, weights=(1.0, 1.0, 1.0, 1.0), clamp=MOST) -> Tensor:
    deltas = deltas.float() if deltas.dtype != torch.float64 else deltas
    anchors = anchors.to(deltas.dtype)
    widths, heights = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    x, y = anchors[:, 0] + 0.5 * widths, anchors[:, 1] + 0.5 * heights
    dx, dy, dw, dh = (deltas[:, k] / weights[k] for k in range(4))
    dw, dh = dw.clamp(max=clamp), dh.clamp(max=clamp)
    x, y = dx * widths + x, dy * heights + y
    w, h = torch.exp(dw) * widths, torch.exp(dh) * heights
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=1)


def detectron2_encode(anchors: Tensor, boxes: Tensor, weights=(1.0, 1.0, 1.0, 1.0)) -> Tensor:
    def sides_and_centres(b):
        w, h = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
        return w, h, b[:, 0] + 0.5 * w, b[:, 1] + 0.5 * h

    aw, ah, ax, ay = sides_and_centres(anchors.to(boxes.dtype))
    w, h, x, y = sides_and_centres(boxes)
    wx, wy, ww, wh = weights
    return torch.stack([wx * (x - ax) / aw, wy * (y - ay) / ah, ww * torch.log(w / aw), wh * torch.log(h / ah)], dim=1)


def retinanet_decode(anchors: Tensor, deltas: Tensor, mean=(0, 0, 0, 0), std=(0.1, 0.1, 0.2, 0.2)) -> Tensor:
    mean, std = (torch.tensor(numbers, dtype=torch.float32).to(deltas) for numbers in (mean, std))
    w, h = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    x, y = anchors[:, 0] + 0.5 * w, anchors[:, 1] + 0.5 * h
    dx, dy, dw, dh = (deltas[:, k] * std[k] + mean[k] for k in range(4))
    x, y, w, h = x + dx * w, y + dy * h, torch.exp(dw) * w, torch.exp(dh) * h
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=1)


def retinanet_clip(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([x1.clamp(min=0), y1.clamp(min=0), x2.clamp(max=shape[1]), y2.clamp(max=shape[0])], dim=1)


def retinanet_encode(anchors: Tensor, boxes: Tensor, std=(0.1, 0.1, 0.2, 0.2)) -> Tensor:
    aw, ah = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    ax, ay = anchors[:, 0] + 0.5 * aw, anchors[:, 1] + 0.5 * ah
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + 0.5 * w, boxes[:, 1] + 0.5 * h
    w, h = w.clamp(min=1), h.clamp(min=1)
    targets = torch.stack([(x - ax) / aw, (y - ay) / ah, torch.log(w / aw), torch.log(h / ah)]).t()
    return targets / torch.tensor([std], dtype=boxes.dtype, device=boxes.device)
