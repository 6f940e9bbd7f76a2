"""A configuration: the spec, a text, and what the native library and torch's compilers make of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ._arguments import show
from ._library import native
from ._recording import constant_to_the_compiler

__all__ = [
    "COMPONENTS",
    "DEVICES",
    "DTYPES",
    "NAMES",
    "Configuration",
    "derived_spec",
    "layout_of",
    "level_counts",
    "native_of",
    "over_image",
    "pyramid_levels",
]

# Of an anchor, by layout.
COMPONENTS: dict[str, int] = {name: native.components(name) for name in native.LAYOUTS}

# The operators' dtype is a name: torch 2.11's AOTInductor takes float32 for float64 where it is a ScalarType.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in native.Dtype.__members__}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_NUMBERS = {dtype: int(getattr(native.Dtype, name)) for name, dtype in DTYPES.items()}

# From what users pass for a device to it, and whether it is CUDA: for Configuration.eager.
DEVICES: dict[Any, tuple[torch.device, bool]] = {}


@functools.lru_cache(maxsize=256)
def native_of(spec: str) -> Any:
    """The native library's form of a spec.

    Raises:
        ValueError: it is none.
    """
    return native.Spec(spec)


def _text(lists: Iterable[Sequence[float]]) -> str:
    """Lists of numbers as a spec has them."""
    return " ".join(",".join(float(number).hex() for number in numbers) for numbers in lists)


class Configuration:
    """What a user fixes once. It is its spec: that alone is compared, hashed, pickled and compiled."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @classmethod
    def of(
        cls,
        cell_anchors: Sequence[Sequence[float]],
        strides: Sequence[tuple[float, float]],
        offsets: Sequence[tuple[float, float]] = (),
        starts: Sequence[tuple[float, float]] = (),
        pyramid_levels: Sequence[int] = (),
        arithmetic: str = "float64",
        layout: str = "xyxy",
    ) -> Configuration:
        """From numbers.

        Args:
            cell_anchors: per level the components of its cell anchors, one after another.
            strides, offsets, starts: per level a pair (y, x), or empty for the default.
            pyramid_levels: where grids are derived from an image; else empty.
            arithmetic, layout: as for `AnchorGrid`.

        Raises:
            ValueError: as `AnchorGrid`.
        """
        components = native.components(layout)
        boxes = [[level[i : i + components] for i in range(0, len(level), components)] for level in cell_anchors]
        keys = {
            "layout": layout,
            "arithmetic": arithmetic,
            "levels": " ".join(map(str, pyramid_levels)),
            "strides": _text(strides),
            "offsets": _text(offsets),
            "starts": _text(starts),
            "cell_anchors": "|".join(map(_text, boxes)),
        }
        entries = [f"{key}={value}" for key, value in keys.items() if value or key == "cell_anchors"]
        return cls(native.canonical(";".join(["anchors/1", *entries])))

    @classmethod
    def of_text(cls, spec: object) -> Configuration:
        """From a spec of a user's.

        Raises:
            TypeError, ValueError: it is none.
        """
        if not isinstance(spec, str):
            raise TypeError(f"spec is {show(spec)}; expected text, such as the spec of Anchors or AnchorGrid")
        return cls(native.canonical(spec))

    @functools.cached_property
    def native(self) -> Any:
        return native_of(self.spec)

    @functools.cached_property
    def eager(self) -> Any:
        """The eager call of generate, of (level_shapes, image_shape, clip, batched, dtype, device); see _core.pyi."""
        return native.eager_generate(self.native, _NUMBERS, DEVICES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __getstate__(self) -> dict[str, str]:
        return {"spec": self.spec}


# To the compiler, what a spec says is constant; the spec itself is an attribute, which it compares in every call.


@constant_to_the_compiler
def pyramid_levels(spec: str) -> tuple[int, ...]:
    """The levels that grids are derived from an image for; none where grids are given."""
    return _levels_and_counts(spec)[0]


@constant_to_the_compiler
def level_counts(spec: str) -> tuple[int, ...]:
    """How many cell anchors each level has."""
    return _levels_and_counts(spec)[1]


@constant_to_the_compiler
def layout_of(spec: str) -> str:
    """The components of an anchor and their order."""
    return str(native_of(spec).layout)


@functools.lru_cache(maxsize=256)
def _levels_and_counts(spec: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    native = native_of(spec)
    return tuple(native.pyramid_levels), tuple(native.num_cell_anchors)


@constant_to_the_compiler
def derived_spec(
    spec: str,
    arithmetic: str | None,
    level: int | None = None,
    first: int | None = None,
    strides: Sequence[tuple[float, float]] | None = None,
) -> str:
    """The same cell anchors in another arithmetic, of one level alone or the first ones, at other strides."""
    given = native_of(spec)
    lists = [given.cell_anchors, given.strides, given.offsets, given.starts, given.pyramid_levels]
    if strides is not None:
        lists[1] = list(strides)
    if level is not None:
        if not 0 <= level < len(given.cell_anchors):
            raise ValueError(f"level is {level}; expected 0 to {len(given.cell_anchors) - 1}")
        lists = [entries[level : level + 1] for entries in lists]
    if first is not None:
        lists = [entries[:first] for entries in lists]
    cell_anchors, pairs, offsets, starts, levels = lists
    arithmetic = given.arithmetic if arithmetic is None else arithmetic
    return Configuration.of(cell_anchors, pairs, offsets, starts, levels, arithmetic, given.layout).spec


def over_image(levels: Sequence[int], image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """The grids of pyramid levels over an image, whose sides may be symbols."""
    height, width = image_shape
    return [((height + 2**level - 1) // 2**level, (width + 2**level - 1) // 2**level) for level in levels]
