from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch

MAX_CELL_ANCHORS: int
LAYOUTS: tuple[str, ...]

def build_info() -> dict[str, Any]: ...
def check_pyramid_levels(levels: Sequence[int], /) -> None: ...
def check_shape(name: str, sides: Sequence[int] | None, least: int, /) -> None: ...
def components(layout: str, /) -> int: ...

class Dtype(Enum):
    float32 = ...
    float64 = ...
    float16 = ...
    bfloat16 = ...

class Grid(Enum):
    product = ...
    quotient = ...
    arange = ...

# Numbers, per level, to the spec's canonical text.
def spec_text(
    cell_anchors: Sequence[Sequence[float]],
    strides: Sequence[tuple[float, float]],
    offsets: Sequence[tuple[float, float]],
    starts: Sequence[tuple[float, float]],
    pyramid_levels: Sequence[int],
    arithmetic: str,
    layout: str,
    /,
) -> str: ...

# The eager call of generate, of (level_shapes, image_shape, clip, batched, dtype, device): None where an argument has
# not its usual form, and nothing has been done.
def eager_generate(
    spec: Spec, dtypes: dict[torch.dtype, int], devices: dict[Any, tuple[torch.device, bool]], /
) -> Callable[..., torch.Tensor | None]: ...

Sides = Sequence[int]

class Spec:
    text: str
    layout: str
    arithmetic: str
    pyramid_levels: list[int]
    strides: list[tuple[float, float]]  # empty where they are the default, as the next two
    offsets: list[tuple[float, float]]
    starts: list[tuple[float, float]]
    cell_anchors: list[list[float]]
    num_cell_anchors: list[int]
    num_components: int
    roundings: tuple[Grid, Dtype, Dtype, Dtype]  # of the position, the centre and the sum
    bits: tuple[int, int, int, int, int]  # components; bits of those along x, along y, lower bounds, upper bounds
    def __init__(self, text: str) -> None: ...
    def derived(self, arithmetic: str | None, level: int | None, /) -> str: ...
    def level_shapes(self, level_shapes: Sides | None, image_shape: Sides | None, /) -> list[tuple[int, int]]: ...
    def num_anchors(self, level_shapes: Sides | None, image_shape: Sides | None, clip: Sides | None, /) -> int: ...
    def fill(
        self,
        level_shapes: Sides | None,
        image_shape: Sides | None,
        clip: Sides | None,
        dtype: str,
        out: int,
        is_cuda: bool,
        device_index: int,
        /,
    ) -> None: ...
