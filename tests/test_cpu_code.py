"""What the C++ compiler made of the CPU's passes, read from the installed library: vectors."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import anchor_ext

OBJDUMP = shutil.which("objdump")
COMPILER = anchor_ext.build_info()["compiler"]
pytestmark = [
    pytest.mark.skipif(OBJDUMP is None, reason="needs objdump"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have no AVX"),
    pytest.mark.skipif(not re.match(r"\d", COMPILER), reason="GCC's vectors are looked for"),
]


@pytest.fixture(scope="module")
def code() -> list[tuple[str, str]]:
    """Functions' names and instructions."""
    library = Path(anchor_ext.__file__).with_name("libanchor_ext.so")
    command = [OBJDUMP, "-d", "-C", "--no-show-raw-insn", library]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"^[0-9a-f]+ <([^\n]*)>:\n(.*?)(?=\n\n|\Z)", code, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def passes(code) -> dict[tuple[str, str, str], str]:
    """(pass, type, machine) -> instructions."""
    name = r"anchor_ext::passes::(\w+)\((?:anchor_ext::)?(?:passes::Weave<)?([\w ]+)[^\n]*\[clone \.(\w+)\]"
    return {tuple(match.groups()): body for header, body in code if (match := re.match(name, header))}


@pytest.mark.parametrize(("machine", "register"), [("avx512f", "zmm"), ("avx2", "ymm")])
@pytest.mark.parametrize("output", ["float", "double", "unsigned short"])
def test_rows_are_woven_in_vectors(passes, output, machine, register):
    stores = re.findall(rf"\tvmov(?:up|ap|dq)\w+ +%{register}\d+,[^\n]*\(", passes["weave", output, machine])
    assert len(stores) >= 2


@pytest.mark.parametrize(("machine", "register"), [("avx512f", "zmm"), ("avx2", "ymm")])
@pytest.mark.parametrize("output", ["float", "double", "Float16", "BFloat16"])
def test_sums_are_rounded_in_vectors(passes, output, machine, register):
    assert re.search(rf"\tvaddpd [^\n]*%{register}", passes["sums", output, machine])


def test_nine_cell_anchors_keep_a_row_in_registers(code):
    """Nine shuffles that make them of what was rounded, and eighteen that write them; between those nothing but xs is
    read."""
    (body,) = [body for header, body in code if re.search(r"weave_vectors<9, float>(?!.*clone)", header)]
    assert len(re.findall(r"\tvcvtpd2ps %zmm", body)) >= 3
    blocks = [re.findall(r"\t(v[^\n]*%zmm[^\n]*)", block) for block in re.split(r"\tj[^\n]*", body)]
    of_row, *_, of_period = [block for block in blocks if sum("vpermt2" in line for line in block) >= 9]
    assert sum("vpermt2" in line for line in of_row) == 9
    assert sum("vpermt2" in line for line in of_period) == 18
    assert sum(bool(re.match(r"vmov\w+ +-?\w*\(", line)) for line in of_period) == 9
