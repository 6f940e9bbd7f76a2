"""Where the detectron2 generators keep their cell anchors, and what makes these of arguments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _check as check

__all__ = ["BufferList", "has_numbers", "per_level", "read", "widths_and_heights"]


class BufferList(nn.Module):
    """Tensors as buffers "0", "1", ... that move and round with the module and stay out of its checkpoints."""

    def __init__(self, buffers: Iterable[Any]) -> None:
        super().__init__()
        for i, values in enumerate(buffers):
            if not isinstance(values, Tensor):
                values = torch.tensor(values, dtype=torch.float32, device="cpu")
            self.register_buffer(str(i), values, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(list(self._buffers.values()))  # type: ignore[arg-type]  # None of them is None

    def __getitem__(self, level: int) -> Tensor:
        return list(self)[level]

    def __setitem__(self, level: int, values: Tensor) -> None:
        setattr(self, str(range(len(self))[level]), values)


def has_numbers(cell_anchors: nn.Module) -> bool:
    """Whether these can be read: not while they are exported or on the device meta."""
    return not any(type(buffer) is not Tensor or buffer.is_meta for buffer in cell_anchors.buffers())


def read(cell_anchors: nn.Module, box_dim: int) -> tuple[list[str], list[list[list[float]]]]:
    """Per level the dtype of a sum of its cell anchors and float32 centres, and their numbers."""
    dtypes, numbers = [], []
    for i, buffer in enumerate(cell_anchors.buffers()):
        good = buffer.ndim == 2 and buffer.shape[1] == box_dim and len(buffer) > 0 and not buffer.is_complex()
        check.that(good, f"cell_anchors[{i}]", buffer, f"numbers (A, {box_dim})")
        dtypes.append(check.name_of(torch.promote_types(buffer.dtype, torch.float32)))
        numbers.append(buffer.detach().to("cpu", torch.float64).tolist())
    return dtypes, numbers


def _items(name: str, value: Any, expected: str) -> Sequence[Any]:
    """Any sequence, as one whose items are what was given; of arrays and tensors Python's numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    check.that(check.is_sequence(value) and len(value) > 0, name, value, expected)
    return value if isinstance(value, Sequence) else list(value)


def per_level(name: str, value: Any, levels: int, *, any_items: bool) -> Sequence[Any]:
    """A list of numbers per level, from one for all of them or one each.

    `any_items`: what is in such a list is the business of a hook that has been overridden.
    """
    expected = f"a list of numbers, or one such list, or one per level, {levels} in all"
    lists = _items(name, value, expected)
    nested = [check.is_sequence(item) for item in lists]
    if not nested[0]:
        lists = [lists]
    if not any_items:
        check.that(all(nested) or not any(nested), name, value, expected)
        check.numbers(name, lists if nested[0] else lists[0], positive=name != "angles", depth=1 + nested[0])
    if len(lists) == 1:
        lists = list(lists) * levels
    check.that(len(lists) == levels, name, value, expected)
    return lists if any_items else [_items(name, of_level, expected) for of_level in lists]


def widths_and_heights(sizes: Sequence[float], ratios: Sequence[float]) -> list[tuple[float, float]]:
    pairs = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            pairs.append((width, ratio * width))
    return pairs
