"""Registers what torch's compilers, exporters and autograd need beside an operator's kernel.

The schema and the kernel are registered in C++ (csrc/<family>/op.cpp). A family's module writes one `Operator` per
schema and registers it; nothing here or elsewhere knows which families there are.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._recording import below_autograd, has_tangent, is_compiled, is_exported_to_onnx, is_traced, unseen_by_trace

__all__ = ["REGISTERED", "Operator", "call", "is_ours", "must_not_be_traced", "register"]

_OURS = frozenset(("cpu", "cuda", "meta"))


@dataclasses.dataclass(frozen=True)
class Operator:
    """What there is of an operator in Python.

    Args:
        name: in torch.ops.anchor_ext.
        fake: takes the operator's arguments, and returns empty tensors of the results' shapes.
        standard: the same in torch's own operators, for exports to ONNX, or what raises why not; takes the operator's
            arguments, whose sizes may be symbols or tensors of no dimensions.
        backward, setup_context: as torch.library.register_autograd takes them.
        script: a function that TorchScript compiles, for torch.jit.trace; takes the operator's arguments, with a list
            of tensors in place of each list of sizes and, in place of the device, a tensor that is there: `like`.
    """

    name: str
    fake: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    setup_context: Callable[..., Any] | None = None
    standard: Callable[..., Any] = dataclasses.field(kw_only=True)
    script: Callable[..., Any] | None = None


REGISTERED: dict[str, Operator] = {}


def register(operator: Operator) -> None:
    """Tells torch all that the record holds."""
    name = f"anchor_ext::{operator.name}"
    torch.library.register_fake(name, functools.partial(_fake, operator))
    if operator.backward is not None:
        torch.library.register_autograd(name, operator.backward, setup_context=operator.setup_context)
    REGISTERED[operator.name] = operator


def _fake(operator: Operator, *arguments: Any, **keywords: Any) -> Any:
    if is_exported_to_onnx():
        operator.standard(*arguments, **keywords)  # raises what ONNX cannot express, as an exporter's second attempt
    return operator.fake(*arguments, **keywords)


def must_not_be_traced(name: str) -> None:
    """Raises RuntimeError in a torch.jit.trace."""
    if is_traced():
        raise RuntimeError(f"{name} cannot be traced; compile or export it, or call it outside of what is traced")


def is_ours(device: torch.device) -> bool:
    """Whether the operators know the device. Any other is served by the CPU and a copy."""
    return device.type in _OURS


def call(
    name: str,
    *arguments: Any,
    device: torch.device,
    takes_device: bool = True,
    like: Tensor | None = None,
    **keywords: Any,
) -> Any:
    """The operator's result on any device. Its arguments' lists hold sizes or tensors.

    An operator that takes no device takes it from its first argument, a tensor. A trace takes it from `like`, if that
    is given, whenever it runs.
    """
    ours = is_ours(device)
    place = device if ours else torch.device("cpu")
    if takes_device:
        keywords["device"] = place
    elif not ours:
        arguments = tuple(_moved(argument, place) for argument in arguments)
        keywords = {key: _moved(value, place) for key, value in keywords.items()}
    if is_exported_to_onnx():
        result = REGISTERED[name].standard(*arguments, **keywords)
    elif is_traced():
        if takes_device:
            del keywords["device"]
            keywords["like"] = _empty(place) if like is None else like
        result = _scripted(name)(*map(_traced, arguments), **{key: _traced(value) for key, value in keywords.items()})
    elif REGISTERED[name].backward is None or is_compiled():
        result = getattr(torch.ops.anchor_ext, name).default(*arguments, **keywords)
    else:
        if has_tangent(arguments):
            raise NotImplementedError(f"{name} has no derivative in forward mode; expected tensors without tangents")
        with below_autograd(arguments):
            result = getattr(torch.ops.anchor_ext, name).default(*arguments, **keywords)
    if ours:
        return result
    return result.to(device) if isinstance(result, Tensor) else tuple(tensor.to(device) for tensor in result)


def _moved(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, list):
        return [_moved(one, device) for one in argument]
    return argument.to(device) if isinstance(argument, Tensor) else argument


def _empty(device: torch.device) -> Tensor:
    with unseen_by_trace():
        return torch.empty(0, device=device)


def _traced(argument: Any) -> Any:
    """A list of sizes as tensors, as a trace has them: it cannot hold an operator that takes a device, but it can hold
    a scripted function that calls one."""
    if not isinstance(argument, list):
        return argument
    with unseen_by_trace():
        return [side if isinstance(side, Tensor) else torch.tensor(side, device="cpu") for side in argument]


@functools.cache
def _scripted(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old, whoever traces has heard
        return torch.jit.script(REGISTERED[name].script)
