"""Anchors as the text that each framework's users paste."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..anchors import Anchors

__all__ = ["FRAMEWORKS", "constructor", "generator"]


def constructor(anchors: Anchors, framework: str) -> str:
    """The code, or the configuration, that makes these anchors there.

    Args:
        anchors: of sizes, ratios and scales that are the same on all levels.
        framework: one of FRAMEWORKS.

    Raises:
        ValueError: the framework cannot express them; the message says why.
    """
    if anchors.sizes is None and framework == "anchor_ext":
        return _from_boxes(anchors)
    return FRAMEWORKS[framework](_Shape(anchors))


class _Shape:
    def __init__(self, anchors: Anchors) -> None:
        if anchors.sizes is None:
            raise ValueError("anchors has cell anchors as boxes; expected sizes, ratios and scales")
        self.levels = list(anchors.pyramid_levels)
        self.strides = [(_plain(y), _plain(x)) for y, x in anchors.strides]
        self.sizes: list[float] = _only(anchors.sizes, "sizes", each=True)
        self.ratios: list[float] = _only(anchors.ratios, "ratios")
        self.scales: list[float] = _only(anchors.scales, "scales")

    @property
    def products(self) -> list[list[float]]:
        return [[_plain(float(f"{size * scale:.6g}")) for scale in self.scales] for size in self.sizes]


def _only(values: Any, name: str, each: bool = False) -> list[Any]:
    """The numbers of every level, or `each` level's one number."""
    levels = [[_plain(float(number)) for number in level] for level in values]
    if each and all(len(level) == 1 for level in levels):
        return [level[0] for level in levels]
    if not each and all(level == levels[0] for level in levels):
        return levels[0]
    raise ValueError(f"{name} are {levels}; expected {'one per level' if each else 'the same on all levels'}")


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _anchors(shape: _Shape) -> str:
    default = all(pair == (2**level,) * 2 for level, pair in zip(shape.levels, shape.strides, strict=True))
    strides = "" if default else f"    strides={_pairs(shape.strides)},\n"
    return (
        f"anchor_ext.Anchors(\n    pyramid_levels={shape.levels},\n{strides}    sizes={shape.sizes},\n"
        f"    ratios={shape.ratios},\n    scales={shape.scales},\n)"
    )


def _from_boxes(anchors: Anchors) -> str:
    levels = [
        [tuple(_plain(float(f"{side:.6g}")) for side in ((x2 - x1), (y2 - y1))) for x1, y1, x2, y2 in level.tolist()]
        for level in anchors.cell_anchors
    ]
    lines = "".join(f"        {level},\n" for level in levels)
    return (
        f"anchor_ext.Anchors.from_boxes(\n    [  # per level, (width, height)\n{lines}    ],\n"
        f"    pyramid_levels={anchors.pyramid_levels},\n    strides={_pairs(anchors.strides)},\n)"
    )


def _pairs(pairs: Sequence[tuple[float, float]]) -> str:
    plain = [(_plain(y), _plain(x)) for y, x in pairs]
    return str([y if y == x else (y, x) for y, x in plain])


def _torchvision(shape: _Shape) -> str:
    sizes, ratios = tuple(map(tuple, shape.products)), tuple(shape.ratios)
    return (
        "torchvision.models.detection.anchor_utils.AnchorGenerator(\n"
        f"    sizes={sizes},\n    aspect_ratios=({ratios},) * {len(sizes)},\n)"
    )


def _detectron2(shape: _Shape) -> str:
    return (
        "MODEL:\n  ANCHOR_GENERATOR:\n    NAME: DefaultAnchorGenerator\n"
        f"    SIZES: {shape.products}\n    ASPECT_RATIOS: [{shape.ratios}]\n    OFFSET: 0.5"
    )


def _mmdet(shape: _Shape) -> str:
    centers = [(_plain(x / 2), _plain(y / 2)) for y, x in shape.strides]
    strides = [x if y == x else (x, y) for y, x in shape.strides]
    return (
        "anchor_generator=dict(\n    type='AnchorGenerator',\n"
        f"    strides={strides},\n    centers={centers},\n    base_sizes={shape.sizes},\n"
        f"    ratios={shape.ratios},\n    scales={shape.scales})"
    )


def _effdet(shape: _Shape) -> str:
    count = len(shape.scales)
    octaves = [2 ** (i / count) for i in range(count)]
    if any(abs(scale / octave - 1) > 1e-3 for scale, octave in zip(shape.scales, octaves, strict=True)):
        raise ValueError(f"scales are {shape.scales}; effdet has 2**(i / {count}) alone: ask for octaves")
    if shape.levels != list(range(shape.levels[0], shape.levels[-1] + 1)) or any(
        pair != (2**level,) * 2 for level, pair in zip(shape.levels, shape.strides, strict=True)
    ):
        raise ValueError("effdet has consecutive levels alone, with strides of 2**level")
    aspects = [tuple(float(f"{side:.6g}") for side in (ratio**-0.5, ratio**0.5)) for ratio in shape.ratios]
    scales = [float(f"{size / y:.6g}") for size, (y, _) in zip(shape.sizes, shape.strides, strict=True)]
    return (
        f"config.min_level, config.max_level = {shape.levels[0]}, {shape.levels[-1]}\n"
        f"config.num_scales = {count}\nconfig.aspect_ratios = {aspects}  # (width, height)\n"
        f"config.anchor_scale = {scales}  # per level"
    )


FRAMEWORKS: dict[str, Callable[[_Shape], str]] = {
    "anchor_ext": _anchors,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "mmdet": _mmdet,
    "effdet": _effdet,
}


def generator(anchors: Anchors, framework: str) -> tuple[Any, Any]:
    """What the pasted text makes, as this package's drop-in, and the strides that it needs, or None: for whoever asks
    what that reaches. Not of effdet, whose anchors are of one image's size."""
    shape = _Shape(anchors)
    if framework == "torchvision":
        from ..compat.torchvision import AnchorGenerator

        products = tuple(map(tuple, shape.products))
        return AnchorGenerator(products, (tuple(shape.ratios),) * len(products)), shape.strides
    if framework == "mmdet":
        from ..compat.mmdet import AnchorGenerator as MmdetGenerator

        return MmdetGenerator(
            [(x, y) for y, x in shape.strides],
            shape.ratios,
            shape.scales,
            shape.sizes,
            centers=[(x / 2, y / 2) for y, x in shape.strides],
        ), None
    if framework == "detectron2":
        from ..compat.detectron2 import DefaultAnchorGenerator

        if any(not math.isclose(y, x) for y, x in shape.strides):
            raise ValueError("detectron2's strides are the same along both axes")
        return DefaultAnchorGenerator(
            sizes=shape.products, aspect_ratios=[shape.ratios], strides=[y for y, _ in shape.strides], offset=0.5
        ), None
    return anchors, None
