"""Matching on the CPU, compiled with AddressSanitizer and UBSan."""

from __future__ import annotations

import subprocess

import pytest
from toolchain import CXX, ROOT

pytestmark = pytest.mark.tools("c++")


def test_windows_and_pairs(tmp_path):
    sources = [path for room in ("core", "match") for path in (ROOT / "csrc" / room).glob("*.cpp")]
    sources = [*(path for path in sources if path.name != "op.cpp"), ROOT / "tests" / "match" / "sanitized.cpp"]
    flags = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-DANCHOR_EXT_NO_CLONES", f"-I{ROOT / 'csrc'}"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [CXX, *flags, *sanitizers, *sources, "-o", tmp_path / "sanitized"], capture_output=True, text=True
    )
    if built.returncode != 0 and "san" in built.stderr and "cannot find" in built.stderr:
        pytest.skip("this compiler comes without its sanitizers")
    assert built.returncode == 0, built.stderr
    run = subprocess.run([tmp_path / "sanitized"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "all equal\n"), run.stderr
