"""What the drop-ins share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .._arguments import is_sequence, number, show

__all__ = [
    "DTYPES",
    "PROMOTED",
    "CompatError",
    "as_lists",
    "check_features",
    "check_levels",
    "check_number",
    "check_numbers",
    "check_pairs",
    "check_whole",
    "constants",
    "expect",
    "is_whole",
    "name_of",
    "renamed",
    "show",
    "to_device",
    "to_float",
]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
# What torch makes of each beside a float32 tensor.
PROMOTED = {dtype: torch.promote_types(dtype, torch.float32) for dtype in DTYPES}


class CompatError(ValueError, AssertionError):
    """A wrong argument; an AssertionError as well, which is what the frameworks raise."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise CompatError(message)


def check_levels(name: str, value: Any, levels: int) -> None:
    if not hasattr(value, "__len__"):
        raise CompatError(f"{name} is {show(value)}; expected {levels} entries, one per level")
    if len(value) != levels:
        entries = [tuple(item.shape) if isinstance(item, Tensor) else item for item in value]
        raise CompatError(f"{name} has {len(value)} entries, {show(entries)}; expected {levels}, one per level")


def as_lists(value: Any) -> Any:
    """An array or a tensor as lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def check_number(name: str, value: Any, *, positive: bool = True) -> None:
    expected = "a finite number > 0" if positive else "a finite number"
    try:
        good = number(name, value) > 0 or not positive
    except (TypeError, ValueError):
        good = False
    expect(good, f"{name} is {show(value)}; expected {expected}")


def to_float(name: str, value: Any) -> float:
    """A finite number as a plain float."""
    if type(value) not in (int, float):  # which a compiler follows without a question
        check_number(name, value, positive=False)
    if not value - value == 0:  # infinite, or no number
        raise CompatError(f"{name} is {show(value)}; expected a finite number")
    return float(value)


def check_whole(name: str, value: Any, least: int, most: int = 2**31 - 1) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    expect(good, f"{name} is {show(value)}; expected an integer in {least}..{most}")


def check_numbers(name: str, value: Any, *, positive: bool = True, depth: int = 1, empty: bool = False) -> None:
    """A sequence of numbers, or down to `depth` of such sequences; `empty`: even one without any."""
    expected = "a sequence of numbers" + " or of such sequences" * (depth > 1)
    expect(is_sequence(value), f"{name} is {show(value)}; expected {expected}")
    expect(len(value) > 0 or empty, f"{name} is empty; expected {expected}")
    for i, item in enumerate(value):
        if depth > 1 and is_sequence(item):
            check_numbers(f"{name}[{i}]", item, positive=positive, depth=depth - 1, empty=empty)
        else:
            check_number(f"{name}[{i}]", item, positive=positive)


def check_pairs(name: str, value: Any, *, positive: bool = True) -> None:
    """Per level a number or a pair of numbers."""
    check_numbers(name, value, positive=positive, depth=2)
    for i, item in enumerate(value):
        pair = not is_sequence(item) or len(item) == 2
        expect(pair, f"{name}[{i}] is {show(item)}; expected a number or a pair")


def renamed(error: Exception, core: str, ours: str) -> Exception:
    """An error of the core's about an argument that has another name here."""
    message = str(error).replace(core, ours)
    return TypeError(message) if isinstance(error, TypeError) else CompatError(message)


@contextlib.contextmanager
def constants() -> Iterator[None]:
    """What is computed in here is real, in a fake or otherwise watched program as well."""
    with _disable_current_modes():
        yield


def check_features(name: str, value: Any, levels: int) -> None:
    """Per level a tensor of a floating dtype."""
    check_levels(name, value, levels)
    first = value[0] if isinstance(value, (list, tuple)) else None
    if not isinstance(first, Tensor):
        raise CompatError(f"{name} is {show(value)}; expected a list of tensors")
    name_of(first.dtype, f"{name}[0].dtype")


def name_of(dtype: torch.dtype, name: str = "dtype") -> str:
    """A dtype as an arithmetic's name."""
    if dtype not in _NAMES:
        raise CompatError(f"{name} is {show(dtype)}; expected torch.float32, float64, float16 or bfloat16")
    return _NAMES[dtype]


def is_whole(numbers: Sequence[Any]) -> bool:
    return all(isinstance(number, int) for number in numbers)


def to_device(tensor: Tensor, device: Any) -> Tensor:
    if device is None or tensor.device == torch.device(device):
        return tensor
    return tensor.to(device)
