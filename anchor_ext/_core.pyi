from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch

MAX_CELL_ANCHORS: int
LAYOUTS: tuple[str, ...]

def build_info() -> dict[str, str]: ...
def check_pyramid_levels(levels: Sequence[int], /) -> None: ...
def check_matcher(matcher: str, /) -> None: ...
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

# A spec's text, however it is written, to the one way that anchor_ext writes it.
def canonical(spec: str, /) -> str: ...

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
