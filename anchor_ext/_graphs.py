"""What programs that record torch's operators see of anchor_ext: compilers, exporters, tracers, modes, transforms."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from . import _torchscript
from ._arguments import image_shape as _read_image_shape
from ._arguments import level_shapes as _read_level_shapes
from ._arguments import show
from ._core import MAX_CELL_ANCHORS
from ._library import native

if TYPE_CHECKING:
    from .ops import Configuration

__all__ = [
    "COMPONENTS",
    "concrete",
    "constant_to_the_compiler",
    "constants",
    "gather",
    "generate",
    "inside",
    "is_traced",
    "is_watched",
    "level_shapes",
    "level_sizes",
    "valid_flags",
]

# Of an anchor, by layout.
COMPONENTS: dict[str, int] = {name: layout[0] for name, layout in native.LAYOUTS.items()}

# The operators' dtype is a name: torch 2.11's AOTInductor takes float32 for float64 where it is a ScalarType.
_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_to_the_compiler(function: _Function) -> _Function:
    """What torch.compiler.assume_constant_result does but for importing the compiler, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# Looked up once: together these questions would cost as much as a small fill.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_jit_trace = torch._C._get_tracing_state


def is_watched() -> bool:
    """Whether torch's operators are compiled, exported, faked, logged or transformed: ours must be seen among them."""
    return _is_compiling() or _dispatch_modes() > 0 or _transforms() is not None


def is_traced() -> bool:
    """Whether torch.jit.trace records what happens."""
    return _jit_trace() is not None


@contextlib.contextmanager
def _unseen_by_trace() -> Iterator[None]:
    """What is made in here is a constant of the trace, and no reason for it to warn."""
    state = _jit_trace()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


# The fake kernels: what the operators return, without the numbers. Their signatures are the schemas in ops.cpp.


def _known(sides: Sequence[int] | None) -> list[int] | None:
    return None if sides is None else [side if isinstance(side, int) else 1 for side in sides]


def _count(
    level_shapes: Sequence[int],
    strides: Sequence[float] | None,
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    offsets: Sequence[float] | None = None,
    starts: Sequence[float] | None = None,
    arithmetic: str = "float64",
    layout: str = "xyxy",
    image_shape: Sequence[int] | None = None,
    clip: Sequence[int] | None = None,
) -> int:
    """The number of anchors. Raises what the operator would raise, as far as it does not hang on symbols."""
    native.check(
        _known(level_shapes), strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout,
        _known(image_shape), _known(clip),
    )  # fmt: skip
    levels = zip(level_shapes[::2], level_shapes[1::2], num_cell_anchors, strict=True)
    return sum(rows * columns * count for rows, columns, count in levels)


def _dtype_of(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ValueError(f"dtype is {name!r}; expected {', '.join(_DTYPES)}")
    dtype: torch.dtype = _DTYPES[name]
    return dtype


@torch.library.register_fake("anchor_ext::generate")  # type: ignore[untyped-decorator]
def _(*arguments: Any, dtype: str, device: torch.device, **keywords: Any) -> Tensor:
    shape = (_count(*arguments, **keywords), COMPONENTS[keywords.get("layout", "xyxy")])
    return torch.empty(shape, dtype=_dtype_of(dtype), device=device)


@torch.library.register_fake("anchor_ext::gather")  # type: ignore[untyped-decorator]
def _(index: Tensor, *arguments: Any, dtype: str, **keywords: Any) -> Tensor:
    if index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"index has dtype {index.dtype}; expected int64 or int32")
    _count(*arguments, **keywords)
    shape = (*index.shape, COMPONENTS[keywords.get("layout", "xyxy")])
    return torch.empty(shape, dtype=_dtype_of(dtype), device=index.device)


@torch.library.register_fake("anchor_ext::inside")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float] | None,
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    image_shape: Sequence[int],
    border: float = 0.0,
    *,
    dtype: str,
    device: torch.device,
    **keywords: Any,
) -> Tensor:
    _dtype_of(dtype)
    count = _count(level_shapes, strides, cell_anchors, num_cell_anchors, image_shape=image_shape, **keywords)
    return torch.empty(count, dtype=torch.bool, device=device)


