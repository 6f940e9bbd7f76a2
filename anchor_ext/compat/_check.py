"""How the drop-ins look at arguments, to be used as `check.numbers(...)`: each says which one is wrong, its value and
what was expected."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from .. import _arguments
from .._arguments import is_sequence, show

__all__ = [
    "CompatError",
    "as_float",
    "features",
    "is_sequence",
    "levels",
    "name_of",
    "number",
    "numbers",
    "pairs",
    "show",
    "that",
    "whole",
]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in _DTYPES}


class CompatError(ValueError, AssertionError):
    """A wrong argument; an AssertionError as well, which is what the frameworks raise."""


def that(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise CompatError(f"{name} is {show(value)}; expected {expected}")


# What constructors take; None as well where it is `optional`.


def number(name: str, value: Any, *, positive: bool = True, optional: bool = False) -> None:
    try:
        good = (optional and value is None) or _arguments.number(name, value) > 0 or not positive
    except (TypeError, ValueError):
        good = False
    that(good, name, value, "a finite number > 0" if positive else "a finite number")


def whole(name: str, value: Any, least: int, most: int = 2**31 - 1, *, optional: bool = False) -> None:
    try:
        good = not isinstance(value, bool) and least <= operator.index(value) <= most
    except TypeError:
        good = False
    that(good or (optional and value is None), name, value, f"an integer in {least}..{most}")


def numbers(
    name: str,
    value: Any,
    *,
    positive: bool = True,
    depth: int = 1,
    nested: bool = False,
    empty: bool = False,
    levels: int | None = None,
    optional: bool = False,
) -> None:
    """A sequence of numbers, or down to `depth` of such sequences.

    `nested`: of sequences only; `empty`: even one without any; `levels`: how many it must have.
    """
    if optional and value is None:
        return
    expected = "a sequence of numbers" if depth == 1 else "a sequence of numbers or of such sequences"
    if nested:
        expected = "a sequence of sequences of numbers"
    that(is_sequence(value) and (empty or len(value) > 0), name, value, expected)
    that(levels in (None, len(value)), name, value, f"{expected}, {levels} in all, one per level")
    that(not nested or all(map(is_sequence, value)), name, value, expected)
    for i, item in enumerate(value):
        if depth > 1 and is_sequence(item):
            numbers(f"{name}[{i}]", item, positive=positive, depth=depth - 1, empty=empty)
        else:
            number(f"{name}[{i}]", item, positive=positive)


def pairs(name: str, value: Any, **options: Any) -> list[tuple[Any, Any]]:
    """A sequence of numbers or pairs of them, as pairs."""
    numbers(name, value, depth=2, **options)
    expected = "a pair" if options.get("nested") else "a number or a pair"
    result = []
    for i, item in enumerate(() if value is None else value):
        that(not is_sequence(item) or len(item) == 2, f"{name}[{i}]", item, expected)
        result.append((item[0], item[1]) if is_sequence(item) else (item, item))
    return result


# What calls take, which a compiler follows.


def levels(name: str, value: Any, count: int) -> None:
    """An entry per level."""
    if not hasattr(value, "__len__"):
        raise CompatError(f"{name} is {show(value)}; expected {count} entries, one per level")
    if len(value) != count:
        entries = [tuple(item.shape) if isinstance(item, Tensor) else item for item in value]
        raise CompatError(f"{name} has {len(value)} entries, {show(entries)}; expected {count}, one per level")


def features(name: str, value: Any, count: int) -> None:
    """Per level a tensor of a floating dtype."""
    levels(name, value, count)
    first = value[0] if isinstance(value, (list, tuple)) else None
    if not isinstance(first, Tensor):
        raise CompatError(f"{name} is {show(value)}; expected a list of tensors")
    name_of(first.dtype, f"{name}[0].dtype")


def name_of(dtype: torch.dtype, name: str = "dtype") -> str:
    """A dtype as an arithmetic's name."""
    that(dtype in _NAMES, name, dtype, "torch.float32, float64, float16 or bfloat16")
    return _NAMES[dtype]


def as_float(name: str, value: Any) -> float:
    """A finite number as a plain float."""
    if type(value) not in (int, float):  # which a compiler follows without a question
        number(name, value, positive=False)
    that(value - value == 0, name, value, "a finite number")  # else it is infinite, or no number
    return float(value)
