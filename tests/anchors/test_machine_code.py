"""What the CUDA compiler made of the kernel, read from the installed library; no GPU is needed."""

from __future__ import annotations

import re
import subprocess

import pytest
from machine_code import CUOBJDUMP, INFO, LIBRARY, NEEDS, kernels_of, uses_local_memory

pytestmark = NEEDS
OUTPUT_TYPES = {"f": "float32", "d": "float64", "NS_7Float16E": "float16", "NS_8BFloat16E": "bfloat16"}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[tuple[str, str], dict[str, object]]:
    """(arch, kind, output type) -> instructions and resources of the kernels' machine code.

    The kinds: "generate" makes every anchor, "generate plain" those of the common case, both also with parameters for
    small pyramids; "gather" those at indices; "many" those of many images. "flags" has no output type.
    """
    found = {}
    for arch, name, code, resources in kernels_of("anchors_cuda", tmp_path_factory.mktemp("cubins")):
        types = "|".join(OUTPUT_TYPES)
        mangled = re.search(rf"(generate|gather|many)_kernelI({types})(?:Lb([01])ENS_9PyramidOfILi(\d+)E)?E", name)
        assert mangled or "flags_kernelE" in name, f"a kernel of another name: {name}"
        kind, output_type = "flags", None
        if mangled:
            kind, output_type = mangled[1], OUTPUT_TYPES[mangled[2]]
            kind += " plain" * (mangled[3] == "1") + " small" * (mangled[4] == "256")
        key = (arch, kind, output_type)
        assert key not in found
        found[key] = {"code": code, "resources": resources}
    return found


def test_one_kernel_per_kind_output_type_and_arch(kernels):
    archs = [arch for arch in INFO["cuda_archs"] if arch.startswith("sm_")]
    assert archs
    kinds = [
        (kind, name)
        for kind in ("generate", "generate small", "generate plain", "generate plain small", "gather", "many")
        for name in OUTPUT_TYPES.values()
    ] + [("flags", None)]
    assert set(kernels) == {(arch, *kind) for arch in archs for kind in kinds}


def test_ptx_for_later_archs():
    listed = subprocess.run([CUOBJDUMP, "-lptx", LIBRARY], check=True, capture_output=True, text=True).stdout
    (newest,) = (arch.removeprefix("compute_") for arch in INFO["cuda_archs"] if arch.startswith("compute_"))
    assert f"sm_{newest}" in listed
    assert all(int(arch.removeprefix("sm_")) <= int(newest) for arch in INFO["cuda_archs"] if arch.startswith("sm_"))


def test_libtorch_stays_linked():
    """It brings libtorch_cuda, where the current stream is asked for; nothing else of it is used."""
    assert b"\0libtorch.so\0" in LIBRARY.read_bytes()


@pytest.mark.parametrize(
    ("output_type", "store"),
    [("float32", r"STG\.E\.128"), ("float64", r"STG\.E\.128"), ("float16", r"STG\.E\.64"), ("bfloat16", r"STG\.E\.64")],
)
def test_wide_stores(kernels, output_type, store):
    for (arch, kind, name), kernel in kernels.items():
        if name == output_type:
            assert len(re.findall(store, kernel["code"])) >= (2 if name == "float64" else 1), (arch, kind)


def test_no_spills_no_stack_no_local_memory(kernels):
    for key, kernel in kernels.items():
        assert not uses_local_memory(kernel["code"], kernel["resources"]), (key, kernel["resources"])


def test_no_fused_multiply_add(kernels):
    """A product contracted with the addition behind it would change the last bit."""
    for key, kernel in kernels.items():
        assert "DMUL" in kernel["code"] and "DADD" in kernel["code"], key
        assert not re.search(r"\bDFMA\b", kernel["code"]), key
