"""Loads the native library (or says exactly why not), registers its fake kernels, and makes the calls into it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from . import _core

__all__ = ["build_info", "generate", "level_shapes"]


def _load() -> Any:
    library = Path(__file__).with_name("libanchor_ext.so")
    remedy = (
        "It is compiled on the machine that uses it, and needs torch 2.11 or newer. Build it anew, in the source tree, "
        "with\n    pip install --no-build-isolation --no-deps --force-reinstall ."
    )
    if not library.exists() and library.parents[1].joinpath("setup.py").exists():
        remedy = (
            "Python was started in anchor_ext's source tree, whose sources hide the installed package. Start it in "
            "another folder, or build in this one with\n    pip install --no-build-isolation -e ."
        )
    try:
        torch.ops.load_library(library)
        return importlib.import_module("anchor_ext._core")
    except (OSError, ImportError) as error:
        raise ImportError(
            f"anchor_ext's native library in {library.parent} does not load with Python "
            f"{sys.version.split()[0]} and torch {torch.__version__}:\n    {error}\n"
            f"{remedy}"
        ) from error


_native = _load()

from ._arguments import image_shape as _read_image_shape  # noqa: E402  (both need the native library)
from ._arguments import shape_of, show  # noqa: E402

_DTYPES = {
    torch.float32: _native.Dtype.float32,
    torch.float64: _native.Dtype.float64,
    torch.float16: _native.Dtype.float16,
    torch.bfloat16: _native.Dtype.bfloat16,
}
_DEVICES = {"cpu": _native.Device.cpu, "cuda": _native.Device.cuda}
_CPU, _NATIVE_CPU = torch.device("cpu"), _native.Device.cpu
_BUILT_WITH_CUDA = _native.build_info()["cuda"] is not None
_DEVICE_TYPES = (torch.device, type(None), str, int)
_EXPECTED_DEVICE = 'expected a torch.device, its name such as "cuda:0" or its index, or None'

# The arguments of torch.ops.anchor_ext.generate that do not depend on the image, behind the pyramid levels.
Operands = tuple[list[int], list[float], list[float], list[int]]


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
        **_native.build_info(),
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


def _to_device(device: object) -> torch.device:
    if device is None:
        return torch.device("cuda") if _BUILT_WITH_CUDA and torch.cuda.is_available() else _CPU
    if isinstance(device, torch.device):
        return device
    if not isinstance(device, (str, int)) or isinstance(device, bool):
        raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {show(device)}; {_EXPECTED_DEVICE} ({reason})") from error


@functools.lru_cache(maxsize=64, typed=True)  # asking a torch.device for its type costs as much as a small fill
def _resolve(device: Any) -> tuple[torch.device, Any]:
    """The device and, where there is a kernel of ours for it, its native name."""
    device = _to_device(device)
    if device.type == "cuda" and not _has_cuda():
        _require_cuda()
    return device, _DEVICES.get(device.type)


def _refuse_dtype(dtype: object) -> NoReturn:
    error = ValueError if isinstance(dtype, torch.dtype) else TypeError
    raise error(f"dtype is {show(dtype)}; expected torch.float32, float64, float16 or bfloat16")


# Looked up once: together these questions would cost as much as a small fill.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_jit_trace = torch._C._get_tracing_state


def _is_watched() -> bool:
    """Whether torch's operators are compiled, exported, faked, logged or transformed: ours must be seen among them."""
    return _is_compiling() or _dispatch_modes() > 0 or _transforms() is not None


