"""RetinaNet's anchors: from an image's shape to every anchor of its feature pyramid."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _arguments, _torchscript, ops
from ._core import MAX_CELL_ANCHORS
from ._recording import constant_to_the_compiler, constants, is_compiled, is_proxy, place_of
from ._spec import Configuration, level_counts, pyramid_levels
from .coders import BoxCoder
from .matchers import Rule

__all__ = ["Anchors", "UnusualAnchorsWarning", "generate", "generate_many"]

_PYRAMID_LEVELS = (3, 4, 5, 6, 7)
_RATIOS = (0.5, 1.0, 2.0)
_SCALES = (2**0, 2 ** (1.0 / 3.0), 2 ** (2.0 / 3.0))


def _cell_anchor(size: float, ratio: float, scale: float) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around the origin: area (size * scale)**2, height / width = ratio (RetinaNet, section 4).

    Float64, in the order of operations that the exactness promise is made for.
    """
    side = size * scale
    width = math.sqrt(side * side / ratio)
    height = width * ratio
    return 0.0 - width * 0.5, 0.0 - height * 0.5, width - width * 0.5, height - height * 0.5


class UnusualAnchorsWarning(UserWarning):
    """Arguments that are valid, and hardly ever meant."""


def _warn(message: str) -> None:
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("anchor_ext."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UnusualAnchorsWarning, stacklevel=level)


def _warn_of_pairs(name: str, value: Any, remedy: str) -> None:
    """A list of pairs is read as two numbers for each level, which few who write one mean."""
    if isinstance(value, list) and value and all(type(item) is tuple and len(item) == 2 for item in value):
        _warn(
            f"{name} is {_arguments.show(value)}, which is read as two {name} for each pyramid level. {remedy} Who "
            f"means two {name} per level writes lists: {name}=[[{value[0][0]}, {value[0][1]}], ...]"
        )


def _warn_of_strides(levels: Sequence[int], strides: Sequence[tuple[float, float]]) -> None:
    for level, (stride_y, stride_x) in zip(levels, strides, strict=True):
        for stride in (stride_y, stride_x):
            if not 0.5 < stride / 2**level < 1.5:
                _warn(
                    f"strides has {stride:g} for pyramid level {level}, whose grid has a cell per {2**level} pixels: "
                    f"its centres end at about {stride / 2**level:.2g} times the image's side. The stride of a level "
                    "is 2**level, the default: strides [4, 8] go with pyramid_levels [2, 3]"
                )
                return


