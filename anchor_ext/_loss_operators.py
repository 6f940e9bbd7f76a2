"""The records of the operators of losses, csrc/loss/op.cpp, and the calls of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._arguments import number, shape_of, show
from ._batches import boxes_of, labels_of
from ._box_operators import COMPUTED, dense, matched_of, must_be_of_boxes, text_of
from ._operators import Operator, call, must_not_be_traced, register
from ._recording import constants, is_compiled
from ._spec import Configuration

__all__ = ["box_loss", "focal_loss"]

Sides = Sequence[int]


def _loss_of(like: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """The loss, and each image's weight."""
    return like.new_empty((), dtype=COMPUTED[like.dtype]), like.new_empty(images, dtype=torch.float64)


def _focal_loss(
    logits: Sequence[Tensor],
    matched: Tensor,
    labels: Tensor,
    counts: Sides,
    alpha: float,
    gamma: float,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    return _loss_of(logits[0], len(counts))


def _focal_loss_backward(grad: Tensor, weights: Tensor, logits: Sequence[Tensor], *operands: Any) -> list[Tensor]:
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in logits]


def _keep_focal(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, matched, labels, ctx.counts, ctx.alpha, ctx.gamma, _ = inputs
    ctx.save_for_backward(output[1], matched, labels, *logits)
    ctx.mark_non_differentiable(output[1])


def _focal_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    weights, matched, labels, *logits = ctx.saved_tensors
    backward = torch.ops.anchor_ext.focal_loss_backward.default
    of_logits = backward(grad, weights, logits, matched, labels, ctx.counts, ctx.alpha, ctx.gamma)
    return of_logits, None, None, None if ctx.counts else [], None, None, None  # torch wants lists where there are none


def _box_loss(
    deltas: Tensor,
    matched: Tensor,
    boxes: Tensor,
    counts: Sides,
    level_shapes: Sides | None,
    spec: str,
    *operands: Any,
    **keywords: Any,
) -> tuple[Tensor, Tensor]:
    must_be_of_boxes(spec)
    return _loss_of(deltas, len(counts))


def _box_loss_backward(grad: Tensor, weights: Tensor, deltas: Tensor, *operands: Any, **keywords: Any) -> Tensor:
    return deltas.new_empty(deltas.shape)


def _keep_box(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]
) -> None:
    deltas, matched, boxes, *ctx.operands, _ = inputs
    ctx.keywords = keyword_only_inputs
    ctx.save_for_backward(output[1], deltas, matched, boxes)
    ctx.mark_non_differentiable(output[1])


def _box_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    backward = torch.ops.anchor_ext.box_loss_backward.default
    of_deltas = backward(grad, *ctx.saved_tensors, *ctx.operands, **ctx.keywords)
    return of_deltas, *[None] * 9


def _no_second(*_: Any) -> NoReturn:
    raise NotImplementedError("the loss has no second derivative")


