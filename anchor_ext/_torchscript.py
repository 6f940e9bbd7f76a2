"""What TorchScript compiles, which reads the sources of these functions and knows numbers, lists and tensors only.

In a trace sizes are tensors, and stay those of the image that the trace is called with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._spec import level_counts, native_of, pyramid_levels

__all__ = [
    "ScriptedAnchors",
    "anchors_of_checked",
    "anchors_of_image",
    "gather",
    "generate",
    "inside",
    "name_of",
    "valid_flags",
]


def anchors_of_image(image: Tensor, spec: str) -> Tensor:
    """`Anchors.forward` in a scripted program."""
    shape = image.shape
    if len(shape) not in (3, 4) or shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(f"image has shape {shape}; expected (B, C, H, W) or (C, H, W) with H, W > 0")
    return anchors_of_checked(image, spec)


def anchors_of_checked(image: Tensor, spec: str) -> Tensor:
    """The same of an image that need not be looked at: torch.fx records what is done with it."""
    boxes: Tensor = torch.ops.anchor_ext.generate(
        None, spec, dtype="float32", device=image.device, image_shape=image.shape[-2:]
    )
    return boxes.unsqueeze(0)


def name_of(dtype: torch.dtype) -> str:
    """A dtype as the operators take it."""
    if dtype == torch.float32:
        return "float32"
    if dtype == torch.float64:
        return "float64"
    if dtype == torch.float16:
        return "float16"
    if dtype == torch.bfloat16:
        return "bfloat16"
    raise ValueError("dtype is another one; expected torch.float32, float64, float16 or bfloat16")


def _cpu_or(device: torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cpu")
    return device


class ScriptedAnchors(nn.Module):
    """What torch.jit.script compiles in the place of `Anchors`: its calls, with the same arguments but `out`.

    `device` is the CPU where it is not given, as a program that is loaded elsewhere would expect.
    """

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.spec = spec
        self.pyramid_levels = list(pyramid_levels(spec))
        self.num_cell_anchors = list(level_counts(spec))
        self.strides = list(native_of(spec).strides)

    def forward(self, image: Tensor) -> Tensor:
        return anchors_of_image(image, self.spec)

    @torch.jit.export
    def generate(
        self,
        image_shape: list[int],
        clip: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        boxes: Tensor = torch.ops.anchor_ext.generate(
            None, self.spec, dtype=name_of(dtype), device=_cpu_or(device), image_shape=image_shape, clip=clip
        )
        return boxes.unsqueeze(0)

    @torch.jit.export
    def generate_many(
        self,
        image_shapes: list[list[int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> list[Tensor]:
        boxes: list[Tensor] = []
        for image_shape in image_shapes:
            boxes.append(self.generate(image_shape, None, dtype, device))  # TorchScript's way
        return boxes

    @torch.jit.export
    def at(
        self,
        index: Tensor,
        image_shape: list[int],
        clip: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        if index.dtype != torch.int32:
            index = index.to(torch.int64)
        boxes: Tensor = torch.ops.anchor_ext.gather(
            index, None, self.spec, dtype=name_of(dtype), image_shape=image_shape, clip=clip
        )
        return boxes

    @torch.jit.export
    def inside(
        self,
        image_shape: list[int],
        border: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        flags: Tensor = torch.ops.anchor_ext.inside(
            None, self.spec, image_shape, border, dtype=name_of(dtype), device=_cpu_or(device)
        )
        return flags

    @torch.jit.export
    def level_shapes(self, image_shape: list[int]) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        for level in self.pyramid_levels:
            cell = 1 << level
            shapes.append(((image_shape[0] + cell - 1) // cell, (image_shape[1] + cell - 1) // cell))
        return shapes

    @torch.jit.export
    def level_sizes(self, image_shape: list[int]) -> list[int]:
        sizes: list[int] = []
        for shape, count in zip(self.level_shapes(image_shape), self.num_cell_anchors):  # noqa: B905
            sizes.append(shape[0] * shape[1] * count)
        return sizes

    @torch.jit.export
    def num_anchors(self, image_shape: list[int]) -> int:
        return sum(self.level_sizes(image_shape))

    @torch.jit.export
    def num_anchors_per_location(self) -> list[int]:
        return self.num_cell_anchors

    @torch.jit.export
    def split(self, boxes: Tensor, image_shape: list[int]) -> list[Tensor]:
        return list(boxes.split_with_sizes(self.level_sizes(image_shape), dim=-2))


def _integers(sides: list[Tensor]) -> list[int]:
    return [int(side) for side in sides]


def _integers_or_none(sides: list[Tensor] | None) -> list[int] | None:
    if sides is None:
        return None
    return _integers(sides)


def generate(
    level_shapes: list[Tensor] | None, spec: str, dtype: str, like: Tensor, image_shape: list[Tensor] | None,
    clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.generate(
        _integers_or_none(level_shapes), spec, dtype=dtype, device=like.device,
        image_shape=_integers_or_none(image_shape), clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def gather(
    index: Tensor, level_shapes: list[Tensor] | None, spec: str, dtype: str, image_shape: list[Tensor] | None,
    clip: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    boxes: Tensor = torch.ops.anchor_ext.gather(
        index, _integers_or_none(level_shapes), spec, dtype=dtype, image_shape=_integers_or_none(image_shape),
        clip=_integers_or_none(clip),
    )  # fmt: skip
    return boxes


def inside(
    level_shapes: list[Tensor] | None,
    spec: str,
    image_shape: list[Tensor],
    border: float,
    dtype: str,
    like: Tensor,
) -> Tensor:
    flags: Tensor = torch.ops.anchor_ext.inside(
        _integers_or_none(level_shapes), spec, _integers(image_shape), border, dtype=dtype, device=like.device
    )
    return flags


def valid_flags(
    level_shapes: list[Tensor] | None, spec: str, padded_shape: list[Tensor], like: Tensor,
    image_shape: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    flags: Tensor = torch.ops.anchor_ext.valid_flags(
        _integers_or_none(level_shapes), spec, _integers(padded_shape), device=like.device,
        image_shape=_integers_or_none(image_shape),
    )  # fmt: skip
    return flags
