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
@pytest.mark.parametrize("output", ["float", "double", "Float16", "BFloat16"])  # 16 bits: without AVX-512 by hand
def test_sums_are_rounded_in_vectors(passes, output, machine, register):
    assert re.search(rf"\tvaddpd [^\n]*%{register}", passes["sums", output, machine])


def blocks(code, function: str) -> list[list[str]]:
    """The instructions on whole vectors of AVX-512, between one jump and the next."""
    (body,) = [body for header, body in code if re.search(rf"{function}(?!.*clone)", header)]
    return [re.findall(r"\t(v[^\n]*%zmm[^\n]*)", block) for block in re.split(r"\tj[^\n]*", body)]


def count(block: list[str], pattern: str) -> int:
    return sum(bool(re.match(pattern, line)) for line in block)


STORE, LOAD = r"vmov\w+ +%zmm\d+,-?\w*\(", r"vmov\w+ +-?\w*\("


def test_nine_cell_anchors_are_added_and_rounded_in_registers(code):
    """Nine vectors of sums, five by adding and four by multiplying and adding; and nothing is read but the centres."""
    (of_four_cells,) = [block for block in blocks(code, "weave_sums_of<18>") if count(block, STORE) == 9]
    assert count(of_four_cells, "vcvtpd2ps") == count(of_four_cells, "vpermd") == 9
    assert (count(of_four_cells, "vaddpd"), count(of_four_cells, "vfmadd")) == (5, 4)
    assert count(of_four_cells, LOAD) == 0


@pytest.mark.parametrize(
    ("number", "shuffle", "widening"), [("unsigned short", "vpermw", "vpmovzxwd"), ("float", "vperm[it]2", "vpmovzxdq")]
)
def test_nine_cell_anchors_keep_a_row_in_registers(code, number, shuffle, widening):
    """Nine shuffles of a row's numbers; then but for half a vector of xs for each that is written nothing is read."""
    name = rf"weave_cells_of<{number}, 9, false>"
    (of_row,) = [block for block in blocks(code, name) if count(block, shuffle) == 9]
    (of_lines,) = [block for block in blocks(code, name) if count(block, STORE) == 9]
    assert count(of_row, STORE) == 0 and count(of_lines, LOAD) == 0
    assert count(of_lines, rf"{widening} +-?\w*\(") == count(of_lines, "vpor") == 9


@pytest.mark.parametrize("output", ["Float16", "BFloat16"])
def test_16_bits_are_rounded_without_conversions_from_float64(code, output):
    (body,) = [body for header, body in code if re.search(rf"narrow_sums_of<anchor_ext::{output}>(?!.*clone)", header)]
    assert len(re.findall(r"\tvshufps [^\n]*%zmm", body)) >= 4
    assert not re.search(r"\tvcvtpd2ps", body)
