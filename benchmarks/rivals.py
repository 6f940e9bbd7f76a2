"""What is timed: anchor_ext, what one would use in its place, and the limits; and whether each makes the right bits.

NumPy and plain torch compute in float64 and make anchor_ext's anchors. In float32 all are equal bit for bit. To
bfloat16 NumPy's way and eager torch go through float32, which rounds twice, and compilers may go directly; anchor_ext
rounds once. So anchor_ext must equal the float64 anchors rounded once, and the others these or the float32 anchors
rounded again.

torchvision has a convention of its own, with as many anchors: it must equal anchor_ext's drop-in. In bfloat16 it rounds
the centres before it adds them to the cell anchors, and Inductor leaves that rounding out: compiled, both are right.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import device_times
import torch
from numpy_anchors import cell_anchors, numpy_anchors, numpy_float64
from torch import Tensor

import anchor_ext
from anchor_ext.compat.torchvision import AnchorGenerator as DropIn

try:
    from torchvision import __version__ as torchvision_version
    from torchvision.models.detection.anchor_utils import AnchorGenerator as Original
except (ImportError, OSError, RuntimeError) as error:  # a torchvision that does not fit its torch raises any of them
    torchvision_version, Original = f"left out ({str(error).partition(chr(10))[0]}); `make peers` installs it", None

STRIDES = (8, 16, 32, 64, 128)
SIZES = tuple(tuple(4.0 * stride * 2 ** (i / 3) for i in range(3)) for stride in STRIDES)
RATIOS = ((0.5, 1.0, 2.0),) * len(STRIDES)
CONSTANT = 1.5  # what the limits write: exact in every dtype, and not a byte repeated

Function = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> torch.Size:
        return torch.Size([1, anchor_ext.Anchors().num_anchors(self.shape), 4])

    @property
    def bytes(self) -> int:
        return self.size.numel() * self.dtype.itemsize

    @cached_property
    def out(self) -> Tensor:
        """One for all that are given one to write into: some memory is slower than the rest."""
        return torch.empty(self.size, dtype=self.dtype, device=self.device)


def eager(case: Case) -> Function:
    return lambda: anchor_ext.generate(case.shape, dtype=case.dtype, device=case.device)


def given(case: Case) -> Function:
    out = case.out.fill_(torch.nan)
    return lambda: anchor_ext.generate(case.shape, dtype=case.dtype, device=case.device, out=out)


def numpy(case: Case) -> Function:
    if case.dtype == torch.float32:
        return lambda: numpy_anchors(case.shape, case.device)
    return lambda: numpy_anchors(case.shape, torch.device("cpu")).to(case.dtype).to(case.device)


def plain(case: Case) -> Function:
    """Vectorised torch. Columns and rows are rounded before they are broadcast, by far the fastest way that was found.

    A coordinate depends on one of them only, so that the bits are those of rounding every box.
    """
    shape, dtype, device = case.shape, case.dtype, case.device
    cells_of_levels = [torch.from_numpy(cell_anchors(4 * stride)).to(device) for stride in STRIDES]

    def boxes() -> Tensor:
        levels = []
        for cells, stride in zip(cells_of_levels, STRIDES, strict=True):
            rows, columns = ((side + stride - 1) // stride for side in shape)
            y = (torch.arange(rows, dtype=torch.float64, device=device) + 0.5) * stride
            x = (torch.arange(columns, dtype=torch.float64, device=device) + 0.5) * stride
            xs = (cells[:, 0::2] + x[:, None, None]).to(dtype).expand(rows, -1, -1, -1)
            ys = (cells[:, 1::2] + y[:, None, None, None]).to(dtype).expand(-1, columns, -1, -1)
            levels.append(torch.stack([xs[..., 0], ys[..., 0], xs[..., 1], ys[..., 1]], dim=-1).reshape(-1, 4))
        return torch.cat(levels)[None]

    return boxes


def torchvision_call(generator: torch.nn.Module, case: Case) -> Function:
    """With an image and feature maps that are views of one number: only their shapes matter."""
    number = torch.zeros((), dtype=case.dtype, device=case.device)
    images = types.SimpleNamespace(tensors=number.expand(1, 3, *case.shape), image_sizes=[case.shape])
    rows, columns = case.shape
    features = [number.expand(1, 1, -(-rows // stride), -(-columns // stride)) for stride in STRIDES]
    return lambda: generator(images, features)[0]


def torchvision(case: Case) -> Function:
    return torchvision_call(Original(SIZES, RATIOS), case)


def full(case: Case) -> Function:
    size = case.size
    return lambda: torch.full(size, CONSTANT, dtype=case.dtype, device=case.device)


def fill(case: Case) -> Function:
    out = case.out.fill_(torch.nan)
    return lambda: out.fill_(CONSTANT)


def compiled(make: Callable[[Case], Function]) -> Callable[[Case], Function]:
    """Under Inductor, with the shape as a constant; compiled by the first call."""
    return lambda case: torch.compile(make(case), fullgraph=True, dynamic=False)


def replayed(make: Callable[[Case], Function]) -> Callable[[Case], Function]:
    return lambda case: device_times.replay(make(case))


def empty_kernel(case: Case) -> Function:
    """One thread that reads the clock: torch has no emptier kernel, and launches it without its dispatcher."""
    return lambda: torch.cuda._sleep(0)


@dataclass(frozen=True)
class Column:
    make: Callable[[Case], Function]
    answer: str  # which of `answers`


# Without these there is nothing to say; what else does not run is left out.
NEEDED = {"anchor_ext", "anchor_ext out=", "full", "fill_"}


def columns(case: Case) -> dict[str, Column]:
    """All that there is to compare for a case, by name."""
    result = {  # each beside its limit, which finds the caches and malloc as it does
        "anchor_ext": Column(eager, "rounded once"),
        "full": Column(full, "constant"),
        "anchor_ext out=": Column(given, "rounded once"),
        "fill_": Column(fill, "constant"),
        "anchor_ext compiled": Column(compiled(eager), "rounded once"),
        "full compiled": Column(compiled(full), "constant"),
        "numpy": Column(numpy, "rounded"),
        "plain": Column(plain, "rounded"),
        "plain compiled": Column(compiled(plain), "rounded"),
    }
    if Original is not None:
        result["torchvision"] = Column(torchvision, "torchvision")
        result["torchvision compiled"] = Column(compiled(torchvision), "torchvision compiled")
    if case.device.type == "cuda":
        result["anchor_ext graph"] = Column(replayed(eager), "rounded once")
        result["plain compiled graph"] = Column(replayed(compiled(plain)), "rounded")
        result["full graph"] = Column(replayed(full), "constant")
        result["empty kernel"] = Column(empty_kernel, "nothing")
    return result


def rounded_once(values: Tensor) -> Tensor:
    """float64 to bfloat16, to nearest even, by the bits: 45 of the mantissa's 52 go. Of normal numbers and zero."""
    bits = values.view(torch.int64)
    bits = (bits + ((1 << 44) - 1) + ((bits >> 45) & 1)) >> 45 << 45
    return bits.view(torch.float64).to(torch.bfloat16)  # holds them: this rounds nothing


