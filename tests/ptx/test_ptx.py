"""What nvcc makes of the kernels, executed on the CPU: tests/ptx. No GPU is needed, but nvcc."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from toolchain import CXX, ROOT, setup_py

sys.path.insert(0, str(ROOT / "tests" / "ptx"))

from run import execute
from translate import UnknownPtxError

pytestmark = [pytest.mark.cuda, pytest.mark.slow]


def test_every_kernel_as_nvcc_wrote_it(tmp_path):
    home = setup_py()["find_cuda_home"]()
    if CXX is None or home is None or not Path(home, "bin", "nvcc").exists():
        pytest.skip("needs nvcc and a C++ compiler")
    try:
        printed = execute(tmp_path)
    except UnknownPtxError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"an unknown instruction: {error}")
    print(printed)
    assert printed.count("all equal") == printed.count("PTX for") > 0
