"""Trains an accelerated RetinaNet on images of ever other sizes and numbers of boxes, and prints its memory.

    python benchmarks/long_run.py [--steps 2000] [--device cpu|cuda] [--stock]

On the CPU the process's, and what malloc has given out and not got back: a leak makes the latter grow, where the former
also has the gaps between blocks of ever other sizes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import warnings

import torch
from allocators import print_about
from matching import coco_boxes, kilobytes
from training import CLASSES, retinanet

from anchor_ext.compat.torchvision import accelerate


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2, summed over all arenas."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def given_out() -> str:
    """Megabytes that malloc has given out; empty where it does not say."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return ""
    mallinfo.restype = Mallinfo
    gc.collect()
    info = mallinfo()
    return f" ({(info.uordblks + info.hblkhd) / 1e6:7.1f} given out)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stock", action="store_true", help="torchvision's own instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    device = torch.device(options.device)
    print_about(device)
    model = retinanet().to(device)
    if not options.stock:
        accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)

    def integer(least: int, below: int) -> int:
        return int(torch.randint(least, below, (), generator=random))

    model.train()
    for step in range(options.steps):
        images, targets = [], []
        model.transform.min_size, model.transform.max_size = (integer(96, 224),), 320
        for _ in range(2):
            height, width, count = integer(96, 224), integer(96, 224), integer(0, 60)
            images.append(torch.rand(3, height, width, generator=random).to(device))
            boxes = coco_boxes(max(1, count), (height, width), step)[:count].to(device)
            labels = torch.randint(1, CLASSES, (count,), generator=random).to(device)
            targets.append({"boxes": boxes, "labels": labels})
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, options.steps // 10) == 0 or step + 1 == options.steps:
            said = f"{float(loss):.3f}"
            del images, targets, boxes, labels, loss
            optimizer.zero_grad()
            if device.type == "cuda":
                used = f"{torch.cuda.memory_allocated() / 1e6:8.1f} MB"
            else:
                used = f"{kilobytes('VmRSS') * 1024 / 1e6:8.1f} MB{given_out()}"
            print(f"step {step + 1:5}: {used}, loss {said}", flush=True)


if __name__ == "__main__":
    main()
