"""What the CUDA compiler made of the kernels, read from the installed library; no GPU is needed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from toolchain import binary_tool

import anchor_ext

LIBRARY = Path(anchor_ext.__file__).with_name("libanchor_ext.so")
CUOBJDUMP, NVDISASM = binary_tool("cuobjdump"), binary_tool("nvdisasm")
INFO = anchor_ext.build_info()


def release(tool: str | None) -> tuple[int, ...]:
    if tool is None:
        return ()
    text = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.search(r"release (\d+)\.(\d+)", text).groups()))


TOOLKIT = tuple(map(int, (INFO["cuda"] or "0").split(".")))
NEEDS = [
    pytest.mark.cuda,
    pytest.mark.skipif(INFO["cuda"] is None, reason="built without CUDA"),
    pytest.mark.skipif(CUOBJDUMP is None or NVDISASM is None, reason="needs cuobjdump and nvdisasm"),
    pytest.mark.skipif(
        min(release(CUOBJDUMP), release(NVDISASM)) < TOOLKIT, reason="these tools are older than the code"
    ),
]


def kernels_of(source: str, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Architecture, mangled name, instructions and resources of each kernel of a source file, such as anchors_cuda."""
    subprocess.run([CUOBJDUMP, "-xelf", "all", LIBRARY], cwd=folder, check=True, capture_output=True)
    for cubin in sorted(folder.glob("*.cubin")):
        arch = re.search(r"sm_\d+", cubin.name)[0]
        code = subprocess.run([NVDISASM, "-c", cubin], check=True, capture_output=True, text=True).stdout
        usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin], check=True, capture_output=True, text=True)
        resources = dict(re.findall(r"Function (\S+):\s*\n\s*(.*)", usage.stdout + usage.stderr))
        for name, body in re.findall(r"^\.text\.(\S+):\n(.*?)(?=^\.text\.|\Z)", code, re.MULTILINE | re.DOTALL):
            if f"{source}_cu_" in name:
                yield arch, name, body, resources[name]


def uses_local_memory(code: str, resources: str) -> bool:
    is_empty = re.search(r"\bSTACK:0\b", resources) and re.search(r"\bLOCAL:0\b", resources)
    return not is_empty or re.search(r"\b(LDL|STL)\b", code) is not None
