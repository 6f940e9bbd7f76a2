"""The calls behind the public ones: eager straight into the native library, in graphs by the operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch

from . import _graphs
from ._arguments import shape_of, show
from ._graphs import is_traced, is_watched
from ._library import native

__all__ = [
    "RESOLVED",
    "Configuration",
    "gather",
    "generate",
    "generate_many",
    "generate_points",
    "inside",
    "is_compiled",
    "valid_flags",
]

_DTYPES = {
    torch.float32: native.Dtype.float32,
    torch.float64: native.Dtype.float64,
    torch.float16: native.Dtype.float16,
    torch.bfloat16: native.Dtype.bfloat16,
}
_PAIRS = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # types of twice as many bytes as a dtype's
_DEVICES = {"cpu": native.Device.cpu, "cuda": native.Device.cuda}
_CPU, _NATIVE_CPU = torch.device("cpu"), native.Device.cpu
_BUILT_WITH_CUDA = native.build_info()["cuda"] is not None
_DEVICE_TYPES = (torch.device, type(None), str, int)
_EXPECTED_DEVICE = 'expected a torch.device, its name such as "cuda:0" or its index, or None'


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
        self.native = native.Config(cell_anchors, strides, offsets, starts, pyramid_levels, arithmetic, layout)
        self.quick = self.native.quick
        self.num_components: int = self.native.num_components
        self.pyramid_levels = list(pyramid_levels)
        self.num_cell_anchors = [len(level) // self.num_components for level in cell_anchors]
        self.strides = _flat(strides) or None
        self.cell_anchors = _flat(cell_anchors)
        self.offsets = _flat(offsets) or None
        self.starts = _flat(starts) or None
        self.arithmetic = arithmetic
        self.layout = layout

    def numbers(self) -> tuple[Any, ...]:
        """All that it consists of, as the operators take it.

        Copies: the compiler would compare lists of a constant with those that it meets by way of an attribute.
        """
        strides, offsets, starts = (numbers and list(numbers) for numbers in (self.strides, self.offsets, self.starts))
        return (
            strides, list(self.cell_anchors), list(self.num_cell_anchors), offsets, starts, self.arithmetic,
            self.layout, list(self.pyramid_levels),
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "quick"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.quick = self.native.quick

    # To the compiler it is a constant, and another one is another graph. (By default every float in its lists would
    # become an input of the graph.) torch 2.11 asks that such a class be registered, which these two are for.

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Configuration) and repr(self.numbers()) == repr(other.numbers()))

    def __hash__(self) -> int:
        return hash(repr(self.numbers()))


torch.utils._pytree.register_constant(Configuration)


def _flat(lists: Iterable[Iterable[float]]) -> list[float]:
    return [float(number) for numbers in lists for number in numbers]


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


# From what users pass for a device to it, and whether it is CUDA: for Configuration.quick.
RESOLVED: dict[Any, tuple[torch.device, bool]] = {}
_MAX_RESOLVED = 64  # several per device
is_compiled = torch.compiler.is_dynamo_compiling


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


def _resolve_checked(device: Any) -> tuple[torch.device, Any]:
    if not isinstance(device, _DEVICE_TYPES):
        raise TypeError(f"device is {show(device)}; {_EXPECTED_DEVICE}")
    return _resolve(device)


def _in_graph(device: Any) -> torch.device:
    """The device of what is recorded; of a trace, one that there is: it runs as it is recorded."""
    return _resolve_checked(device)[0] if is_traced() else to_device(device)


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
    if not is_compiled():
        boxes: torch.Tensor | None = config.quick(
            level_shapes, image_shape, clip, batched, dtype, device, RESOLVED, out
        )
        if boxes is not None:
            return boxes
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if out is not None:
        return _generate_out(config, level_shapes, image_shape, clip, batched, dtype, device, out)
    if is_watched() or is_traced():
        if is_traced():  # raises what an eager call would
            config.native.num_anchors(*map(_graphs.concrete, (level_shapes, image_shape, clip)))
        boxes = _graphs.generate(config, level_shapes, image_shape, clip, dtype, _in_graph(device))
        return boxes.unsqueeze(0) if batched else boxes
    given = device
    device, native_device = _resolve_checked(given)
    if native_device is not None:
        if len(RESOLVED) < _MAX_RESOLVED:
            RESOLVED.setdefault(given, (device, native_device is not _NATIVE_CPU))  # for the quick way, the next time
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


def generate_many(config: Configuration, image_shapes: Any, dtype: torch.dtype, device: Any) -> list[torch.Tensor]:
    """The call behind `generate_many`: views of one tensor; in a graph an operator per image."""
    if isinstance(image_shapes, (str, bytes)) or not isinstance(image_shapes, Sequence):
        raise TypeError(f"image_shapes is {show(image_shapes)}; expected a list of (height, width)")
    if is_compiled() or is_watched() or is_traced():
        return [generate(config, None, shape, None, True, dtype, device, None) for shape in image_shapes]
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    device, native_device = _resolve_checked(device)
    if not image_shapes:
        return []
    if device.type == "meta":
        return [generate(config, None, shape, None, True, dtype, device, None) for shape in image_shapes]
    place = (device, native_device) if native_device is not None else (_CPU, _NATIVE_CPU)
    boxes, counts = config.native.generate_many(list(image_shapes), dtype, _DTYPES[dtype], *place)
    return list(torch.split(boxes.to(device), counts, dim=1))


def generate_points(
    config: Configuration, level_shapes: Any, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a layout point_stride with one cell anchor per cell: points (N, 2) and strides (N, 1).

    Two contiguous tensors of an eager call on the CPU; else views of one, which is one launch or one operator.
    """
    anchors = generate(config, level_shapes, None, None, False, dtype, device, None)
    if device != _CPU or is_watched() or is_traced():
        return anchors[:, :2], anchors[:, 2:3]
    pairs = anchors.view(_PAIRS[dtype.itemsize])[:, :1]  # torch copies them as one number four times faster than as two
    points, strides = (view.clone(memory_format=torch.contiguous_format) for view in (pairs, anchors[:, 2:3]))
    return points.view(dtype), strides


