"""Each public operation is a named range in the domain anchor_ext: seen by a tool that NVTX loads, without nsys."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from toolchain import CXX, ROOT, nvtx_include

import anchor_ext

SCRIPT = """
import torch, anchor_ext
print("eager", flush=True)
boxes = anchor_ext.generate((64, 64), device="cpu")
print("out", flush=True)
anchor_ext.generate((64, 64), device="cpu", out=boxes)
print("module", flush=True)
anchor_ext.Anchors()(torch.zeros(1, 3, 64, 64))
print("operator", flush=True)
torch.ops.anchor_ext.generate([1, 1], "anchors/1;strides=1,1;cell_anchors=0,0,1,1", dtype="float32", device="cpu")
"""


@pytest.mark.cuda
@pytest.mark.skipif(not anchor_ext.build_info()["nvtx"], reason="built without NVTX")
@pytest.mark.skipif(CXX is None or not nvtx_include(), reason="needs a C++ compiler and NVTX's headers")
def test_ranges_reach_a_tool(tmp_path):
    library = tmp_path / "injection.so"
    source = ROOT / "tests" / "nvtx" / "injection.cpp"
    subprocess.run([CXX, "-shared", "-fPIC", "-isystem", *nvtx_include(), source, "-o", library], check=True)
    environment = {**os.environ, "NVTX_INJECTION64_PATH": str(library)}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in run.stdout.splitlines() if "anchor_ext" in line or " " not in line]
    ranges = ["push anchor_ext generate", "pop anchor_ext"]
    assert lines == [line for name in ("eager", "out", "module", "operator") for line in [name, *ranges]]
