"""Exported and compiled ahead: saved, loaded by a process that has only anchor_ext, or by one without Python."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch
from conftest import grid_of, random_grid
from toolchain import CMAKE, ROOT
from torch import nn

import anchor_ext
from anchor_ext.compat.torchvision import AnchorGenerator

SHAPES = [(96, 160), (61, 100), (640, 832), (33, 500), (800, 1333)]


class Images:
    """What torchvision's ImageList is to a generator."""

    def __init__(self, tensors, image_sizes):
        self.tensors, self.image_sizes = tensors, image_sizes


class Model(nn.Module):
    """Anchors, the general form and a drop-in, whose strides follow from the image."""

    def __init__(self):
        super().__init__()
        self.anchors, self.generator = anchor_ext.Anchors(), AnchorGenerator(((32, 41.5), (64,)), ((0.5, 1.0), (2.0,)))
        self.grid = anchor_ext.AnchorGrid([[(1, 2)], [(3, 4)]], None, arithmetic="float32", layout="point", offset=0.25)

    def forward(self, image):
        features = [image[..., ::8, ::8], image[..., ::16, ::16]]
        grids, shape = [feature.shape[-2:] for feature in features], image.shape[-2:]
        images = Images(image, [(1, 1)])
        return (
            self.anchors(image) * 2,
            self.grid(grids, image_shape=shape, clip=shape, dtype=torch.float64, device=image.device),
            self.generator(images, features)[0],
            self.grid.at(torch.tensor([0, 7, -1], device=image.device), grids, image_shape=shape),
            self.grid.inside(grids, shape, border=1.5, device=image.device),
            self.grid.valid_flags(grids, shape, image_shape=shape, device=image.device),
            image.amax(),
        )


def dynamic(least: int = 32) -> dict[str, dict[int, torch.export.Dim]]:
    return {
        "image": {2: torch.export.Dim("height", min=least, max=4096), 3: torch.export.Dim("width", min=least, max=4096)}
    }


def export(module: nn.Module, device="cpu", **keywords) -> torch.export.ExportedProgram:
    image = torch.zeros(1, 3, 96, 160, device=device)
    return torch.export.export(module, (image,), dynamic_shapes=dynamic(), **keywords)


def same(results, expected) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(results, expected, strict=True))


# Loads a program, runs it at other sizes, and leaves what it gave: everything that a process needs is imported here.
RUN = """
import sys, torch, anchor_ext
kind, program, folder, device = sys.argv[1:5]
run = torch.export.load(program).module() if kind == "exported" else torch._inductor.aoti_load_package(program)
for shape in sys.argv[5:]:
    height, width = map(int, shape.split("x"))
    results = run(torch.zeros(1, 3, height, width, device=device))
    torch.save([result.cpu() for result in results], f"{folder}/{shape}.pt")
"""


def run_elsewhere(kind: str, program: Path, folder: Path, device: torch.device) -> None:
    """Every shape in a process of its own, and in none of this one's folders; compares with eager."""
    shapes = [f"{height}x{width}" for height, width in SHAPES]
    command = [sys.executable, "-c", RUN, kind, program, folder, device.type, *shapes]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    for shape, name in zip(SHAPES, shapes, strict=True):
        expected = [tensor.cpu() for tensor in Model()(torch.zeros(1, 3, *shape, device=device))]
        assert same(torch.load(folder / f"{name}.pt"), expected), shape


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_exported_program(strict, device, tmp_path):
    exported = export(Model(), device, strict=strict)
    operators = [
        str(node.target) for node in exported.run_decompositions().graph.nodes if "anchor_ext" in str(node.target)
    ]
    assert operators == [
        *["anchor_ext.generate.default"] * 3, "anchor_ext.gather.default", "anchor_ext.inside.default",
        "anchor_ext.valid_flags.default",
    ]  # fmt: skip
    torch.export.save(exported, tmp_path / "model.pt2")
    run_elsewhere("exported", tmp_path / "model.pt2", tmp_path, device)


