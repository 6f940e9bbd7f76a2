"""Nothing that a program sets around a call changes a number, a type or a device."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch

import anchor_ext
from anchor_ext.compat.detectron2 import DefaultAnchorGenerator
from anchor_ext.compat.mmdet import AnchorGenerator

SHAPE = (61, 100)
CELLS = [[(-4.3, -4, 4, 4)], [(-9, -5, 9, 5.1), (0, 0, 1, 1)]]
GRIDS = [(8, 13), (4, 7)]


def everything(device) -> list[torch.Tensor]:
    """All that is made anew in here, configurations included."""
    grid = anchor_ext.AnchorGrid(CELLS, [7.9, 16], arithmetic="float32")
    image = torch.zeros(1, 3, *SHAPE, device=device, dtype=torch.float32)
    return [
        anchor_ext.Anchors(strides=[7, 15, 33, 64, 127])(image),
        anchor_ext.generate(SHAPE, dtype=torch.float16, device=device),
        grid(GRIDS, clip=SHAPE, device=device),
        grid.at(torch.arange(7, device=device), GRIDS),
        grid.inside(GRIDS, SHAPE, device=device),
        grid.valid_flags(GRIDS, SHAPE, device=device),
        *AnchorGenerator([8, 16], [0.5, 1.3], [4]).grid_priors(GRIDS, device=device),
        *DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[0.3]], strides=[7, 15]).grid_anchors(GRIDS, device),
        *anchor_ext.Anchors().cell_anchors,
    ]


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "setting",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cuda", torch.float16, enabled=torch.cuda.is_available()),
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.bfloat16),
        lambda: default_device("cpu"),
        lambda: default_device("meta"),
        lambda: torch.device("meta"),
        lambda: torch.autograd.set_detect_anomaly(True),
        deterministic,
    ],
)
def test_no_influence(setting, device):
    expected = everything(device)
    with setting():
        results = everything(device)
    for result, tensor in zip(results, expected, strict=True):
        assert result.dtype == tensor.dtype and result.device == tensor.device
        assert torch.equal(result, tensor) and not result.requires_grad


def test_inference_tensors_only_where_torch_makes_them(device):
    assert not any(tensor.is_inference() for tensor in everything(device))
    anchors, out = anchor_ext.Anchors(), torch.empty(1, anchor_ext.Anchors().num_anchors(SHAPE), 4, device=device)
    with torch.inference_mode():
        assert all(tensor.is_inference() for tensor in everything(device))
        assert not anchors.generate(SHAPE, device=device, out=out).is_inference()
        compiled = torch.compile(lambda image: anchors(image), fullgraph=True, backend="eager")
        assert compiled(torch.zeros(1, 3, *SHAPE, device=device)).is_inference()
    assert torch.equal(out, anchors.generate(SHAPE, device=device))


def test_vmap_of_something_else(device):
    """The anchors are the same for every example; what is batched is what they are used with."""
    anchors, image = anchor_ext.Anchors(), torch.zeros(1, 3, *SHAPE, device=device)
    boxes = anchors(image)[0]
    deltas = torch.rand(3, *boxes.shape, device=device)
    assert torch.equal(torch.func.vmap(lambda delta: anchors(image)[0] + delta)(deltas), boxes + deltas)
    per_image = torch.func.vmap(lambda image: anchors(image)[0] + image.sum())(torch.rand(3, 3, *SHAPE, device=device))
    assert per_image.shape == (3, *boxes.shape)


WORKER = """
import os, torch, torch.distributed as distributed
import anchor_ext

class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.anchors = torch.nn.Conv2d(3, 4, 1), anchor_ext.Anchors()

    def forward(self, image):
        return (self.anchors(image) * self.head(image).mean((0, 2, 3))).mean()

torch.manual_seed(0)
distributed.init_process_group("gloo")
rank, model = distributed.get_rank(), Detector()
assert set(model.state_dict()) == {"head.weight", "head.bias"} and not list(model.anchors.buffers())
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-6)
for step in range(3):
    image = torch.rand(1, 3, 64 + 32 * rank + 8 * step, 96)  # every rank has images of its own size
    optimizer.zero_grad()
    parallel(image).backward()
    optimizer.step()
gathered = [torch.empty_like(model.head.weight) for _ in range(2)]
distributed.all_gather(gathered, model.head.weight.detach())
assert torch.equal(*gathered)
assert list(torch.nn.Module.state_dict(parallel)) == ["module.head.weight", "module.head.bias"]
torch.save([model.head.weight, anchor_ext.generate((640, 832), device="cpu")], f"{os.environ['RESULTS']}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_train(tmp_path: Path):
    torch.manual_seed(0)
    (tmp_path / "train.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        f"--master-port={port}", tmp_path / "train.py",
    ]  # fmt: skip
    environment = {**os.environ, "RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path, env=environment)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first[0], second[0])
    expected = reference.rounded(reference.anchors((640, 832)), torch.float32)
    assert torch.equal(first[1][0], expected) and torch.equal(second[1][0], expected)
