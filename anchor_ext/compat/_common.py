"""What the drop-ins share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._arguments import is_sequence, number, show

__all__ = [
    "DTYPES",
    "PROMOTED",
    "CompatError",
    "check_levels",
    "check_numbers",
    "expect",
    "is_whole",
    "name_of",
    "show",
    "to_device",
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
        entries = [f"shape {tuple(item.shape)}" if isinstance(item, Tensor) else item for item in value]
        raise CompatError(f"{name} has {len(value)} entries: {show(entries)}; expected {levels}, one per level")


def check_numbers(name: str, value: Any, *, positive: bool = True) -> None:
    """A sequence of finite numbers, or of such sequences."""
    if is_sequence(value):
        expect(len(value) > 0, f"{name} is empty; expected numbers")
        for i, item in enumerate(value):
            check_numbers(f"{name}[{i}]", item, positive=positive)
        return
    expected = "a finite number > 0" if positive else "a finite number"
    try:
        good = number(name, value) > 0 or not positive
    except (TypeError, ValueError):
        good = False
    expect(good, f"{name} is {show(value)}; expected {expected}")


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
