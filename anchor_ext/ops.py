"""Loads the native library (or says exactly why not), registers its fake kernels, and makes the calls into it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ._arguments import show

__all__ = ["build_info", "generate"]


def _load() -> None:
    library = Path(__file__).with_name("libanchor_ext.so")
    try:
        torch.ops.load_library(library)
        from . import _core  # noqa: F401
    except (OSError, ImportError) as error:
        raise ImportError(
            f"anchor_ext's native library in {library.parent} does not load with Python "
            f"{sys.version.split()[0]} and torch {torch.__version__}:\n    {error}\n"
            "It is compiled on the machine that uses it, and needs torch 2.11 or newer. Build it anew, in the source "
            "tree, with\n    pip install --no-build-isolation --no-deps --force-reinstall .\n"
            "(A Python that is started in the source tree itself sees the sources there, not what was installed.)"
        ) from error


_load()

from . import _core  # noqa: E402

_DTYPES = {
    torch.float32: _core.Dtype.float32,
    torch.float64: _core.Dtype.float64,
    torch.float16: _core.Dtype.float16,
    torch.bfloat16: _core.Dtype.bfloat16,
}
_DEVICES = {"cpu": _core.Device.cpu, "cuda": _core.Device.cuda}
_CPU = torch.device("cpu")
_NATIVE_CPU = _core.Device.cpu
_EXPECTED_DEVICE = 'expected a torch.device, its name such as "cuda:0", or None'


def build_info() -> dict[str, Any]:
    """How this anchor_ext was compiled and what it runs with.

    Returns:
        anchor_ext, python, torch: the versions that run; torch_built_with: the torch it was compiled against;
        torch_oldest: the oldest torch that the same binary runs with; compiler; cuda: the toolkit's version, None
        without CUDA; cuda_archs: the architectures with machine code (sm_*) or PTX (compute_*) in the binary;
        openmp: whether torch's CPU threads, which anchor_ext uses, are OpenMP's; nvtx: whether calls show in nsys.
    """
    from importlib.metadata import version

    return {
        "anchor_ext": version("anchor_ext"),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        **_core.build_info(),
        "openmp": torch.backends.openmp.is_available(),
    }


@torch.library.register_fake("anchor_ext::generate")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float],
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    levels = zip(level_shapes[::2], level_shapes[1::2], num_cell_anchors, strict=True)
    num_anchors = sum(rows * columns * count for rows, columns, count in levels)
    return torch.empty((num_anchors, 4), dtype=dtype, device=device)


def _require_cuda() -> None:
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is a build without CUDA; install one with CUDA, then anchor_ext again"
    elif _core.build_info()["cuda"] is None:
        missing = (
            "anchor_ext was built without CUDA; with a CUDA toolkit at hand, run in its source tree\n"
            "    FORCE_CUDA=1 pip install --no-build-isolation --no-deps --force-reinstall ."
        )
    elif not torch.cuda.is_available():
        missing = "torch sees no GPU (torch.cuda.is_available() is False)"
    else:
        return
    raise RuntimeError(f"device is cuda, but {missing}")


@functools.cache
def _has_cuda() -> bool:
    return torch.version.cuda is not None and _core.build_info()["cuda"] is not None and torch.cuda.is_available()


def _resolve(device: Any) -> tuple[torch.device, Any]:
    """The device and, where there is a kernel of ours for it, its native name."""
    if device is None:
        device = torch.device("cuda") if _has_cuda() else _CPU
    if not isinstance(device, torch.device):
        if not isinstance(device, (str, int)) or isinstance(device, bool):
            raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}")
        try:
            device = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device is {show(device)}; {_EXPECTED_DEVICE}") from error
    if device.type == "cuda" and not _has_cuda():
        _require_cuda()
    return device, _DEVICES.get(device.type)


# Asking a torch.device for its type costs as much as a small fill.
_resolve_once = functools.lru_cache(maxsize=64, typed=True)(_resolve)


def _resolve_quickly(device: object) -> tuple[torch.device, Any]:
    try:
        return _resolve_once(device)
    except TypeError:  # what cannot be hashed is no device either
        raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}") from None


def _native_dtype(dtype: object) -> Any:
    native = _DTYPES.get(dtype) if isinstance(dtype, torch.dtype) else None
    if native is None:
        error = ValueError if isinstance(dtype, torch.dtype) else TypeError
        raise error(f"dtype is {show(dtype)}; expected torch.float32, float64, float16 or bfloat16")
    return native


def _is_watched() -> bool:
    """Whether torch's operators are being compiled, exported, faked or logged: ours must be seen among them."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


