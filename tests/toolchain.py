"""The tools that tests compile and disassemble with, found as setup.py finds them."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
CXX = shutil.which(os.environ.get("CXX", "c++"))
# Of the environment that runs the tests, which need not be the PATH's.
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
PROGRAMS = {"c++": CXX, "cmake": CMAKE, "bash": shutil.which("bash")}


def setup_py() -> dict:
    """setup.py's functions, without its setup."""
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


def nvtx_include() -> list[str]:
    functions = setup_py()
    return functions["nvtx_include"](functions["find_cuda_home"]())


def binary_tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: on the PATH, beside nvcc, or as the triton package carries them."""
    cuda_home = setup_py()["find_cuda_home"]()
    folders = [Path(cuda_home, "bin")] if cuda_home else []
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which(name, path=path)
