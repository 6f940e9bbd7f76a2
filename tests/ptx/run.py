"""Executes the PTX of every kernel on the CPU and compares it with the CPU's own loops; prints what was executed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from toolchain import CXX, ROOT, setup_py  # noqa: E402
from translate import translate  # noqa: E402

SOURCES = [*sorted(ROOT.glob("csrc/*/*.cu")), HERE / "kernels.cu"]
# All that knows no torch.
NATIVE = [path for path in sorted(ROOT.glob("csrc/*/*.cpp")) if path.parent.name not in ("torch", "python")]
HOST = [*(path for path in NATIVE if path.name != "op.cpp"), *sorted(HERE.glob("*.cpp"))]


def resources_of(ptxas: Path, folder: Path, arch: str) -> str:
    """Registers and bytes of stack of anchor_ext's own kernels, as ptxas says."""
    lines = [f"registers, stack on {arch.replace('compute', 'sm')}"]
    for source in SOURCES[:-1]:
        ptx = folder / source.stem / f"{source.stem}.{arch}.ptx"
        command = [ptxas, "-v", f"-arch={arch.replace('compute', 'sm')}", ptx, "-o", os.devnull]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        found = re.findall(
            r"entry function '\w*?\d+([a-z]+_kernel\w*)'.*?(\d+) bytes stack.*?Used (\d+)", said, re.DOTALL
        )
        lines += [f"{registers:>4}, {stack}  {name}" for name, stack, registers in found]
    return "\n".join(lines)


def execute(folder: Path) -> str:
    """What the cases print, for each text that nvcc writes for the architectures of setup.py.

    Raises:
        UnknownPtxError: an instruction that the translator does not know, with its line.
        subprocess.CalledProcessError: nvcc or the C++ compiler failed, or something is wrong, which is on stderr.
    """
    setup = setup_py()
    home = setup["find_cuda_home"]()
    known = sorted({int(arch) for arch in re.findall(r"arch=compute_(\d+)", " ".join(setup["arch_flags"](home)))})
    # nvcc writes few different texts: the newest's, that of the first of 10.0 and later, and that of all before.
    archs = [f"compute_{arch}" for arch in sorted({known[0], *[a for a in known if a >= 100][:1], known[-1]})]
    nvcc = [Path(home, "bin", "nvcc"), "-std=c++17", *setup["NVCC_FLAGS"], f"-I{ROOT / 'csrc'}"]
    nvcc += [f"-gencode=arch={arch},code={arch}" for arch in archs]
    cxx = [CXX, "-std=c++20", "-Og", "-ffp-contract=off", "-DANCHOR_EXT_NO_CLONES", "-w"]
    cxx += [f"-I{path}" for path in (HERE, ROOT / "csrc", Path(home, "include"))]

    def host_object(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        subprocess.run([*cxx, "-c", source, "-o", target], check=True)
        return target

    def device_object(source: Path) -> Path:
        keep = folder / source.stem
        keep.mkdir()
        target = keep / "host.o"
        command = [*nvcc, "-c", source, "-o", target, "--keep", "--keep-dir", keep]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(device_object, SOURCES))
        wrote: dict[tuple[str, str], list[str]] = {}  # by kernel and its text: the architectures that it is of
        for arch in archs:
            for source in SOURCES:
                ptx = (folder / source.stem / f"{source.stem}.{arch}.ptx").read_text()
                for kernel in translate(ptx).items():
                    wrote.setdefault(kernel, []).append(arch)
        parts: dict[tuple[str, ...], list[str]] = {}  # kernels that the same architectures have in common
        for (_, text), of in wrote.items():
            parts.setdefault(tuple(of), []).append(text)
        resources = list(pool.map(lambda arch: resources_of(Path(home, "bin", "ptxas"), folder, arch), archs))
        made = {}
        for i, (of, texts) in enumerate(parts.items()):
            made[of] = folder / f"kernels_{i}.cpp"
            made[of].write_text("\n".join(['#include "machine.h"', *texts]))
        compiled = dict(zip(made, pool.map(host_object, made.values()), strict=True))
        objects += pool.map(host_object, HOST)
        variants: dict[tuple[Path, ...], list[str]] = {}
        for arch in archs:
            variants.setdefault(tuple(compiled[of] for of in parts if arch in of), []).append(arch)

        def run(kernels: tuple[Path, ...]) -> str:
            program = folder / f"cases_{variants[kernels][0]}"
            subprocess.run([CXX, *objects, *kernels, "-o", program], check=True)
            printed = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout
            return f"PTX for {', '.join(variants[kernels])}\n{printed}"

        return "\n".join([*pool.map(run, variants), *resources])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        print(execute(Path(folder)))
