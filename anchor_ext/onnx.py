"""anchor_ext's operators in standard ONNX ones, for `torch.onnx.export`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._operators import REGISTERED

__all__ = ["translation_table"]


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export(..., dynamo=True, custom_translation_table=...)` needs for models with anchors in them.

    Every configuration of `anchor_ext.Anchors`, `AnchorGrid` and the drop-ins becomes standard operators of opset 18,
    bit for bit the same in onnxruntime, for any image size if the export's sizes are dynamic. What ONNX would round
    twice is refused: anchors in float16 or bfloat16 of an arithmetic whose sums are float64, and inside flags in those
    types.

    Raises:
        ImportError: onnxscript, which torch.onnx.export needs, is missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "anchor_ext.onnx needs onnxscript, as torch.onnx.export does: pip install onnx onnxscript"
        ) from error
    return {
        getattr(torch.ops.anchor_ext, name).default: operator.onnx
        for name, operator in REGISTERED.items()
        if operator.onnx is not None
    }