@contextlib.contextmanager
def _unseen_by_jit_trace() -> Iterator[None]:
    """torch.jit.trace knows no operator that takes a device: what is made in here becomes a constant of the trace."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def generate(
    config: _core.PyramidConfig,
    operands: tuple[list[int], list[float], list[float], list[int]],
    image_shape: Any,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """The call behind `anchor_ext.generate` and `Anchors`; `operands` is the operator's form of `config`."""
    native_dtype = _native_dtype(dtype)
    if torch._C._get_tracing_state() is not None:
        image_shape = tuple(map(int, image_shape))  # tensors, in a trace
        with _unseen_by_jit_trace():
            boxes = generate(config, operands, image_shape, dtype, device, None)
        return boxes if out is None else out.copy_(boxes)
    if out is not None:
        return _generate_out(config, operands, image_shape, dtype, native_dtype, device, out)
    if _is_watched():
        return _dispatch(operands, image_shape, dtype, _resolve(device)[0])
    device, native_device = _resolve_quickly(device)
    if native_device is not None:
        return config.generate(image_shape, dtype, native_dtype, device, native_device)
    if device.type == "meta":
        return torch.empty((1, config.num_anchors(image_shape), 4), dtype=dtype, device=device)
    # No kernel of ours for this device: computed here, and copied.
    return config.generate(image_shape, dtype, native_dtype, _CPU, _NATIVE_CPU).to(device)


def _dispatch(operands: Any, image_shape: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    levels, strides, cell_anchors, num_cell_anchors = operands
    height, width = image_shape
    level_shapes = [(side + 2**level - 1) // 2**level for level in levels for side in (height, width)]
    ours = device.type in _DEVICES or device.type == "meta"
    boxes = torch.ops.anchor_ext.generate.default(
        level_shapes, strides, cell_anchors, num_cell_anchors, dtype=dtype, device=device if ours else _CPU
    )
    batched: torch.Tensor = boxes[None]
    return batched if ours else batched.to(device)


def _generate_out(
    config: _core.PyramidConfig,
    operands: Any,
    image_shape: Any,
    dtype: torch.dtype,
    native_dtype: Any,
    device: Any,
    out: torch.Tensor,
) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out is {show(out)}; expected a tensor or None")
    device, native_device = _resolve(out.device if device is None else device)
    if out.device.type != device.type or (device.index is not None and out.device.index not in (None, device.index)):
        raise ValueError(f"out is on device {out.device}; expected {device}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}; expected {dtype}, as the argument dtype says")
    if out.layout is not torch.strided or not out.is_contiguous() or out.is_neg():
        raise ValueError(
            f"out has layout {out.layout} and strides {tuple(out.stride()) if out.layout is torch.strided else None}; "
            "expected a contiguous tensor"
        )
    if out.requires_grad:
        raise ValueError("out requires grad; expected a tensor that does not")
    if _is_watched() or type(out) is not torch.Tensor:
        return out.copy_(_dispatch(operands, image_shape, dtype, device))

    shape = (1, config.num_anchors(image_shape), 4)
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}; expected {shape}")
    if device.type == "meta":
        return out
    end = (out.storage_offset() + out.numel()) * out.element_size()
    if out.untyped_storage().nbytes() < end:
        raise ValueError(f"out has a storage of {out.untyped_storage().nbytes()} bytes; expected {end} for its shape")
    if native_device is None:
        return out.copy_(config.generate(image_shape, dtype, native_dtype, _CPU, _NATIVE_CPU))
    config.fill(image_shape, out.data_ptr(), native_dtype, native_device, out.get_device())
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # the memory changed behind autograd's back
    return out
