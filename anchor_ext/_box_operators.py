"""The records of the operators of deltas, csrc/boxes/op.cpp, and the calls behind `decode`, `encode` and `targets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _box_standard
from ._anchor_operators import count_anchors
from ._arguments import image_shape as read_image_shape
from ._arguments import index as read_index
from ._arguments import is_sequence, shape_of, show
from ._batches import boxes_of, labels_of
from ._operators import Operator, call, must_not_be_traced, register
from ._recording import is_compiled, is_symbolic
from ._spec import DTYPES, Configuration, layout_of
from .coders import BoxCoder

__all__ = [
    "COMPUTED",
    "decode",
    "dense",
    "encode",
    "matched_of",
    "must_be_of_boxes",
    "targets",
    "text_of",
]

Sides = Sequence[int]

COMPUTED = {dtype: torch.float64 if dtype == torch.float64 else torch.float32 for dtype in DTYPES.values()}
_DEFAULT = BoxCoder.torchvision()


def must_be_of_boxes(spec: str) -> None:
    """Raises ValueError where the anchors are no boxes."""
    layout = layout_of(spec)
    if layout not in ("xyxy", "yxyx"):
        turned = "; turned boxes are left out" if layout == "cxcywha" else ""
        raise ValueError(f"layout is {layout!r}; expected xyxy or yxyx, of boxes that deltas can move{turned}")


def _decode(
    deltas: Tensor,
    index: Tensor | None,
    level_shapes: Sides | None,
    spec: str,
    coder: str,
    *,
    image_shape: Sides | None = None,
    limits: Sides | None = None,
) -> Tensor:
    must_be_of_boxes(spec)
    anchors = count_anchors(spec, level_shapes, image_shape)
    if index is None:
        torch._check(deltas.shape[1] == anchors, lambda: f"deltas are {deltas.shape[1]} an image; expected {anchors}")
    return deltas.new_empty(deltas.shape, dtype=COMPUTED[deltas.dtype])


def _decode_backward(grad: Tensor, deltas: Tensor, *operands: Any, **keywords: Any) -> Tensor:
    return deltas.new_empty(deltas.shape)


def _encode(boxes: Tensor, index: Tensor, level_shapes: Sides | None, spec: str, *_: Any, **keywords: Any) -> Tensor:
    must_be_of_boxes(spec)
    count_anchors(spec, level_shapes, keywords.get("image_shape"))
    return boxes.new_empty(boxes.shape)


def _encode_backward(grad: Tensor, boxes: Tensor, *operands: Any, **keywords: Any) -> Tensor:
    return boxes.new_empty(boxes.shape)


def _targets(
    boxes: Tensor,
    labels: Tensor,
    counts: Sides,
    matched: Tensor,
    level_shapes: Sides | None,
    spec: str,
    coder: str,
    *,
    image_shape: Sides | None = None,
) -> tuple[Tensor, Tensor]:
    must_be_of_boxes(spec)
    count_anchors(spec, level_shapes, image_shape)
    return boxes.new_empty((*matched.shape, 4)), matched.new_empty(matched.shape)


# Derivatives: each operator's is another one, whose own is that of the same in torch's operators.


def _keep(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Any) -> None:
    ctx.tensors = len([one for one in inputs if isinstance(one, Tensor)])
    ctx.save_for_backward(*inputs[: ctx.tensors])
    ctx.operands, ctx.keywords, ctx.count = inputs[ctx.tensors :], keyword_only_inputs, len(inputs)


def _gradient_by(backward: str) -> Any:
    def gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        operator = getattr(torch.ops.anchor_ext, backward).default
        of_first = operator(grad.contiguous(), *ctx.saved_tensors, *ctx.operands, **ctx.keywords)
        return of_first, *[None] * (ctx.count - 1)

    return gradient


def _second_by(standard: Any) -> Any:
    def second(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        by_result, first, *others = ctx.saved_tensors
        with torch.enable_grad():
            by_result, first = by_result.detach().requires_grad_(), first.detach().requires_grad_()
            result = standard(first, *others, *ctx.operands, **ctx.keywords)
            (made,) = torch.autograd.grad(result, first, by_result, create_graph=True)
            both = torch.autograd.grad(made, (by_result, first), grad, materialize_grads=True)
        return *both, *[None] * (ctx.count - 2)

    return second


def _no_export(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("this part of training cannot be exported to ONNX")


for _record in (
    Operator("decode", _decode, _gradient_by("decode_backward"), _keep, standard=_box_standard.decode),
    Operator("decode_backward", _decode_backward, _second_by(_box_standard.decode), _keep, standard=_no_export),
    Operator("encode", _encode, _gradient_by("encode_backward"), _keep, standard=_box_standard.encode),
    Operator("encode_backward", _encode_backward, _second_by(_box_standard.encode), _keep, standard=_no_export),
    Operator("targets", _targets, standard=_no_export),
):
    register(_record)


def text_of(coder: Any) -> str:
    """A coder's text; torchvision's of None."""
    if coder is None:
        coder = _DEFAULT
    if not isinstance(coder, BoxCoder):
        raise TypeError(f"coder is {show(coder)}; expected a BoxCoder, or None for torchvision's")
    return coder._text  # type: ignore[attr-defined, no-any-return]


def dense(name: str, value: Any, expected: str) -> Tensor:
    """A strided tensor of a floating-point type."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {show(value)}; {expected}")
    if value.is_nested or value.layout is not torch.strided:
        raise ValueError(f"{name} has layout {value.layout} and shape {shape_of(value)}; {expected}")
    if value.dtype not in COMPUTED:
        raise TypeError(f"{name} has dtype {value.dtype}; expected float32, float64, float16 or bfloat16")
    return value


