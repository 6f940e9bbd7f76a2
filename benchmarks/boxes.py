"""Times decoding and selecting beside torchvision's, Inductor's compile of the same, and the limit.

    python benchmarks/boxes.py [--device cpu|cuda] [--quick] [--one-allocator] [--json FILE]

Milliseconds per image, RetinaNet's five levels, 91 classes, one thread. "decode" makes boxes of all anchors' deltas and
clips them; its limit is exp of half of the deltas and a copy of all. "decode 1000" does so at as many indices, where
torchvision gathers the anchors first. "select" finds the scores above 0.05 and the best 1,000 of each level; its limit
is reading the logits once. Nothing is timed that differs: boxes by more than exp's last bit makes, candidates at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from allocators import finish, parse, print_about
from device_times import kernels_line, on_device
from timing import interleaved, medians
from torch import Tensor

import anchor_ext

CLASSES, THRESHOLD, MOST = 91, 0.05, 1000
ANCHORS = anchor_ext.Anchors()
COLUMNS = ["stock", "compiled", "anchor_ext", "limit"]


def by_torch(deltas: Tensor, anchors: Tensor, shape: tuple[int, int]) -> Tensor:
    """What torchvision's BoxCoder and clip_boxes_to_image do, line by line, which compilers fuse."""
    w, h = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    x, y = anchors[:, 0] + 0.5 * w, anchors[:, 1] + 0.5 * h
    dx, dy, dw, dh = deltas.unbind(1)
    most = anchor_ext.BoxCoder().max_log_ratio
    x, y = dx * w + x, dy * h + y
    w, h = dw.clamp(max=most).exp() * w, dh.clamp(max=most).exp() * h
    x = torch.stack([x - 0.5 * w, x + 0.5 * w], 1).clamp(0, shape[1])
    y = torch.stack([y - 0.5 * h, y + 0.5 * h], 1).clamp(0, shape[0])
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def stock_decode(deltas: Tensor, anchors: Tensor, shape: tuple[int, int]) -> Tensor:
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import clip_boxes_to_image

    return clip_boxes_to_image(BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas, anchors), shape)


def stock_select(logits: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """As RetinaNet.postprocess_detections of torchvision."""
    found, begin = [], 0
    for level in logits.split(sizes):
        scores = torch.sigmoid(level).flatten()
        keep = scores > THRESHOLD
        scores, at = scores[keep], torch.where(keep)[0]
        scores, best = scores.topk(min(len(at), MOST))
        at = at[best]
        found.append((scores, begin + torch.div(at, CLASSES, rounding_mode="floor"), at % CLASSES))
        begin += len(level)
    return tuple(torch.cat(of) for of in zip(*found, strict=True))  # type: ignore[return-value]


def fixed_select(logits: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """The same in fixed shapes, which a compiler can make one graph of."""
    from anchor_ext._select_operators import _by_torch

    return _by_torch([logits[None]], sizes, CLASSES, THRESHOLD, MOST)


def have_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def decoders(shape: tuple[int, int], device: torch.device, compiling: bool) -> dict[str, dict[str, Callable[[], Any]]]:
    random = torch.Generator().manual_seed(0)
    anchors = ANCHORS.generate(shape, device=device)[0]
    deltas = (torch.randn(1, len(anchors), 4, generator=random) * 0.3).to(device)
    index = torch.randint(len(anchors), (1, MOST), generator=random).to(device)
    chosen, sizes = deltas[0, index[0]][None], deltas[..., 2:].contiguous()
    to = torch.empty_like(deltas)

    def limit() -> None:
        sizes.exp()
        to.copy_(deltas)

    everything: dict[str, Callable[[], Any]] = {"anchor_ext": lambda: ANCHORS.decode(deltas, shape)[0], "limit": limit}
    some: dict[str, Callable[[], Any]] = {"anchor_ext": lambda: ANCHORS.decode(chosen, shape, index=index)[0]}
    if have_torchvision():
        everything["stock"] = lambda: stock_decode(deltas[0], anchors, shape)
        some["stock"] = lambda: stock_decode(chosen[0], anchors[index[0]], shape)
    if compiling:
        compiled = torch.compile(by_torch, dynamic=False)
        everything["compiled"] = lambda: compiled(deltas[0], anchors, shape)
        some["compiled"] = lambda: compiled(chosen[0], anchors[index[0]], shape)
    for functions, of, at in ((everything, deltas, anchors), (some, chosen, anchors[index[0]])):
        wanted = by_torch(of[0].double(), at.double(), shape)
        for name, function in functions.items():
            if name != "limit" and (function() - wanted).abs().max() > 1e-3:
                raise SystemExit(f"decode of {name} is wrong: nothing is timed")
    return {"decode": everything, "decode 1000": some}


def selectors(shape: tuple[int, int], device: torch.device, compiling: bool) -> dict[str, Callable[[], Any]]:
    random = torch.Generator().manual_seed(0)
    sizes = ANCHORS.level_sizes(shape)
    logits = (torch.randn(sum(sizes), CLASSES, generator=random) - 6.5).to(device)
    functions: dict[str, Callable[[], Any]] = {
        "stock": lambda: stock_select(logits, sizes),
        "anchor_ext": lambda: anchor_ext.select(logits[None], level_sizes=sizes),
        "limit": logits.max,
    }
    if compiling:
        compiled = torch.compile(fixed_select, dynamic=False)
        functions["compiled"] = lambda: compiled(logits, sizes)
    wanted, got = functions["stock"](), functions["anchor_ext"]()
    count = int(got.counts[0])
    if device.type == "cpu" and not all(torch.equal(a, b[0, :count]) for a, b in zip(wanted, got, strict=False)):
        raise SystemExit("select is wrong: nothing is timed")
    return functions


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    device = torch.device(options.device)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds: dict[str, Any] = {"rounds": 3, "seconds": 0.002} if options.quick else {"rounds": 9, "at_most": 6.0}
    print_about(device)
    print(f"{'':>22}" + "".join(f"{name:>12}" for name in [*COLUMNS, "stock/ours", "comp./ours", "ours/limit"]))
    rows = []
    for shape in [(160, 224)] if options.quick else [(640, 832), (800, 1333)]:
        torch.compiler.reset()
        made = decoders(shape, device, not options.quick)
        made["select"] = selectors(shape, device, not options.quick)
        for name, functions in made.items():
            seconds = interleaved(functions, threads=1, **rounds)
            kernels = on_device(functions) if device.type == "cuda" else {}
            rows.append({"call": name, "image_shape": shape, "seconds": seconds, "kernels": kernels})
            m = {column: 1e3 * value for column, value in medians(seconds).items()}
            ratios = [m.get("stock", 0) / m["anchor_ext"], m.get("compiled", 0) / m["anchor_ext"]]
            ratios += [m["anchor_ext"] / m["limit"] if "limit" in m else 0]
            cells = [f"{m[column]:12.3f}" if column in m else f"{'-':>12}" for column in COLUMNS]
            cells += [f"{ratio:12.2f}" if ratio else f"{'-':>12}" for ratio in ratios]
            print(f"{name:>12} {'{}x{}'.format(*shape):>9}" + "".join(cells), flush=True)
            if kernels:
                print(kernels_line(kernels, COLUMNS, 22, 12, 1e-3), flush=True)
    finish(options, __file__, rows)


if __name__ == "__main__":
    main()
