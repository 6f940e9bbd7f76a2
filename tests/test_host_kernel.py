"""The CUDA kernel's own source, compiled for the host with AddressSanitizer and UBSan, against the reference.

The program also locates flat indices of up to 2**57, which no memory holds, before it reads its cases.
"""

from __future__ import annotations

import subprocess

import pytest
import reference
import torch
from conftest import DTYPES, EXTREME_STRIDES, extreme_configuration, random_configuration, random_shape
from toolchain import CXX, ROOT

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if CXX is None:
        pytest.skip("needs a C++ compiler")
    binary = tmp_path_factory.mktemp("host_kernel") / "host_kernel"
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-DANCHOR_EXT_NO_CLONES", *SANITIZERS]
    folders = [f"-I{ROOT / 'tests' / 'host_kernel'}", f"-I{ROOT / 'csrc'}"]
    sources = [ROOT / "csrc" / name for name in ("generate_cuda.cu", "generate_cpu.cpp", "config.cpp")]
    build = [CXX, *flags, *folders, "-x", "c++", *sources, ROOT / "tests" / "host_kernel" / "main.cpp", "-o", binary]
    compiled = subprocess.run(build, capture_output=True, text=True)
    if compiled.returncode != 0 and "san" in compiled.stderr and "cannot find" in compiled.stderr:
        pytest.skip("this compiler comes without its sanitizers")
    assert compiled.returncode == 0, compiled.stderr
    return binary


def as_text(dtype, offset, shape, configuration) -> str:
    words = [DTYPES.index(dtype), offset, len(configuration["levels"])]
    for i, level in enumerate(configuration["levels"]):
        cells = reference.cell_anchors(*(configuration[name][i] for name in ("sizes", "ratios", "scales")))
        words += [-(-side // 2**level) for side in shape]
        words += [float(stride).hex() for stride in configuration["strides"][i]]
        words += [len(cells), *(float(number).hex() for number in cells.ravel())]
    return " ".join(map(str, words))


def test_every_element_once_and_none_outside(program, tmp_path, rng):
    cases, expected = [], []
    configurations = [random_configuration(rng) for _ in range(240)]
    shapes = [random_shape(rng, configuration, most=rng.choice([20, 20, 1500])) for configuration in configurations]
    for stride in EXTREME_STRIDES:
        configurations += [extreme_configuration(stride)] * 4
        shapes += [(7, 9)] * 4
    for i, (configuration, shape) in enumerate(zip(configurations, shapes, strict=True)):
        dtype = DTYPES[i % 4]
        cases.append(as_text(dtype, rng.choice([0, 0, 4, 1, 2, 3, 5]), shape, configuration))
        expected.append(reference.rounded(reference.anchors(shape, **configuration), dtype))
    result = tmp_path / "anchors"
    run = subprocess.run([program, result], input="\n".join(cases), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    content = bytearray(result.read_bytes())
    for case, boxes in zip(cases, expected, strict=True):
        made = torch.frombuffer(content, dtype=boxes.dtype, count=boxes.numel()).view(-1, 4)
        assert reference.same_bits(made, boxes), case[:500]
        del made
        content = content[boxes.nbytes :]
    assert not content
