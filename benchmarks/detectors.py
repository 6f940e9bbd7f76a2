"""Times whole training steps and detections of torchvision's detectors, as they are and accelerated.

    python benchmarks/detectors.py [--device cpu|cuda] [--models NAMES] [--counts COUNTS] [--autocast] [--json FILE]

Milliseconds per step of two images, forward and backward, in train mode; and of detecting in two images. "outside" is
what stands around the network: anchors, matching, losses and their gradients, or candidates, boxes and non-maximum
suppression; of Faster R-CNN around the region proposal network alone. It is timed apart, with the outputs of the
network as they are; its limit is to read them once, in a step also to write their gradients. Operators and waits are
those of one call, outside; a wait is an operator whose result the host or a shape needs. Peaks are of what it takes
beside what was there: on CUDA the allocator's, on the CPU the process's. Nothing is timed whose losses differ by more
than 1e-5, or whose scores do. With --autocast all is done under bfloat16, accelerated with float32=True, whose losses
and scores must be those of torchvision's code for the same outputs in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from allocators import print_about
from matching import coco_boxes, peak_megabytes
from timing import hardware, interleaved, medians, turn_by_turn, versions
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_ext.compat.torchvision import accelerate

CLASSES = 91
MODELS = ("retinanet18", "retinanet50", "fasterrcnn50")
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "torchvision::nms")


def model_of(name: str, shape: tuple[int, int]) -> nn.Module:
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.retinanet import _default_anchorgen
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    options = {"min_size": min(shape), "max_size": max(shape)}  # images as they are
    if name == "fasterrcnn50":
        return detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    if name == "retinanet50":
        return detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options)
    extra = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=extra, trainable_layers=5
    )
    return detection.RetinaNet(backbone, CLASSES, anchor_generator=_default_anchorgen(), **options)


class Network(nn.Module):
    """Gives what the network gave once, as leaves with a gradient, so that only what is around it is done."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *_: Any) -> Any:
        return self.outputs


def under(autocast: bool, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast)


class Outside:
    """What stands around the network of a model, with some images and targets."""

    def __init__(self, model: Any, images: list[Tensor], targets: list[dict[str, Tensor]], autocast: bool) -> None:
        self.is_rpn = hasattr(model, "rpn")
        self.around = under(autocast, images[0].device)
        with torch.no_grad(), self.around:
            self.images, self.targets = model.transform(images, targets)
            features = model.backbone(self.images.tensors)
            self.features = list(features.values())
            self._take((model.rpn if self.is_rpn else model).head(self.features))

    def _take(self, outputs: Any) -> None:
        self.outputs = outputs
        self.leaves = [leaf for of in outputs for leaf in of] if self.is_rpn else list(outputs.values())
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.network = Network(outputs)

    def in_float32(self) -> Outside:
        """The same outputs, without autocast."""
        other = copy.copy(self)
        other.around = under(False, self.features[0].device)
        other.features = [feature.float() for feature in self.features]
        if self.is_rpn:
            other._take(tuple([level.detach().float() for level in of] for of in self.outputs))
        else:
            other._take({name: output.detach().float() for name, output in self.outputs.items()})
        return other

    def losses(self, model: Any) -> dict[str, Tensor]:
        model.train()
        with self.around:
            return self._losses(model)

    def _losses(self, model: Any) -> dict[str, Tensor]:
        if self.is_rpn:
            with patch.object(model.rpn, "head", self.network):
                return dict(model.rpn(self.images, dict(enumerate(self.features)), self.targets)[1])
        anchors = model.anchor_generator(self.images, self.features)
        return dict(model.compute_loss(self.targets, self.outputs, anchors))

    def step(self, model: Any) -> tuple[Tensor, ...]:
        torch.manual_seed(0)  # of the sampler
        return torch.autograd.grad(sum(self.losses(model).values()), self.leaves)

    @torch.no_grad()
    def detect(self, model: Any) -> Any:
        model.eval()
        with self.around:
            return self._detections(model)

    def _detections(self, model: Any) -> Any:
        if self.is_rpn:
            with patch.object(model.rpn, "head", self.network):
                return model.rpn(self.images, dict(enumerate(self.features)))[0]
        anchors = model.anchor_generator(self.images, self.features)
        sizes = [level.shape[-2] * level.shape[-1] * 9 for level in self.features]
        outputs = {name: list(output.split(sizes, dim=1)) for name, output in self.outputs.items()}
        per_level = [list(own.split(sizes)) for own in anchors]
        return model.postprocess_detections(outputs, per_level, self.images.image_sizes)

    def limit(self, *, gradients: bool) -> None:
        for leaf in self.leaves:
            leaf.detach().clone() if gradients else leaf.detach().max()


