"""Importing is cheap: what torch itself leaves out until it is asked for, anchor_ext leaves out, too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from anchor_ext import _recording

pytestmark = pytest.mark.quick


def test_the_compiler_is_not_imported():
    program = "import sys, torch; before = set(sys.modules); import anchor_ext; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    loaded = result.stdout.split()
    assert "anchor_ext" in loaded
    assert not [name for name in loaded if name.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))]


def test_the_compiler_is_told_as_it_expects():
    def by_torch() -> None: ...

    def by_anchor_ext() -> None: ...

    torch.compiler.assume_constant_result(by_torch)
    _recording.constant_to_the_compiler(by_anchor_ext)
    assert vars(by_anchor_ext) == vars(by_torch)
