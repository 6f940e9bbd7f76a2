"""Turns what a user passes into plain numbers, or says which argument is wrong, its value and what was expected.

Which integers an image, a grid or a level may have, the native library says.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ._core import MAX_CELL_ANCHORS, check_pyramid_levels

__all__ = [
    "border",
    "cell_anchors",
    "image_shape",
    "index",
    "integer",
    "is_sequence",
    "level_shapes",
    "levels",
    "listed",
    "number",
    "offset_pairs",
    "per_level",
    "shape_of",
    "show",
    "stride_pairs",
    "widths_and_heights",
]

_INDICES = frozenset((torch.int64, torch.int32))
_INTEGERS = _INDICES | {torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32}


def show(value: object) -> str:
    """`repr(value)`, cut to a line, and never an error."""
    if is_dynamo_compiling():  # which cannot follow what is below
        return f"of type {type(value).__name__}"
    shape = _attribute(value, "shape", None)
    try:
        if isinstance(shape, tuple) and len(shape) > 0:  # a tensor or an array: its numbers would say nothing
            text = f"a {type(value).__name__} of shape {tuple(shape)} and dtype {_attribute(value, 'dtype', None)}"
        else:
            text = " ".join(repr(value).split())
    except Exception:  # the caller is about to raise a better one
        text = object.__repr__(value)
    return text if len(text) <= 200 else text[:197] + "..."


def shape_of(tensor: Any) -> str:
    """A tensor's shape for an error; a nested one has none."""
    if is_dynamo_compiling():
        return f"of {tensor.ndim} dimensions"
    return "nested" if tensor.is_nested else str(tuple(tensor.shape))


def _attribute(value: object, name: str, default: object) -> object:
    try:
        return getattr(value, name, default)
    except Exception:  # an attribute that cannot be read is none
        return default


def _is_bool(value: object) -> bool:
    return isinstance(value, bool) or str(_attribute(value, "dtype", "")) in ("bool", "torch.bool")


def is_sequence(value: object) -> bool:
    """A list, tuple, range, NumPy array, tensor or the like; no text, mapping, set or iterator."""
    if type(value) in (list, tuple):
        return True
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping, Set)) or _attribute(value, "ndim", 1) == 0:
        return False
    return hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")


def listed(name: str, value: object, expected: str) -> list[Any]:
    """The items of a sequence that is neither empty nor longer than any argument may be."""
    if not is_sequence(value):
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    try:
        length = len(value)  # type: ignore[arg-type]
        # What is longer than any argument may be is not worth reading.
        items: list[Any] = list(value) if length <= MAX_CELL_ANCHORS else []  # type: ignore[call-overload]
    except Exception as error:
        raise TypeError(f"{name} is {show(value)}; expected {expected}") from error
    if length > MAX_CELL_ANCHORS:
        raise ValueError(f"{name} has {length} items; expected {expected}")
    if not items:
        raise ValueError(f"{name} is empty; expected {expected}")
    return items


def integer(name: str, value: object, expected: str) -> int:
    if not _is_bool(value):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except Exception:  # float, text, a tensor of several numbers, ...: the same mistake
            pass
    raise TypeError(f"{name} is {show(value)}; expected {expected}")


def _is_native(integer: int) -> bool:
    """Whether the native library, which says more about it, can hold it at all."""
    return -(2**63) <= integer < 2**63


def number(name: str, value: object, expected: str = "a finite number") -> float:
    """A finite float, from any real number."""
    if type(value) is float and math.isfinite(value):
        return value
    is_number = isinstance(value, numbers.Real) or (
        hasattr(type(value), "__float__") and not isinstance(value, (str, bytes, numbers.Number))
    )
    if _is_bool(value) or not is_number:
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    try:
        result = float(value)  # type: ignore[arg-type]
    except OverflowError:
        result = math.inf
    except Exception as error:
        raise TypeError(f"{name} is {show(value)}; expected {expected}") from error
    if not math.isfinite(result):
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return result


def border(value: object) -> float:
    """A finite number, or infinity: every anchor lies within it."""
    if isinstance(value, numbers.Real) and value == math.inf:
        return math.inf
    return number("border", value, "a finite number or inf")


def _positive(name: str, value: object) -> float:
    expected = "a finite number > 0"
    result = number(name, value, expected)
    if not result > 0:
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return result


def image_shape(value: object, name: str = "image_shape") -> tuple[int, int]:
    """(height, width) as two ints, from any two integers in a row."""
    return _two_integers(name, value, "two positive integers (height, width)")


def level_shapes(value: object) -> list[tuple[int, int]]:
    """(rows, columns) of each level as two ints."""
    items = listed("level_shapes", value, "two positive integers (rows, columns) per level")
    return [
        _two_integers(f"level_shapes[{i}]", item, "two positive integers (rows, columns)")
        for i, item in enumerate(items)
    ]


def _two_integers(name: str, value: object, expected: str) -> tuple[int, int]:
    items = listed(name, value, expected)
    if len(items) != 2:
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    first, second = (integer(f"{name}[{i}]", item, "a positive integer") for i, item in enumerate(items))
    if not (_is_native(first) and _is_native(second)):
        raise ValueError(f"{name} is {show(value)}; expected {expected} of at most 2**31 - 1")
    return first, second


def levels(value: object) -> list[int]:
    """Distinct pyramid levels in 0..30."""
    items = listed("pyramid_levels", value, "distinct integers in 0..30")
    result = [integer(f"pyramid_levels[{i}]", item, "an integer in 0..30") for i, item in enumerate(items)]
    for i, level in enumerate(result):
        if not _is_native(level):
            raise ValueError(f"pyramid_levels[{i}] is {level}; expected an integer in 0..30")
    check_pyramid_levels(result)
    return result


