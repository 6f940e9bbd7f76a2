"""For programs that were written for anchor_ext 0.1: `torch.onnx.export` needs no table any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["translation_table"]


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """An empty table: torch.onnx.export finds what it needs by itself; see docs/deploy.md."""
    return {}
