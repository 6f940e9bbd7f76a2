"""What users change after construction counts: attributes that are assigned or written into, methods that a subclass
or an instance has of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .._arguments import is_sequence
from .._recording import is_compiled

__all__ = ["Follows", "has_own"]


_NUMBERS = (int, float)


def has_own(instance: Any, *originals: Callable[..., Any]) -> bool:
    """Whether an instance has other methods than these, of its own or of its class."""
    cls, own = type(instance), instance._assigned
    return any(getattr(cls, function.__name__) is not function or function.__name__ in own for function in originals)


def _state_of(value: Any, tensors: list[Tensor]) -> Any:
    """What changes when a value is written into. Tensors are kept, so that no other takes their place in memory."""
    if type(value) in _NUMBERS:  # as most are: what is below takes longer
        return value
    if isinstance(value, Tensor):
        tensors.append(value)
        return id(value), 0 if value.is_inference() else value._version
    if isinstance(value, nn.Module):
        value = list(value.buffers() if value._modules else value._buffers.values())  # a tenth of the time
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)) or is_sequence(value):
        return tuple([_state_of(item, tensors) for item in value])
    return value


class Follows:
    """A drop-in whose grids are made of attributes that its users may change.

    A subclass names them in `_made_of` and makes the grids in `_make`. Its constructor ends with `_remake()`, and its
    calls begin with `_follow()`.
    """

    _made_of: tuple[str, ...] = ()
    _is_made = False
    _state: Any = None
    _assigned: frozenset[str] = frozenset()  # methods; an attribute, which a compiler compares in every call

    def _make(self) -> None:
        raise NotImplementedError

    def _remake(self) -> None:
        tensors: list[Tensor] = []
        state = tuple([_state_of(getattr(self, name), tensors) for name in self._made_of])
        self._make()
        self._state, self._tensors, self._is_made = state, tensors, True

    def _follow(self) -> None:
        """Makes the grids anew if an attribute has changed.

        Raises:
            ValueError: of the attributes, as they are now, no grids can be made.
        """
        if is_compiled():  # assignments have been followed already
            if not self._is_made:
                raise ValueError("attributes were assigned that do not fit each other; an eager call says which")
            return
        tensors: list[Tensor] = []
        if not self._is_made or self._state != tuple(
            [_state_of(getattr(self, name), tensors) for name in self._made_of]
        ):
            self._remake()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "_assigned" and callable(getattr(type(self), name, None)):
            self._assigned |= {name}
        if name in self._made_of:
            self._changed()

    def _changed(self) -> None:
        """Makes the grids anew, if they can be made of what the attributes are now."""
        if self._state is not None:  # else the constructor is not through
            self._is_made = False
            with contextlib.suppress(TypeError, ValueError):  # another is to come, or the next call says what is wrong
                self._remake()
