"""Loads the native library (or says exactly why not), registers its fake kernels, and makes the calls into it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

__all__ = [
    "COMPONENTS",
    "Configuration",
    "build_info",
    "gather",
    "generate",
    "generate_points",
    "inside",
    "level_shapes",
    "level_sizes",
    "valid_flags",
]


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

from ._arguments import image_shape as _read_image_shape  # noqa: E402  (all need the native library)
from ._arguments import level_shapes as _read_level_shapes  # noqa: E402
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


class Configuration:
    """What a user fixes once, in the native library's form and in the operators'.

    Args:
        cell_anchors: per level the components of its cell anchors, one after another.
        strides, offsets, starts: per level a pair (y, x), or empty for the default.
        pyramid_levels: where grids are derived from an image; else empty.
        arithmetic, layout: as for `AnchorGrid`.

    Raises:
        ValueError: as `AnchorGrid`.
    """

    def __init__(
        self,
        cell_anchors: Sequence[Sequence[float]],
        strides: Sequence[tuple[float, float]],
        offsets: Sequence[tuple[float, float]] = (),
        starts: Sequence[tuple[float, float]] = (),
        pyramid_levels: Sequence[int] = (),
        arithmetic: str = "float64",
        layout: str = "xyxy",
    ) -> None:
        self.native = _native.Config(cell_anchors, strides, offsets, starts, pyramid_levels, arithmetic, layout)
        self.num_components: int = self.native.num_components
        self.pyramid_levels = list(pyramid_levels)
        self.num_cell_anchors = [len(level) // self.num_components for level in cell_anchors]
        self.strides = _flat(strides)
        self.cell_anchors = _flat(cell_anchors)
        self.keywords = {
            "offsets": _flat(offsets),
            "starts": _flat(starts),
            "arithmetic": arithmetic,
            "layout": layout,
        }


def _flat(lists: Iterable[Iterable[float]]) -> list[float]:
    return [number for numbers in lists for number in numbers]


# The fake kernels: what the operators return, without the numbers. Their signatures are the schemas in ops.cpp.


def _count(level_shapes: Sequence[int], num_cell_anchors: Sequence[int]) -> int:
    levels = zip(level_shapes[::2], level_shapes[1::2], num_cell_anchors, strict=True)
    return sum(rows * columns * count for rows, columns, count in levels)


# Of an anchor, by layout: what layout_of() in config.cpp knows.
COMPONENTS = {"xyxy": 4, "yxyx": 4, "cxcywha": 5, "point": 2, "point_stride": 4}


@torch.library.register_fake("anchor_ext::generate")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float],
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    layout: str = "xyxy",
    **_: Any,
) -> torch.Tensor:
    return torch.empty((_count(level_shapes, num_cell_anchors), COMPONENTS[layout]), dtype=dtype, device=device)


@torch.library.register_fake("anchor_ext::gather")  # type: ignore[untyped-decorator]
def _(index: torch.Tensor, *_: Any, dtype: torch.dtype, layout: str = "xyxy", **__: Any) -> torch.Tensor:
    return torch.empty((*index.shape, COMPONENTS[layout]), dtype=dtype, device=index.device)


@torch.library.register_fake("anchor_ext::inside")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float],
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    *_: Any,
    device: torch.device,
    **__: Any,
) -> torch.Tensor:
    return torch.empty(_count(level_shapes, num_cell_anchors), dtype=torch.bool, device=device)


@torch.library.register_fake("anchor_ext::valid_flags")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float],
    num_cell_anchors: Sequence[int],
    *_: Any,
    device: torch.device,
    **__: Any,
) -> torch.Tensor:
    return torch.empty(_count(level_shapes, num_cell_anchors), dtype=torch.bool, device=device)


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


def to_device(device: object) -> torch.device:
    """A device from what users pass for one; None is CUDA where there is one, else the CPU."""
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
    device = to_device(device)
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


def _concrete(shapes: Any) -> Any:
    """Shapes whose sides torch.jit.trace has made tensors, as numbers."""
    if isinstance(shapes, torch.Tensor) and shapes.ndim == 0:
        return int(shapes)
    if isinstance(shapes, (tuple, list)):
        return (tuple if isinstance(shapes, tuple) else list)(map(_concrete, shapes))
    return shapes


@contextlib.contextmanager
def _unseen_by_jit_trace() -> Iterator[None]:
    """torch.jit.trace knows no operator that takes a device: what is made in here becomes a constant of the trace."""
    state = _jit_trace()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _resolve_checked(device: Any) -> tuple[torch.device, Any]:
    if not isinstance(device, _DEVICE_TYPES):
        raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}")
    return _resolve(device)


def generate(
    config: Configuration,
    level_shapes: Any,
    image_shape: Any,
    clip: Any,
    batched: bool,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """The call behind `generate`, `Anchors` and `AnchorGrid`; `batched` puts a dimension of 1 before the others."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if out is not None:
        return _generate_out(config, level_shapes, image_shape, clip, batched, dtype, device, out)
    if _is_watched():
        return _dispatch(config, level_shapes, image_shape, clip, batched, dtype, to_device(device))
    if _jit_trace() is not None:
        shapes = (_concrete(level_shapes), _concrete(image_shape), _concrete(clip))
        with _unseen_by_jit_trace():
            return generate(config, *shapes, batched, dtype, device, None)
    device, native_device = _resolve_checked(device)
    if native_device is not None:
        return config.native.generate(  # type: ignore[no-any-return]
            level_shapes, image_shape, clip, batched, dtype, _DTYPES[dtype], device, native_device
        )
    shape = _shape(config, level_shapes, image_shape, clip, batched)
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    # No kernel of ours for this device: computed here, and copied.
    on_cpu: torch.Tensor = config.native.generate(
        level_shapes, image_shape, clip, batched, dtype, _DTYPES[dtype], _CPU, _NATIVE_CPU
    )
    return on_cpu.to(device)


