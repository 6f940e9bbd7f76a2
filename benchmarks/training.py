"""Trains torchvision's RetinaNet on drawn pictures three times: as it is, as it is on two threads, and accelerated.

    python benchmarks/training.py [--steps N] [--quick] [--json FILE] [--plot FILE]

Same seed, same pictures, same order. Two threads add numbers in another order, and show how far two runs of the very
same model drift apart. Prints the losses on the way, and the mean average precision on pictures that were not trained
on, by torchmetrics.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from allocators import print_about
from timing import hardware, versions
from torch import Tensor

from anchor_ext.compat.torchvision import accelerate

SIDE, CLASSES, BATCH = 128, 4, 4
RUNS = {"torchvision": (1, False), "torchvision, two threads": (2, False), "accelerated": (1, True)}


def picture(random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise with one to five shapes on it: filled boxes, ellipses and frames, of any colour."""
    image = torch.rand(3, SIDE, SIDE, generator=random) * 0.3
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    boxes, labels = [], []
    for _ in range(int(torch.randint(1, 6, (), generator=random))):
        w, h = (int(n) for n in torch.randint(16, 64, (2,), generator=random))
        x, y = int(torch.randint(SIDE - w, (), generator=random)), int(torch.randint(SIDE - h, (), generator=random))
        label = int(torch.randint(1, CLASSES, (), generator=random))
        across, down = (columns - x - w / 2).abs() / (w / 2), (rows - y - h / 2).abs() / (h / 2)
        inside = torch.maximum(across, down) < 1
        shape = {1: inside, 2: across**2 + down**2 < 1, 3: inside & (torch.maximum(across, down) > 0.6)}[label]
        image = torch.where(shape, 0.4 + 0.6 * torch.rand(3, 1, 1, generator=random), image)
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}


def pictures(count: int, seed: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    random = torch.Generator().manual_seed(seed)
    return [picture(random) for _ in range(count)]


def retinanet() -> torch.nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import resnet18
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(resnet18(), layers, [128, 256, 512], 64, LastLevelP6P7(64, 64))
    sizes = tuple(tuple(int(2 * stride * 2 ** (i / 3)) for i in range(3)) for stride in (8, 16, 32, 64, 128))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return RetinaNet(backbone, CLASSES, anchor_generator=generator, min_size=SIDE, max_size=SIDE)


def mean_average_precision(model: torch.nn.Module, held_out: list[Any]) -> float:
    """NaN without torchmetrics."""
    try:
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError:
        return float("nan")
    metric = MeanAveragePrecision()
    model.eval()
    with torch.no_grad():
        for i in range(0, len(held_out), 8):
            images, targets = zip(*held_out[i : i + 8], strict=True)
            metric.update(model(list(images)), list(targets))
    return float(metric.compute()["map"])


def train(steps: int, threads: int, accelerated: bool, evaluated: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    model = retinanet()
    if accelerated:
        assert accelerate(model).replaced == ("anchors", "losses", "postprocessing")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    data = pictures(BATCH * steps, 1)
    losses, start = [], time.perf_counter()
    model.train()
    for step in range(steps):
        images, targets = zip(*data[step * BATCH : (step + 1) * BATCH], strict=True)
        loss = sum(model(list(images), [dict(target) for target in targets]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    seconds = time.perf_counter() - start
    return {"losses": losses, "seconds": seconds, "map": mean_average_precision(model, pictures(evaluated, 2))}


def draw(runs: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for (name, run), style in zip(runs.items(), ("-", ":", "--"), strict=True):
        mean = torch.tensor(run["losses"]).unfold(0, 10, 1).mean(1) if len(run["losses"]) > 10 else run["losses"]
        axes.plot(mean, style, label=f"{name}: mAP {run['map']:.3f}", linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss, mean of 10 steps", yscale="log")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--json", metavar="FILE", help="write all losses, with versions and hardware")
    parser.add_argument("--plot", metavar="FILE", help="draw the losses")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    steps, evaluated = (3, 4) if options.quick else (options.steps, 200)
    print_about(torch.device("cpu"))
    runs = {}
    for name, (threads, accelerated) in RUNS.items():
        runs[name] = run = train(steps, threads, accelerated, evaluated)
        some = " ".join(f"{run['losses'][i]:.6f}" for i in range(0, steps, max(1, steps // 8)))
        print(f"{name}: mAP {run['map']:.4f}, {run['seconds']:.0f} s; losses {some}", flush=True)
    if options.json:
        about = {**versions(), "hardware": hardware(torch.device("cpu"))}
        result = {"command": f"python benchmarks/training.py --steps {steps}", "versions": about, "runs": runs}
        Path(options.json).write_text(json.dumps(result, indent=1))
    if options.plot:
        draw(runs, Path(options.plot))


if __name__ == "__main__":
    main()
