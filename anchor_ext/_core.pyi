from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch

MAX_SIDE: int
MAX_LEVELS: int
MAX_CELL_ANCHORS: int

def build_info() -> dict[str, Any]: ...

class Dtype(Enum):
    float32 = ...
    float64 = ...
    float16 = ...
    bfloat16 = ...

class Device(Enum):
    cpu = ...
    cuda = ...

class Config:
    def __init__(
        self,
        strides: Sequence[tuple[float, float]],
        cell_anchors: Sequence[Sequence[tuple[float, float, float, float]]],
        pyramid_levels: Sequence[int],
    ) -> None: ...
    def level_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, int]]: ...
    def level_sizes(self, image_shape: Sequence[int]) -> list[int]: ...
    def num_anchors(self, image_shape: Sequence[int]) -> int: ...
    def fill(
        self, image_shape: Sequence[int], out: int, dtype: Dtype, device: Device, device_index: int, /
    ) -> None: ...
    def generate(
        self,
        image_shape: Sequence[int],
        torch_dtype: torch.dtype,
        dtype: Dtype,
        torch_device: torch.device,
        device: Device,
        /,
    ) -> torch.Tensor: ...
