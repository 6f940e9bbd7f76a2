"""Prints, from one run, what a call costs by every path into a program: eager, compiled, exported, compiled ahead.

    python benchmarks/graphs.py [--device cpu|cuda] [--threads N] [--json FILE] [--quick]

Every number is a median over interleaved rounds, in microseconds per call of a module with an image (1, 3, H, W), on
programs whose height and width are dynamic. "torchvision" is its AnchorGenerator, and "drop-in" anchor_ext's for it,
both with the same five feature maps, which are views of the image; "Anchors" is anchor_ext.Anchors, which needs none.
`torch.full` makes a tensor as long as the anchors by the same path: nothing can be cheaper. Nothing is timed whose bits
are not those of the eager call.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from dialects import first_line, same_bits, tensors_of
from timing import hardware, interleaved, medians, versions
from torch import Tensor, nn

import anchor_ext
from anchor_ext.compat.torchvision import AnchorGenerator

SHAPES = [(160, 160), (256, 256), (640, 832), (800, 1333)]  # more than one cell on every level, for the exporter
STRIDES = [8, 16, 32, 64, 128]
SIZES = tuple(tuple(4 * stride * 2 ** (i / 3) for i in range(3)) for stride in STRIDES)
RATIOS = ((0.5, 1.0, 2.0),) * len(STRIDES)


class Images:
    """What torchvision's ImageList is to a generator."""

    def __init__(self, tensors: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensors, self.image_sizes = tensors, image_sizes


class Generator(nn.Module):
    """torchvision's call, of its own generator or of the drop-in."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        features = [image[..., ::stride, ::stride] for stride in STRIDES]
        return self.generator(Images(image, [(1, 1)]), features)[0]


class Full(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        count = sum(((height + s - 1) // s) * ((width + s - 1) // s) * 9 for s in STRIDES)
        return torch.full((1, count, 4), 1.0, dtype=torch.float32, device=image.device)


def modules() -> tuple[dict[str, nn.Module], str]:
    """By column; and what there is to say about torchvision."""
    columns: dict[str, nn.Module] = {}
    try:
        from torchvision import __version__ as note
        from torchvision.models.detection.anchor_utils import AnchorGenerator as Original

        columns["torchvision"] = Generator(Original(SIZES, RATIOS))
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision that does not fit its torch raises any
        note = f"left out: {error}"
    columns["drop-in"] = Generator(AnchorGenerator(SIZES, RATIOS))
    columns["Anchors"] = anchor_ext.Anchors()
    columns["torch.full"] = Full()
    return columns, note


def exported(module: nn.Module, device: torch.device) -> torch.export.ExportedProgram:
    sides = {2: torch.export.Dim("height", min=129, max=4096), 3: torch.export.Dim("width", min=129, max=4096)}
    image = torch.zeros(1, 3, 192, 320, device=device)
    return torch.export.export(module, (image,), dynamic_shapes={"image": sides}, strict=False)


def paths(module: nn.Module, device: torch.device) -> dict[str, Callable[[], Callable[[Tensor], object]]]:
    """How a program comes about, by path."""
    return {
        "eager": lambda: module,
        "compiled": lambda: torch.compile(module, fullgraph=True, dynamic=True),
        "exported": lambda: exported(module, device).module(),
        "AOTInductor": lambda: torch._inductor.aoti_load_package(
            torch._inductor.aoti_compile_and_package(exported(module, device))
        ),
    }


# A program of torch alone, compiled ahead and loaded by a process of its own.
PROBE = """
import sys, torch
image = torch.zeros(2, 3, device=sys.argv[1])
package = torch._inductor.aoti_compile_and_package(torch.export.export(torch.nn.ReLU(), (image,)))
torch._inductor.aoti_load_package(package)(image)
"""


def torch_compiles_ahead(device: torch.device) -> str:
    """Empty, or why AOTInductor is left out: it does not even run a program without anchor_ext."""
    probe = subprocess.run([sys.executable, "-c", PROBE, str(device)], capture_output=True, text=True)
    if probe.returncode == 0:
        return ""
    last = (probe.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
    return f"AOTInductor is left out: a program of torch alone ends with {probe.returncode} ({last[:80]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--quick", action="store_true", help="small images, few rounds, no AOTInductor")
    options = parser.parse_args()
    device = torch.device(options.device)
    shapes = SHAPES[:2] if options.quick else SHAPES
    rounds = {"rounds": 3, "seconds": 0.002} if options.quick else {}
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)

    columns, note = modules()
    programs: dict[str, dict[str, Callable[[Tensor], object]]] = {}
    broken = "" if options.quick else torch_compiles_ahead(device)
    left_out = [broken] if broken else []
    for name, module in columns.items():
        for path, make in paths(module, device).items():
            print(f"{device}: {name}, {path}", file=sys.stderr, flush=True)
            if path == "AOTInductor" and (options.quick or broken):
                continue
            try:
                program = make()
                for shape in shapes:
                    image = torch.zeros(1, 3, *shape, device=device)
                    if not same_bits(program(image), [tensor.cpu() for tensor in tensors_of(module(image))]):
                        raise ValueError(f"other bits than eager at {shape}")
                programs.setdefault(path, {})[name] = program
            except Exception as error:
                if name != "torchvision":
                    raise
                left_out.append(f"{name}, {path}: {first_line(error)}")

    print(
        f"{hardware(device)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {note}, threads: {options.threads}"
    )
    print("microseconds per call; peer/ours: torchvision by the drop-in; ours/full: Anchors by torch.full\n")
    print(f"{'path':<13}{'image':>10}" + "".join(f"{name:>13}" for name in [*columns, "peer/ours", "ours/full"]))
    rows = []
    for path, by_name in programs.items():
        for shape in shapes:
            image = torch.zeros(1, 3, *shape, device=device)
            functions = {name: lambda p=program, i=image: p(i) for name, program in by_name.items()}
            seconds = interleaved(functions, threads=options.threads, **rounds)
            rows.append({"path": path, "image_shape": shape, "threads": options.threads, "seconds": seconds})
            m = {name: 1e6 * value for name, value in medians(seconds).items()}
            numbers = [m.get(name) for name in columns]
            numbers += [m["torchvision"] / m["drop-in"] if "torchvision" in m else None, m["Anchors"] / m["torch.full"]]
            cells = [f"{'-':>13}" if number is None else f"{number:13.2f}" for number in numbers]
            print(f"{path:<13}{'{}x{}'.format(*shape):>10}" + "".join(cells), flush=True)
    for remark in left_out:
        print(remark)
    if options.json:
        about = {**versions(), "torchvision": note, "hardware": hardware(device), "device": str(device)}
        result = {"command": "python benchmarks/graphs.py", "versions": about, "left_out": left_out, "rows": rows}
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
