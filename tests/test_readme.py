"""The README's Python blocks run as they stand."""

from __future__ import annotations

import re

import peers
import pytest
from test_compat_detectron2 import detectron2  # noqa: F401  (a fixture: its stand-in)
from toolchain import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def name_of(block: str) -> str:
    return next(
        (name for name in ("torchvision", "detectron2", "mmdet", "effdet", "ultralytics") if name in block), "own"
    )


def test_a_recipe_of_at_most_five_lines_per_framework():
    recipes = {}
    for block in BLOCKS:
        if name_of(block) != "own":
            recipes.setdefault(name_of(block), []).append(sum(map(bool, block.splitlines())))
    assert sorted(recipes) == ["detectron2", "effdet", "mmdet", "torchvision", "ultralytics"]
    assert all(lines <= 5 for lengths in recipes.values() for lines in lengths)


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_block(block, request):
    framework = name_of(block)
    if framework == "torchvision":
        pytest.importorskip("torchvision")
    elif framework == "mmdet":
        peers.mmdet()
    elif framework == "effdet":
        peers.effdet()
    elif framework == "detectron2":
        request.getfixturevalue("detectron2")
    exec(compile(block, "README.md", "exec"), {})
