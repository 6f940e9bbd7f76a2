"""detectron2's `DefaultAnchorGenerator` and `RotatedAnchorGenerator` (detectron2.modeling.anchor_generator)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._core import MAX_CELL_ANCHORS
from .._recording import is_compiled, is_symbolic, place_of
from .._spec import DTYPES
from ..grid import AnchorGrid
from . import _check as check
from ._common import by_level, constants, renaming
from ._detectron2_cells import BufferList, has_numbers, per_level, read, widths_and_heights
from ._detectron2_register import register_classes
from ._detectron2_script import anchors_of_sizes
from ._follow import Follows, has_own

__all__ = ["DefaultAnchorGenerator", "RotatedAnchorGenerator", "register"]

if TYPE_CHECKING:  # detectron2's; see __prepare_scriptable__

    class Boxes:
        def __init__(self, tensor: Tensor) -> None: ...

    class RotatedBoxes(Boxes): ...


def register() -> str:
    """Makes detectron2 build these classes under its own names for them.

    They take the stock classes' place in ANCHOR_GENERATOR_REGISTRY and under every name in a detectron2 module that is
    imported already, such as FCOS's; so whatever is imported from detectron2 later, such as a LazyConfig file, has
    them as well. Not reached are LazyConfig files that have been loaded, other packages that have imported the stock
    classes, and subclasses of these: call this first. Twice is as good as once.

    Returns:
        Where they are now, a line per class, and which imported modules still hold the stock classes.

    Raises:
        ImportError: detectron2 is not installed.
    """
    return register_classes(DefaultAnchorGenerator, RotatedAnchorGenerator)


class _Generator(Follows, nn.Module):
    box_dim: int
    _layout: str
    _made_of = ("strides", "offset", "cell_anchors")
    _lists: tuple[str, ...]  # arguments that the cell anchors are made of

    # For TorchScript: what it knows when it compiles, and what it leaves to Python.
    __constants__ = ("box_dim", "_has_own_grids")
    __jit_unused_properties__ = ("num_anchors", "num_cell_anchors")
    __jit_ignored_attributes__ = ("num_anchors", "num_cell_anchors", "grid", "_numbers", "_state", "_tensors")
    _has_own_grids = False

    def _construct(self, cfg: Any, input_shape: Any, given: dict[str, Any]) -> None:
        """From what was given by name and, where that is None, from detectron2's configuration."""
        configured: dict[str, Any] = {}
        if cfg is not None:
            configured = self.from_config(cfg) if input_shape is None else self.from_config(cfg, input_shape)
        parameters: dict[str, Any] = {
            name: configured.get(name) if value is None else value for name, value in given.items()
        }
        strides, offset = parameters.pop("strides"), parameters.pop("offset")
        for name, value in (("strides", strides), *parameters.items()):
            if value is None:
                raise TypeError(f"{name} is missing; expected it by name, or (cfg, input_shape)")
        check.numbers("strides", strides)
        self.strides = strides
        self.num_features = len(strides)
        self.offset = 0.5 if offset is None else offset
        self._check_offset()
        base = DefaultAnchorGenerator if isinstance(self, DefaultAnchorGenerator) else RotatedAnchorGenerator
        any_items = has_own(self, base.generate_cell_anchors, base._calculate_anchors)
        lists = [per_level(name, value, self.num_features, any_items=any_items) for name, value in parameters.items()]
        with constants():
            self.cell_anchors = self._calculate_anchors(*lists)
        self._remake()

    def _check_offset(self) -> None:
        expected = "a number in [0, 1)"
        check.number("offset", self.offset, positive=False)
        check.that(0.0 <= self.offset < 1.0, "offset", self.offset, expected)

    @classmethod
    def from_config(cls, cfg: Any, *shapes: Any) -> dict[str, Any]:
        raise NotImplementedError

    def generate_cell_anchors(self, *parameters: Any) -> Tensor:
        raise NotImplementedError

    def _calculate_anchors(self, *lists: Any) -> Any:
        """The cell anchors, from each argument's list per level."""
        return BufferList(self.generate_cell_anchors(*of_level).float() for of_level in zip(*lists, strict=True))

    # What the attributes make.

    def _remake(self) -> None:
        if self._state is None or has_numbers(self.cell_anchors):
            super()._remake()
        else:  # until they are again
            self._make()
            self._is_made = True

    def _make(self) -> None:
        check.numbers("strides", self.strides)
        self._check_offset()
        with constants():
            if self._state is None or has_numbers(self.cell_anchors):  # else the last ones that were seen count
                self._dtypes, self._numbers = read(self.cell_anchors, self.box_dim)
            levels = min(len(self.strides), len(self._numbers))  # detectron2 zips them
            counts = [len(boxes) for boxes in self._numbers[:levels]]
            if sum(counts) > MAX_CELL_ANCHORS:
                raise check.CompatError(
                    f"{', '.join(self._lists)} make {sum(counts)} cell anchors, of the levels {check.show(counts)}; "
                    f"expected at most {MAX_CELL_ANCHORS} over all levels"
                )
            given = list(self.strides)[:levels]
            self._strides = [float(stride) for stride in given]
            self._starts = [float(self.offset * stride) for stride in given]  # as exact as the numbers' own types
            self._as_many = [stride.is_integer() and self.offset <= 0.999 for stride in self._strides]
            self._counts = counts
            self._dtype = "float64" if "float64" in self._dtypes else "float32"
            make: Any = AnchorGrid
            self.grid: AnchorGrid = renaming(
                {"cell_anchors has": "strides has"} if levels == len(self.strides) else {},
                make,
                self._numbers[:levels],
                self._strides,
                start=self._starts,
                arithmetic="arange" if self._dtype == "float32" else "arange/float32/float64",
                layout=self._layout,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "cell_anchors" and not isinstance(value, nn.Module) and check.is_sequence(value):
            value = BufferList(value)
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)
        self._changed()
        return result

    def __prepare_scriptable__(self) -> nn.Module:
        """torch.jit.script calls it: from here on it compiles `forward`, which asks for what is put in place here."""
        global Boxes, RotatedBoxes  # where TorchScript looks for the names in a function
        from detectron2.structures import Boxes, RotatedBoxes

        self._follow()
        self._spec = self.grid._config.spec
        self._has_own_grids = has_own(self, _Generator._grid_anchors)
        return self

    def _scripted(self, features: list[Tensor]) -> list[Tensor]:
        sizes = [list(feature.shape[-2:]) for feature in features]
        if self._has_own_grids or len(features) == 0:
            return self._grid_anchors(sizes)
        return self._scripted_on(features[0].device, sizes)

    def _scripted_on(self, device: torch.device, sizes: list[list[int]]) -> list[Tensor]:
        numbers = (self._strides, self._starts, self._as_many, self._counts)
        return anchors_of_sizes(sizes, device, self._spec, self._dtype, *numbers)

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
        """Per level its anchors, `(rows * columns * A, box_dim)`: views of one tensor, made by one launch.

        They are float32; float64 where the module has been converted to that. A subclass's own `_grid_anchors` makes
        them instead.

        Args:
            grid_sizes: per level `(rows, columns)`; the last levels may be missing.
            device: default CUDA where there is one, else the CPU. The numbers are those of detectron2 on the CPU, on
                every device.

        Raises:
            CompatError: there are more grids than levels, or the attributes have been assigned what makes no anchors.
            TypeError, ValueError, RuntimeError: as `AnchorGrid`.
        """
        if has_own(self, _Generator._grid_anchors):
            anchors = self._grid_anchors(grid_sizes)  # type: ignore[arg-type]
            return anchors if device is None else [of_level.to(device) for of_level in anchors]
        return self._made(grid_sizes, device)

    def _grid_anchors(self, grid_sizes: list[list[int]]) -> list[Tensor]:
        """`grid_anchors` on the device of the cell anchors: detectron2's name for it, which subclasses override."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            buffers = [named[1] for named in self.cell_anchors.named_buffers()]
            return self._scripted_on(buffers[0].device, grid_sizes)
        else:
            return self._made(grid_sizes, next(self.cell_anchors.buffers()).device)

    def _made(self, grid_sizes: Any, device: Any) -> list[Tensor]:
        self._follow()
        grids = self._grids(grid_sizes)
        if not grids:
            return []
        given = len(grids)
        grids += [(0, 0)] * (len(self._strides) - given)
        keywords = {"dtype": DTYPES[self._dtype], "device": device}
        anchors = by_level(self.grid, {"level_shapes": "grid_sizes"}, self.grid, grids, **keywords)[:given]
        if self._dtype == "float64":  # not that of every level, perhaps
            return [of_level.to(DTYPES[name]) for of_level, name in zip(anchors, self._dtypes, strict=False)]
        return anchors

    def _grids(self, grid_sizes: Any) -> list[tuple[int, int]]:
        """As many rows and columns as there are centres."""
        expected = f"(rows, columns) of each of at most {len(self._strides)} levels"
        check.that(hasattr(grid_sizes, "__len__") and len(grid_sizes) <= len(self._strides), "grid_sizes", grid_sizes,
                   expected)  # fmt: skip
        try:
            return [self._cells(i, rows, columns) for i, (rows, columns) in enumerate(grid_sizes)]
        except (TypeError, ValueError) as error:
            raise check.CompatError(f"grid_sizes is {check.show(grid_sizes)}; expected {expected}") from error

    def _cells(self, level: int, rows: Any, columns: Any) -> tuple[int, int]:
        """As many as torch.arange(offset * stride, cells * stride, stride) has: one more for some odd strides."""
        if not (type(rows) is int and type(columns) is int) and not is_compiled() and not is_symbolic((rows, columns)):
            rows, columns = operator.index(rows), operator.index(columns)
        if self._as_many[level]:
            return rows, columns
        return self._count(level, rows), self._count(level, columns)

    def _count(self, level: int, side: Any) -> Any:
        stride = self._strides[level]
        end = side * stride
        if type(side) is int and not is_compiled():
            end = float(side * self.strides[level])  # which is as exact as the number's own type
        return math.ceil((end - self._starts[level]) / stride)

    def _boxes(self, features: Any, name: str) -> list[Any]:
        try:
            from detectron2 import structures
        except ImportError as error:
            raise ImportError(
                f"forward gives detectron2's {name}, and detectron2 cannot be imported ({error}); "
                "grid_anchors gives tensors"
            ) from error
        features = list(features)
        for i, feature in enumerate(features):
            if not isinstance(feature, Tensor) or feature.ndim < 2:
                raise check.CompatError(
                    f"features[{i}] is {check.show(feature)}; expected a tensor (..., rows, columns)"
                )
        sizes = [feature.shape[-2:] for feature in features]
        levels = len(self.cell_anchors)
        if len(sizes) > levels and not has_own(self, _Generator._grid_anchors):
            raise check.CompatError(f"features has {len(sizes)} entries; expected at most {levels}, one per level")
        device: Any = features[0].device if features else None
        if features and not has_own(self, _Generator._grid_anchors, _Generator.grid_anchors):
            device = place_of(features[0])
        anchors = self.grid_anchors(sizes, device)
        return [getattr(structures, name)(of_level) for of_level in anchors]


class DefaultAnchorGenerator(_Generator):
    """detectron2's DefaultAnchorGenerator: the same anchors bit for bit, from one launch for all levels.

    Per level, cell anchors of every size (outer) and aspect ratio (inner), `w = sqrt(size**2 / ratio)`, `h = ratio * w`
    in float64, rounded to float32; centres as torch.arange makes them in float32 on the CPU, from `offset * stride` on.
    (torch.arange on CUDA rounds otherwise; here every device has the CPU's.)

    The cell anchors are buffers outside of checkpoints, as in detectron2: `half()` rounds them, and with them the
    anchors. `strides`, `offset` and `cell_anchors` may be assigned or written into: the next eager call follows.
    A subclass's `generate_cell_anchors`, `_calculate_anchors` and `_grid_anchors` are called as detectron2 calls them.

    Called as `DefaultAnchorGenerator(cfg, input_shape)` it reads detectron2's configuration.

    Args:
        sizes: square roots of the anchors' areas in pixels: a list per level, or one list for all levels.
        aspect_ratios: height / width: the same.
        strides: pixels between centres, per level.
        offset: of the first centre, in strides; in [0, 1).

    Raises:
        CompatError: an argument has the wrong form or value, or there are more than 512 cell anchors over all levels.
        TypeError: an argument is missing, or `cfg` is no configuration.
    """

    box_dim = 4
    _layout = "xyxy"
    _lists = ("sizes", "aspect_ratios")

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
        super().__init__()
        given = {"sizes": sizes, "aspect_ratios": aspect_ratios, "strides": strides, "offset": offset}
        self._construct(cfg, input_shape, given)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[Any]) -> dict[str, Any]:
        """The arguments that detectron2's configuration holds, and the strides of the features' shapes."""
        if not hasattr(cfg, "MODEL"):
            raise TypeError(f"cfg is {check.show(cfg)}; expected detectron2's configuration, or arguments by name")
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
        boxes = [(-w / 2.0, -h / 2.0, w / 2.0, h / 2.0) for w, h in widths_and_heights(sizes, aspect_ratios)]
        return torch.tensor(boxes, dtype=torch.float32, device="cpu")

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Per level detectron2's `Boxes`, on the device of the first feature map, of whose dtype nothing depends.

        Raises:
            ImportError: detectron2 is not installed; `grid_anchors` gives tensors.
            CompatError: there are more feature maps than levels.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return [Boxes(of_level) for of_level in self._scripted(features)]
        else:
            return self._boxes(features, "Boxes")


class RotatedAnchorGenerator(_Generator):
    """detectron2's RotatedAnchorGenerator: centre x, y, width, height, angle; the angles run innermost.

    Args:
        angles: degrees, counter-clockwise: a list per level, or one list for all levels.
        sizes, aspect_ratios, strides, offset, cfg, input_shape: as for `DefaultAnchorGenerator`.
    """

    box_dim = 5
    _layout = "cxcywha"
    _lists = ("sizes", "aspect_ratios", "angles")

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
        super().__init__()
        given = {"sizes": sizes, "aspect_ratios": aspect_ratios, "angles": angles, "strides": strides, "offset": offset}
        self._construct(cfg, input_shape, given)

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
        boxes = [(0, 0, w, h, angle) for w, h in widths_and_heights(sizes, aspect_ratios) for angle in angles]
        return torch.tensor(boxes, dtype=torch.float32, device="cpu")

    def forward(self, features: list[Tensor]) -> list[RotatedBoxes]:
        """Per level detectron2's `RotatedBoxes`; errors as for `DefaultAnchorGenerator.forward`."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return [RotatedBoxes(of_level) for of_level in self._scripted(features)]
        else:
            return self._boxes(features, "RotatedBoxes")
