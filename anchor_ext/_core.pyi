from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch

MAX_SIDE: int
MAX_LEVELS: int
MAX_CELL_ANCHORS: int
LAYOUTS: dict[str, tuple[int, int, int, int, int]]  # components; bits along x, along y, lower bounds, upper bounds

def build_info() -> dict[str, Any]: ...

class Dtype(Enum):
    float32 = ...
    float64 = ...
    float16 = ...
    bfloat16 = ...

class Device(Enum):
    cpu = ...
    cuda = ...

class Grid(Enum):
    product = ...
    quotient = ...
    arange = ...

def arithmetic(name: str, /) -> tuple[Grid, Dtype, Dtype, Dtype]: ...
def check(
    level_shapes: Sequence[int],
    strides: Sequence[float] | None,
    cell_anchors: Sequence[float],
    num_cell_anchors: Sequence[int],
    offsets: Sequence[float] | None,
    starts: Sequence[float] | None,
    arithmetic: str,
    layout: str,
    image_shape: Sequence[int] | None,
    clip: Sequence[int] | None,
    /,
) -> None: ...

Shape = Sequence[int] | None
Shapes = Sequence[Sequence[int]] | None

class Config:
    num_components: int
    # generate() of ops.py where there is nothing to say about its arguments: (level_shapes, image_shape, clip, batched,
    # dtype, device, {device: (torch.device, whether it is CUDA)}, out). Else None.
    quick: Callable[..., torch.Tensor | None]
    def __init__(
        self,
        cell_anchors: Sequence[Sequence[float]],
        strides: Sequence[tuple[float, float]],
        offsets: Sequence[tuple[float, float]] = ...,
        starts: Sequence[tuple[float, float]] = ...,
        pyramid_levels: Sequence[int] = ...,
        arithmetic: str = ...,
        layout: str = ...,
    ) -> None: ...
    def level_shapes(self, level_shapes: Shapes, image_shape: Shape, /) -> list[tuple[int, int]]: ...
    def level_sizes(self, level_shapes: Shapes, image_shape: Shape, /) -> list[int]: ...
    def num_anchors(self, level_shapes: Shapes, image_shape: Shape, clip: Shape, /) -> int: ...
    def fill(
        self,
        level_shapes: Shapes,
        image_shape: Shape,
        clip: Shape,
        out: int,
        dtype: Dtype,
        device: Device,
        device_index: int,
        /,
    ) -> None: ...
    def generate(
        self,
        level_shapes: Shapes,
        image_shape: Shape,
        clip: Shape,
        batched: bool,
        torch_dtype: torch.dtype,
        dtype: Dtype,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> torch.Tensor: ...
    def generate_many(
        self,
        image_shapes: Sequence[Sequence[int]],
        torch_dtype: torch.dtype,
        dtype: Dtype,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> tuple[torch.Tensor, list[int]]: ...
    def gather(
        self,
        level_shapes: Shapes,
        image_shape: Shape,
        clip: Shape,
        indices: int,
        bytes: int,
        shape: tuple[int, ...],
        torch_dtype: torch.dtype,
        dtype: Dtype,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> torch.Tensor: ...
    def inside(
        self,
        level_shapes: Shapes,
        image_shape: Shape,
        border: float,
        dtype: Dtype,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> torch.Tensor: ...
    def valid_flags(
        self,
        level_shapes: Shapes,
        image_shape: Shape,
        padded_shape: Shape,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> torch.Tensor: ...
