"""Turns what a user passes into plain numbers, or says which argument is wrong, its value and what was expected."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping, Set
from typing import Any

from ._core import MAX_CELL_ANCHORS, MAX_LEVELS, MAX_SIDE

__all__ = ["image_shape", "levels", "per_level", "shape_of", "show", "stride_pairs"]


def show(value: object) -> str:
    """`repr(value)`, cut to a line, and never an error."""
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
    return "nested" if tensor.is_nested else str(tuple(tensor.shape))


def _attribute(value: object, name: str, default: object) -> object:
    try:
        return getattr(value, name, default)
    except Exception:  # an attribute that cannot be read is none
        return default


def _is_bool(value: object) -> bool:
    return isinstance(value, bool) or str(_attribute(value, "dtype", "")) in ("bool", "torch.bool")


def _is_sequence(value: object) -> bool:
    """A list, tuple, range, NumPy array, tensor or the like; no text, mapping, set or iterator."""
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping, Set)) or _attribute(value, "ndim", 1) == 0:
        return False
    return hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")


def _items(name: str, value: object, expected: str) -> list[Any]:
    if not _is_sequence(value):
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


def _integer(name: str, value: object, expected: str) -> int:
    if not _is_bool(value):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except Exception:  # float, text, a tensor of several numbers, ...: the same mistake
            pass
    raise TypeError(f"{name} is {show(value)}; expected {expected}")


def _positive(name: str, value: object) -> float:
    expected = "a finite number > 0"
    is_number = isinstance(value, numbers.Real) or (
        hasattr(type(value), "__float__") and not isinstance(value, (str, bytes, numbers.Number))
    )
    if _is_bool(value) or not is_number:
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    except Exception as error:
        raise TypeError(f"{name} is {show(value)}; expected {expected}") from error
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return number


def image_shape(value: object) -> tuple[int, int]:
    """(height, width) as two ints, from any two integers in a row."""
    expected = "two positive integers (height, width)"
    items = _items("image_shape", value, expected)
    if len(items) != 2:
        raise ValueError(f"image_shape is {show(value)}; expected {expected}")
    height, width = (_integer(f"image_shape[{i}]", item, "a positive integer") for i, item in enumerate(items))
    for side in (height, width):
        if not 1 <= side <= MAX_SIDE:
            raise ValueError(f"image_shape is {show(value)}; expected {expected} of at most 2**31 - 1")
    return height, width


def levels(value: object) -> list[int]:
    """Distinct pyramid levels in 0..30."""
    items = _items("pyramid_levels", value, "distinct integers in 0..30")
    result = [_integer(f"pyramid_levels[{i}]", item, "an integer in 0..30") for i, item in enumerate(items)]
    for i, level in enumerate(result):
        if not 0 <= level <= 30:
            raise ValueError(f"pyramid_levels[{i}] is {level}; expected an integer in 0..30")
    if len(set(result)) != len(result):
        raise ValueError(f"pyramid_levels is {show(value)}; expected distinct levels")
    if len(result) > MAX_LEVELS:
        raise ValueError(f"pyramid_levels has {len(result)} levels; expected at most {MAX_LEVELS}")
    return result


def stride_pairs(value: object, num_levels: int) -> list[tuple[float, float]]:
    """One (stride_y, stride_x) per level, from a number or a pair per level."""
    expected = f"a number or a pair (stride_y, stride_x) per pyramid level, {num_levels} in all"
    items = _items("strides", value, expected)
    if len(items) != num_levels:
        raise ValueError(f"strides is {show(value)}, of length {len(items)}; expected {expected}")
    pairs = []
    for i, item in enumerate(items):
        if _is_sequence(item):
            pair = _items(f"strides[{i}]", item, "a number or a pair (stride_y, stride_x)")
            if len(pair) != 2:
                raise ValueError(f"strides[{i}] is {show(item)}; expected a number or a pair (stride_y, stride_x)")
            pairs.append((_positive(f"strides[{i}][0]", pair[0]), _positive(f"strides[{i}][1]", pair[1])))
        else:
            stride = _positive(f"strides[{i}]", item)
            pairs.append((stride, stride))
    return pairs


def per_level(name: str, value: object, num_levels: int, *, one_each: bool = False) -> list[list[float]]:
    """A list of positive numbers per level.

    From a list of lists, one per level; or from a flat list, which holds for every level or, with `one_each`,
    gives one number to each level.
    """
    flat = f"a number per pyramid level, {num_levels} in all" if one_each else "a list of numbers"
    expected = f"{flat}, or a list of numbers per pyramid level, {num_levels} in all"
    items = _items(name, value, expected)
    nested = [_is_sequence(item) for item in items]
    if any(nested) and not all(nested):
        raise TypeError(f"{name} is {show(value)}; expected {expected}")
    if (all(nested) or one_each) and len(items) != num_levels:
        raise ValueError(f"{name} is {show(value)}, of length {len(items)}; expected {expected}")
    if not all(nested):
        values = [_positive(f"{name}[{i}]", item) for i, item in enumerate(items)]
        return [[number] for number in values] if one_each else [list(values) for _ in range(num_levels)]
    return [
        [_positive(f"{name}[{i}][{j}]", number) for j, number in enumerate(_items(f"{name}[{i}]", item, expected))]
        for i, item in enumerate(items)
    ]
