"""What torch.jit.script compiles in the place of torchvision's drop-ins. It imports torchvision, for ImageList."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from .._torchscript import name_of

__all__ = ["Scripted"]


class Scripted(nn.Module):
    """Anchors of a spec per dtype of the feature maps; where it `promotes`, they are float32 for 16-bit ones."""

    def __init__(self, specs: dict[str, str], counts: list[int], promotes: bool) -> None:
        super().__init__()
        self.specs = specs
        self.counts = counts
        self.promotes = promotes

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        grids: list[int] = []
        for feature_map in feature_maps:
            grids += [feature_map.shape[-2], feature_map.shape[-1]]
        first, images = feature_maps[0], image_list.tensors
        name = name_of(first.dtype)
        dtype = name
        if self.promotes and name != "float64":
            dtype = "float32"
        boxes: Tensor = torch.ops.anchor_ext.generate(
            grids,
            self.specs[name],
            dtype=dtype,
            device=first.device,
            image_shape=[images.shape[-2], images.shape[-1]],
        )
        return [boxes for _ in image_list.image_sizes]

    @torch.jit.export
    def num_anchors_per_location(self) -> list[int]:
        return self.counts
