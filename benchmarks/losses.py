"""Times the focal loss and its gradient beside torchvision's, Inductor's compile of the same, and a copy of the logits.

    python benchmarks/losses.py [--device cpu|cuda] [--quick] [--one-allocator] [--json FILE]

Milliseconds per image of 91 classes, forward and backward, RetinaNet's five levels, one thread, 20 boxes (those of
matching.py). On the CPU everything is measured twice, each in a process of its own: with glibc's malloc as users have
it, and with the tunables of matching.py. "stock" makes targets and copies the rows that take part, as RetinaNet's head
of torchvision does around its `sigmoid_focal_loss`; "compiled" is Inductor's compile of the same with a mask in place
of the copies. "levels" is anchor_ext's from the outputs of a head, a tensor per level; the rivals would first permute
and concatenate these. Nothing is timed that is farther from float64 than 2e-6, or a rival than 1e-4: Inductor's sum is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from allocators import finish, parse, print_about
from device_times import kernels_line, on_device
from matching import coco_boxes, peak_megabytes
from timing import interleaved, medians
from torch import Tensor

import anchor_ext
from anchor_ext.losses import focal_loss

CLASSES, BOXES = 91, 20


def stock() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    try:
        from torchvision.ops import sigmoid_focal_loss
    except (ImportError, OSError, RuntimeError):
        return None

    def by_rows(logits: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        positive = matched >= 0
        targets = torch.zeros_like(logits)
        targets[positive, labels[matched[positive]]] = 1.0
        valid = matched != -2
        return sigmoid_focal_loss(logits[valid], targets[valid], reduction="sum") / max(1, int(positive.sum()))

    return by_rows


def by_mask(logits: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
    """The same in fixed shapes, which a compiler can make one graph of."""
    positive = (matched >= 0)[:, None]
    own = labels[matched.clamp(min=0)][:, None] == torch.arange(logits.shape[1], device=logits.device)
    targets = (own & positive).to(logits.dtype)
    p = logits.sigmoid()
    part = p * targets + (1 - p) * (1 - targets)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (1 - part) ** 2
    loss = loss * (0.25 * targets + 0.75 * (1 - targets))
    return torch.where((matched != -2)[:, None], loss, 0).sum() / positive.sum().clamp(min=1)


def both(function: Callable[..., Tensor], logits: Tensor, *arguments: Any) -> Callable[[], tuple[Tensor, Tensor]]:
    """The loss and its gradient."""

    def call() -> tuple[Tensor, Tensor]:
        loss = function(logits, *arguments)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    return call


def case(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    matched = anchor_ext.Anchors().match(coco_boxes(BOXES, shape), shape)
    logits = torch.randn(len(matched), CLASSES, generator=random) * 1.5 - 4.6  # of a head that begins to learn
    labels = torch.randint(CLASSES, (BOXES,), generator=random)
    return logits.to(device).requires_grad_(), matched.to(device), labels.to(device)


def ours(logits: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
    return focal_loss(logits[None], matched[None], [labels])


def levels_of(logits: Tensor, shape: tuple[int, int]) -> list[Tensor]:
    """As a head gives them: (1, cell anchors * classes, rows, columns) per level."""
    anchors, levels = anchor_ext.Anchors(), []
    split = logits.detach().split(anchors.level_sizes(shape))
    for level, (rows, columns) in zip(split, anchors.level_shapes(shape), strict=True):
        channels = level.view(rows, columns, -1).permute(2, 0, 1)[None].contiguous()
        levels.append(channels.requires_grad_())
    return levels


def from_levels(levels: list[Tensor], matched: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """The loss, and its gradient as one tensor, which is not timed: see `joined`."""

    def call() -> tuple[Tensor, Any]:
        loss = focal_loss(levels, matched[None], [labels])
        return loss.detach(), torch.autograd.grad(loss, levels)

    return call


def joined(grads: list[Tensor]) -> Tensor:
    return torch.cat([grad[0].permute(1, 2, 0).reshape(-1, CLASSES) for grad in grads])


def functions_of(shape: tuple[int, int], device: torch.device, compiling: bool) -> dict[str, Callable[[], Any]]:
    arguments = case(shape, device)
    functions: dict[str, Callable[[], Any]] = {}
    original = stock()
    if original is not None:
        functions["stock"] = both(original, *arguments)
    if compiling:
        functions["compiled"] = both(torch.compile(by_mask, fullgraph=True, dynamic=False), *arguments)
    functions["anchor_ext"] = both(ours, *arguments)
    functions["levels"] = from_levels(levels_of(arguments[0], shape), *arguments[1:])
    exact = arguments[0].detach().double().requires_grad_()
    wanted, wanted_grad = both(by_mask, exact, *arguments[1:])()
    for name, function in list(functions.items()):
        loss, grad = function()
        grad = joined(grad) if name == "levels" else grad
        most = 2e-6 if name in ("anchor_ext", "levels") else 1e-4
        wrong = abs(float(loss) / float(wanted) - 1) > most or (grad - wanted_grad).norm() > most * wanted_grad.norm()
        if wrong and name in ("anchor_ext", "levels"):
            raise SystemExit(f"{name}, {shape} on {device} is wrong: nothing is timed")
        if wrong:
            del functions[name]
    given, to = arguments[0].detach(), torch.empty_like(arguments[0])
    functions["copy"] = lambda: to.copy_(given)
    return functions


COLUMNS = ["stock", "compiled", "anchor_ext", "levels", "copy"]


def one_peak(name: str, shape: tuple[int, int], device_name: str) -> None:
    torch.set_num_threads(1)
    device = torch.device(device_name)
    function = {"anchor_ext": ours, "stock": stock() or by_mask}[name]
    logits, matched, labels = case(shape, device)
    both(function, logits[:9].detach().requires_grad_(), matched[:9], labels)()
    print(json.dumps(peak_megabytes(lambda: both(function, logits, matched, labels)()[1], device)))


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    device = torch.device(options.device)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds: dict[str, Any] = {"rounds": 3, "seconds": 0.002} if options.quick else {"rounds": 9, "at_most": 10.0}
    print_about(device)
    print(f"{'image':>10}" + "".join(f"{name:>12}" for name in [*COLUMNS, "stock/ours", "comp./ours", "ours/copy"]))
    rows = []
    for shape in [(160, 224)] if options.quick else [(640, 832), (800, 1333)]:
        torch.compiler.reset()
        functions = functions_of(shape, device, not options.quick)
        seconds = interleaved(functions, threads=1, **rounds)
        kernels = on_device(functions) if device.type == "cuda" else {}
        rows.append({"image_shape": shape, "seconds": seconds, "kernels": kernels})
        m = {name: 1e3 * value for name, value in medians(seconds).items()}
        m |= {"stock/ours": m.get("stock", 0) / m["anchor_ext"], "comp./ours": m.get("compiled", 0) / m["anchor_ext"]}
        m["ours/copy"] = m["anchor_ext"] / m["copy"]
        cells = [f"{m[name]:12.2f}" if m.get(name) else f"{'-':>12}" for name in [*COLUMNS, *list(m)[-3:]]]
        print(f"{'{}x{}'.format(*shape):>10}" + "".join(cells), flush=True)
        if kernels:
            print(kernels_line(kernels, COLUMNS, 10, 12, 1e-3), flush=True)
    peaks = {}
    for name in ("anchor_ext", "stock") if not options.quick and "GLIBC_TUNABLES" not in os.environ else ():
        code = f"import losses; losses.one_peak({name!r}, (640, 832), {str(device)!r})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        if run.returncode == 0:
            peaks[name] = json.loads(run.stdout.splitlines()[-1])
            print(f"peak beside the gradient, {name}, 640x832: {peaks[name]:.1f} MB", flush=True)
    finish(options, __file__, rows, peak_megabytes=peaks)


if __name__ == "__main__":
    main()
