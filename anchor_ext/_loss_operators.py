"""The operators of the focal loss, and the call of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._arguments import is_sequence, shape_of, show
from ._operators import Operator, call, register
from ._recording import is_traced

__all__ = ["focal_loss"]

_COMPUTED = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}


def _focal_loss(
    logits: Tensor,
    matched: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    alpha: float,
    gamma: float,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty((), dtype=_COMPUTED[logits.dtype])
    return loss, logits.new_empty(len(counts), dtype=torch.float64)


def _focal_loss_backward(
    grad: Tensor,
    weights: Tensor,
    logits: Tensor,
    matched: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    alpha: float,
    gamma: float,
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, matched, labels, ctx.counts, ctx.alpha, ctx.gamma, _ = inputs
    ctx.save_for_backward(output[1], logits, matched, labels)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    weights, logits, matched, labels = ctx.saved_tensors
    backward = torch.ops.anchor_ext.focal_loss_backward.default
    of_logits = backward(grad, weights, logits, matched, labels, ctx.counts, ctx.alpha, ctx.gamma)
    return of_logits, None, None, None, None, None, None


def _no_second(*_: Any) -> NoReturn:
    raise NotImplementedError("the focal loss has no second derivative")


def _no_export(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("the focal loss cannot be exported to ONNX: losses belong to training")


register(Operator("focal_loss", _focal_loss, backward=_backward, setup_context=_setup_context, standard=_no_export))
register(
    Operator(
        "focal_loss_backward",
        _focal_loss_backward,
        backward=_no_second,
        setup_context=lambda ctx, inputs, output: None,
        standard=_no_export,
    )
)


def _labels(labels: Any, images: Any, logits: Tensor) -> tuple[Tensor, list[int]]:
    """Of all images, and how many each image has."""
    expected = f"expected {images} tensors of integers, one per image"
    if isinstance(labels, Tensor) or not is_sequence(labels):
        raise TypeError(f"labels is {show(labels)}; {expected}")
    if len(labels) != images:
        raise ValueError(f"labels has {len(labels)} images; {expected}")
    for i, one in enumerate(labels):
        if not isinstance(one, Tensor) or one.dtype not in (torch.int64, torch.int32) or one.ndim != 1:
            raise TypeError(f"labels[{i}] is {show(one)}; expected a tensor of integers (boxes,)")
        if one.device != logits.device:
            raise ValueError(f"labels[{i}] is on device {one.device}; expected {logits.device}, as logits is")
    together = torch.cat([one.long() for one in labels]) if labels else torch.zeros(0, dtype=torch.int64)
    return together.to(logits.device), [one.shape[0] for one in labels]


def _number(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    return float(value)


def focal_loss(logits: Any, matched: Any, labels: Any, alpha: Any, gamma: Any, normalize: Any) -> Tensor:
    if is_traced():
        raise RuntimeError("focal_loss cannot be traced; compile it, or call it outside of what is traced")
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits is {show(logits)}; expected a tensor (images, anchors, classes)")
    if logits.ndim != 3:
        raise ValueError(f"logits has shape {shape_of(logits)}; expected (images, anchors, classes)")
    if logits.dtype not in _COMPUTED:
        raise TypeError(f"logits has dtype {logits.dtype}; expected float32, float64, float16 or bfloat16")
    if not isinstance(matched, Tensor) or matched.dtype != torch.int64:
        raise TypeError(f"matched is {show(matched)}; expected a tensor of int64 (images, anchors), as match gives it")
    if matched.shape != logits.shape[:2]:
        raise ValueError(f"matched has shape {shape_of(matched)}; expected {tuple(logits.shape[:2])}, as logits has")
    if matched.device != logits.device:
        raise ValueError(f"matched is on device {matched.device}; expected {logits.device}, as logits is")
    if not isinstance(normalize, bool):
        raise TypeError(f"normalize is {show(normalize)}; expected True or False")
    together, counts = _labels(labels, logits.shape[0], logits)
    alpha = -1.0 if alpha is None else _number("alpha", alpha, "a number in 0..1, or None for no weights")
    gamma = _number("gamma", gamma, "a number >= 0")
    loss, _ = call(
        "focal_loss",
        logits,
        matched,
        together,
        counts,
        alpha,
        gamma,
        normalize,
        device=logits.device,
        takes_device=False,
    )
    return loss  # type: ignore[no-any-return]
