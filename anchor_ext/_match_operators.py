"""The record of the operator match, csrc/match/op.cpp, and the call behind `Anchors.match` and `AnchorGrid.match`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._anchor_operators import count_anchors
from ._arguments import show
from ._batches import ONE, as_computed, boxes_of, must_be_alike, one_image
from ._library import native
from ._operators import Operator, call, must_not_be_traced, register
from ._recording import constant_to_the_compiler, constants, is_compiled
from ._spec import Configuration, native_of
from .matchers import MaxIoUAssigner, Rule, thresholds_of, torchvision_entries

__all__ = ["best_anchor", "match"]

Sides = Sequence[int]

DEFAULT = (0.5, 0.4, True, False)


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
    must_not_be_traced("match")
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
    together, counts, is_batch = boxes_of("boxes", boxes)
    keywords: dict[str, Any] = {"with_iou": return_iou, "image_shape": image_shape, "clip": clip}
    if ignored is not None:
        if not isinstance(matcher, MaxIoUAssigner):
            raise ValueError("ignored is given; expected None, but with matcher=MaxIoUAssigner(ignore_iof_thr=...)")
        regions, region_counts, is_batch_too = boxes_of("ignored", ignored)
        if is_batch != is_batch_too or len(counts) != len(region_counts):
            raise ValueError(f"ignored is {show(ignored)}; expected as many images as boxes has, {len(counts)}")
        must_be_alike("ignored", regions, together, "boxes")
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
    given = one_image("boxes", boxes, ONE)
    on_cpu = as_computed(given).cpu()
    keywords = {"image_shape": image_shape, "clip": clip}
    iou, index = call(
        "best_anchor", on_cpu, level_shapes, config.spec, device=on_cpu.device, takes_device=False, **keywords
    )
    return iou.to(given.device), index.to(given.device)
