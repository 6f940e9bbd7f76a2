"""The record of the operator select, csrc/select/op.cpp, the same in torch's own operators, and the call."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ._anchor_standard import constant
from ._arguments import is_sequence, number, shape_of, show
from ._box_operators import dense
from ._library import build_info
from ._operators import Operator, call, must_not_be_traced, register
from ._recording import is_compiled, is_exported_to_onnx, is_symbolic

__all__ = ["select"]

Results = tuple[Tensor, Tensor, Tensor, Tensor]


def _least(most: int, count: Any) -> Any:
    """min(most, count), of a count that may be a symbol or, in a trace, a tensor."""
    if isinstance(count, Tensor):
        return torch.minimum(count, torch.tensor(most))
    return torch.sym_min(most, count)


def _select(
    logits: Sequence[Tensor],
    level_sizes: Sequence[int],
    num_classes: int,
    score_threshold: float,
    topk_per_level: int,
) -> Results:
    images, first = logits[0].shape[0], logits[0]
    slots = sum(_least(topk_per_level, size * num_classes) for size in level_sizes)
    integers = [first.new_empty(sizes, dtype=torch.int64) for sizes in ((images, slots), (images, slots), (images,))]
    return first.new_empty((images, slots)), integers[0], integers[1], integers[2]


def _flat_levels(logits: Sequence[Tensor], level_sizes: Sequence[Any]) -> list[Tensor]:
    """Per level (images, anchors * classes)."""
    if logits[0].ndim == 4:  # channel a * C + c at a cell: anchor a of the cell, class c
        return [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
    if len(logits) > 1:
        return [level.flatten(1) for level in logits]
    levels, begin = [], 0
    for size in level_sizes:
        levels.append(logits[0][:, begin : begin + size].flatten(1))
        begin = begin + size
    return levels


def _by_torch(
    logits: Sequence[Tensor],
    level_sizes: Sequence[int],
    num_classes: int,
    score_threshold: float,
    topk_per_level: int,
) -> Results:
    """In fixed shapes, and without waiting for a device."""
    dtype, threshold = logits[0].dtype, cast(Any, score_threshold)
    carried: torch.dtype = dtype
    if is_exported_to_onnx():
        if dtype == torch.float64:
            threshold = constant(score_threshold, dtype, logits[0].device)  # a number of Python's would become float32
        elif dtype != torch.float32:
            carried = torch.float32  # of which onnxruntime has all operators
            threshold = float(torch.tensor(score_threshold, dtype=dtype))
    scores, index, labels, begin = [], [], [], 0
    for level, size in zip(_flat_levels(logits, level_sizes), level_sizes, strict=True):
        score = level.to(carried).sigmoid().to(dtype).to(carried)
        score = torch.where(score > threshold, score, -math.inf)
        best, at = score.topk(_least(topk_per_level, size * num_classes), dim=1)
        anchor = torch.div(at, max(num_classes, 1), rounding_mode="floor")
        scores.append(best)
        index.append(anchor + begin)
        labels.append(at - anchor * num_classes)
        begin = begin + size
    score, anchor, label = (torch.cat(of, dim=1) for of in (scores, index, labels))
    found = score > threshold
    ones = found.to(torch.int64)
    counts = ones.sum(1)
    # What was found comes first, in its order; each place is taken once.
    place = torch.where(found, ones.cumsum(1), counts[:, None] + (1 - ones).cumsum(1)) - 1
    score = torch.where(found, score, 0.0).to(dtype)
    anchor, label = torch.where(found, anchor, 0), torch.where(found, label, -1)
    return (
        torch.zeros_like(score).scatter(1, place, score),
        torch.zeros_like(anchor).scatter(1, place, anchor),
        torch.zeros_like(label).scatter(1, place, label),
        counts,
    )


register(Operator("select", _select, standard=_by_torch))


def _integer(name: str, value: Any, least: int) -> int:
    expected = f"an integer >= {least}"
    if isinstance(value, bool) or is_symbolic((value,)):
        if isinstance(value, bool):
            raise TypeError(f"{name} is {show(value)}; expected {expected}")
        return value  # type: ignore[no-any-return]
    try:
        result = operator.index(value)
    except Exception as error:
        raise TypeError(f"{name} is {show(value)}; expected {expected}") from error
    if not least <= result < 2**62:
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return result


def _of_one(logits: Tensor, level_sizes: Any, num_classes: Any) -> tuple[list[Tensor], list[int], int]:
    if logits.ndim != 3:
        raise ValueError(f"logits has shape {shape_of(logits)}; expected (images, anchors, classes), or a list")
    if num_classes is not None and num_classes != logits.shape[2]:
        raise ValueError(f"num_classes is {show(num_classes)}; expected None, or {logits.shape[2]}, as logits has")
    if level_sizes is None:
        return [logits], [logits.shape[1]], logits.shape[2]
    if not is_sequence(level_sizes):
        raise TypeError(f"level_sizes is {show(level_sizes)}; expected the number of anchors of each level")
    sizes = [_integer(f"level_sizes[{i}]", size, 0) for i, size in enumerate(level_sizes)]
    if not is_symbolic(sizes) and not is_symbolic((logits.shape[1],)) and sum(sizes) != logits.shape[1]:
        raise ValueError(
            f"level_sizes is {show(level_sizes)}; expected {logits.shape[1]} in all, as logits has anchors"
        )
    return [logits], sizes, logits.shape[2]


def _of_levels(logits: Sequence[Tensor], level_sizes: Any, num_classes: Any) -> tuple[list[Tensor], list[int], int]:
    if level_sizes is not None:
        raise ValueError("level_sizes is given; expected None, since logits is a list of levels")
    if not 1 <= len(logits) <= 16:
        raise ValueError(f"logits has {len(logits)} tensors; expected 1 to 16 levels")
    is_flat = logits[0].ndim == 3
    if num_classes is None and not is_flat:
        raise ValueError("num_classes is None; expected the number of classes, since logits is a list of levels")
    classes = logits[0].shape[2] if num_classes is None else _integer("num_classes", num_classes, 1)
    expected = f"(images, anchors, {classes})" if is_flat else f"(images, cell anchors * {classes}, rows, columns)"
    sizes = []
    for i, level in enumerate(logits):
        if is_flat:
            fits = level.ndim == 3 and level.shape[2] == classes
        else:
            fits = level.ndim == 4 and level.shape[1] % classes == 0
        if not fits:
            raise ValueError(f"logits[{i}] has shape {shape_of(level)}; expected {expected}")
        for what in ("dtype", "device"):
            if getattr(level, what) != getattr(logits[0], what):
                raise ValueError(
                    f"logits[{i}] has {what} {getattr(level, what)}; expected {getattr(logits[0], what)}, as logits[0]"
                )
        if level.shape[0] != logits[0].shape[0]:
            raise ValueError(f"logits[{i}] has {level.shape[0]} images; expected {logits[0].shape[0]}, as logits[0]")
        sizes.append(level.shape[1] if is_flat else level.shape[1] // classes * level.shape[2] * level.shape[3])
    return list(logits), sizes, classes


_CUDA_IS_BUILT = build_info()["cuda"] is not None
_MOST_ON_CUDA = 4096  # kMostKept of csrc/select/select.h


def _has_kernel(logits: Tensor, topk_per_level: int) -> bool:
    if logits.device.type == "cuda":
        return _CUDA_IS_BUILT and logits.dtype != torch.float64 and topk_per_level <= _MOST_ON_CUDA
    return logits.device.type in ("cpu", "meta")


def select(logits: Any, score_threshold: Any, topk_per_level: Any, level_sizes: Any, num_classes: Any) -> Results:
    if not is_exported_to_onnx():
        must_not_be_traced("select")
    expected = "expected a tensor (images, anchors, classes), or a list of levels'"
    is_list = isinstance(logits, (list, tuple))
    given = [
        dense(f"logits[{i}]" if is_list else "logits", one, expected)
        for i, one in enumerate(logits if is_list else [logits])
    ]
    threshold = score_threshold if is_compiled() else number("score_threshold", score_threshold)
    most = _integer("topk_per_level", topk_per_level, 1)
    given = [one.detach() for one in given]
    parts, sizes, classes = (
        _of_levels(given, level_sizes, num_classes) if is_list else _of_one(given[0], level_sizes, num_classes)
    )
    if not _has_kernel(parts[0], most):
        return _by_torch(parts, sizes, classes, threshold, most)
    return call(  # type: ignore[no-any-return]
        "select", parts, sizes, classes, threshold, most, device=parts[0].device, takes_device=False
    )
