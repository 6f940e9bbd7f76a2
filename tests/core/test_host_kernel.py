"""The CUDA kernel's own source, compiled for the host with AddressSanitizer and UBSan, against the reference.

The program also locates flat indices of up to 2**57, which no memory holds, before it reads its cases.
"""

from __future__ import annotations

import subprocess

import pytest
import reference
import torch
from conftest import DTYPES, EXTREME_STRIDES, extreme_configuration, random_configuration, random_grid, random_shape
from toolchain import CXX, ROOT

pytestmark = pytest.mark.tools("c++")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    binary = tmp_path_factory.mktemp("host_kernel") / "host_kernel"
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-DANCHOR_EXT_NO_CLONES"]
    folders = [f"-I{ROOT / 'tests' / 'host_kernel'}", f"-I{ROOT / 'csrc'}"]
    names = (
        "anchors/anchors_cuda.cu",
        "anchors/anchors_cpu.cpp",
        "anchors/predicate.cpp",
        "core/spec.cpp",
        "core/spec_text.cpp",
    )
    sources = [ROOT / "csrc" / name for name in names]
    build = [
        CXX,
        *flags,
        *SANITIZERS,
        *folders,
        "-x",
        "c++",
        *sources,
        ROOT / "tests" / "host_kernel" / "main.cpp",
        "-o",
        binary,
    ]
    compiled = subprocess.run(build, capture_output=True, text=True)
    if compiled.returncode != 0 and "san" in compiled.stderr and "cannot find" in compiled.stderr:
        pytest.skip("this compiler comes without its sanitizers")
    assert compiled.returncode == 0, compiled.stderr
    return binary


def as_text(dtype, offset, arguments) -> str:
    """A case of the program's: `reference.grid`'s arguments as words."""
    clip = arguments["clip"] or (0, 0)
    words = [
        DTYPES.index(dtype),
        offset,
        arguments["arithmetic"],
        arguments["layout"],
        *arguments["image_shape"],
        *clip,
    ]
    words.append(len(arguments["level_shapes"]))
    for i, shape in enumerate(arguments["level_shapes"]):
        words += shape
        for name, default in (("strides", 0.0), ("offsets", 0.5), ("starts", 0.0)):
            words += [float(x).hex() for x in (arguments[name][i] if arguments[name] else (default, default))]
        numbers = [float(number).hex() for cell_anchor in arguments["cell_anchors"][i] for number in cell_anchor]
        words += [len(numbers), *numbers]
    return " ".join(map(str, words))


def as_grid(configuration, shape) -> dict[str, object]:
    """Arguments of `Anchors`, over an image, in the general form."""
    sizes, ratios, scales = (configuration[name] for name in ("sizes", "ratios", "scales"))
    return {
        "level_shapes": [tuple(-(-side // 2**level) for side in shape) for level in configuration["levels"]],
        "cell_anchors": [reference.cell_anchors(*of_level) for of_level in zip(sizes, ratios, scales, strict=True)],
        "strides": configuration["strides"],
        "offsets": None,
        "starts": None,
        "arithmetic": "float64",
        "layout": "xyxy",
        "image_shape": shape,
        "clip": None,
    }


def test_every_element_once_and_none_outside(program, tmp_path, rng):
    grids = []
    for _ in range(240):
        configuration = random_configuration(rng)
        grids.append(as_grid(configuration, random_shape(rng, configuration, most=rng.choice([20, 20, 1500]))))
    for stride in EXTREME_STRIDES:
        grids += [as_grid(extreme_configuration(stride), (7, 9))] * 4
    grids += [random_grid(rng, most=rng.choice([20, 100, 1500])) for _ in range(400)]
    cases, expected = [], []
    for i, arguments in enumerate(grids):
        dtype = DTYPES[i % 4]
        cases.append(as_text(dtype, rng.choice([0, 0, 4, 1, 2, 3, 5]), arguments))
        expected.append(reference.rounded(reference.grid(**arguments), dtype))
    result = tmp_path / "anchors"
    run = subprocess.run([program, result], input="\n".join(cases), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    content = bytearray(result.read_bytes())
    for case, boxes in zip(cases, expected, strict=True):
        made = torch.frombuffer(content, dtype=boxes.dtype, count=boxes.numel()).view(boxes.shape)
        assert reference.same_bits(made, boxes), case[:500]
        del made
        content = content[boxes.nbytes :]
    assert not content