def unrounded_centres(case: Case) -> Tensor:
    """torchvision's anchors, the centres as they are: whole numbers, as are the cell anchors, with exact sums."""
    levels = []
    for cells, stride in zip(DropIn(SIZES, RATIOS).cell_anchors, STRIDES, strict=True):
        y, x = (torch.arange(-(-side // stride)) * (side // -(-side // stride)) for side in case.shape)
        y, x = torch.meshgrid(y.float(), x.float(), indexing="ij")
        boxes = cells.to(case.dtype).float() + torch.stack([x, y, x, y], dim=-1)[:, :, None]
        levels.append(boxes.to(case.dtype).reshape(-1, 4))
    return torch.cat(levels)


def answers(case: Case) -> dict[str, list[Tensor]]:
    """On the CPU, the results that are right, by the name that columns have for them."""
    exact = torch.from_numpy(numpy_float64(case.shape))[None]
    once = exact.to(case.dtype) if case.dtype == torch.float32 else rounded_once(exact)
    again = [] if case.dtype == torch.float32 else [exact.float().to(case.dtype)]
    drop_in = torchvision_call(DropIn(SIZES, RATIOS), Case(case.shape, case.dtype, torch.device("cpu")))()
    return {
        "rounded once": [once],
        "rounded": [once, *again],
        "constant": [torch.full(case.size, CONSTANT, dtype=case.dtype)],
        "torchvision": [drop_in],
        "torchvision compiled": [drop_in, unrounded_centres(case)],
    }


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integers = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(a.cpu().view(integers), b.view(integers))


def checked(case: Case) -> tuple[dict[str, Function], dict[str, str]]:
    """The functions to time, every one of which made the right bits; and why those that do not run are left out."""
    functions: dict[str, Function] = {}
    left_out: dict[str, str] = {}
    right = answers(case)
    for name, column in columns(case).items():
        try:
            function = column.make(case)
            for _ in range(2):  # a compiled function's second call is another path
                if column.answer == "nothing":
                    function()
                    continue
                result = function()
                if not any(same_bits(result, answer) for answer in right[column.answer]):
                    if name in NEEDED or name.startswith("anchor_ext"):
                        raise SystemExit(
                            f"{name} of {case.shape}, {case.dtype} on {case.device} is wrong: nothing is timed"
                        )
                    raise ValueError("its result is wrong")
                result.fill_(torch.nan)  # nothing right is left for the next call, in `out` or in what malloc returns
        except Exception as error:
            if name in NEEDED:
                raise
            left_out[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
            continue
        functions[name] = function
    return functions, left_out


def anchors_at(shape: tuple[int, int], index: Tensor) -> Tensor:
    """(n, 4) float32 of n flat indices, by arithmetic on the indices: for images that are too large to make twice."""
    boxes = torch.empty(len(index), 4, dtype=torch.float64)
    start = 0
    for stride in STRIDES:
        cells = torch.from_numpy(cell_anchors(4 * stride))
        rows, width = ((side + stride - 1) // stride for side in shape)
        here = (index >= start) & (index < start + rows * width * len(cells))
        cell, anchor = (index[here] - start) // len(cells), (index[here] - start) % len(cells)
        x, y = ((side + 0.5) * stride for side in (cell % width, cell // width))
        boxes[here] = cells[anchor] + torch.stack([x, y, x, y], dim=1)
        start += rows * width * len(cells)
    return boxes.float()
