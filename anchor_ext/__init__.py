"""Every detection anchor of a feature pyramid, exact to the last bit, in one CUDA launch or one CPU pass."""

from importlib.metadata import version as _version

from ._library import build_info  # first: loads the native library  # isort: skip
from .anchors import Anchors, UnusualAnchorsWarning, generate, generate_many
from .coders import BoxCoder
from .grid import AnchorGrid
from .postprocessing import select

__all__ = [
    "AnchorGrid",
    "Anchors",
    "BoxCoder",
    "UnusualAnchorsWarning",
    "build_info",
    "generate",
    "generate_many",
    "select",
]
__version__ = _version("anchor_ext")
