"""`make profile`: what it asks of nsys, and what it says where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from toolchain import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import profiled

BASH = shutil.which("bash")
needs_bash = pytest.mark.tools("bash")

# Runs the program behind the options of `profile`, and leaves a report where nsys would.
NSYS = """#!/bin/sh
echo "$*" >> "$NSYS_LOG"
[ "$1" = profile ] || { for report; do :; done; exec test -f "$report"; }
shift
while case "$1" in --output=*) : > "${1#*=}.nsys-rep" ;; -*) ;; *) false ;; esac; do shift; done
exec "$@"
"""


def profile(folder: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path, "PYTHON": sys.executable, "OUT": str(folder / "an out"), **environment}
    script = ROOT / "benchmarks" / "profile.sh"
    return subprocess.run([BASH, script], env=environment, cwd=folder, capture_output=True, text=True)


@needs_bash
def test_with_nsys(device, tmp_path):
    nsys, log = tmp_path / "bin" / "nsys", tmp_path / "log"
    nsys.parent.mkdir()
    nsys.write_text(NSYS)
    nsys.chmod(0o755)
    environment = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    path = f"{nsys.parent}{os.pathsep}{os.environ['PATH']}"
    run = profile(tmp_path, path, NSYS_LOG=str(log), **environment)
    assert run.returncode == 0, run.stderr
    calls = "20 calls each of generate, Anchors, torch.full"
    assert [line for line in run.stdout.splitlines() if line.endswith(calls)] == [
        f"{name} {shape}: {calls}"
        for name in dict.fromkeys(["cpu", device.type])
        for shape in ("256x256", "800x1333", "2160x3840")
    ]

    report = tmp_path / "an out" / "anchor_ext"
    recorded, tables = log.read_text().splitlines()
    assert recorded.startswith("profile --trace=cuda,nvtx,osrt ")
    assert recorded.endswith(f" --output={report} {sys.executable} benchmarks/profiled.py")
    kernels = ",cuda_gpu_kern_sum,nvtx_kern_sum" if device.type == "cuda" else ""
    assert tables == f"stats --force-export=true --report nvtx_sum{kernels} {report}.nsys-rep"


@needs_bash
def test_without_nsys(tmp_path):
    folders = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(folder for folder in folders if shutil.which("nsys", path=folder) is None)
    run = profile(tmp_path, path or str(tmp_path))
    assert (run.returncode, run.stdout) == (2, "")
    assert "nsys (NVIDIA Nsight Systems) is not on the PATH" in run.stderr and "nsight-systems" in run.stderr
    assert not (tmp_path / "an out").exists()


@pytest.fixture
def one_small_image(monkeypatch):
    monkeypatch.setattr(profiled, "SHAPES", [(64, 96)])
    monkeypatch.setattr(profiled, "devices", lambda: ["cpu"])
    monkeypatch.setattr(sys, "argv", ["profiled.py"])


def test_every_call_is_in_a_range_of_its_kind(one_small_image, monkeypatch):
    names = []

    @contextmanager
    def recorded(name):
        names.append(name)
        yield

    monkeypatch.setattr(torch.cuda.nvtx, "range", recorded)
    profiled.main()
    kinds = ("generate", "Anchors", "torch.full")
    assert Counter(names[1:]) == {f"cpu 64x96 {kind}": profiled.CALLS for kind in kinds}


def test_a_torch_without_nvtx(one_small_image, monkeypatch, capsys):
    @contextmanager
    def missing(name):
        raise RuntimeError("NVTX functions not installed")
        yield

    monkeypatch.setattr(torch.cuda.nvtx, "range", missing)
    profiled.main()
    assert capsys.readouterr().out.splitlines()[0] == "this torch has no NVTX: the only ranges are anchor_ext's own"