@torch.library.register_fake("anchor_ext::valid_flags")  # type: ignore[untyped-decorator]
def _(
    level_shapes: Sequence[int],
    strides: Sequence[float] | None,
    num_cell_anchors: Sequence[int],
    padded_shape: Sequence[int],
    *,
    device: torch.device,
    **keywords: Any,
) -> Tensor:
    _read_image_shape(_known(padded_shape), "padded_shape")
    points = [0.0, 0.0] * sum(count for count in num_cell_anchors if 0 < count <= MAX_CELL_ANCHORS)
    count = _count(level_shapes, strides, points, num_cell_anchors, layout="point", **keywords)
    return torch.empty(count, dtype=torch.bool, device=device)


# The grids, from sides that may be symbols.


def constants(numbers: Any) -> Any:
    """Numbers in lists that the compiler may have made symbols of, as such again."""
    if isinstance(numbers, (list, tuple)):
        return [constants(number) for number in numbers]
    if not isinstance(numbers, (int, float)):
        return numbers
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(numbers)


def _is_symbol(side: object) -> bool:
    return isinstance(side, torch.SymInt) or (isinstance(side, Tensor) and is_traced())


def _is_symbolic(shape: Any) -> bool:
    """Whether a shape has sides that only a graph, when it runs, will know."""
    return isinstance(shape, (tuple, list)) and any(map(_is_symbol, shape))


def _are_symbolic(shapes: Any) -> bool:
    return isinstance(shapes, (tuple, list)) and any(map(_is_symbolic, shapes))


def _holds(condition: Any) -> bool:
    """Whether a condition is known to hold; one on numbers that only a running graph knows is the operator's."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def concrete(shapes: Any) -> Any:
    """Shapes whose sides torch.jit.trace has made tensors, as numbers."""
    if isinstance(shapes, Tensor) and shapes.ndim == 0:
        with _unseen_by_trace():
            return int(shapes)
    if isinstance(shapes, (tuple, list)):
        return (tuple if isinstance(shapes, tuple) else list)(map(concrete, shapes))
    return shapes


def _checked(name: str, shape: Any, least: int, sides: str) -> list[Any]:
    """Two sides that may be symbols; what they are when the graph runs, the operator looks at."""
    expected = f"two {'positive integers' if least else 'integers >= 0'} ({sides})"
    good = isinstance(shape, (tuple, list)) and len(shape) == 2
    if not good or any(isinstance(side, (bool, float, str)) for side in shape):
        raise TypeError(f"{name} is {show(shape)}; expected {expected}")
    first, second = shape
    traced = isinstance(first, Tensor) or isinstance(second, Tensor)  # what they are in it has been checked
    if not traced and (_holds(first < least) or _holds(second < least)):
        raise ValueError(f"{name} is ({first}, {second}); expected {expected}")
    return [first, second]


def _sides(name: str, shape: Any) -> list[int] | None:
    """A shape as an operator takes it."""
    if shape is None:
        return None
    if not torch.compiler.is_dynamo_compiling() and not _is_symbolic(shape):
        return list(_read_image_shape(shape, name))
    return _checked(name, shape, 0 if name == "padded_shape" else 1, "height, width")


def _grids(shapes: Any) -> list[Any]:
    if not torch.compiler.is_dynamo_compiling() and not _are_symbolic(shapes):
        return _read_level_shapes(shapes)
    if not isinstance(shapes, (tuple, list)):
        raise TypeError(f"level_shapes is {show(shapes)}; expected (rows, columns) per level")
    return [_checked(f"level_shapes[{i}]", shape, 0, "rows, columns") for i, shape in enumerate(shapes)]


def _over_image(pyramid_levels: Sequence[int], image_shape: Sequence[int]) -> list[tuple[int, int]]:
    height, width = image_shape
    return [((height + 2**level - 1) // 2**level, (width + 2**level - 1) // 2**level) for level in pyramid_levels]


def level_shapes(config: Configuration, image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """The grids that `config`'s pyramid levels have over an image."""
    if torch.compiler.is_compiling() or _is_symbolic(image_shape):  # the native library knows no symbols
        return _over_image(_numbers(config)[-1], _sides("image_shape", image_shape) or _read_image_shape(image_shape))
    return config.native.level_shapes(None, image_shape)  # type: ignore[no-any-return]


def level_sizes(config: Configuration, grids: Sequence[Any] | None, image_shape: Any) -> list[int]:
    """The number of anchors of each level."""
    if torch.compiler.is_compiling() or _is_symbolic(image_shape) or _are_symbolic(grids):
        shapes = level_shapes(config, image_shape) if grids is None else _grids(grids)
        counts = _numbers(config)[2]
        if len(shapes) != len(counts):
            raise ValueError(f"level_shapes has {len(shapes)} levels; expected {len(counts)}")
        return [rows * columns * count for (rows, columns), count in zip(shapes, counts, strict=True)]
    return config.native.level_sizes(grids, image_shape)  # type: ignore[no-any-return]


