"""The record of the operator match, csrc/match/op.cpp, and the call behind `Anchors.match` and `AnchorGrid.match`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._anchor_operators import count_anchors
from ._arguments import shape_of, show
from ._library import native
from ._operators import Operator, call, register
from ._recording import constant_to_the_compiler, constants, is_compiled, is_traced
from ._spec import DTYPES, Configuration, native_of
from .matchers import MaxIoUAssigner, Rule, thresholds_of, torchvision_entries

__all__ = ["best_anchor", "match"]

Sides = Sequence[int]

DEFAULT = (0.5, 0.4, True, False)
_MOST = 2**22 - 1  # boxes of an image
_ONE = "expected a tensor (n, 4)"
_SEVERAL = f"{_ONE}, or a list of them, one per image"


def _must_be_boxes(boxes: Tensor) -> None:
    if boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"boxes has dtype {boxes.dtype}; expected float32 or float64")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}; expected (n, 4)")


def _must_be_of_boxes(spec: str) -> None:
    layout = native_of(spec).layout
    if layout not in ("xyxy", "yxyx"):
        raise ValueError(f"layout is {layout!r}; expected xyxy or yxyx, of boxes that can be matched")


def _match(
    boxes: Tensor,
    counts: Sides,
    level_shapes: Sides | None,
    spec: str,
    matcher: str,
    *,
    with_iou: bool = False,
    image_shape: Sides | None = None,
    clip: Sides | None = None,
    ignored: Tensor | None = None,
    ignored_counts: Sides | None = None,
) -> tuple[Tensor, Tensor]:
    _must_be_boxes(boxes)
    if all(isinstance(count, int) for count in (*counts, boxes.shape[0])) and sum(counts) != boxes.shape[0]:
        raise ValueError(f"counts are {sum(counts)} in all; expected {boxes.shape[0]}, as many as boxes")
    native.check_matcher(matcher)
    _must_be_of_boxes(spec)
    anchors, images = count_anchors(spec, level_shapes, image_shape, clip), len(counts)
    matched = boxes.new_empty((images, anchors), dtype=torch.int64)
    return matched, boxes.new_empty((images if with_iou else 0, anchors))


def _best_anchor(
    boxes: Tensor,
    level_shapes: Sides | None,
    spec: str,
    *,
    image_shape: Sides | None = None,
    clip: Sides | None = None,
) -> tuple[Tensor, Tensor]:
    _must_be_boxes(boxes)
    _must_be_of_boxes(spec)
    count_anchors(spec, level_shapes, image_shape, clip)
    return boxes.new_empty(boxes.shape[0]), boxes.new_empty(boxes.shape[0], dtype=torch.int64)


def _no_export(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("match cannot be exported to ONNX: matching belongs to training")


register(Operator("match", _match, standard=_no_export))
register(Operator("best_anchor", _best_anchor, standard=_no_export))


def _one_image(name: str, boxes: Any, expected: str = _SEVERAL) -> Tensor:
    if not isinstance(boxes, Tensor):
        raise TypeError(f"{name} is {show(boxes)}; {expected}")
    if boxes.is_nested or boxes.layout is not torch.strided or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} has layout {boxes.layout} and shape {shape_of(boxes)}; {expected}")
    if boxes.dtype not in DTYPES.values():
        raise TypeError(f"{name} has dtype {boxes.dtype}; expected float32, float64, float16 or bfloat16")
    return boxes.detach()


def _read(name: str, boxes: Any) -> tuple[Tensor, list[int], bool]:
    """All boxes in one tensor, how many each image has, and whether there are several images."""
    is_batch = isinstance(boxes, (list, tuple))
    if is_batch and not boxes:
        raise ValueError(f"{name} is empty; {_SEVERAL}")
    images = [
        _one_image(f"{name}[{i}]" if is_batch else name, one) for i, one in enumerate(boxes if is_batch else [boxes])
    ]
    for i, one in enumerate(images):
        if isinstance(one.shape[0], int) and one.shape[0] > _MOST:
            raise ValueError(f"{name}{[i] if is_batch else ''} has {one.shape[0]} rows; expected at most {_MOST}")
        _must_be_alike(f"{name}[{i}]", one, images[0], f"{name}[0]")
    together = _as_computed(torch.cat(images) if is_batch else images[0])
    return together, [one.shape[0] for one in images], is_batch


def _as_computed(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _must_be_alike(name: str, tensor: Tensor, first: Tensor, name_of_first: str) -> None:
    for what in ("device", "dtype"):
        value, expected = getattr(tensor, what), getattr(first, what)
        if value != expected:
            raise ValueError(f"{name} has {what} {value}; expected {expected}, as {name_of_first} has")


def _is_default(options: tuple[Any, ...]) -> bool:
    return all(type(a) is type(b) and a == b for a, b in zip(options, DEFAULT, strict=True))


@constant_to_the_compiler
def _text(high: Any, low: Any, low_quality: Any, needs_overlap: Any) -> str:
    for name, value in (("allow_low_quality", low_quality), ("low_quality_needs_overlap", needs_overlap)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {show(value)}; expected True or False")
    thresholds = thresholds_of({"low": low, "high": high}, "numbers with 0 <= low <= high")
    return f"match/1;{torchvision_entries(thresholds, low_quality, needs_overlap)}"


_DEFAULT_TEXT = _text(*DEFAULT)


def match(
    config: Configuration,
    boxes: Any,
    level_shapes: list[int] | None,
    image_shape: list[int] | None,
    clip: list[int] | None,
    options: tuple[Any, Any, Any, Any],
    matcher: Rule | None,
    return_iou: bool,
    ignored: Any,
) -> Any:
    """Of (high, low, allow_low_quality, low_quality_needs_overlap), or of another framework's rule."""
    if is_traced():
        raise RuntimeError("match cannot be traced; compile or export it, or call it outside of what is traced")
    if matcher is None:
        if is_compiled():
            text = _text(*constants(options))
        else:
            text = _DEFAULT_TEXT if _is_default(options) else _text(*options)
    elif not isinstance(matcher, Rule):
        raise TypeError(f"matcher is {show(matcher)}; expected None or one of anchor_ext.matchers")
    elif not _is_default(options):
        raise ValueError("matcher is given, and so are thresholds or options; expected them in the matcher alone")
    else:
        text = matcher._text  # type: ignore[attr-defined]
    if not isinstance(return_iou, bool):
        raise TypeError(f"return_iou is {show(return_iou)}; expected True or False")
    together, counts, is_batch = _read("boxes", boxes)
    keywords: dict[str, Any] = {"with_iou": return_iou, "image_shape": image_shape, "clip": clip}
    if ignored is not None:
        if not isinstance(matcher, MaxIoUAssigner):
            raise ValueError("ignored is given; expected None, but with matcher=MaxIoUAssigner(ignore_iof_thr=...)")
        regions, region_counts, is_batch_too = _read("ignored", ignored)
        if is_batch != is_batch_too or len(counts) != len(region_counts):
            raise ValueError(f"ignored is {show(ignored)}; expected as many images as boxes has, {len(counts)}")
        _must_be_alike("ignored", regions, together, "boxes")
        keywords |= {"ignored": regions, "ignored_counts": region_counts}
    matched, iou = call(
        "match",
        together,
        counts,
        level_shapes,
        config.spec,
        text,
        device=together.device,
        takes_device=False,
        **keywords,
    )
    if not is_batch:
        matched = matched[0]
    result = matched if matcher is None else matcher._finish(matched)
    return (result, iou if is_batch else iou[0]) if return_iou else result


def best_anchor(
    config: Configuration, boxes: Any, level_shapes: list[int] | None, image_shape: list[int] | None, clip: Any
) -> tuple[Tensor, Tensor]:
    """Per box the greatest IoU, and the first anchor that has it, -1 where it is 0. Found on the CPU."""
    given = _one_image("boxes", boxes, _ONE)
    on_cpu = _as_computed(given).cpu()
    keywords = {"image_shape": image_shape, "clip": clip}
    iou, index = call(
        "best_anchor", on_cpu, level_shapes, config.spec, device=on_cpu.device, takes_device=False, **keywords
    )
    return iou.to(given.device), index.to(given.device)