class Count(TorchDispatchMode):
    """Operators, and those among them that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name in ("aten::index", "aten::index_put_") and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        self.all["waits"] += name in WAITS or by_mask
        self.all["operators"] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], Any]) -> dict[str, int]:
    call()
    with Count() as count:
        call()
    return {"operators": count.all["operators"], "waits": count.all["waits"]}


def scores_as_trained(model: Any, images: list[Tensor]) -> None:
    """A thousand or so scores above 0.05, as of a trained network; an untrained one has none."""
    if hasattr(model, "rpn"):
        return
    model.eval()
    last = model.head.classification_head.cls_logits
    with torch.no_grad():
        nn.init.zeros_(last.bias)
        features = list(model.backbone(torch.stack(images)).values())
        last.weight /= model.head(features)["cls_logits"].std()
        nn.init.constant_(last.bias, -6.5)


def whole(
    model: Any, images: list[Tensor], targets: list[dict[str, Tensor]] | None, autocast: bool
) -> Callable[[], float]:
    """Seconds of one call."""

    def call() -> float:
        is_cuda = images[0].is_cuda
        model.train(targets is not None)
        model.zero_grad(set_to_none=True)
        if is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with under(autocast, images[0].device), torch.set_grad_enabled(targets is not None):
            result = model(images, targets)
        if targets is not None:
            sum(result.values()).backward()
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return call


def peak(call: Callable[[], Any], device: torch.device) -> float | None:
    """Megabytes beside what was there before; None where the system does not say."""
    try:
        return peak_megabytes(call, device)
    except OSError:
        return None


def must_be_alike(stock: dict[str, Any], ours: dict[str, Any], detections: tuple[Any, Any]) -> None:
    for name, loss in stock.items():
        if not torch.allclose(ours[name], loss, rtol=1e-5, atol=1e-7):
            raise SystemExit(f"{name} is {float(ours[name])}, and torchvision's {float(loss)}: nothing is timed")
    scores = [[one["scores"] if isinstance(one, dict) else one for one in of] for of in detections]
    for a, b in zip(*scores, strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
            raise SystemExit("detections differ from torchvision's: nothing is timed")


def measure(
    name: str, shape: tuple[int, int], count: int, device: torch.device, rounds: int, autocast: bool
) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *shape, generator=random).to(device) for _ in range(2)]
    targets = [
        {"boxes": coco_boxes(count, shape, seed).to(device), "labels": torch.randint(1, CLASSES, (count,)).to(device)}
        for seed in range(2)
    ]
    stock = model_of(name, shape).to(device)
    scores_as_trained(stock, images)
    models = {"stock": stock, "anchor_ext": copy.deepcopy(stock)}
    accelerate(models["anchor_ext"], float32=autocast)
    outside = Outside(stock, images, targets, autocast)
    losses, detections = [], []
    for of, model in ((outside.in_float32() if autocast else outside, stock), (outside, models["anchor_ext"])):
        torch.manual_seed(0)
        losses.append({key: loss.detach() for key, loss in of.losses(model).items()})
        detections.append(of.detect(model))
    must_be_alike(losses[0], losses[1], tuple(detections))
    rows = []
    for part in ("step", "detect"):
        act = outside.step if part == "step" else outside.detect
        functions: dict[str, Callable[[], Any]] = {of: lambda m=m, act=act: act(m) for of, m in models.items()}
        operators = {of: counted(function) for of, function in functions.items()}
        # Ours first: on the CPU what torchvision has freed would be there already.
        peaks = {of: peak(functions[of], device) for of in reversed(functions)}
        peaks = {of: peaks[of] for of in functions}
        functions["limit"] = lambda part=part: outside.limit(gradients=part == "step")
        around = interleaved(functions, threads=torch.get_num_threads(), rounds=5, at_most=10.0)
        samplers = {of: whole(m, images, targets if part == "step" else None, autocast) for of, m in models.items()}
        for sampler in samplers.values() if rounds else ():
            sampler()
        seconds = turn_by_turn(samplers, dict.fromkeys(samplers, rounds)) if rounds else {}
        rows.append(
            {"model": name, "image_shape": shape, "boxes": count, "part": part, "seconds": seconds, "outside": around}
            | {"peaks": peaks, "counts": operators}
        )
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    where = f"{row['model']:>13}{'{}x{}'.format(*row['image_shape']):>10}{row['boxes']:>5} {row['part']:<7}"
    cells = []
    for key in ("seconds", "outside"):
        m = medians(row[key])
        if not m:
            cells.append(f"{'-':>9}{'-':>9}{'-':>7}")
            continue
        cells.append(f"{1e3 * m['stock']:9.1f}{1e3 * m['anchor_ext']:9.1f}{m['stock'] / m['anchor_ext']:7.2f}")
    cells.append(f"{1e3 * m['limit']:8.2f}")
    for values in (row["peaks"], *({of: c[key] for of, c in row["counts"].items()} for key in ("operators", "waits"))):
        cells += ["-".rjust(7) if value is None else f"{value:7.0f}" for value in values.values()]
    return where + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", default=",".join(MODELS), help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--shapes", default="640x832,800x1333")
    parser.add_argument("--counts", default="5,20,100,500", help="boxes per image")
    parser.add_argument("--rounds", type=int, default=3, help="of whole steps; 0: only what is outside of the network")
    parser.add_argument("--autocast", action="store_true", help="under bfloat16, accelerated with float32=True")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--quick", action="store_true", help="one small image and model, few boxes")
    options = parser.parse_args()
    device = torch.device(options.device)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print_about(device)
    heads = [f"{of:>9}{'ours':>9}{'ratio':>7}" for of in ("whole", "outside")]
    counts = [f"{of:>7}{'ours':>7}" for of in ("MB", "ops", "waits")]
    print(f"{'':>36}" + "".join(heads) + f"{'limit':>8}" + "".join(counts))
    models = options.models.split(",")
    shapes = [tuple(int(side) for side in shape.split("x")) for shape in options.shapes.split(",")]
    boxes = [int(count) for count in options.counts.split(",")]
    if options.quick:
        models, shapes, boxes = models[:1], [(128, 160)], [5]
    rows = []
    for name in models:
        for shape in shapes:
            for count in boxes:
                rows += measure(name, shape, count, device, options.rounds, options.autocast)
    if options.json:
        about = {**versions(), "hardware": hardware(device), "malloc": os.environ.get("GLIBC_TUNABLES")}
        given = [argument for argument in sys.argv[1:] if options.json not in argument and argument != "--json"]
        result = {
            "command": " ".join(["python benchmarks/detectors.py", *given]),
            "versions": about,
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