@pytest.mark.quick
def test_exported_program_holds_the_whole_configuration():
    exported = export(anchor_ext.Anchors(sizes=[30.5, 61, 122, 244, 488]))
    assert "anchor_ext.generate.default" in exported.graph_module.code
    node = next(node for node in exported.graph.nodes if "anchor_ext" in str(node.target))
    assert node.args[1] == anchor_ext.Anchors(sizes=[30.5, 61, 122, 244, 488])._config.spec
    assert not exported.constants and not exported.state_dict


@pytest.mark.parametrize("seed", range(3))
def test_any_grid_is_exported_whole(seed, tmp_path):
    """Every option of the schema survives saving: arithmetic, layout, offsets, starts, clipping."""
    rng = random.Random(seed)
    made = [random_grid(rng, 200) for _ in range(15)]

    class Grids(nn.Module):
        def forward(self, image):
            return [
                grid_of(arguments)(
                    arguments["level_shapes"], image_shape=arguments["image_shape"], clip=arguments["clip"],
                    dtype=torch.float64, device="cpu",
                )
                for arguments in made
            ]  # fmt: skip

    torch.export.save(torch.export.export(Grids(), (torch.zeros(1),), strict=False), tmp_path / "grids.pt2")
    results = torch.export.load(tmp_path / "grids.pt2").module()(torch.zeros(1))
    for result, arguments in zip(results, made, strict=True):
        assert torch.equal(result, reference.rounded(reference.grid(**arguments), torch.float64))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Compiles a module ahead, once per device."""
    made = {}

    def compile_ahead(module: nn.Module, device: torch.device) -> Path:
        key = (type(module), device.type)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("package") / "model.pt2"
            torch._inductor.aoti_compile_and_package(export(module, device), package_path=str(made[key]))
        return made[key]

    return compile_ahead


@pytest.mark.slow
@pytest.mark.tools("c++")
def test_compiled_ahead(package, device, tmp_path):
    run_elsewhere("compiled", package(Model(), device), tmp_path, device)


@pytest.mark.slow
@pytest.mark.tools("c++")
@pytest.mark.parametrize("shape", [(0, 160), (96, 0)])
def test_mistakes_of_the_running_program(package, shape, device, capfd):
    """What the exporter could not know: an empty image. AOTInductor's programs do not check their inputs themselves."""
    run = torch._inductor.aoti_load_package(str(package(anchor_ext.Anchors(), device)))
    with pytest.raises(RuntimeError) as raised:
        run(torch.zeros(1, 3, *shape, device=device))
    assert "image_shape is" in str(raised.value) + capfd.readouterr().err  # torch 2.11 prints the reason
    with pytest.raises(Exception, match="image"):
        export(anchor_ext.Anchors(), device).module()(torch.zeros(1, 3, *shape, device=device))


@pytest.mark.slow
@pytest.mark.tools("c++", "cmake")
def test_program_without_python(package, tmp_path):
    lines = (ROOT / "examples/deploy/CMakeLists.txt").read_text().splitlines()
    assert len(lines) <= 20
    compiled = package(anchor_ext.Anchors(), torch.device("cpu"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(
        sys.path
    )  # of the build, which asks torch and anchor_ext where they lie
    build = [CMAKE, "-S", ROOT / "examples/deploy", "-B", tmp_path / "build", f"-DPYTHON={sys.executable}"]
    subprocess.run(build, check=True, timeout=300, cwd=tmp_path, env=environment)
    subprocess.run([CMAKE, "--build", tmp_path / "build"], check=True, timeout=300)
    program = tmp_path / "build/anchors"
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libanchor_ext.so" in libraries and "libpython" not in libraries

    def run(height: int, width: int) -> subprocess.CompletedProcess:
        command = [program, compiled, str(height), str(width)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    for shape in [(640, 832), *SHAPES]:
        expected = anchor_ext.generate(shape, device="cpu")[0]
        count, *boxes = run(*shape).stdout.splitlines()
        assert int(count) == len(expected)
        assert [[float(number) for number in box.split()] for box in boxes] == [
            [float(format(number, ".9g")) for number in box] for box in (expected[0].tolist(), expected[-1].tolist())
        ]
    assert run(640, 832).stdout.startswith("99765\n-18.6274166 -7.31370831 26.6274166 15.3137083\n")
    failed = run(0, 832)
    assert failed.returncode == 1 and "image_shape is (0, 832)" in failed.stderr
