"""Devices as users pass them, and what is missing where one cannot be had."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ._arguments import show
from ._library import native
from ._recording import default_device, is_compiled

__all__ = ["resolve", "to_device"]

_CPU = torch.device("cpu")
_BUILT_WITH_CUDA = native.build_info()["cuda"] != ""
_TYPES = (torch.device, type(None), str, int)
_EXPECTED = 'expected a torch.device, its name such as "cuda:0" or its index, or None'


def to_device(device: object) -> torch.device:
    """A device from what users pass for one.

    None is what torch.set_default_device or a context has set, else CUDA where there is one, else the CPU.
    """
    if device is None:
        device = default_device()
    if device is None:
        return torch.device("cuda") if _BUILT_WITH_CUDA and torch.cuda.is_available() else _CPU
    if isinstance(device, torch.device):
        return device
    if not isinstance(device, (str, int)) or isinstance(device, bool):
        raise TypeError(f"device is {show(device)}; {_EXPECTED}")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {show(device)}; {_EXPECTED} ({reason})") from error


def resolve(device: Any) -> torch.device:
    """The same, of a device that is here."""
    if is_compiled():  # whoever runs the graph may have another machine
        return to_device(device)
    if not isinstance(device, _TYPES):
        raise TypeError(f"device is {show(device)}; {_EXPECTED}")
    return _resolve(default_device() if device is None else device)


@functools.lru_cache(maxsize=64, typed=True)  # asking a torch.device for its type costs as much as a small fill
def _resolve(device: Any) -> torch.device:
    resolved = to_device(device)
    if resolved.type == "cuda" and not _has_cuda():
        _require_cuda()
    return resolved


@functools.cache
def _has_cuda() -> bool:
    return _BUILT_WITH_CUDA and torch.cuda.is_available()


def _require_cuda() -> None:
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is a build without CUDA; install one with CUDA, then anchor_ext again"
    elif not _BUILT_WITH_CUDA:
        missing = (
            "anchor_ext was built without CUDA; with a CUDA toolkit at hand, run in its source tree\n"
            "    FORCE_CUDA=1 pip install --no-build-isolation --no-deps --force-reinstall ."
        )
    else:
        missing = "torch sees no GPU (torch.cuda.is_available() is False)"
    raise RuntimeError(f"device is cuda, but {missing}")
