"""Builds anchor_ext's two libraries: libanchor_ext.so (operators, no Python) and _core (its Python module).

FORCE_CUDA=1 makes a missing piece of CUDA an error, FORCE_CUDA=0 skips CUDA; TORCH_CUDA_ARCH_LIST, MAX_JOBS, CXX and
CUDA_HOME mean what they mean to every torch extension.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PREPARE = 'pip install torch "setuptools>=77" pybind11 ninja'
INSTALL = "pip install --no-build-isolation ."
LIBRARY, MODULE = "anchor_ext.libanchor_ext", "anchor_ext._core"
STABLE_ABI = "0x020b000000000000"  # torch 2.11: the binary works with this and every later torch
OLDEST_CUDA = (12, 1)
OLDEST_SETUPTOOLS = 77  # it reads pyproject.toml's license
OLDEST_ARCH = 75
NVCC_FLAGS = ["-O3", "-Xcompiler=-fvisibility=hidden", "-fmad=false", "--threads=2"]  # fused products change last bits


def fail(what: str, *remedy: str) -> None:
    raise SystemExit("\nanchor_ext: " + what + "\n" + "".join(f"    {line}\n" for line in remedy))


def find_cuda_home() -> str | None:
    """The toolkit's folder. An nvcc on the PATH may be a wrapper that lies elsewhere: it is asked where it works."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return home
    if shutil.which("nvcc"):
        dryrun = subprocess.run(["nvcc", "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True)
        top = re.search(r"^#\$ TOP=(.*)$", dryrun.stderr, re.MULTILINE)
        if top:
            return str(Path(top[1].strip().strip('"')).resolve())
    return "/usr/local/cuda" if os.path.exists("/usr/local/cuda/bin/nvcc") else None


def nvcc_version(cuda_home: str | None) -> str | None:
    nvcc = Path(cuda_home or "", "bin", "nvcc")
    if cuda_home is None or not nvcc.exists():
        return None
    release = re.search(
        r"release (\d+\.\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    return release[1] if release else None


def decide_on_cuda(torch_cuda: str | None, cuda_home: str | None) -> tuple[str | None, str]:
    """The toolkit's version to build with, or None, and the reason. A machine without a GPU builds for those with."""
    force = os.environ.get("FORCE_CUDA")
    if force == "0":
        return None, "FORCE_CUDA=0"
    if force not in (None, "", "1"):
        fail(f"FORCE_CUDA is {force!r}; expected 1 (CUDA or an error) or 0 (no CUDA)", f"FORCE_CUDA=1 {INSTALL}")
    toolkit = nvcc_version(cuda_home)
    if torch_cuda is None:
        reason = "this torch is a build without CUDA"
    elif toolkit is None:
        reason = "no nvcc" + (
            f" in CUDA_HOME={cuda_home}" if cuda_home else ": install a CUDA toolkit or set CUDA_HOME"
        )
    elif toolkit.split(".")[0] != torch_cuda.split(".")[0]:
        fail(
            f"torch was built with CUDA {torch_cuda}, but the nvcc in CUDA_HOME={cuda_home} is CUDA {toolkit}. "
            "Their major versions must agree. Do one of these:",
            f"CUDA_HOME=<a CUDA {torch_cuda.split('.')[0]} toolkit> {INSTALL}",
            f"FORCE_CUDA=0 {INSTALL}    # without CUDA",
        )
    elif tuple(map(int, toolkit.split("."))) < OLDEST_CUDA:
        fail(
            f"the nvcc in CUDA_HOME={cuda_home} is CUDA {toolkit}, whose kernels take too few bytes of parameters.",
            f"CUDA_HOME=<CUDA 12.1 or newer> {INSTALL}",
            f"FORCE_CUDA=0 {INSTALL}    # without CUDA",
        )
    else:
        return toolkit, f"CUDA {toolkit} from {cuda_home}"
    if force == "1":
        fail(f"FORCE_CUDA=1, but {reason}.", f"FORCE_CUDA=0 {INSTALL}    # builds without CUDA")
    return None, reason


def arch_flags(cuda_home: str) -> list[str]:
    """By default machine code for every arch of the toolkit from 7.5 on, and PTX of the newest for later ones."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        from torch.utils.cpp_extension import _get_cuda_arch_flags

        return _get_cuda_arch_flags()
    nvcc = Path(cuda_home, "bin", "nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    archs = sorted(int(arch) for arch in re.findall(r"compute_(\d+)\b", listed) if int(arch) >= OLDEST_ARCH)
    if not archs:
        fail(
            f"{nvcc} lists no architecture of 7.5 or newer; does it work?",
            f"{nvcc} --list-gpu-arch",
            f"FORCE_CUDA=0 {INSTALL}    # without CUDA",
        )
    codes = [(arch, f"sm_{arch}") for arch in archs] + [(archs[-1], f"compute_{archs[-1]}")]
    return [f"-gencode=arch=compute_{arch},code={code}" for arch, code in codes]


def cuda_runtime(cuda_home: str) -> list[str]:
    """Links the runtime statically, so that the binary also loads where CUDA is not installed."""
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        archive = Path(cuda_home, folder, "libcudart_static.a")
        if archive.exists():
            return [str(archive), "-Wl,--exclude-libs,ALL", "-lrt", "-ldl", "-lpthread"]
    return [f"-L{Path(cuda_home, 'lib64')}", "-lcudart"]


def nvtx_include(cuda_home: str | None) -> list[str]:
    """The folder of NVTX's headers, from the toolkit or from the packages that a CUDA build of torch brings."""
    folders = [Path(cuda_home, "include")] if cuda_home else []
    spec = find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        folders += sorted(Path(root).glob("*/include"))
    return next(([str(folder)] for folder in folders if (folder / "nvtx3" / "nvtx3.hpp").exists()), [])


if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    fail(
        f"setuptools {setuptools.__version__} is too old; {OLDEST_SETUPTOOLS} or newer is needed:",
        f'pip install --upgrade "setuptools>={OLDEST_SETUPTOOLS}"',
        INSTALL,
    )

cuda_home = find_cuda_home()
if cuda_home:
    os.environ.setdefault("CUDA_HOME", cuda_home)  # before torch looks for it

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError as error:
    torch_error, BuildExtension = error, build_ext
else:
    torch_error = None


class BuildNative(BuildExtension):
    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("libanchor_ext"):  # no Python in it, and none in its name
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        self.check_tools()
        toolkit, reason = decide_on_cuda(torch.version.cuda, cuda_home)
        print(
            f"anchor_ext: building {'CPU and CUDA kernels' if toolkit else 'the CPU kernel only'} ({reason})",
            flush=True,
        )
        library, module = self.extensions
        self.configure(library, module, toolkit)
        super().build_extensions()

    def check_tools(self) -> None:
        if torch_error is not None:
            fail(
                f"torch cannot be imported by {sys.executable} ({torch_error}).\n"
                "anchor_ext is compiled against the torch that it will run with: torch comes first, and pip must not "
                "hide it in an isolated build:",
                PREPARE,
                INSTALL,
            )
        if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 11):
            fail(
                f"torch {torch.__version__} is too old; 2.11 or newer is needed:",
                "pip install --upgrade torch",
                INSTALL,
            )
        if find_spec("pybind11") is None:
            fail("pybind11 is missing:", "pip install pybind11 ninja", INSTALL)
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler.split()[0]) is None:
            fail(
                f"there is no C++ compiler: {compiler!r} is not on the PATH. Install one, or name it:",
                "apt-get install g++    # Debian, Ubuntu",
                "conda install cxx-compiler    # conda",
                f"CXX=<compiler> {INSTALL}",
            )

    def configure(self, library: Extension, module: Extension, toolkit: str | None) -> None:
        import pybind11

        cxx = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
        macros = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", f'-DANCHOR_EXT_TORCH_VERSION="{torch.__version__}"']
        archs = " ".join(re.findall(r",code=(\w+)", " ".join(arch_flags(cuda_home)))) if toolkit else ""
        macros += [f'-DANCHOR_EXT_CUDA_VERSION="{toolkit or ""}"', f'-DANCHOR_EXT_CUDA_ARCHS="{archs}"']
        library.extra_compile_args = {"cxx": cxx + macros, "nvcc": []}
        library.include_dirs = [os.path.abspath("csrc"), *include_paths(), *nvtx_include(cuda_home)]
        library.library_dirs = library_paths()
        library.libraries = ["torch_cpu"]
        # libtorch.so brings libtorch_cuda where there is one; a linker that keeps only what it needs would drop it.
        keep_torch = ["-Wl,--push-state,--no-as-needed", "-ltorch", "-Wl,--pop-state"]
        library.extra_link_args = ["-Wl,-soname,libanchor_ext.so", *keep_torch]
        if toolkit:
            library.sources += sources_of("csrc/*/*.cu")
            library.extra_compile_args["cxx"] += ["-DANCHOR_EXT_WITH_CUDA"]
            library.extra_compile_args["nvcc"] = [*NVCC_FLAGS, *arch_flags(cuda_home)]
            library.extra_link_args += cuda_runtime(cuda_home)

        module.extra_compile_args = {"cxx": ["-O2", *cxx[1:]]}
        module.include_dirs = [os.path.abspath("csrc"), pybind11.get_include(), *include_paths()]
        module.extra_link_args = [os.path.abspath(self.get_ext_fullpath(library.name)), "-Wl,-rpath,$ORIGIN"]


def sources_of(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(pattern))


module_sources = sources_of("csrc/python/*.cpp")
library_sources = [source for source in sources_of("csrc/*/*.cpp") if source not in module_sources]
setup(
    ext_modules=[
        Extension(LIBRARY, library_sources, language="c++"),
        Extension(MODULE, module_sources, language="c++"),
    ],
    cmdclass={"build_ext": BuildNative},
)