# Calls of the operators.


@constant_to_the_compiler
def _constant_numbers(config: Configuration) -> tuple[Any, ...]:
    return config.numbers()


def _numbers(config: Configuration | tuple[Any, ...]) -> tuple[Any, ...]:
    """A configuration's; one that was made inside of what is compiled is nothing else."""
    numbers: tuple[Any, ...] = config if isinstance(config, tuple) else _constant_numbers(config)
    return numbers


def _operands(config: Configuration, grids: Any, image_shape: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the operators take of the configuration, the grids and the image: by position and by name."""
    strides, cell_anchors, num_cell_anchors, offsets, starts, arithmetic, layout, pyramid_levels = _numbers(config)
    shape = _sides("image_shape", image_shape)
    over = _over_image(pyramid_levels, shape or _read_image_shape(image_shape)) if grids is None else _grids(grids)
    keywords = {
        "offsets": offsets,
        "starts": starts,
        "arithmetic": arithmetic,
        "layout": layout,
        "image_shape": None if pyramid_levels else shape,
    }
    flat = [side for rows, columns in over for side in (rows, columns)]
    return (flat, strides, cell_anchors, num_cell_anchors), keywords


def _operator(name: str) -> Callable[..., Tensor]:
    """The operator; in a trace, a scripted function that calls it and takes its sizes as tensors."""
    if not is_traced():
        operator: Callable[..., Tensor] = getattr(torch.ops.anchor_ext, name).default
        return operator

    def tensors(sides: Any) -> Any:
        if sides is None:
            return None
        with _unseen_by_trace():
            return [side if isinstance(side, Tensor) else torch.tensor(side, device="cpu") for side in sides]

    def call(*operands: Any, **keywords: Any) -> Tensor:
        first = 1 if name == "gather" else 0  # index
        last = {"inside": 4, "valid_flags": 3}.get(name)  # image_shape, padded_shape
        sized = [tensors(operand) if i in (first, last) else operand for i, operand in enumerate(operands)]
        for key in ("image_shape", "clip"):
            if key in keywords:
                keywords[key] = tensors(keywords[key])
        boxes: Tensor = _torchscript.scripted(name)(*sized, **keywords)
        return boxes

    return call


def _on_device(call: Callable[[torch.device], Tensor], device: torch.device) -> Tensor:
    """The result of an operator, which knows the CPU, CUDA and meta, on any device."""
    if device.type in ("cpu", "cuda", "meta"):
        return call(device)
    return call(torch.device("cpu")).to(device)


def generate(
    config: Configuration, grids: Any, image_shape: Any, clip: Any, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[N, components], by the operator."""
    operands, keywords = _operands(config, grids, image_shape)
    call = functools.partial(
        _operator("generate"), *operands, dtype=_NAMES[dtype], clip=_sides("clip", clip), **keywords
    )
    return _on_device(lambda place: call(device=place), device)


def gather(config: Configuration, index: Tensor, grids: Any, image_shape: Any, clip: Any, dtype: torch.dtype) -> Tensor:
    """[..., components], by the operator."""
    operands, keywords = _operands(config, grids, image_shape)
    ours = index.device.type in ("cpu", "cuda", "meta")
    boxes = _operator("gather")(
        index if ours else index.cpu(), *operands, dtype=_NAMES[dtype], clip=_sides("clip", clip), **keywords
    )
    return boxes if ours else boxes.to(index.device)


def inside(
    config: Configuration, grids: Any, image_shape: Any, border: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[N] bool, by the operator."""
    operands, keywords = _operands(config, grids, image_shape)
    sides = keywords.pop("image_shape")
    call = functools.partial(_operator("inside"), *operands, sides, border, dtype=_NAMES[dtype], **keywords)
    return _on_device(lambda place: call(device=place), device)


def valid_flags(config: Configuration, grids: Any, image_shape: Any, padded_shape: Any, device: torch.device) -> Tensor:
    """[N] bool, by the operator."""
    (flat, strides, _, counts), keywords = _operands(config, grids, image_shape)
    call = functools.partial(
        _operator("valid_flags"), flat, strides, counts, _sides("padded_shape", padded_shape),
        arithmetic=keywords["arithmetic"], image_shape=keywords["image_shape"],
    )  # fmt: skip
    return _on_device(lambda place: call(device=place), device)
