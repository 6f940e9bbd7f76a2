"""Loads the native library, or says exactly why not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["build_info", "native"]


_LIBRARY = Path(__file__).with_name("libanchor_ext.so")


def _load() -> Any:
    library = _LIBRARY
    remedy = (
        "It is compiled on the machine that uses it, and needs torch 2.11 or newer. Build it anew, in the source tree, "
        "with\n    pip install --no-build-isolation --no-deps --force-reinstall ."
    )
    if not library.exists() and library.parents[1].joinpath("setup.py").exists():
        remedy = (
            "Python was started in anchor_ext's source tree, whose sources hide the installed package. Start it in "
            "another folder, or build in this one with\n    pip install --no-build-isolation -e ."
        )
    try:
        torch.ops.load_library(library)
        return importlib.import_module("anchor_ext._core")
    except (OSError, ImportError) as error:
        raise ImportError(
            f"anchor_ext's native library in {library.parent} does not load with Python "
            f"{sys.version.split()[0]} and torch {torch.__version__}:\n    {error}\n"
            f"{remedy}"
        ) from error


native = _load()


def build_info() -> dict[str, Any]:
    """How this anchor_ext was compiled and what it runs with.

    Returns:
        anchor_ext, python, torch: the versions that run; torch_built_with: the torch it was compiled against;
        torch_oldest: the oldest torch that the same binary runs with; compiler; cuda: the toolkit's version, None
        without CUDA; cuda_archs: the architectures with machine code (sm_*) or PTX (compute_*) in the binary;
        openmp: whether torch's CPU threads, which anchor_ext uses, are OpenMP's; nvtx: whether calls show in nsys;
        library: the file that a program without Python loads or links for the operators.
    """
    from importlib.metadata import version

    info = native.build_info()
    return {
        "anchor_ext": version("anchor_ext"),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        **{key: info[key] for key in ("torch_built_with", "torch_oldest", "compiler")},
        "cuda": info["cuda"] or None,
        "cuda_archs": info["cuda_archs"].split(),
        "nvtx": bool(info["nvtx"]),
        "openmp": torch.backends.openmp.is_available(),
        "library": str(_LIBRARY),
    }
