"""detectron2's `DefaultAnchorGenerator` and `RotatedAnchorGenerator` (detectron2.modeling.anchor_generator)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, constants

__all__ = ["DefaultAnchorGenerator", "RotatedAnchorGenerator", "register"]


def register() -> None:
    """Makes detectron2's ANCHOR_GENERATOR_REGISTRY build these classes under its own names for them.

    Raises:
        ImportError: detectron2 is not installed.
    """
    from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY as registry  # noqa: N811

    for cls in (DefaultAnchorGenerator, RotatedAnchorGenerator):
        if cls.__name__ in registry:
            del registry._obj_map[cls.__name__]  # it has no other way to replace an entry
        registry.register(cls)


def _per_level(name: str, value: Any, levels: int) -> list[Sequence[float]]:
    """A list of numbers per level, from one for all of them or one each."""
    expected = f"a list of numbers, or one such list, or one per level, {levels} in all"
    check.that(isinstance(value, Sequence) and len(value) > 0, name, value, expected)
    lists = list(value) if isinstance(value[0], Sequence) else [value]
    if len(lists) == 1:
        lists = lists * levels
    check.that(len(lists) == levels, name, value, expected)
    return lists


class _Generator(nn.Module):
    box_dim: int
    _layout: str

    def __init__(self, cfg: Any, input_shape: Any, given: dict[str, Any]) -> None:
        """From what was given by name and, where that is None, from detectron2's configuration."""
        super().__init__()
        configured: dict[str, Any] = {} if cfg is None else self.from_config(cfg, input_shape)
        parameters: dict[str, Any] = {
            name: configured.get(name) if value is None else value for name, value in given.items()
        }
        strides, offset = parameters.pop("strides"), parameters.pop("offset")
        for name, value in (("strides", strides), *parameters.items()):
            if value is None:
                raise TypeError(f"{name} is missing; expected it by name, or (cfg, input_shape)")
        check.numbers("strides", strides)
        for name, value in parameters.items():
            check.numbers(name, value, positive=name != "angles", depth=2)
        check.number("offset", 0.5 if offset is None else offset, positive=False)
        self.strides = strides
        self.num_features = len(strides)
        self.offset = 0.5 if offset is None else offset
        check.that(0.0 <= self.offset < 1.0, "offset", self.offset, "a number in [0, 1)")
        lists = [_per_level(name, value, self.num_features) for name, value in parameters.items()]
        with constants():
            self.cell_anchors = [self.generate_cell_anchors(*of_level) for of_level in zip(*lists, strict=True)]
            self.grid = AnchorGrid(
                self.cell_anchors,
                strides,
                start=[self.offset * stride for stride in strides],
                arithmetic="arange",
                layout=self._layout,
            )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[Any]) -> dict[str, Any]:
        raise NotImplementedError

    def generate_cell_anchors(self, *parameters: Any) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"num_anchors={self.num_anchors}, strides={self.strides}, offset={self.offset}, from anchor_ext"

    @property
    def num_anchors(self) -> list[int]:
        """How many anchors a cell of each level has."""
        return [len(cell_anchors) for cell_anchors in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """The same as `num_anchors`."""
        return self.num_anchors

    def grid_anchors(self, grid_sizes: Sequence[Sequence[int]], device: Any = None) -> list[Tensor]:
        """Per level its anchors, `(rows * columns * A, box_dim)` float32: views of one tensor, made by one launch.

        Args:
            grid_sizes: per level `(rows, columns)`.
            device: default CUDA where there is one, else the CPU. The numbers are those of detectron2 on the CPU, on
                every device.

        Raises:
            CompatError: there are more or fewer grids than levels.
            TypeError, ValueError, RuntimeError: as `AnchorGrid`.
        """
        check.levels("grid_sizes", grid_sizes, self.num_features)
        try:
            grids = [
                self._cells(rows, columns, stride)
                for (rows, columns), stride in zip(grid_sizes, self.strides, strict=True)
            ]
        except (TypeError, ValueError) as error:
            raise check.CompatError(
                f"grid_sizes is {check.show(grid_sizes)}; expected (rows, columns) per level"
            ) from error
        return by_level(self.grid, {"level_shapes": "grid_sizes"}, self.grid, grids, device=device)

    def _cells(self, rows: int, columns: int, stride: float) -> tuple[int, int]:
        """As many as torch.arange(offset * stride, cells * stride, stride) has: one more for some odd strides."""
        if float(stride).is_integer() and self.offset <= 0.999:
            return rows, columns
        first = self.offset * stride
        return math.ceil((rows * stride - first) / stride), math.ceil((columns * stride - first) / stride)

    def _boxes(self, features: Sequence[Tensor], name: str) -> list[Any]:
        try:
            from detectron2 import structures
        except ImportError as error:
            raise ImportError(
                f"forward gives detectron2's {name}, and detectron2 cannot be imported ({error}); "
                "grid_anchors gives tensors"
            ) from error
        check.features("features", features, self.num_features)
        anchors = self.grid_anchors([feature.shape[-2:] for feature in features], features[0].device)
        return [getattr(structures, name)(of_level) for of_level in anchors]


class DefaultAnchorGenerator(_Generator):
    """detectron2's DefaultAnchorGenerator: the same anchors bit for bit, from one launch for all levels.

    Per level, cell anchors of every size (outer) and aspect ratio (inner), `w = sqrt(size**2 / ratio)`, `h = ratio * w`
    in float64, rounded to float32; centres as torch.arange makes them in float32 on the CPU, from `offset * stride` on.
    (torch.arange on CUDA rounds otherwise; here every device has the CPU's.)

    Called as `DefaultAnchorGenerator(cfg, input_shape)` it reads detectron2's configuration.

    Args:
        sizes: square roots of the anchors' areas in pixels: a list per level, or one list for all levels.
        aspect_ratios: height / width: the same.
        strides: pixels between centres, per level.
        offset: of the first centre, in strides; in [0, 1).
    """

    box_dim = 4
    _layout = "xyxy"

    def __init__(
        self,
        cfg: Any = None,
        input_shape: Any = None,
        *,
        sizes: Any = None,
        aspect_ratios: Any = None,
        strides: Any = None,
        offset: Any = None,
    ) -> None:
        given = {"sizes": sizes, "aspect_ratios": aspect_ratios, "strides": strides, "offset": offset}
        super().__init__(cfg, input_shape, given)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[Any]) -> dict[str, Any]:
        """The arguments that detectron2's configuration holds, and the strides of the features' shapes."""
        section = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": section.SIZES,
            "aspect_ratios": section.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": section.OFFSET,
        }

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> Tensor:
        """Cell anchors of one level, `(sizes * ratios, 4)` float32 around the origin."""
        boxes = [(-w / 2.0, -h / 2.0, w / 2.0, h / 2.0) for w, h in _widths_and_heights(sizes, aspect_ratios)]
        return torch.tensor(boxes, dtype=torch.float32, device="cpu")

    def forward(self, features: Sequence[Tensor]) -> list[Any]:
        """Per level detectron2's `Boxes`, on the device of the first feature map.

        Raises:
            ImportError: detectron2 is not installed; `grid_anchors` gives tensors.
            CompatError: there are more or fewer feature maps than levels.
        """
        return self._boxes(features, "Boxes")


