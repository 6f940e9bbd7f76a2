"""How frameworks write a box as a delta of an anchor, for `decode`, `encode`, `targets` and the box loss."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from ._arguments import listed, number, show

__all__ = ["BoxCoder"]

_CENTRES = ("low_and_side", "ends", "ends_decoded")
_CLIPS = ("image", "outer_ends", "no")
_ORDERS = ("xywh", "yxhw")
_MAX_LOG_RATIO = math.log(1000 / 16)


def _four(name: str, value: Any, *, positive: bool) -> tuple[float, ...]:
    expected = f"four finite numbers{' > 0' if positive else ''}, of x, y, w, h"
    items = listed(name, value, expected)
    numbers = tuple(number(f"{name}[{i}]", item, expected) for i, item in enumerate(items))
    if len(numbers) != 4 or (positive and not all(one > 0 for one in numbers)):
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return numbers


def _from_0_on(name: str, value: Any, expected: str = "a finite number >= 0") -> float:
    result = number(name, value, expected)
    if result < 0:
        raise ValueError(f"{name} is {show(value)}; expected {expected}")
    return result


def _limit(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, float) and value == math.inf):
        return None
    return _from_0_on(name, value, "a finite number >= 0, or None for no limit")


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {show(value)}; expected one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class BoxCoder:
    """A box as a delta of an anchor: dx, dy, dw, dh (Girshick et al., 2014, appendix C).

    `dx = weight * (box_centre - anchor_centre) / anchor_width` and `dw = weight * log(box_width / anchor_width)`, along
    y alike. With `means` or `stds` in place of weights a delta is `(value - mean) / std`. It is a frozen object; its
    arguments are its attributes. docs/boxes.md compares the frameworks' coders, which the class methods make.

    Args:
        weights: of dx, dy, dw, dh; four numbers > 0.
        means, stds: of dx, dy, dw, dh, in place of weights; by default 0 and 1, where the other one is given.
        max_log_ratio: what a decoded dw or dh, no longer scaled, is limited to; None for no limit.
        clamp_both: whether it is limited to `-max_log_ratio` from below, too.
        max_shift: what a decoded centre moves at most, in pixels; None for no limit.
        centres: `"low_and_side"`: a centre is the low end + side / 2; `"ends"`: half the sum of the ends;
            `"ends_decoded"`: that for decoding, the other one for encoding.
        clip: to what decoded boxes are limited: `"image"` both ends to 0 and the image's side, `"outer_ends"` x1, y1 to
            0 and x2, y2 to the image's side alone, `"no"` nothing.
        order: of a delta, `"xywh"` or `"yxhw"`. Weights, means and stds have the order x, y, w, h.
        min_side: what a box's sides count at least where it is encoded, in pixels.
        eps: what is added to the sides of anchors and boxes where they are encoded, in pixels.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    _: dataclasses.KW_ONLY
    means: Sequence[float] | None = None
    stds: Sequence[float] | None = None
    max_log_ratio: float | None = _MAX_LOG_RATIO
    clamp_both: bool = False
    max_shift: float | None = None
    centres: str = "low_and_side"
    clip: str = "image"
    order: str = "xywh"
    min_side: float = 0.0
    eps: float = 0.0

    def __post_init__(self) -> None:
        read: dict[str, Any] = {"weights": _four("weights", self.weights, positive=True)}
        if self.means is not None or self.stds is not None:
            if read["weights"] != (1.0,) * 4:
                raise ValueError("weights are given, and so are means or stds; expected one or the other")
            read["means"] = (0.0,) * 4 if self.means is None else _four("means", self.means, positive=False)
            read["stds"] = (1.0,) * 4 if self.stds is None else _four("stds", self.stds, positive=True)
        read["max_log_ratio"] = _limit("max_log_ratio", self.max_log_ratio)
        read["max_shift"] = _limit("max_shift", self.max_shift)
        read["min_side"], read["eps"] = _from_0_on("min_side", self.min_side), _from_0_on("eps", self.eps)
        if not isinstance(self.clamp_both, bool):
            raise TypeError(f"clamp_both is {show(self.clamp_both)}; expected True or False")
        for name, choices in (("centres", _CENTRES), ("clip", _CLIPS), ("order", _ORDERS)):
            _one_of(name, getattr(self, name), choices)
        for name, value in read.items():  # as they were read: a tensor could change later
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_text", self._write())

    def _write(self) -> str:
        def numbers(values: Any) -> str:
            return ",".join(map(repr, values))

        entries: dict[str, str | None] = {
            "weights": None if self.means is not None else numbers(self.weights),
            "means": None if self.means is None else numbers(self.means),
            "stds": None if self.stds is None else numbers(self.stds),
            "max_log_ratio": None if self.max_log_ratio is None else repr(self.max_log_ratio),
            "limits_small": "yes" if self.clamp_both else None,
            "max_shift": None if self.max_shift is None else repr(self.max_shift),
            "centres": self.centres,
            "clip": self.clip,
            "order": self.order,
            "min_side": repr(self.min_side),
            "addend": repr(self.eps),
        }
        default = {"weights": "1.0,1.0,1.0,1.0", "centres": _CENTRES[0], "clip": _CLIPS[0], "order": _ORDERS[0]}
        default |= {"min_side": "0.0", "addend": "0.0"}
        given = [f"{key}={value}" for key, value in entries.items() if value is not None and value != default.get(key)]
        return ";".join(["coder/1", *given])

    @classmethod
    def torchvision(
        cls, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), bbox_xform_clip: float = _MAX_LOG_RATIO
    ) -> BoxCoder:
        """torchvision's `BoxCoder`, of RetinaNet and the RPN by default."""
        return cls(weights, max_log_ratio=bbox_xform_clip)

    @classmethod
    def torchvision_ssd(cls) -> BoxCoder:
        """That of torchvision's SSD: weights 10, 10, 5, 5."""
        return cls((10.0, 10.0, 5.0, 5.0))

    @classmethod
    def detectron2(
        cls, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), scale_clamp: float = _MAX_LOG_RATIO
    ) -> BoxCoder:
        """detectron2's `Box2BoxTransform`."""
        return cls(weights, max_log_ratio=scale_clamp)

    @classmethod
    def mmdet(
        cls,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: float = 32,
        *,
        wh_ratio_clip: float = 16 / 1000,
    ) -> BoxCoder:
        """mmdet's `DeltaXYWHBBoxCoder`; `wh_ratio_clip` is an argument of its `decode`."""
        for name, value in (("clip_border", clip_border), ("add_ctr_clamp", add_ctr_clamp)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} is {show(value)}; expected True or False")
        ratio = number("wh_ratio_clip", wh_ratio_clip, "a finite number > 0")
        if not ratio > 0:
            raise ValueError(f"wh_ratio_clip is {show(wh_ratio_clip)}; expected a finite number > 0")
        return cls(
            means=_four("target_means", target_means, positive=False),
            stds=_four("target_stds", target_stds, positive=True),
            max_log_ratio=abs(math.log(ratio)),
            clamp_both=not add_ctr_clamp,
            max_shift=_from_0_on("ctr_clamp", ctr_clamp) if add_ctr_clamp else None,
            centres="ends",
            clip="image" if clip_border else "no",
        )

    @classmethod
    def effdet(cls) -> BoxCoder:
        """effdet's: its `decode_box_outputs` and, for encoding, its `FasterRcnnBoxCoder`. Deltas are dy, dx, dh, dw."""
        return cls(max_log_ratio=None, centres="ends_decoded", order="yxhw", eps=1e-7)

    @classmethod
    def retinanet(
        cls, mean: Sequence[float] = (0.0, 0.0, 0.0, 0.0), std: Sequence[float] = (0.1, 0.1, 0.2, 0.2)
    ) -> BoxCoder:
        """`BBoxTransform`, `ClipBoxes` and the targets of `FocalLoss` in yhenon's pytorch-retinanet and its kin."""
        means, stds = _four("mean", mean, positive=False), _four("std", std, positive=True)
        return cls(means=means, stds=stds, max_log_ratio=None, clip="outer_ends", min_side=1.0)


@functools.lru_cache(maxsize=64)
def coder_of(text: str) -> BoxCoder:
    """The coder of a text that a coder wrote."""
    names = {"limits_small": "clamp_both", "addend": "eps"}
    entries: dict[str, Any] = {"max_log_ratio": None}
    for entry in text.split(";")[1:]:
        key, _, value = entry.partition("=")
        if key in ("centres", "clip", "order"):
            read: Any = value
        elif key == "limits_small":
            read = value == "yes"
        else:
            numbers = [float(one) for one in value.split(",")]
            read = numbers if key in ("weights", "means", "stds") else numbers[0]
        entries[names.get(key, key)] = read
    return BoxCoder(**entries)
