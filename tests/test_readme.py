"""The README's blocks run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import peers
import pytest
from test_compat_detectron2 import detectron2  # noqa: F401  (a fixture: its stand-in)
from toolchain import CMAKE, CXX, ROOT

README = (ROOT / "README.md").read_text()
DEPLOY = re.search(r"^## Compile, export, deploy\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]


def blocks(text: str, languages: str = "python") -> list[tuple[str, str]]:
    """(language, text) of each block."""
    return re.findall(rf"^```({languages})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(block: str) -> int:
    return sum(map(bool, block.splitlines()))


BLOCKS = [block for _, block in blocks(README.replace(DEPLOY, ""))]


def name_of(block: str) -> str:
    return next(
        (name for name in ("torchvision", "detectron2", "mmdet", "effdet", "ultralytics") if name in block), "own"
    )


def test_a_recipe_of_at_most_five_lines_per_framework():
    recipes = {}
    for block in BLOCKS:
        if name_of(block) != "own":
            recipes.setdefault(name_of(block), []).append(lines(block))
    assert sorted(recipes) == ["detectron2", "effdet", "mmdet", "torchvision", "ultralytics"]
    assert all(count <= 5 for lengths in recipes.values() for count in lengths)


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


@pytest.mark.skipif(CXX is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # that TorchScript is old
def test_compile_export_deploy(tmp_path: Path, monkeypatch):
    """One after another, in one folder, as a reader would type them."""
    recipes = blocks(DEPLOY, "python|sh")
    assert len(recipes) == 7 and all(3 <= lines(block) <= 6 for _, block in recipes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, object] = {}
    for language, block in recipes:
        if language == "python":
            if "onnx" in block and not (find_spec("onnx") and find_spec("onnxscript")):
                continue
            exec(compile(block, "README.md", "exec"), names)
        else:
            assert CMAKE, "cmake is missing: pip install cmake"
            folder = Path(sys.executable).parent
            environment = {
                **os.environ,
                "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            shell = ["bash", "-euc", block]
            done = subprocess.run(shell, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "\n99765\n-18.6274166 -7.31370831 26.6274166 15.3137083\n" in done.stdout