def generate_points(
    config: Configuration, level_shapes: Any, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a layout point_stride with one cell anchor per cell: points (N, 2) and strides (N, 1).

    Two contiguous tensors of an eager call on the CPU; else views of one, which is one launch or one operator.
    """
    if device == _CPU and not _is_watched() and _jit_trace() is None:
        return config.native.generate_points(level_shapes, dtype, _DTYPES[dtype], device)  # type: ignore[no-any-return]
    anchors = generate(config, level_shapes, None, None, False, dtype, device, None)
    return anchors[:, :2], anchors[:, 2:3]


def gather(
    config: Configuration, index: torch.Tensor, level_shapes: Any, image_shape: Any, clip: Any, dtype: torch.dtype
) -> torch.Tensor:
    """The anchors at flat indices [...], int64 or int32, modulo their number: [..., components]."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if index.layout is not torch.strided or index.is_nested:
        raise ValueError(f"index has layout {index.layout} and shape {shape_of(index)}; expected a dense tensor")
    device, native_device = _resolve(index.device)
    if not index.is_contiguous():
        index = index.contiguous()
    if _is_watched() or _jit_trace() is not None or type(index) is not torch.Tensor:
        ours = native_device is not None or index.is_meta
        levels, keywords = _operands(config, _concrete(level_shapes), _concrete(image_shape), _concrete(clip))
        boxes: torch.Tensor = torch.ops.anchor_ext.gather.default(
            index if ours else index.cpu(), *levels, dtype=dtype, clip=_sides("clip", clip), **keywords
        )
        return boxes if ours else boxes.to(device)
    if native_device is not None:
        shape = tuple(index.shape)
        memory = 0 if 0 in shape else _memory("index", index)
        return config.native.gather(  # type: ignore[no-any-return]
            level_shapes, image_shape, clip, memory, index.element_size(), shape, dtype, _DTYPES[dtype], device,
            native_device,
        )  # fmt: skip
    config.native.num_anchors(level_shapes, image_shape, clip)
    if device.type == "meta":
        return torch.empty((*index.shape, config.num_components), dtype=dtype, device=device)
    return gather(config, index.cpu(), level_shapes, image_shape, clip, dtype).to(device)


def inside(
    config: Configuration, level_shapes: Any, image_shape: Any, border: float, dtype: torch.dtype, device: Any
) -> torch.Tensor:
    """[N] bool: whether each anchor of the dtype lies in the image."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if _is_watched():
        levels, keywords = _operands(config, level_shapes, image_shape, None)
        sides = keywords.pop("image_shape")
        return _on_device(
            lambda place: torch.ops.anchor_ext.inside.default(
                *levels, sides, border, dtype=dtype, device=place, **keywords
            ),
            to_device(device),
        )
    if _jit_trace() is not None:
        shapes = (_concrete(level_shapes), _concrete(image_shape))
        with _unseen_by_jit_trace():
            return inside(config, *shapes, border, dtype, device)
    return _flags(config, config.native.inside, level_shapes, (image_shape, border, _DTYPES[dtype]), device)


def valid_flags(
    config: Configuration, level_shapes: Any, image_shape: Any, padded_shape: Any, device: Any
) -> torch.Tensor:
    """[N] bool: whether each anchor's cell lies on the padded image."""
    if _is_watched():
        (grids, strides, _, counts), keywords = _operands(config, level_shapes, image_shape, None)
        return _on_device(
            lambda place: torch.ops.anchor_ext.valid_flags.default(
                grids, strides, counts, _sides("padded_shape", padded_shape), device=place,
                arithmetic=keywords["arithmetic"], image_shape=keywords["image_shape"],
            ),
            to_device(device),
        )  # fmt: skip
    if _jit_trace() is not None:
        shapes = (_concrete(level_shapes), _concrete(image_shape), _concrete(padded_shape))
        with _unseen_by_jit_trace():
            return valid_flags(config, *shapes, device)
    return _flags(config, config.native.valid_flags, level_shapes, (image_shape, padded_shape), device)


def _flags(
    config: Configuration, native: Callable[..., torch.Tensor], level_shapes: Any, others: tuple[Any, ...], device: Any
) -> torch.Tensor:
    device, native_device = _resolve_checked(device)
    if native_device is not None:
        return native(level_shapes, *others, device, native_device)
    if device.type == "meta":
        native([(1, 1)] * len(config.num_cell_anchors), *others, _CPU, _NATIVE_CPU)  # raises what the others would
        return torch.empty(config.native.num_anchors(level_shapes, others[0], None), dtype=torch.bool, device=device)
    return native(level_shapes, *others, _CPU, _NATIVE_CPU).to(device)


def level_shapes(config: Configuration, image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """The grids that `config`'s pyramid levels have over an image."""
    if torch.compiler.is_compiling() or _is_symbolic(image_shape):  # the native library knows no symbols
        height, width = image_shape
        levels = config.pyramid_levels
        return [((height + 2**level - 1) // 2**level, (width + 2**level - 1) // 2**level) for level in levels]
    return config.native.level_shapes(None, image_shape)  # type: ignore[no-any-return]


def level_sizes(config: Configuration, grids: Sequence[Any] | None, image_shape: Any) -> list[int]:
    """The number of anchors of each level."""
    if torch.compiler.is_compiling() or _is_symbolic(image_shape) or _any_symbolic(grids):
        shapes = level_shapes(config, image_shape) if grids is None else grids
        return [rows * columns * a for (rows, columns), a in zip(shapes, config.num_cell_anchors, strict=True)]
    return config.native.level_sizes(grids, image_shape)  # type: ignore[no-any-return]


def _shape(config: Configuration, level_shapes: Any, image_shape: Any, clip: Any, batched: bool) -> tuple[int, ...]:
    shape = (config.native.num_anchors(level_shapes, image_shape, clip), config.num_components)
    return (1, *shape) if batched else shape


def _is_symbolic(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and any(isinstance(side, torch.SymInt) for side in shape)


def _any_symbolic(shapes: Any) -> bool:
    return isinstance(shapes, (tuple, list)) and any(_is_symbolic(shape) for shape in shapes)


def _sides(name: str, shape: Any) -> list[int]:
    """A shape as an operator takes it; in a trace its sides may be symbols, which only the operator can check."""
    if shape is None:
        return []
    concrete = not torch.compiler.is_compiling() and not _is_symbolic(shape)
    return list(_read_image_shape(_concrete(shape), name) if concrete else shape)


def _operands(
    config: Configuration, level_shapes_: Any, image_shape: Any, clip: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the operators take of the configuration, the grids and the image: by position and by name."""
    shape = _sides("image_shape", image_shape) or None
    if level_shapes_ is None:
        shape = shape or list(_read_image_shape(image_shape))
        level_shapes_ = level_shapes(config, shape)
    elif not torch.compiler.is_compiling() and not _any_symbolic(level_shapes_):
        level_shapes_ = _read_level_shapes(_concrete(level_shapes_))
    if not torch.compiler.is_compiling() and not _any_symbolic(level_shapes_):
        given = None if config.pyramid_levels else level_shapes_
        config.native.num_anchors(given, shape, None if _is_symbolic(clip) else clip)  # raises as eager calls
    grids = [side for rows, columns in level_shapes_ for side in (rows, columns)]
    keywords = {**config.keywords, "image_shape": [] if config.pyramid_levels else shape or []}
    return (grids, config.strides, config.cell_anchors, config.num_cell_anchors), keywords


def _on_device(call: Callable[[torch.device], torch.Tensor], device: torch.device) -> torch.Tensor:
    """The result of an operator, which knows the CPU, CUDA and meta, on any device."""
    if device.type in _DEVICES or device.type == "meta":
        return call(device)
    return call(_CPU).to(device)


def _dispatch(
    config: Configuration,
    level_shapes: Any,
    image_shape: Any,
    clip: Any,
    batched: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    operands, keywords = _operands(config, level_shapes, image_shape, clip)
    boxes = _on_device(
        lambda place: torch.ops.anchor_ext.generate.default(
            *operands, dtype=dtype, device=place, clip=_sides("clip", clip), **keywords
        ),
        device,
    )
    return boxes[None] if batched else boxes


def _generate_out(
    config: Configuration,
    level_shapes: Any,
    image_shape: Any,
    clip: Any,
    batched: bool,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor,
) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out is {show(out)}; expected a tensor or None")
    place = out.device
    if device is not None:
        wanted = to_device(device)
        if place.type != wanted.type or (wanted.index is not None and place.index not in (None, wanted.index)):
            raise ValueError(f"out is on device {place}; expected {wanted}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}; expected {dtype}, as the argument dtype says")
    if out.requires_grad:
        raise ValueError("out requires grad; expected a tensor that does not")
    if out.layout is not torch.strided or out.is_nested or not out.is_contiguous():
        raise ValueError(f"out has layout {out.layout} and shape {shape_of(out)}; expected a contiguous tensor")
    if type(out) is not torch.Tensor or _is_watched() or _jit_trace() is not None:
        boxes = generate(config, level_shapes, image_shape, clip, batched, dtype, place, None)
        if out.shape != boxes.shape:
            raise ValueError(f"out has shape {shape_of(out)}; expected {shape_of(boxes)}")
        return out.copy_(boxes)

    shape = _shape(config, level_shapes, image_shape, clip, batched)
    if out.shape != shape:
        raise ValueError(f"out has shape {shape_of(out)}; expected {shape}")
    _, native_device = _resolve(place)
    if native_device is not None:
        memory = _memory("out", out)
        config.native.fill(level_shapes, image_shape, clip, memory, _DTYPES[dtype], native_device, out.get_device())
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)  # the memory changed behind autograd's back
    elif place.type != "meta":
        out.copy_(
            config.native.generate(level_shapes, image_shape, clip, batched, dtype, _DTYPES[dtype], _CPU, _NATIVE_CPU)
        )
    return out


def _memory(name: str, tensor: torch.Tensor) -> int:
    memory, storage = tensor.data_ptr(), tensor.untyped_storage()
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    if memory == 0 or storage.nbytes() < end or tensor.is_neg():
        raise ValueError(
            f"{name} has a storage of {storage.nbytes()} bytes at address {memory}"
            f"{', to be read negated' if tensor.is_neg() else ''}; expected a tensor with {end} bytes of its own"
        )
    return memory