class RotatedAnchorGenerator(_Generator):
    """detectron2's RotatedAnchorGenerator: centre x, y, width, height, angle; the angles run innermost.

    Args:
        angles: degrees, counter-clockwise: a list per level, or one list for all levels.
        sizes, aspect_ratios, strides, offset, cfg, input_shape: as for `DefaultAnchorGenerator`.
    """

    box_dim = 5
    _layout = "cxcywha"

    def __init__(
        self,
        cfg: Any = None,
        input_shape: Any = None,
        *,
        sizes: Any = None,
        aspect_ratios: Any = None,
        strides: Any = None,
        angles: Any = None,
        offset: Any = None,
    ) -> None:
        given = {"sizes": sizes, "aspect_ratios": aspect_ratios, "angles": angles, "strides": strides, "offset": offset}
        super().__init__(cfg, input_shape, given)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[Any]) -> dict[str, Any]:
        """The arguments that detectron2's configuration holds, and the strides of the features' shapes."""
        arguments = DefaultAnchorGenerator.from_config(cfg, input_shape)
        return {**arguments, "angles": cfg.MODEL.ANCHOR_GENERATOR.ANGLES}

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
        angles: Sequence[float] = (-90, -60, -30, 0, 30, 60, 90),
    ) -> Tensor:
        """Cell anchors of one level, `(sizes * ratios * angles, 5)` float32 around the origin."""
        boxes = [(0, 0, w, h, angle) for w, h in _widths_and_heights(sizes, aspect_ratios) for angle in angles]
        return torch.tensor(boxes, dtype=torch.float32, device="cpu")

    def forward(self, features: Sequence[Tensor]) -> list[Any]:
        """Per level detectron2's `RotatedBoxes`; errors as for `DefaultAnchorGenerator.forward`."""
        return self._boxes(features, "RotatedBoxes")


def _widths_and_heights(sizes: Sequence[float], ratios: Sequence[float]) -> list[tuple[float, float]]:
    pairs = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            pairs.append((width, ratio * width))
    return pairs
