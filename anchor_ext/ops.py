"""The calls behind the public ones: arguments as the operators take them, and the operators; `generate`'s own eager
way past torch's dispatcher."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from . import (
    _anchor_operators,  # noqa: F401  # registers them
    _box_operators,
    _loss_operators,
    _match_operators,
    _select_operators,
)
from ._arguments import image_shape as _read_image_shape
from ._arguments import is_sequence, shape_of, show
from ._arguments import level_shapes as _read_level_shapes
from ._devices import resolve, to_device
from ._operators import call, is_ours
from ._recording import concrete, default_device, holds, is_compiled, is_recorded, is_symbolic, is_traced
from ._spec import DEVICES, NAMES, Configuration, level_counts, over_image, pyramid_levels

__all__ = [
    "Configuration",
    "best_anchor",
    "box_loss",
    "decode",
    "encode",
    "focal_loss",
    "gather",
    "generate",
    "generate_many",
    "generate_points",
    "inside",
    "level_shapes",
    "level_sizes",
    "match",
    "select",
    "targets",
    "valid_flags",
]

_PAIRS = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # types of twice as many bytes as a dtype's
_CPU = torch.device("cpu")
_MANY = 2**62
_MAX_DEVICES = 64  # that are kept for Configuration.eager: several names per device


# Arguments as the operators take them. What their numbers may be, the native library says, in a graph the operator.


def _name_of(dtype: Any) -> str:
    if not isinstance(dtype, torch.dtype) or dtype not in NAMES:
        _refuse_dtype(dtype)
    return NAMES[dtype]


def _refuse_dtype(dtype: object) -> NoReturn:
    error = ValueError if isinstance(dtype, torch.dtype) else TypeError
    raise error(f"dtype is {show(dtype)}; expected torch.float32, float64, float16 or bfloat16")


def _pair(name: str, shape: Any, expected: str) -> list[Any]:
    """Two sides that may be symbols."""
    good = isinstance(shape, (tuple, list)) and len(shape) == 2
    if not good or any(isinstance(side, (bool, float, str)) for side in shape):
        raise TypeError(f"{name} is {show(shape)}; expected {expected}")
    return [shape[0], shape[1]]


def _is_plain(shape: Any) -> bool:
    """A tuple of two ints that the native library can hold, as nearly every shape is: there is nothing to read."""
    return (
        isinstance(shape, tuple)
        and len(shape) == 2
        and type(shape[0]) is int
        and type(shape[1]) is int
        and (is_compiled() or -_MANY <= shape[0] <= _MANY >= shape[1] >= -_MANY)
    )


def _sides(name: str, shape: Any) -> list[int]:
    """A shape."""
    if _is_plain(shape):
        return [shape[0], shape[1]]
    if not is_compiled() and not is_symbolic(shape):
        return list(_read_image_shape(shape, name))
    return _pair(name, shape, "two positive integers (height, width)")


def _sides_or_none(name: str, shape: Any) -> list[int] | None:
    return None if shape is None else _sides(name, shape)


def _grids(shapes: Any) -> list[int]:
    """Rows and columns, level after level."""
    if isinstance(shapes, (list, tuple)) and shapes and all(map(_is_plain, shapes)):
        return [side for shape in shapes for side in shape]
    if not is_compiled() and not is_symbolic(shapes):
        return [side for shape in _read_level_shapes(shapes) for side in shape]
    if not isinstance(shapes, (tuple, list)):
        raise TypeError(f"level_shapes is {show(shapes)}; expected (rows, columns) per level")
    pairs = [_pair(f"level_shapes[{i}]", shape, "two integers (rows, columns)") for i, shape in enumerate(shapes)]
    return [side for pair in pairs for side in pair]


def _sizes(spec: str, grids: Any, image_shape: Any) -> tuple[list[int] | None, list[int] | None]:
    """level_shapes and image_shape."""
    if grids is None and pyramid_levels(spec):
        return None, _sides("image_shape", image_shape)
    return _grids(grids), _sides_or_none("image_shape", image_shape)


def _can_be_eager(device: Any, place: torch.device) -> bool:
    """Whether the next such call may go past the dispatcher. (An index would equal what is no index: True, 0.0.)"""
    return is_ours(place) and place.type != "meta" and not isinstance(device, int) and len(DEVICES) < _MAX_DEVICES


# What is known of a call without it.


def level_shapes(config: Configuration, image_shape: Any) -> list[tuple[int, int]]:
    """The grids that `config`'s pyramid levels have over an image."""
    sides = _sides("image_shape", image_shape)
    if is_compiled() or is_symbolic(image_shape):  # the native library knows no symbols
        if not is_traced() and (holds(sides[0] < 1) or holds(sides[1] < 1)):
            raise ValueError(f"image_shape is ({sides[0]}, {sides[1]}); expected a height and a width in 1..2**31 - 1")
        return over_image(pyramid_levels(config.spec), sides)
    return config.native.level_shapes(None, sides)  # type: ignore[no-any-return]