def gather(
    config: Configuration, index: torch.Tensor, level_shapes: Any, image_shape: Any, clip: Any, dtype: torch.dtype
) -> torch.Tensor:
    """The anchors at flat indices [...], int64 or int32, modulo their number: [..., components]."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        _refuse_dtype(dtype)
    if index.layout is not torch.strided or index.is_nested:
        raise ValueError(f"index has layout {index.layout} and shape {shape_of(index)}; expected a dense tensor")
    if not index.is_contiguous():
        index = index.contiguous()
    if is_watched() or is_traced() or type(index) is not torch.Tensor:
        return _graphs.gather(config, index, level_shapes, image_shape, clip, dtype)
    device, native_device = _resolve(index.device)
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
    if is_watched() or is_traced():
        return _graphs.inside(config, level_shapes, image_shape, border, dtype, _in_graph(device))
    return _flags(config, config.native.inside, level_shapes, (image_shape, border, _DTYPES[dtype]), device)


def valid_flags(
    config: Configuration, level_shapes: Any, image_shape: Any, padded_shape: Any, device: Any
) -> torch.Tensor:
    """[N] bool: whether each anchor's cell lies on the padded image."""
    if is_watched() or is_traced():
        return _graphs.valid_flags(config, level_shapes, image_shape, padded_shape, _in_graph(device))
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


def _shape(config: Configuration, level_shapes: Any, image_shape: Any, clip: Any, batched: bool) -> tuple[int, ...]:
    shape = (config.native.num_anchors(level_shapes, image_shape, clip), config.num_components)
    return (1, *shape) if batched else shape


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
    if type(out) is not torch.Tensor or is_watched() or is_traced():
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
    begin = tensor.storage_offset() * tensor.element_size()
    end = begin + tensor.numel() * tensor.element_size()
    if memory in (0, begin) or storage.nbytes() < end or tensor.is_neg():
        raise ValueError(
            f"{name} has a storage of {storage.nbytes()} bytes at address {max(memory - begin, 0)}"
            f"{', to be read negated' if tensor.is_neg() else ''}; expected a tensor with {end} bytes of its own"
        )
    return memory