def stride_pairs(value: object, num_levels: int) -> list[tuple[float, float]]:
    """One (stride_y, stride_x) per level, from a number or a pair per level."""
    return _pairs("strides", value, num_levels, "stride_", _positive)


def offset_pairs(name: str, value: object, num_levels: int) -> list[tuple[float, float]]:
    """One (y, x) per level, from one number for all of them, or a number or a pair per level."""
    if not is_sequence(value):
        every = number(name, value, "a finite number, or a number or a pair (y, x) per level")
        return [(every, every)] * num_levels
    return _pairs(name, value, num_levels, "", number)


def _pairs(
    name: str, value: object, num_levels: int, prefix: str, read: Callable[[str, object], float]
) -> list[tuple[float, float]]:
    each = f"a number or a pair ({prefix}y, {prefix}x)"
    expected = f"{each} per pyramid level, {num_levels} in all"
    items = listed(name, value, expected)
    if len(items) != num_levels:
        raise ValueError(f"{name} is {show(value)}, of length {len(items)}; expected {expected}")
    pairs = []
    for i, item in enumerate(items):
        if is_sequence(item):
            pair = listed(f"{name}[{i}]", item, each)
            if len(pair) != 2:
                raise ValueError(f"{name}[{i}] is {show(item)}; expected {each}")
            pairs.append((read(f"{name}[{i}][0]", pair[0]), read(f"{name}[{i}][1]", pair[1])))
        else:
            both = read(f"{name}[{i}]", item)
            pairs.append((both, both))
    return pairs


def _are_floats(rows: Any, components: int) -> bool:
    """Whether these are lists or tuples of so many finite floats, which need no reading."""
    return (
        type(rows) is list
        and len(rows) > 0
        and all(type(row) in (list, tuple) and len(row) == components for row in rows)
        and all(type(item) is float and math.isfinite(item) for row in rows for item in row)
    )


def cell_anchors(value: object, components: int) -> list[list[float]]:
    """Per level, the components of its cell anchors one after another; from any sequence (A, components) per level."""
    expected = f"a sequence (A, {components}) of numbers per level"
    levels = []
    for i, level in enumerate(listed("cell_anchors", value, expected)):
        name = f"cell_anchors[{i}]"
        numbers = []
        rows = level.tolist() if hasattr(level, "tolist") else level
        if is_sequence(rows) and len(rows) > MAX_CELL_ANCHORS:
            raise ValueError(
                f"{name} has {len(rows)} cell anchors; expected at most {MAX_CELL_ANCHORS} over all levels"
            )
        if _are_floats(rows, components):  # as nearly all are
            levels.append([item for row in rows for item in row])
            continue
        for j, row in enumerate(listed(name, rows, expected)):
            items = listed(f"{name}[{j}]", row, f"{components} numbers")
            if len(items) != components:
                raise ValueError(f"{name}[{j}] is {show(row)}; expected {components} numbers")
            numbers += [number(f"{name}[{j}][{k}]", item) for k, item in enumerate(items)]
        levels.append(numbers)
    return levels


def widths_and_heights(value: object, num_levels: int) -> list[list[tuple[float, float]]]:
    """Per level its pairs (width, height)."""
    expected = f"a list of pairs (width, height) per pyramid level, {num_levels} in all"
    levels = listed("boxes", value, expected)
    if len(levels) != num_levels:
        raise ValueError(f"boxes is {show(value)}, of length {len(levels)}; expected {expected}")
    result = []
    for i, level in enumerate(levels):
        pairs = []
        for j, item in enumerate(listed(f"boxes[{i}]", level, "a list of pairs (width, height)")):
            name = f"boxes[{i}][{j}]"
            pair = listed(name, item, "a pair (width, height)")
            if len(pair) != 2:
                raise ValueError(f"{name} is {show(item)}; expected a pair (width, height)")
            pairs.append((_positive(f"{name}[0]", pair[0]), _positive(f"{name}[1]", pair[1])))
        result.append(pairs)
    if sum(map(len, result)) > MAX_CELL_ANCHORS:
        raise ValueError(
            f"boxes has {sum(map(len, result))} pairs over all levels; expected at most {MAX_CELL_ANCHORS}"
        )
    return result


def index(value: object) -> Tensor:
    """Flat indices as the operators take them."""
    if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
        raise TypeError(f"index is {show(value)}; expected a tensor of int64, int32 or narrower integers")
    return value if value.dtype in _INDICES else value.to(torch.int64)


def per_level(name: str, value: object, num_levels: int, *, one_each: bool = False) -> list[list[float]]:
    """A list of positive numbers per level.

    From a list of lists, one per level; or from a flat list, which holds for every level or, with `one_each`,
    gives one number to each level.
    """
    flat = f"a number per pyramid level, {num_levels} in all" if one_each else "a list of numbers"
    expected = f"{flat}, or a list of numbers per pyramid level, {num_levels} in all"
    items = listed(name, value, expected)
    nested = [is_sequence(item) for item in items]
    if any(nested) and not all(nested):
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    if (all(nested) or one_each) and len(items) != num_levels:
        raise ValueError(f"{name} is {show(value)}, of length {len(items)}; expected {expected}")
    if not all(nested):
        values = [_positive(f"{name}[{i}]", item) for i, item in enumerate(items)]
        return [[number] for number in values] if one_each else [list(values) for _ in range(num_levels)]
    return [
        [_positive(f"{name}[{i}][{j}]", number) for j, number in enumerate(listed(f"{name}[{i}]", item, expected))]
        for i, item in enumerate(items)
    ]
