"""The example learns to find drawn shapes, goes on where it was, and trains in two processes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from toolchain import ROOT

pytestmark = pytest.mark.peers
torchvision = pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")

from torchvision.transforms.v2.functional import to_pil_image  # noqa: E402

SIDE, NAMES = 128, ["box", "ring"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Twelve pictures, each with a bright box and a dark ring; and what the example reads of them."""
    folder = tmp_path_factory.mktemp("drawn")
    random = torch.Generator().manual_seed(0)
    images, annotations = [], []
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for i in range(12):
        image = torch.full((3, SIDE, SIDE), 110.0) + 20 * torch.rand(3, SIDE, SIDE, generator=random)
        for category in range(2):
            w, h = (int(n) for n in torch.randint(36, 56, (2,), generator=random))
            x = int(torch.randint(0, SIDE - w, (), generator=random))
            y = int(torch.randint(64 * category, 64 * category + 64 - h, (), generator=random))
            away = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2
            if category == 0:
                image[:, y : y + h, x : x + w] = 240
            else:
                image[:, (away < 1) & (away > 0.4)] = 10
            annotations.append(
                {"image_id": i, "category_id": 7 + category, "bbox": [x, y, w, h], "id": len(annotations)}
            )
        annotations.append({"image_id": i, "category_id": 7, "bbox": [0, 0, SIDE, SIDE], "iscrowd": 1})
        to_pil_image(image.to(torch.uint8)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
    categories = [{"id": 7 + i, "name": name} for i, name in enumerate(NAMES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("train_retinanet")


def run(drawn, output, *options, processes=None):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    script = [ROOT / "examples" / "train_retinanet.py", "--images", drawn, "--annotations", drawn / "boxes.json"]
    own = ["--output", output, "--size", SIDE, "--workers", 0, "--batch-size", 4, *options]
    command = [sys.executable, *launcher, *map(str, [*script, *own])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def losses_of(output):
    lines = [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]
    return [line["classification"] + line["bbox_regression"] for line in lines]


@pytest.mark.slow
def test_it_learns(drawn, tmp_path, example):
    done = run(drawn, tmp_path, "--epochs", 20)
    assert done.returncode == 0, done.stderr
    losses = losses_of(tmp_path)
    assert len(losses) == 60 and sum(losses[-3:]) < 0.4 * sum(losses[:3])
    assert Image.open(tmp_path / "detections.png").size == (SIDE, SIDE)
    data = example.Pictures(drawn, drawn / "boxes.json", SIDE)
    model = example.RetinaNet(2, None).eval()
    model.load_state_dict(torch.load(tmp_path / "last.pt")["model"])
    right = 0
    for i in range(len(data)):
        images, sizes, boxes, labels = example.collate([data[i]])
        with torch.no_grad():
            (found,) = model(images, sizes)
        for box, label in zip(boxes[0], labels[0], strict=True):
            of_class = found["labels"] == label
            assert bool(of_class.any())
            best = found["boxes"][of_class][found["scores"][of_class].argmax()]
            right += float(torchvision.ops.box_iou(best[None], box[None])) > 0.5
    assert right >= 20, right  # of 24


@pytest.mark.slow
def test_it_goes_on_where_it_was(drawn, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(drawn, whole, "--epochs", 2).returncode == 0
    assert run(drawn, halves, "--epochs", 1).returncode == 0
    assert run(drawn, halves, "--epochs", 2, "--resume").returncode == 0
    assert losses_of(halves) == losses_of(whole) and len(losses_of(whole)) == 6
    states = [torch.load(one / "last.pt")["model"] for one in (whole, halves)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_two_processes_and_mixed_precision(drawn, tmp_path):
    done = run(drawn, tmp_path, "--epochs", 1, "--amp", "bf16", processes=2)
    assert done.returncode == 0, done.stderr
    assert len(losses_of(tmp_path)) == 2  # of six pictures a process
    assert (tmp_path / "last.pt").exists() and not (tmp_path / "last.tmp").exists()


def test_boxes_follow_their_picture(drawn, tmp_path, example):
    data = json.loads((drawn / "boxes.json").read_text())
    data["annotations"] = [{"image_id": 0, "category_id": 8, "bbox": [100, 90, 300, 20]}]
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    ((image, boxes, labels),) = example.Pictures(drawn, tmp_path / "boxes.json", SIDE // 2)
    assert image.shape == (3, 64, 64) and labels.tolist() == [0] and boxes.tolist() == [[50, 45, 64, 55]]


@pytest.mark.slow
def test_an_interruption_leaves_no_lines(drawn, tmp_path):
    assert run(drawn, tmp_path, "--epochs", 1).returncode == 0
    log = tmp_path / "losses.jsonl"
    log.write_text(log.read_text() + '{"epoch": 2, "classification": 1.0, "bbox_regression": 1.0}\n{"epoch": 2, "cl')
    done = run(drawn, tmp_path, "--epochs", 2, "--resume")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1] * 3 + [2] * 3


def test_what_is_missing_is_named(drawn, tmp_path, example):
    done = run(drawn / "nowhere", tmp_path)
    assert done.returncode == 2 and "nowhere does not exist" in done.stderr
    done = run(drawn, tmp_path, "--resume")
    assert done.returncode == 2 and "last.pt does not exist" in done.stderr
    torch.save({"names": ["cat", "dog"], "model": {}}, tmp_path / "last.pt")
    done = run(drawn, tmp_path, "--resume")
    assert done.returncode == 1 and "last.pt has the classes ['cat', 'dog']; expected ['box', 'ring']" in done.stderr
    done = run(drawn, tmp_path)
    assert done.returncode == 2 and "last.pt exists; go on with --resume" in done.stderr
    for change, message in (
        (lambda data: data["images"].append({"id": 99, "file_name": "none.png", "height": 9, "width": 9}), ""),
        (lambda data: data["images"][3].update(file_name="gone.png", height=SIDE, width=SIDE), "gone.png"),
        (lambda data: data["annotations"].clear(), "has no boxes that can be used"),
        (lambda data: data.pop("images"), "has no lists 'images' and 'annotations'"),
    ):
        data = json.loads((drawn / "boxes.json").read_text())
        change(data)
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(data))
        if message:
            with pytest.raises(SystemExit, match=message):
                example.Pictures(drawn, file, 64)
        else:
            assert len(example.Pictures(drawn, file, 64)) == 12