class SpecInState(nn.Module):
    """The part of a state_dict that says which anchors a checkpoint was trained with."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        self._spec = spec

    def get_extra_state(self) -> str:
        return self._spec

    def set_extra_state(self, state: str) -> None:
        """Nothing is set: what differs, `_load_from_state_dict` has said."""

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        key = f"{prefix}_extra_state"
        spec = state_dict.get(key, self._spec)
        if spec != self._spec:
            message = f"{key} is of other anchors: {_difference(spec, self._spec)}"
            unexpected.append(message)  # an error where the caller is strict, which nobody tells us
            _warn(message)


def _difference(checkpoint: Any, model: str) -> str:
    try:
        theirs, ours = Configuration.of_text(checkpoint).native, Configuration(model).native
    except (TypeError, ValueError):
        return f"the checkpoint has {_arguments.show(checkpoint)}"
    names = ("pyramid_levels", "strides", "num_cell_anchors", "cell_anchors")
    name = next((name for name in names if getattr(theirs, name) != getattr(ours, name)), "spec")
    values = [_arguments.show(getattr(spec, name, None)) for spec in (theirs, ours)]
    return f"the checkpoint's {name} {values[0]}, the model's {values[1]}"


class Anchors(nn.Module):
    """Every anchor of a feature pyramid, from an image or its shape, in one launch or one CPU pass.

    The defaults are RetinaNet's (Lin et al., "Focal Loss for Dense Object Detection", section 4): per cell of each
    level, nine anchors of three ratios and three scales.

    A level's grid has `ceil(image / 2**level)` rows and columns, and the anchors of cell (row, column) are its
    cell anchors (around the origin) moved to `((column + 0.5) * stride_x, (row + 0.5) * stride_y)`. A cell anchor of a
    size, ratio and scale has `width = sqrt((size * scale)**2 / ratio)` and `height = width * ratio`. All of it is
    computed in float64 and rounded once to the output type. Order: level, row, column, cell anchor; cell anchors
    run over sizes, then ratios, then scales, the last fastest.

    The module has no parameters, no buffers and, unless `spec_in_state_dict`, an empty `state_dict`; it can be
    pickled, copied and shared by threads. What it was made from is fixed.

    Args:
        pyramid_levels: distinct integers in 0..30; default `[3, 4, 5, 6, 7]`. At most 16.
        strides: pixels between centres, one per level: a number, or a pair `(stride_y, stride_x)`. Default
            `2**level`.
        sizes: side in pixels of the square that a level's cell anchors start from, one per level, or a list per
            level. Default `2**(level + 2)`.
        ratios: height / width; a list, or one list per level. Default `[0.5, 1, 2]`.
        scales: factors of the sizes; a list, or one list per level. Default `[2**0, 2**(1/3), 2**(2/3)]`.
        spec_in_state_dict: whether the `state_dict` holds the spec, so that a checkpoint with other anchors is refused
            (by a warning where `load_state_dict` is not strict).

    Raises:
        TypeError, ValueError: an argument has the wrong type, length or value (sizes, ratios, scales and strides
            are finite and positive), or there are more than 512 cell anchors over all levels.

    Warns:
        UnusualAnchorsWarning: a level's centres end before half the image or as far beyond it; or sizes or ratios are
            pairs, as if they were widths and heights.
    """

    def __init__(
        self,
        pyramid_levels: Sequence[int] | None = None,
        strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
        sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
        scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
        *,
        spec_in_state_dict: bool = False,
    ) -> None:
        super().__init__()
        levels = _arguments.levels(_PYRAMID_LEVELS if pyramid_levels is None else pyramid_levels)
        count = len(levels)
        _warn_of_pairs("sizes", sizes, "Widths and heights are what Anchors.from_boxes takes.")
        _warn_of_pairs("ratios", ratios, "A ratio is one number, height / width: [0.5, 1, 2].")
        pairs = _arguments.stride_pairs([2**level for level in levels] if strides is None else strides, count)
        of_sizes = _arguments.per_level(
            "sizes", [2 ** (level + 2) for level in levels] if sizes is None else sizes, count, one_each=True
        )
        of_ratios = _arguments.per_level("ratios", _RATIOS if ratios is None else ratios, count)
        of_scales = _arguments.per_level("scales", _SCALES if scales is None else scales, count)
        _check_total(of_sizes, of_ratios, of_scales)
        cell_anchors = [_cell_anchors_of(level, of_sizes, of_ratios, of_scales) for level in range(count)]
        self._set(cell_anchors, levels, pairs, spec_in_state_dict)
        self._made_from: Any = (of_sizes, of_ratios, of_scales)

    def _set(
        self,
        cell_anchors: Sequence[Sequence[Sequence[float]]],
        levels: Sequence[int],
        strides: Sequence[tuple[float, float]],
        spec_in_state_dict: bool,
    ) -> None:
        _warn_of_strides(levels, strides)
        numbers = [[number for box in level for number in box] for level in cell_anchors]
        self._config = Configuration.of(numbers, strides, pyramid_levels=levels)
        self._made_from = (None, None, None)
        if spec_in_state_dict:
            self.in_state_dict = SpecInState(self._config.spec)

    @classmethod
    def from_boxes(
        cls,
        boxes: Sequence[Sequence[Sequence[float]]],
        pyramid_levels: Sequence[int] | None = None,
        strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
        *,
        spec_in_state_dict: bool = False,
    ) -> Anchors:
        """Of explicit widths and heights, such as k-means gives.

        Args:
            boxes: per level a list of pairs (width, height) in pixels, finite and positive.
            pyramid_levels, strides, spec_in_state_dict: as for `Anchors`.

        Raises:
            TypeError, ValueError: as for `Anchors`.

        Warns:
            UnusualAnchorsWarning: as for `Anchors`.
        """
        levels = _arguments.levels(_PYRAMID_LEVELS if pyramid_levels is None else pyramid_levels)
        pairs = _arguments.stride_pairs([2**level for level in levels] if strides is None else strides, len(levels))
        made = cls._empty()
        made._set(
            [
                [(0.0 - w * 0.5, 0.0 - h * 0.5, w - w * 0.5, h - h * 0.5) for w, h in level]
                for level in _arguments.widths_and_heights(boxes, len(levels))
            ],
            levels,
            pairs,
            spec_in_state_dict,
        )
        return made

    @classmethod
    def from_spec(cls, spec: str, *, spec_in_state_dict: bool = False) -> Anchors:
        """Of the text that `spec` gives; docs/operators.md has its grammar.

        Raises:
            TypeError, ValueError: `spec` is no such text, or one whose grids follow from no image (`AnchorGrid`'s).
        """
        config = Configuration.of_text(spec)
        if not pyramid_levels(config.spec):
            raise ValueError("spec has no pyramid levels; expected one that has, or AnchorGrid.from_spec")
        if config.native.layout != "xyxy" or config.native.arithmetic != "float64":
            raise ValueError(
                f"spec has layout {config.native.layout} and arithmetic {config.native.arithmetic}; expected xyxy and "
                "float64"
            )
        made = cls._empty()
        made._config, made._made_from = config, (None, None, None)
        if spec_in_state_dict:
            made.in_state_dict = SpecInState(config.spec)
        return made

    @classmethod
    def _empty(cls) -> Anchors:
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            raise AttributeError(
                f"{name} of Anchors is fixed when it is made; make another one, such as Anchors({name}=...)"
            )
        super().__setattr__(name, value)

    def __prepare_scriptable__(self) -> nn.Module:  # torch's hook: what torch.jit.script compiles in its place
        return _torchscript.ScriptedAnchors(self._config.spec)

    def forward(self, image: Tensor) -> Tensor:
        """Anchors of an image, whatever its dtype and autocast.

        Args:
            image: `(B, C, H, W)` or `(C, H, W)`; only its shape and device are used.

        Returns:
            `(1, N, 4)` float32 on the image's device: x1, y1, x2, y2 in pixels of the image.

        Raises:
            TypeError, ValueError: `image` is no tensor of three or four dimensions with positive H and W.
            RuntimeError: the image is on a CUDA device and anchor_ext was built without CUDA.
        """
        if not isinstance(image, Tensor):
            if is_proxy(image):
                return _torchscript.anchors_of_checked(image, self._config.spec)
            raise TypeError(f"image is {_arguments.show(image)}; expected a tensor (B, C, H, W) or (C, H, W)")
        if image.is_nested:
            raise ValueError("image is a nested tensor; expected (B, C, H, W) or (C, H, W)")
        shape = image.shape
        # (A side that is no int is a symbol, which is looked at later on.)
        if len(shape) not in (3, 4) or (type(shape[-1]) is int and 0 in shape[-2:]):
            raise ValueError(f"image has shape {tuple(shape)}; expected (B, C, H, W) or (C, H, W) with H, W > 0")
        return ops.generate(self._config, None, shape[-2:], None, True, torch.float32, place_of(image), None)

    def generate(
        self,
        image_shape: Sequence[int],
        *,
        clip: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Anchors of an image's shape; see `anchor_ext.generate` for arguments, result and errors.

        `clip`: `(H, W)` of an image to whose edges 0, W and 0, H the boxes are limited.
        """
        return ops.generate(self._config, None, image_shape, clip, True, dtype, device, out)

    def at(
        self,
        index: Tensor,
        image_shape: Sequence[int],
        *,
        clip: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The anchors at given flat indices, without making the others.

        Args:
            index: integers of any shape, over all levels. They count modulo N: -1 is the last anchor.
            image_shape, clip, dtype: as for `generate`.

        Returns:
            `(*index.shape, 4)` on the index's device.

        Raises:
            TypeError, ValueError: as for `generate`; `index` is no tensor of integers.
        """
        return ops.gather(self._config, _arguments.index(index), None, image_shape, clip, dtype)

    def inside(
        self,
        image_shape: Sequence[int],
        border: float = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
    ) -> Tensor:
        """For every anchor, whether it lies in the image or within `border` pixels around it: `(N,)` bool.

        That is where `x1 >= -border`, `y1 >= -border`, `x2 < W + border` and `y2 < H + border`, of anchors and limits
        in `dtype`.

        Raises:
            TypeError, ValueError: as for `generate`; `border` is neither a finite number nor inf.
        """
        if not torch.compiler.is_compiling():
            border = _arguments.border(border)
        return ops.inside(self._config, None, image_shape, border, dtype, device)

    def match(
        self,
        boxes: Tensor | Sequence[Tensor],
        image_shape: Sequence[int],
        *,
        high: float = 0.5,
        low: float = 0.4,
        allow_low_quality: bool = True,
        low_quality_needs_overlap: bool = False,
        return_iou: bool = False,
        clip: Sequence[int] | None = None,
        matcher: Rule | None = None,
        ignored: Tensor | Sequence[Tensor] | None = None,
    ) -> Any:
        """To which box each anchor belongs, without the anchors and without a matrix of anchors by boxes.

        Index for index what torchvision's `Matcher` makes of `box_iou(boxes, anchors)`, with the anchors of `generate`
        in float32 and the IoU's formula `inter / (area_box + area_anchor - inter)`: the best box where its IoU is at
        least `high`, -1 (background) below `low`, -2 between; of equal ones the first. docs/matching.md has the rest.

        Args:
            boxes: `(G, 4)` x1, y1, x2, y2 in pixels, float32 or float64 (16-bit ones count as float32); or a list of
                them, one per image of a batch. An image may have no boxes.
            image_shape: `(H, W)`, of all images.
            high, low: thresholds of the IoU, `0 <= low <= high`.
            allow_low_quality: whether anchors whose IoU with some box is that box's greatest get their own best box,
                however low.
            low_quality_needs_overlap: whether boxes that overlap no anchor are left out of that. By default they are
                not, as in torchvision: such a box gives nearly every anchor its own best box.
            return_iou: whether to return the best IoU of each anchor as well.
            clip: as for `generate`.
            matcher: another framework's rule, one of `anchor_ext.matchers`, in place of the four options before.
            ignored: as `boxes`, regions whose anchors are ignored, for `MaxIoUAssigner` with an `ignore_iof_thr`.

        Returns:
            `(N,)` int64 on the boxes' device, or `(B, N)` for a list; with `return_iou` a pair of it and the IoUs,
            in the boxes' dtype. A rule of `matchers` may return something else. Nothing of it has a gradient.

        Raises:
            TypeError, ValueError: an argument has the wrong type or value.
        """
        options = (high, low, allow_low_quality, low_quality_needs_overlap)
        return ops.match(self._config, boxes, None, image_shape, clip, options, matcher, return_iou, ignored)

    def decode(
        self,
        deltas: Tensor,
        image_shape: Sequence[int],
        *,
        coder: BoxCoder | None = None,
        index: Tensor | None = None,
        clip: bool | Sequence[int] | Sequence[Sequence[int]] = True,
    ) -> Tensor:
        """The boxes that deltas of the anchors say, in one pass or one launch, without the anchors.

        The arithmetic is the coder's, operation by operation in float32 (float64 of float64 deltas) on the anchors of
        `generate` in float32; docs/boxes.md says how near `exp` is to torch's.

        Args:
            deltas: `(B, N, 4)`, or `(B, K, 4)` with an `index`; float32, float64, float16 or bfloat16.
            image_shape: `(H, W)`, of all images as they were padded.
            coder: a `BoxCoder`; None: torchvision's.
            index: `(B, K)` integers, the flat indices of the anchors whose deltas these are, modulo N.
            clip: whether boxes are limited to the image, as the coder says; `(H, W)`, or a list with one per image:
                they are limited to that instead.

        Returns:
            `(B, N, 4)` or `(B, K, 4)`: x1, y1, x2, y2 in pixels, float32, or float64 of float64 deltas. Differentiable
            in deltas.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value.
        """
        return ops.decode(self._config, deltas, None, image_shape, coder, index, clip)

    def encode(
        self, boxes: Tensor, index: Tensor, image_shape: Sequence[int], *, coder: BoxCoder | None = None
    ) -> Tensor:
        """The deltas of boxes beside the anchors at flat indices: what `decode` makes boxes of.

        Args:
            boxes: `(..., 4)` x1, y1, x2, y2 in pixels; float32, float64, or of 16 bits, which count as float32.
            index: `(...)` integers, modulo N.
            image_shape: `(H, W)`.
            coder: as for `decode`.

        Returns:
            `(..., 4)`, float32, or float64 of float64 boxes. Differentiable in boxes.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value.
        """
        return ops.encode(self._config, boxes, index, None, image_shape, coder)

    def targets(
        self,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        matched: Tensor,
        image_shape: Sequence[int],
        *,
        coder: BoxCoder | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What a loss of your own needs of a batch, in fixed shapes and without waiting for a device.

        Args:
            boxes: per image `(G, 4)` x1, y1, x2, y2 in pixels.
            labels: per image `(G,)` int64 or int32, the boxes' classes.
            matched: `(B, N)` int64, as `match` gives it.
            image_shape: `(H, W)`.
            coder: as for `decode`.

        Returns:
            The deltas `(B, N, 4)` of the anchors' boxes, 0 where `matched` is negative, in the boxes' dtype (float32 of
            16 bits); and `(B, N)` int64 the label of each anchor's box, or the negative number that `matched` has.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value. On CUDA a match that is out of range
                makes deltas of NaN instead.
        """
        return ops.targets(self._config, boxes, labels, matched, None, image_shape, coder)

    def generate_many(
        self,
        image_shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int | None = None,
    ) -> list[Tensor]:
        """Anchors of many images' shapes; see `anchor_ext.generate_many` for arguments, result and errors."""
        return ops.generate_many(self._config, image_shapes, dtype, device)

    def level_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """`(rows, columns)` of each level's grid: `ceil(image / 2**level)`.

        Raises:
            TypeError, ValueError: `image_shape` is not two positive integers.
        """
        return ops.level_shapes(self._config, image_shape)

    def num_anchors(self, image_shape: Sequence[int]) -> int:
        """N, the number of anchors over all levels.

        Raises:
            TypeError, ValueError: `image_shape` is not two positive integers.
        """
        return sum(self.level_sizes(image_shape))

    def level_sizes(self, image_shape: Sequence[int]) -> list[int]:
        """The number of anchors of each level.

        Raises:
            TypeError, ValueError: `image_shape` is not two positive integers.
        """
        return ops.level_sizes(self._config, None, image_shape)

    def split(self, boxes: Tensor, image_shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Per-level views, no copy, of anything that has a row per anchor.

        Args:
            boxes: `(..., N, K)`: the anchors themselves, deltas, scores per class, ...
            image_shape: `(H, W)` that they belong to.

        Returns:
            One view `(..., N_level, K)` per level.

        Raises:
            TypeError, ValueError: `boxes` is no tensor with N rows in its last dimension but one, or `image_shape` is
                not two positive integers.
        """
        counts = self.level_sizes(image_shape)
        if not isinstance(boxes, Tensor):
            raise TypeError(f"boxes is {_arguments.show(boxes)}; expected a tensor (..., N, K)")
        if boxes.is_nested or boxes.ndim < 2 or boxes.shape[-2] != sum(counts):
            raise ValueError(f"boxes has shape {_arguments.shape_of(boxes)}; expected (..., {sum(counts)}, K)")
        return torch.split(boxes, counts, dim=-2)

    @property
    def cell_anchors(self) -> list[Tensor]:
        """Per level, its cell anchors around the origin: `(A, 4)` float64 on the CPU, x1, y1, x2, y2 in pixels."""
        return [
            torch.tensor(level, dtype=torch.float64, device="cpu").view(-1, 4)
            for level in self._config.native.cell_anchors
        ]

    @property
    def pyramid_levels(self) -> list[int]:
        """The pyramid levels."""
        return list(pyramid_levels(self._config.spec))

    @property
    def strides(self) -> list[tuple[float, float]]:
        """`(stride_y, stride_x)` of each level, in pixels."""
        return list(self._config.native.strides)

    @property
    def sizes(self) -> list[list[float]] | None:
        """Per level its sizes in pixels; None where the cell anchors were given as boxes or a spec."""
        return _copies(self._made_from[0])

    @property
    def ratios(self) -> list[list[float]] | None:
        """Per level its ratios, height / width; None as for `sizes`."""
        return _copies(self._made_from[1])

    @property
    def scales(self) -> list[list[float]] | None:
        """Per level its scales; None as for `sizes`."""
        return _copies(self._made_from[2])

    @property
    def num_cell_anchors(self) -> list[int]:
        """How many cell anchors each level has: what a head's outputs per cell are made from."""
        return list(level_counts(self._config.spec))

    def num_anchors_per_location(self) -> list[int]:
        """`num_cell_anchors` by the name that torchvision's heads are made with."""
        return self.num_cell_anchors

    @property
    def spec(self) -> str:
        """The configuration as the text that the operators take, and `from_spec`; docs/operators.md has its grammar."""
        return self._config.spec

    def extra_repr(self) -> str:
        def brief(numbers: Sequence[float]) -> str:
            return "[" + ", ".join(f"{number:.6g}" for number in numbers) + "]"

        def shared(lists: list[list[float]]) -> str:
            if all(numbers == lists[0] for numbers in lists):
                return brief(lists[0])
            return "[" + ", ".join(map(brief, lists)) + "]"

        square = all(y == x for y, x in self.strides)
        strides = brief([y for y, _ in self.strides]) if square else str(self.strides)
        text = f"pyramid_levels={self.pyramid_levels}, strides={strides}"
        sizes, ratios, scales = self._made_from
        if sizes is None:
            return f"{text}, num_cell_anchors={self.num_cell_anchors}"
        single = all(len(numbers) == 1 for numbers in sizes)
        sizes = brief([numbers[0] for numbers in sizes]) if single else str(sizes)
        return f"{text}, sizes={sizes}, ratios={shared(ratios)}, scales={shared(scales)}"


# What a user would think that it can be changed.
_FIXED = frozenset(
    ("sizes", "ratios", "scales", "strides", "pyramid_levels", "cell_anchors", "num_cell_anchors", "spec")
)


def _copies(lists: list[list[float]] | None) -> list[list[float]] | None:
    return None if lists is None else [list(numbers) for numbers in lists]


def _check_total(sizes: list[list[float]], ratios: list[list[float]], scales: list[list[float]]) -> None:
    total = sum(len(s) * len(r) * len(c) for s, r, c in zip(sizes, ratios, scales, strict=True))
    if total > MAX_CELL_ANCHORS:
        raise ValueError(
            f"sizes, ratios and scales give {total} cell anchors over all levels; expected at most {MAX_CELL_ANCHORS}"
        )


def _cell_anchors_of(
    level: int, sizes: list[list[float]], ratios: list[list[float]], scales: list[list[float]]
) -> list[tuple[float, float, float, float]]:
    boxes = []
    for size in sizes[level]:
        for ratio in ratios[level]:
            for scale in scales[level]:
                box = _cell_anchor(size, ratio, scale)
                if not all(map(math.isfinite, box)):
                    raise ValueError(
                        f"sizes has {size}, ratios {ratio} and scales {scale} on pyramid_levels[{level}]; expected "
                        "a finite cell anchor of them"
                    )
                boxes.append(box)
    return boxes


_DEFAULT = Anchors()._config


@constant_to_the_compiler
def _spec_of(*arguments: Any) -> str:
    """The compiler need not follow how a configuration comes about."""
    return Anchors(*arguments)._config.spec


def _config_of(pyramid_levels: Any, strides: Any, sizes: Any, ratios: Any, scales: Any) -> Configuration:
    """Of what `Anchors` takes."""
    if pyramid_levels is None and strides is None and sizes is None and ratios is None and scales is None:
        return _DEFAULT
    if is_compiled():
        return Configuration(_spec_of(*constants((pyramid_levels, strides, sizes, ratios, scales))))
    return Anchors(pyramid_levels, strides, sizes, ratios, scales)._config


def generate(
    image_shape: Sequence[int],
    *,
    pyramid_levels: Sequence[int] | None = None,
    strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
    sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
    scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Every anchor of the feature pyramid over an image of the given shape.

    Repeated calls with arguments other than the defaults are cheaper through `Anchors`, which reads them once.

    Args:
        image_shape: `(H, W)`, two positive integers.
        pyramid_levels, strides, sizes, ratios, scales: as for `Anchors`, where the formulas are.
        dtype: float32, float64, float16 or bfloat16, each rounded once from float64. Mind what the 16-bit types do to
            coordinates: above 256 bfloat16 holds every second pixel only, above 1024 every eighth, so that the
            anchors of neighbouring cells coincide; float16 holds every second from 2048 on and ends at 65504.
        device: where the anchors are made; default CUDA where there is one, else the CPU. A device for which
            anchor_ext has no kernel (mps, xpu, ...) gets a copy of the CPU's; meta gets the shape alone.
        out: a contiguous `(1, N, 4)` tensor of this dtype and device to write into and return.

    Returns:
        `(1, N, 4)`: x1, y1, x2, y2 in pixels of the image, in the order level, row, column, cell anchor. Exactly the
        float64 value rounded once to `dtype`, bit for bit the same on every device.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; nothing has been written then.
        RuntimeError: device is CUDA, and torch's CUDA, anchor_ext's or a GPU is missing; out of memory, as torch
            raises it.
    """
    config = _config_of(pyramid_levels, strides, sizes, ratios, scales)
    return ops.generate(config, None, image_shape, None, True, dtype, device, out)


def generate_many(
    image_shapes: Sequence[Sequence[int]],
    *,
    pyramid_levels: Sequence[int] | None = None,
    strides: Sequence[float] | Sequence[tuple[float, float]] | None = None,
    sizes: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ratios: Sequence[float] | Sequence[Sequence[float]] | None = None,
    scales: Sequence[float] | Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
) -> list[Tensor]:
    """Every anchor over images of different shapes, as training at several scales has them.

    One allocation, and one CPU pass or, for up to 512 images, one CUDA launch. In a torch.jit.trace it is an operator
    per image.

    Args:
        image_shapes: `[(H, W), ...]`, per image two positive integers; or a tensor or an array `(images, 2)`.
        pyramid_levels, strides, sizes, ratios, scales, dtype, device: as for `generate`.

    Returns:
        Per image `(1, N, 4)`, the bits of `generate(image_shape, ...)`: contiguous views of one tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as `generate`; `image_shapes` is no list of shapes.
    """
    config = _config_of(pyramid_levels, strides, sizes, ratios, scales)
    return ops.generate_many(config, image_shapes, dtype, device)
