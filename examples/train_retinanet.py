"""Trains a small RetinaNet on pictures with boxes in COCO's format, or another that anchor_ext.fit.read takes.

    python examples/train_retinanet.py --images FOLDER --annotations FILE.json --output FOLDER
    torchrun --nproc-per-node 2 examples/train_retinanet.py ...

The output has `last.pt`, from which `--resume` goes on; `losses.jsonl`, a line per step; and `detections.png`, what the
trained model finds in a picture. Needs torchvision and Pillow, and tqdm for a progress bar.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.v2 import functional as transforms

from anchor_ext import Anchors, fit
from anchor_ext.nn import RetinaNetLoss, RetinaNetPostprocess

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Pictures(Dataset):
    """Pictures with boxes, scaled to a shorter side; boxes in pixels, labels from 0 on."""

    def __init__(self, folder: Path, annotations: Path, side: int) -> None:
        try:
            data = fit.read(annotations, images=folder)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        self.side, self.names, self.left_out = side, data.class_names, data.left_out
        counts, order = data.image.bincount(minlength=len(data.files)).tolist(), data.image.argsort(stable=True)
        boxes, labels = data.boxes[order].float().split(counts), data.labels[order].split(counts)
        self.items = [item for item in zip(data.files, boxes, labels, strict=True) if len(item[1])]
        if missing := [file for file, *_ in self.items if not Path(file).is_file()]:
            raise SystemExit(f"{len(missing)} pictures with boxes are missing, such as {missing[0]}")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        file, boxes, labels = self.items[i]
        image = transforms.to_dtype(transforms.pil_to_tensor(Image.open(file).convert("RGB")), scale=True)
        scale = self.side / min(image.shape[1:])
        size = [round(length * scale) for length in image.shape[1:]]
        ratio = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]]).repeat(2)
        return transforms.resize(image, size, antialias=True), clip_boxes_to_image(boxes * ratio, size), labels


def collate(items: list) -> tuple[Tensor, list[tuple[int, int]], list[Tensor], list[Tensor]]:
    """Pictures at the upper left of one tensor, whose sides are multiples of 128."""
    images, boxes, labels = zip(*items, strict=True)
    sides = [-(-max(image.shape[k] for image in images) // 128) * 128 for k in (1, 2)]
    batch = torch.zeros(len(images), 3, *sides)
    for to, image in zip(batch, images, strict=True):
        to[:, : image.shape[1], : image.shape[2]] = (image - MEAN) / STD
    return batch, [tuple(image.shape[1:]) for image in images], list(boxes), list(labels)


class RetinaNet(nn.Module):
    def __init__(self, classes: int, weights: str | None, width: int = 128) -> None:
        super().__init__()
        body = torchvision.models.resnet18(weights=weights)
        layers = {"layer2": "p3", "layer3": "p4", "layer4": "p5"}
        self.backbone = BackboneWithFPN(body, layers, [128, 256, 512], width, LastLevelP6P7(width, width))
        self.anchors = Anchors()
        each = self.anchors.num_cell_anchors[0]

        def tower(outputs: int) -> nn.Sequential:
            convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
            inner = [layer for one in convolutions for layer in (one, nn.GroupNorm(16, width), nn.ReLU())]
            return nn.Sequential(*inner, nn.Conv2d(width, outputs, 3, padding=1))

        self.classes, self.deltas = tower(each * classes), tower(each * 4)
        nn.init.normal_(self.classes[-1].weight, std=0.01)
        nn.init.normal_(self.deltas[-1].weight, std=0.01)
        nn.init.constant_(self.classes[-1].bias, -4.6)  # scores of 0.01
        self.loss = RetinaNetLoss(self.anchors)
        self.postprocess = RetinaNetPostprocess(self.anchors)

    def forward(self, images: Tensor, sizes: list, boxes: list[Tensor] | None = None, labels: list | None = None):
        features = list(self.backbone(images).values())
        outputs = [self.classes(one) for one in features], [self.deltas(one) for one in features]
        if boxes is None:
            return self.postprocess(*outputs, images.shape[-2:], sizes)
        return self.loss(*outputs, boxes, labels, images.shape[-2:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="the folder of the pictures")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO's file, or what else fit.read takes")
    parser.add_argument("--output", type=Path, required=True, help="where checkpoints, losses and a picture go")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8, help="of each process")
    parser.add_argument("--size", type=int, default=512, help="the pictures' shorter side")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weights", help="of the backbone, such as DEFAULT, which torchvision fetches")
    parser.add_argument("--amp", choices=["fp16", "bf16"], help="mixed precision")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the output's last.pt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in (options.images, options.annotations):
        if not path.exists():
            parser.error(f"{path} does not exist")
    if (options.output / "last.pt").exists() and not options.resume:
        parser.error(f"--output: {options.output / 'last.pt'} exists; go on with --resume, or name another folder")
    if options.resume and not (options.output / "last.pt").exists():
        parser.error(f"--resume: {options.output / 'last.pt'} does not exist")
    return options


def save(file: Path, state: dict) -> None:
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)  # never half of one


@torch.no_grad()
def draw(model: RetinaNet, data: Pictures, device: torch.device, file: Path) -> None:
    model.eval()
    images, sizes, *_ = collate([data[0]])
    (found,) = model(images.to(device), sizes)
    few = found["scores"] > 0.3
    names = [
        f"{data.names[i]} {score:.2f}" for i, score in zip(found["labels"][few], found["scores"][few], strict=True)
    ]
    picture = ((images[0] * STD + MEAN)[:, : sizes[0][0], : sizes[0][1]].clamp(0, 1) * 255).to(torch.uint8)
    drawn = torchvision.utils.draw_bounding_boxes(picture, found["boxes"][few].cpu(), names, colors="red", width=2)
    transforms.to_pil_image(drawn).save(file)


def main() -> None:
    options = arguments()
    if is_distributed := "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank() if is_distributed else 0
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else "cpu"
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    data = Pictures(options.images, options.annotations, options.size)
    model = RetinaNet(len(data.names), options.weights).to(device)
    trained = nn.parallel.DistributedDataParallel(model) if is_distributed else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-4)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.amp)
    scaler = torch.amp.GradScaler(enabled=options.amp == "fp16" and torch.cuda.is_available())
    shuffle = DistributedSampler(data, seed=options.seed) if is_distributed else None
    begin = 0
    if options.resume:
        state = torch.load(options.output / "last.pt", map_location=device)
        if state["names"] != list(data.names):
            raise SystemExit(f"--resume: last.pt has the classes {state['names']}; expected {list(data.names)}")
        model.load_state_dict(state["model"]), optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        begin = state["epoch"]
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "losses.jsonl"
    lines = file.read_text().splitlines()[: state["steps"]] if options.resume and rank == 0 else []
    log = file.open("w") if rank == 0 else None
    if log:
        log.writelines(f"{line}\n" for line in lines)
        print(f"{len(data)} pictures; left out: { {kind: len(of) for kind, of in data.left_out.items()} }")
    steps = len(lines)
    for epoch in range(begin, options.epochs):
        model.train()
        order = torch.Generator().manual_seed(options.seed + epoch)  # the same after --resume
        if shuffle:
            shuffle.set_epoch(epoch)
        options_of_loader = {"num_workers": options.workers, "collate_fn": collate, "generator": order}
        loader = DataLoader(data, options.batch_size, shuffle is None, shuffle, **options_of_loader)
        bar = tqdm(loader, f"epoch {epoch + 1}/{options.epochs}", disable=rank > 0) if tqdm else loader
        for images, sizes, boxes, labels in bar:
            boxes, labels = ([one.to(device) for one in of] for of in (boxes, labels))
            with torch.autocast(torch.device(device).type, dtype) if dtype else nullcontext():
                losses = trained(images.to(device), sizes, boxes, labels)
            optimizer.zero_grad()
            scaler.scale(sum(losses.values())).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            scaler.step(optimizer)
            scaler.update()
            steps += 1
            if log:
                numbers = {name: float(one.detach()) for name, one in losses.items()}
                log.write(json.dumps({"epoch": epoch + 1} | numbers) + "\n")
                if tqdm:
                    bar.set_postfix({name: f"{number:.3f}" for name, number in numbers.items()})
        if log:
            log.flush()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
            save(options.output / "last.pt", state | {"epoch": epoch + 1, "steps": steps, "names": list(data.names)})
            print(f"epoch {epoch + 1}, last step: " + ", ".join(f"{name} {one:.4f}" for name, one in numbers.items()))
    if rank == 0:
        draw(model, data, torch.device(device), options.output / "detections.png")
    if is_distributed:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
