"""Whether torch's operators are recorded, and what that changes. The one place that knows private names of torch's.

A compiler, an exporter, a tracer, a mode or a transform must see anchor_ext's operators among torch's own. Without one
of the private names nobody can tell, and every call goes by the operators: slower, and right.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "below_autograd",
    "concrete",
    "constant_to_the_compiler",
    "constants",
    "default_device",
    "has_tangent",
    "holds",
    "is_compiled",
    "is_exported_to_onnx",
    "is_proxy",
    "is_recorded",
    "is_symbolic",
    "is_traced",
    "place_of",
    "saved_by_export",
    "unseen_by_trace",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Looked up once: together these questions would cost as much as a small fill.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", None)
_transforms = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
_trace = getattr(torch._C, "_get_tracing_state", None)
_function_modes = getattr(torch._C, "_len_torch_function_stack", None)
_mode_stack = getattr(torch.overrides, "_get_current_function_mode_stack", None)
_set_trace = getattr(torch._C, "_set_tracing_state", None)
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
_register_namedtuple = getattr(torch.utils._pytree, "_register_namedtuple", None)
is_compiled = torch.compiler.is_dynamo_compiling
is_traced: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


def constant_to_the_compiler(function: _Function) -> _Function:
    """What torch.compiler.assume_constant_result does but for importing the compiler, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def saved_by_export(result: type[Any]) -> None:
    """Lets torch.export.save write programs that return this named tuple."""
    if _register_namedtuple is not None:
        _register_namedtuple(result, serialized_type_name=f"anchor_ext.{result.__name__}")


def is_recorded() -> bool:
    """Whether torch's operators are compiled, exported, faked, logged, transformed or traced."""
    return (
        _is_compiling()
        or _dispatch_modes is None
        or _transforms is None
        or _trace is None
        or _dispatch_modes() > 0
        or _transforms() is not None
        or _trace() is not None
    )


def below_autograd(arguments: Iterable[Any]) -> contextlib.AbstractContextManager[Any]:
    """Where nobody looks on and no argument needs a gradient, what is called in here goes past autograd: its way to an
    operator of ours leads through Python and takes as long as the operator."""
    if _below_autograd is None or is_recorded() or getattr(forward_ad, "_current_level", 0) >= 0:
        return contextlib.nullcontext()
    with_gradient = torch.is_grad_enabled()
    for given in arguments:
        for tensor in given if isinstance(given, list) else (given,):
            if isinstance(tensor, Tensor) and (type(tensor) is not Tensor or (with_gradient and tensor.requires_grad)):
                return contextlib.nullcontext()
    return _below_autograd()  # type: ignore[no-any-return]


def has_tangent(arguments: Iterable[Any]) -> bool:
    """Whether one of the arguments is dual, as in forward mode; torch would give an operator's result no tangent."""
    if getattr(forward_ad, "_current_level", -1) < 0:
        return False
    given = (one for argument in arguments for one in (argument if isinstance(argument, list) else (argument,)))
    floats = (one for one in given if isinstance(one, Tensor) and one.is_floating_point())
    return any(forward_ad.unpack_dual(one).tangent is not None for one in floats)


def place_of(tensor: Tensor) -> Any:
    """The device of a tensor; in a trace the tensor itself, whose device the trace follows when it runs."""
    return tensor if is_traced() else tensor.device


def is_proxy(value: object) -> bool:
    """Whether torch.fx.symbolic_trace records what is done with it."""
    return isinstance(value, torch.fx.Proxy)


def default_device() -> torch.device | None:
    """The device that a user has set, by a context or torch.set_default_device."""
    if _function_modes is None or _mode_stack is None or _function_modes() == 0:
        return None
    if is_compiled():
        return torch.empty(0).device  # the compiler cannot follow torch.get_default_device
    contexts = [mode.device for mode in _mode_stack() if type(mode).__name__ == "DeviceContext"]
    return contexts[-1] if contexts else None


def is_exported_to_onnx() -> bool:
    """Whether torch.onnx.export looks on, which knows torch's own operators only."""
    return not is_compiled() and is_recorded() and "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


@contextlib.contextmanager
def unseen_by_trace() -> Iterator[None]:
    """What is made in here is a constant of the trace, and no reason for it to warn."""
    state = _trace() if _trace is not None else None
    if state is None or _set_trace is None:
        yield
        return
    _set_trace(None)
    try:
        yield
    finally:
        _set_trace(state)


def constants(numbers: Any) -> Any:
    """Numbers in lists that the compiler may have made symbols of, as such again."""
    if isinstance(numbers, (list, tuple)):
        return [constants(number) for number in numbers]
    if not isinstance(numbers, (int, float)):
        return numbers
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(numbers)


def is_symbolic(shape: Any) -> bool:
    """Whether a shape, or one in a list of shapes, has sides that only a graph, when it runs, will know."""
    if isinstance(shape, (tuple, list)):
        return any(map(is_symbolic, shape))
    return isinstance(shape, torch.SymInt) or (isinstance(shape, Tensor) and is_traced())


def holds(condition: Any) -> bool:
    """Whether a condition is known to hold; of numbers that only a running graph knows it is not."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def concrete(shapes: Any) -> Any:
    """Shapes whose sides torch.jit.trace has made tensors, as numbers."""
    if isinstance(shapes, Tensor) and shapes.ndim == 0:
        with unseen_by_trace():
            return int(shapes)
    if isinstance(shapes, (tuple, list)):
        return [concrete(shape) for shape in shapes]
    return shapes
