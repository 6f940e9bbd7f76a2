"""anchor_ext's operators in torch's own, for programs that are exported to ONNX after torch.export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._operators import REGISTERED

__all__ = ["decomposition_table", "translation_table"]


def decomposition_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.export.ExportedProgram.run_decompositions` needs before `torch.onnx.export` takes the program.

    A module needs none: `torch.onnx.export(module, ...)` records torch's own operators at once. They give the same
    bits in onnxruntime, for any image size if those of the export are dynamic. What ONNX would round twice is refused:
    anchors in float16 or bfloat16 of an arithmetic whose sums are float64, and inside flags in those types.
    """
    return {getattr(torch.ops.anchor_ext, name).default: operator.standard for name, operator in REGISTERED.items()}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """An empty `custom_translation_table`, for code that passes one: a module needs none any more."""
    return {}
