"""Trains an accelerated RetinaNet on images of ever other sizes and numbers of boxes, and prints its memory.

python benchmarks/long_run.py [--steps 2000] [--device cpu|cuda] [--stock]
"""

from __future__ import annotations

import argparse
import warnings

import torch
from allocators import print_about
from matching import coco_boxes, kilobytes
from training import CLASSES, retinanet

from anchor_ext.compat.torchvision import accelerate


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
            used = torch.cuda.memory_allocated() / 1e6 if device.type == "cuda" else kilobytes("VmRSS") * 1024 / 1e6
            print(f"step {step + 1:5}: {used:8.1f} MB, loss {float(loss):.3f}", flush=True)


if __name__ == "__main__":
    main()
