"""What the CUDA compiler made of match's kernels, read from the installed library; no GPU is needed."""

from __future__ import annotations

import re

from machine_code import INFO, NEEDS, kernels_of, uses_local_memory

pytestmark = NEEDS


def test_every_kernel_in_registers(tmp_path):
    found = set()
    for arch, name, code, resources in kernels_of("match_cuda", tmp_path):
        kind, type_name = re.search(r"(best|first|result)_kernelI([fd])E", name).groups()
        found.add((arch, kind, type_name))
        assert not uses_local_memory(code, resources), (arch, kind, type_name, resources)
    archs = [arch for arch in INFO["cuda_archs"] if arch.startswith("sm_")]
    assert found == {(arch, kind, t) for arch in archs for kind in ("best", "first", "result") for t in "fd"}
