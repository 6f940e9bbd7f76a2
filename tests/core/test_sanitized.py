"""The families' CPU code, compiled with AddressSanitizer and UBSan."""

from __future__ import annotations

import subprocess

import pytest
from toolchain import CXX, ROOT

pytestmark = pytest.mark.tools("c++")


@pytest.mark.parametrize(("family", "said"), [("match", "all equal\n"), ("boxes", "all ran\n"), ("loss", "all ran\n")])
def test_under_the_sanitizers(family, said, tmp_path):
    sources = [path for room in ("core", family) for path in (ROOT / "csrc" / room).glob("*.cpp")]
    sources = [*(path for path in sources if path.name != "op.cpp"), ROOT / "tests" / family / "sanitized.cpp"]
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-DANCHOR_EXT_NO_CLONES", f"-I{ROOT / 'csrc'}"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [CXX, *flags, *sanitizers, *sources, "-o", tmp_path / "sanitized"], capture_output=True, text=True
    )
    if built.returncode != 0 and "san" in built.stderr and "cannot find" in built.stderr:
        pytest.skip("this compiler comes without its sanitizers")
    assert built.returncode == 0, built.stderr
    run = subprocess.run([tmp_path / "sanitized"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, said), run.stderr