@contextlib.contextmanager
def _unseen_by_jit_trace() -> Iterator[None]:
    """torch.jit.trace knows no operator that takes a device: what is made in here becomes a constant of the trace."""
    state = _jit_trace()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def generate(
    config: _core.Config,
    operands: Operands,
    image_shape: Any,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """The call behind `anchor_ext.generate` and `Anchors`; `operands` is the operator's form of `config`."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if out is not None:
        return _generate_out(config, operands, image_shape, dtype, device, out)
    if _is_watched():
        return _dispatch(config, operands, image_shape, dtype, _to_device(device))
    if _jit_trace() is not None:
        sides = image_shape
        if isinstance(image_shape, (tuple, list)):  # of tensors, in a trace
            sides = [int(side) if isinstance(side, torch.Tensor) else side for side in image_shape]
        with _unseen_by_jit_trace():
            return generate(config, operands, sides, dtype, device, None)
    if not isinstance(device, _DEVICE_TYPES):
        raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}")
    device, native_device = _resolve(device)
    if native_device is not None:
        return config.generate(image_shape, dtype, _DTYPES[dtype], device, native_device)
    if device.type == "meta":
        return torch.empty((1, config.num_anchors(image_shape), 4), dtype=dtype, device=device)
    # No kernel of ours for this device: computed here, and copied.
    return config.generate(image_shape, dtype, _DTYPES[dtype], _CPU, _NATIVE_CPU).to(device)


def level_shapes(pyramid_levels: Sequence[int], image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """The grids of an image, where its sides may be symbols and the native library cannot be asked."""
    height, width = image_shape
    return [((height + 2**level - 1) // 2**level, (width + 2**level - 1) // 2**level) for level in pyramid_levels]


def _is_symbolic(image_shape: Any) -> bool:
    return isinstance(image_shape, tuple) and any(isinstance(side, torch.SymInt) for side in image_shape)


def _dispatch(
    config: _core.Config, operands: Operands, image_shape: Any, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    levels, strides, cell_anchors, num_cell_anchors = operands
    if not torch.compiler.is_compiling() and not _is_symbolic(image_shape):
        config.num_anchors(image_shape)  # raises what the eager call would
        image_shape = _read_image_shape(image_shape)
    grids = [side for grid in level_shapes(levels, image_shape) for side in grid]
    ours = device.type in _DEVICES or device.type == "meta"
    boxes: torch.Tensor = torch.ops.anchor_ext.generate.default(
        grids, strides, cell_anchors, num_cell_anchors, dtype=dtype, device=device if ours else _CPU
    )[None]
    return boxes if ours else boxes.to(device)


def _generate_out(
    config: _core.Config,
    operands: Operands,
    image_shape: Any,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor,
) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out is {show(out)}; expected a tensor or None")
    place = out.device
    if device is not None:
        wanted = _to_device(device)
        if place.type != wanted.type or (wanted.index is not None and place.index not in (None, wanted.index)):
            raise ValueError(f"out is on device {place}; expected {wanted}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}; expected {dtype}, as the argument dtype says")
    if out.requires_grad:
        raise ValueError("out requires grad; expected a tensor that does not")
    if out.layout is not torch.strided or out.is_nested or not out.is_contiguous():
        raise ValueError(f"out has layout {out.layout} and shape {shape_of(out)}; expected a contiguous tensor")
    if type(out) is not torch.Tensor or _is_watched() or _jit_trace() is not None:
        boxes = generate(config, operands, image_shape, dtype, place, None)
        if out.shape != boxes.shape:
            raise ValueError(f"out has shape {shape_of(out)}; expected {shape_of(boxes)}")
        return out.copy_(boxes)

    shape = (1, config.num_anchors(image_shape), 4)
    if out.shape != shape:
        raise ValueError(f"out has shape {shape_of(out)}; expected {shape}")
    _, native_device = _resolve(place)
    if native_device is not None:
        _fill(config, image_shape, out, dtype, native_device)
    elif place.type != "meta":
        out.copy_(config.generate(image_shape, dtype, _DTYPES[dtype], _CPU, _NATIVE_CPU))
    return out


def _fill(config: _core.Config, image_shape: Any, out: torch.Tensor, dtype: torch.dtype, native_device: Any) -> None:
    memory, storage = out.data_ptr(), out.untyped_storage()
    end = (out.storage_offset() + out.numel()) * out.element_size()
    if memory == 0 or storage.nbytes() < end or out.is_neg():
        raise ValueError(
            f"out has a storage of {storage.nbytes()} bytes at address {memory}"
            f"{', to be read negated' if out.is_neg() else ''}; expected a tensor with {end} bytes of its own"
        )
    config.fill(image_shape, memory, _DTYPES[dtype], native_device, out.get_device())
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # the memory changed behind autograd's back