def level_sizes(config: Configuration, grids: Any, image_shape: Any) -> list[int]:
    """The number of anchors of each level."""
    counts = level_counts(config.spec)
    if grids is None:
        shapes = level_shapes(config, image_shape)
    else:
        sides = _grids(grids)
        shapes = list(zip(sides[::2], sides[1::2], strict=True))
    if len(shapes) != len(counts):
        raise ValueError(f"level_shapes has {len(shapes)} levels; expected {len(counts)}")
    return [rows * columns * count for (rows, columns), count in zip(shapes, counts, strict=True)]


# The calls.


def generate(
    config: Configuration,
    grids: Any,
    image_shape: Any,
    clip: Any,
    batched: bool,
    dtype: torch.dtype,
    device: Any,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """The call behind `generate`, `Anchors` and `AnchorGrid`; `batched` puts a dimension of 1 before the others."""
    recorded = is_recorded()
    if device is None:
        device = default_device()
    if out is None and not recorded:
        made: torch.Tensor | None = config.eager(grids, image_shape, clip, batched, dtype, device)
        if made is not None:
            return made
    name = _name_of(dtype)
    if out is not None:
        return _generate_out(config, grids, image_shape, clip, batched, dtype, device, out)
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    limits = _sides_or_none("clip", clip)
    if is_traced():  # raises what an eager call would
        config.native.num_anchors(*map(concrete, (level_shapes, sides, limits)))
    like = device if isinstance(device, torch.Tensor) else None
    place = resolve(device) if like is None else like.device
    if not recorded and _can_be_eager(device, place):
        DEVICES.setdefault(device, (place, place.type == "cuda"))
    boxes: torch.Tensor = call(
        "generate", level_shapes, config.spec, dtype=name, device=place, like=like, image_shape=sides, clip=limits
    )
    return boxes.unsqueeze(0) if batched else boxes


def generate_many(config: Configuration, image_shapes: Any, dtype: torch.dtype, device: Any) -> list[torch.Tensor]:
    """The call behind `generate_many`: views of one tensor; in a trace an operator per image."""
    if not is_sequence(image_shapes):
        raise TypeError(f"image_shapes is {show(image_shapes)}; expected a list of (height, width)")
    if not isinstance(image_shapes, (list, tuple)):
        image_shapes = image_shapes.tolist() if hasattr(image_shapes, "tolist") else list(image_shapes)
    name, place = _name_of(dtype), resolve(device)
    if not image_shapes:
        return []
    if is_traced():  # where the sizes of views would not change with the image
        return [generate(config, None, shape, None, True, dtype, device, None) for shape in image_shapes]
    shapes = [_sides(f"image_shapes[{i}]", shape) for i, shape in enumerate(image_shapes)]
    boxes = call("generate_many", [side for shape in shapes for side in shape], config.spec, dtype=name, device=place)
    if is_compiled() or is_symbolic(shapes):
        counts = [sum(level_sizes(config, None, tuple(shape))) for shape in shapes]
    else:
        counts = [config.native.num_anchors(None, shape, None) for shape in shapes]
    return list(torch.split(boxes.unsqueeze(0), counts, dim=1))


def generate_points(
    config: Configuration, grids: Any, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a layout point_stride with one cell anchor per cell: points (N, 2) and strides (N, 1).

    Two contiguous tensors of an eager call on the CPU; else views of one, which is one launch or one operator.
    """
    anchors = generate(config, grids, None, None, False, dtype, device, None)
    if is_recorded() or device != _CPU:
        return anchors[:, :2], anchors[:, 2:3]
    pairs = anchors.view(_PAIRS[dtype.itemsize])[:, :1]  # torch copies them as one number four times faster than as two
    points, strides = (view.clone(memory_format=torch.contiguous_format) for view in (pairs, anchors[:, 2:3]))
    return points.view(dtype), strides


def gather(
    config: Configuration, index: torch.Tensor, grids: Any, image_shape: Any, clip: Any, dtype: torch.dtype
) -> torch.Tensor:
    """The anchors at flat indices [...], int64 or int32, modulo their number: [..., components]."""
    name = _name_of(dtype)
    if index.layout is not torch.strided or index.is_nested:
        raise ValueError(f"index has layout {index.layout} and shape {shape_of(index)}; expected a dense tensor")
    if not index.is_contiguous():
        index = index.contiguous()
    if not is_recorded() and type(index) is torch.Tensor and index.device.type != "meta" and index.numel() > 0:
        _memory("index", index)
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    keywords: dict[str, Any] = {"dtype": name, "image_shape": sides, "clip": _sides_or_none("clip", clip)}
    return call(  # type: ignore[no-any-return]
        "gather", index, level_shapes, config.spec, device=index.device, takes_device=False, **keywords
    )


def inside(
    config: Configuration, grids: Any, image_shape: Any, border: float, dtype: torch.dtype, device: Any
) -> torch.Tensor:
    """[N] bool: whether each anchor of the dtype lies in the image."""
    name = _name_of(dtype)
    level_shapes, _ = _sizes(config.spec, grids, image_shape)
    sides = _sides("image_shape", image_shape)
    return call(  # type: ignore[no-any-return]
        "inside", level_shapes, config.spec, sides, border, dtype=name, device=resolve(device)
    )


def valid_flags(config: Configuration, grids: Any, image_shape: Any, padded_shape: Any, device: Any) -> torch.Tensor:
    """[N] bool: whether each anchor's cell lies on the padded image."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    padded = _sides("padded_shape", padded_shape)
    return call(  # type: ignore[no-any-return]
        "valid_flags", level_shapes, config.spec, padded, device=resolve(device), image_shape=sides
    )


def match(
    config: Configuration,
    boxes: Any,
    grids: Any,
    image_shape: Any,
    clip: Any,
    options: tuple[Any, Any, Any, Any],
    matcher: Any,
    return_iou: bool,
    ignored: Any,
) -> Any:
    """The call behind `Anchors.match` and `AnchorGrid.match`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    limits = _sides_or_none("clip", clip)
    return _match_operators.match(config, boxes, level_shapes, sides, limits, options, matcher, return_iou, ignored)


def best_anchor(
    config: Configuration, boxes: Any, grids: Any, image_shape: Any, clip: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The call behind `anchor_ext.fit.best_iou`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    return _match_operators.best_anchor(config, boxes, level_shapes, sides, _sides_or_none("clip", clip))


def decode(
    config: Configuration, deltas: Any, grids: Any, image_shape: Any, coder: Any, index: Any, clip: Any
) -> torch.Tensor:
    """The call behind `Anchors.decode` and `AnchorGrid.decode`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    return _box_operators.decode(config, deltas, level_shapes, sides, coder, index, clip)


def encode(config: Configuration, boxes: Any, index: Any, grids: Any, image_shape: Any, coder: Any) -> torch.Tensor:
    """The call behind `Anchors.encode` and `AnchorGrid.encode`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    return _box_operators.encode(config, boxes, index, level_shapes, sides, coder)


def targets(
    config: Configuration, boxes: Any, labels: Any, matched: Any, grids: Any, image_shape: Any, coder: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The call behind `Anchors.targets` and `AnchorGrid.targets`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    return _box_operators.targets(config, boxes, labels, matched, level_shapes, sides, coder)


def focal_loss(logits: Any, matched: Any, labels: Any, alpha: Any, gamma: Any, normalize: Any) -> torch.Tensor:
    """The call behind `anchor_ext.losses.focal_loss`."""
    return _loss_operators.focal_loss(logits, matched, labels, alpha, gamma, normalize)


def box_loss(
    config: Configuration,
    deltas: Any,
    matched: Any,
    boxes: Any,
    grids: Any,
    image_shape: Any,
    kind: Any,
    beta: Any,
    coder: Any,
    normalize: Any,
) -> torch.Tensor:
    """The call behind `anchor_ext.losses.box_loss`."""
    level_shapes, sides = _sizes(config.spec, grids, image_shape)
    return _loss_operators.box_loss(config, deltas, matched, boxes, level_shapes, sides, kind, beta, coder, normalize)


def select(logits: Any, score_threshold: Any, topk_per_level: Any, level_sizes: Any, num_classes: Any) -> Any:
    """The call behind `anchor_ext.select`."""
    return _select_operators.select(logits, score_threshold, topk_per_level, level_sizes, num_classes)


# Writing into a tensor of the caller's.


def _generate_out(
    config: Configuration,
    grids: Any,
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
    if type(out) is not torch.Tensor or is_recorded() or not is_ours(place):
        made_on = place if is_ours(place) else _CPU
        boxes = generate(config, grids, image_shape, clip, batched, dtype, made_on, None)
        if out.shape != boxes.shape:
            raise ValueError(f"out has shape {shape_of(out)}; expected {shape_of(boxes)}")
        return out.copy_(boxes)

    sizes = (*_sizes(config.spec, grids, image_shape), _sides_or_none("clip", clip))
    shape = (*(1,) * batched, config.native.num_anchors(*sizes), config.native.num_components)
    if out.shape != shape:
        raise ValueError(f"out has shape {shape_of(out)}; expected {shape}")
    if place.type != "meta" and out.numel() > 0:
        resolve(place)
        config.native.fill(*sizes, NAMES[dtype], _memory("out", out), place.type == "cuda", out.get_device())
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)  # the memory changed behind autograd's back
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