def _no_export(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("losses cannot be exported to ONNX: they belong to training")


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Kept for a second derivative, which there is not."""


def _nothing_by_keyword(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    """The same."""


for _record in (
    Operator("focal_loss", _focal_loss, _focal_gradient, _keep_focal, standard=_no_export),
    Operator("focal_loss_backward", _focal_loss_backward, _no_second, _nothing, standard=_no_export),
    Operator("box_loss", _box_loss, _box_gradient, _keep_box, standard=_no_export),
    Operator("box_loss_backward", _box_loss_backward, _no_second, _nothing_by_keyword, standard=_no_export),
):
    register(_record)


def _parts_of(logits: Any) -> list[Tensor]:
    """(images, anchors, classes) as one part, or levels' (images, cell anchors * classes, rows, columns)."""
    one = "a tensor (images, anchors, classes)"
    levels = f"{one}, or a list of levels' tensors (images, cell anchors * classes, rows, columns)"
    if not isinstance(logits, (list, tuple)) or any(not isinstance(level, Tensor) for level in logits):
        dense("logits", logits, f"expected {levels}")
        if logits.ndim != 3:
            raise ValueError(f"logits has shape {shape_of(logits)}; expected {levels}")
        return [logits]
    if not 1 <= len(logits) <= 16:
        raise ValueError(f"logits has {len(logits)} tensors; expected 1 to 16 levels")
    for i, level in enumerate(logits):
        name, expected = f"logits[{i}]", "a tensor (images, cell anchors * classes, rows, columns)"
        dense(name, level, f"expected {expected}")
        if level.ndim != 4:
            raise ValueError(f"{name} has shape {shape_of(level)}; expected {expected}")
        for what in ("dtype", "device"):
            if getattr(level, what) != getattr(logits[0], what):
                raise ValueError(
                    f"{name} has {what} {getattr(level, what)}; expected {getattr(logits[0], what)}, as logits[0] has"
                )
        if level.shape[0] != logits[0].shape[0]:
            raise ValueError(f"{name} has {level.shape[0]} images; expected {logits[0].shape[0]}, as logits[0] has")
    return list(logits)


def _from_0_on(name: str, value: Any, most: float = math.inf, expected: str = "a number >= 0") -> float:
    read = float(constants(value)) if is_compiled() else number(name, value, expected)
    if not 0 <= read <= most:
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return read


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {show(value)}; expected True or False")
    return value


def focal_loss(logits: Any, matched: Any, labels: Any, alpha: Any, gamma: Any, normalize: Any) -> Tensor:
    must_not_be_traced("focal_loss")
    parts = _parts_of(logits)
    first = parts[0]
    matched_of(matched, first.shape[0], first, "logits")
    if first.ndim == 3 and matched.shape[1] != first.shape[1]:
        raise ValueError(f"matched has shape {shape_of(matched)}; expected {tuple(first.shape[:2])}, as logits has")
    together, counts = labels_of(labels, first.shape[0], first, "logits")
    weight = -1.0 if alpha is None else _from_0_on("alpha", alpha, 1, "a number in 0..1, or None for no weights")
    operands = (weight, _from_0_on("gamma", gamma), _flag("normalize", normalize))
    loss, _ = call("focal_loss", parts, matched, together, counts, *operands, device=first.device, takes_device=False)
    return loss  # type: ignore[no-any-return]


def box_loss(
    config: Configuration,
    deltas: Any,
    matched: Any,
    boxes: Any,
    level_shapes: list[int] | None,
    image_shape: list[int] | None,
    kind: Any,
    beta: Any,
    coder: Any,
    normalize: Any,
) -> Tensor:
    must_not_be_traced("box_loss")
    expected = "expected a tensor (images, anchors, 4)"
    dense("deltas", deltas, expected)
    if deltas.ndim != 3 or deltas.shape[2] != 4:
        raise ValueError(f"deltas has shape {shape_of(deltas)}; {expected}")
    must_be_of_boxes(config.spec)
    matched_of(matched, deltas.shape[0], deltas, "deltas")
    together, counts, is_batch = boxes_of("boxes", boxes)
    if not is_batch or len(counts) != deltas.shape[0]:
        raise ValueError(f"boxes is {show(boxes)}; expected a list of {deltas.shape[0]} tensors (n, 4), one per image")
    if together.device != deltas.device:
        raise ValueError(f"boxes[0] is on device {together.device}; expected {deltas.device}, as deltas is")
    if not isinstance(kind, str) or kind not in ("l1", "smooth_l1", "giou"):
        raise ValueError(f"kind is {show(kind)}; expected l1, smooth_l1 or giou")
    width = 0.0 if kind == "l1" else _from_0_on("beta", beta)
    form = ("giou" if kind == "giou" else "smooth_l1", width, _flag("normalize", normalize))
    loss, _ = call(
        "box_loss",
        deltas,
        matched,
        together.double(),
        counts,
        level_shapes,
        config.spec,
        text_of(coder),
        *form,
        device=deltas.device,
        takes_device=False,
        image_shape=image_shape,
    )
    return loss  # type: ignore[no-any-return]