def _index_of(index: Any, like: Tensor, name: str) -> Tensor:
    result = read_index(index)
    if result.layout is not torch.strided or result.is_nested or result.shape != like.shape[:-1]:
        raise ValueError(f"index has shape {shape_of(result)}; expected {tuple(like.shape[:-1])}, as {name} has")
    if result.device != like.device:
        raise ValueError(f"index is on device {result.device}; expected {like.device}, as {name} is")
    return result


def _side(name: str, shape: Any) -> list[int]:
    if is_compiled() or is_symbolic(shape):
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise TypeError(f"{name} is {show(shape)}; expected (height, width)")
        return [shape[0], shape[1]]
    return list(read_image_shape(shape, name))


def _limits(clip: Any, image_shape: list[int] | None, images: Any) -> list[int] | None:
    """What the operator takes of True, False, a shape or one per image."""
    if clip is False:
        return None
    if clip is True:
        if image_shape is None:
            raise ValueError("clip is True without an image_shape; expected one, or clip=False, or the images' shapes")
        return image_shape
    expected = "True, False, (height, width), or one of these per image"
    try:  # there may be more images than items of any other argument
        shapes = list(clip) if isinstance(clip, (tuple, list)) or (not is_compiled() and is_sequence(clip)) else []
    except Exception as error:
        raise TypeError(f"clip is {show(clip)}; expected {expected}") from error
    if not shapes:
        raise TypeError(f"clip is {show(clip)}; expected {expected}")
    if not is_sequence(shapes[0]):
        return _side("clip", shapes)
    if len(shapes) != images:
        raise ValueError(f"clip has {len(shapes)} images; expected {images}, as deltas has")
    return [side for i, shape in enumerate(shapes) for side in _side(f"clip[{i}]", shape)]


def decode(
    config: Configuration,
    deltas: Any,
    level_shapes: list[int] | None,
    image_shape: list[int] | None,
    coder: Any,
    index: Any,
    clip: Any,
) -> Tensor:
    if not torch.onnx.is_in_onnx_export():
        must_not_be_traced("decode")
    expected = "expected a tensor (images, anchors, 4)"
    deltas = dense("deltas", deltas, expected)
    if deltas.ndim != 3 or deltas.shape[2] != 4:
        turned = (
            "; turned boxes have deltas of five numbers, which are not decoded" if deltas.shape[-1:] == (5,) else ""
        )
        raise ValueError(f"deltas has shape {shape_of(deltas)}; {expected}{turned}")
    must_be_of_boxes(config.spec)
    if index is not None:
        index = _index_of(index, deltas, "deltas")
    limits = _limits(clip, image_shape, deltas.shape[0])
    return call(  # type: ignore[no-any-return]
        "decode",
        deltas,
        index,
        level_shapes,
        config.spec,
        text_of(coder),
        device=deltas.device,
        takes_device=False,
        image_shape=image_shape,
        limits=limits,
    )


def encode(
    config: Configuration,
    boxes: Any,
    index: Any,
    level_shapes: list[int] | None,
    image_shape: list[int] | None,
    coder: Any,
) -> Tensor:
    must_not_be_traced("encode")
    expected = "expected a tensor (..., 4)"
    boxes = dense("boxes", boxes, expected)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes has shape {shape_of(boxes)}; {expected}")
    must_be_of_boxes(config.spec)
    boxes = boxes.to(COMPUTED[boxes.dtype])
    index = _index_of(index, boxes, "boxes")
    return call(  # type: ignore[no-any-return]
        "encode",
        boxes,
        index,
        level_shapes,
        config.spec,
        text_of(coder),
        device=boxes.device,
        takes_device=False,
        image_shape=image_shape,
    )


def batch_of(boxes: Any, labels: Any, matched: Any) -> tuple[Tensor, Tensor, list[int]]:
    """Boxes and labels of all images together, how many each has; checked against `matched` (images, anchors)."""
    together, counts, is_batch = boxes_of("boxes", boxes)
    if not is_batch:
        raise TypeError("boxes is a tensor; expected a list of them, one per image")
    classes, of_labels = labels_of(labels, len(counts), together, "boxes")
    for i, (count, own) in enumerate(zip(counts, of_labels, strict=True)):
        if count != own:
            raise ValueError(f"labels[{i}] has {own} entries; expected {count}, as boxes[{i}] has")
    matched_of(matched, len(counts), together, "boxes")
    return together, classes, counts


def matched_of(matched: Any, images: Any, like: Tensor, name: str) -> Tensor:
    """(images, anchors) int64, on the device of `like`."""
    if not isinstance(matched, Tensor) or matched.dtype != torch.int64:
        raise TypeError(f"matched is {show(matched)}; expected a tensor of int64 (images, anchors), as match gives it")
    if matched.ndim != 2 or matched.shape[0] != images:
        raise ValueError(f"matched has shape {shape_of(matched)}; expected ({images}, anchors), as {name} has images")
    if matched.device != like.device:
        raise ValueError(f"matched is on device {matched.device}; expected {like.device}, as {name} is")
    return matched


def targets(
    config: Configuration,
    boxes: Any,
    labels: Any,
    matched: Any,
    level_shapes: list[int] | None,
    image_shape: list[int] | None,
    coder: Any,
) -> tuple[Tensor, Tensor]:
    must_not_be_traced("targets")
    together, classes, counts = batch_of(boxes, labels, matched)
    must_be_of_boxes(config.spec)
    deltas, own = call(
        "targets",
        together,
        classes,
        counts,
        matched,
        level_shapes,
        config.spec,
        text_of(coder),
        device=together.device,
        takes_device=False,
        image_shape=image_shape,
    )
    return deltas, own
