"""The blocks of README.md, CONTRIBUTING.md and docs/*.md.

    python tests/pages.py PAGE REPORT

runs a page's blocks in order, in one namespace and in the current folder, as a reader would type them. It writes a line
of JSON per block to REPORT: where the block begins, whether it passed, failed or was skipped, and why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import peers
import pytest
import torch
from toolchain import CMAKE, CXX, ROOT

sys.path.append(str(ROOT / "tests" / "compat"))
import test_compat_detectron2

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    line: int  # of its first line
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """An sh block's lines, without comments and variables before the command."""
        lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in self.text.splitlines())
        return [re.sub(r"^(\w+=\S* +)+", "", line) for line in lines if line]

    @property
    def builds(self) -> bool:
        """What installs or builds anchor_ext is looked at, and not run."""
        return self.language == "sh" and any(command.split()[0] in ("make", "pip") for command in self.commands)

    @property
    def runs(self) -> bool:
        return self.language in ("python", "sh") and not self.builds


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(text.count("\n", 0, fence.start(2)) + 1, fence[1], fence[2]) for fence in fences]


def absent(package: str) -> str | None:
    return None if find_spec(package) else f"no {package}"


def imported(framework: Callable[[], object]) -> str | None:
    try:
        framework()
    except pytest.skip.Exception as skipped:
        return str(skipped)
    return None


# What a block needs: its marker, the words that tell of it, and why it is not here, or None.
NEEDS: list[tuple[str, str, Callable[[], str | None]]] = [
    ("peers", "torchvision", lambda: absent("torchvision")),
    ("tools", "matplotlib|plot", lambda: absent("matplotlib")),
    ("tools", "--html|--pictures", lambda: absent("matplotlib")),
    ("tools", "--suggest|fit.suggest", lambda: absent("scipy")),
    ("tools", "onnx", lambda: absent("onnx") or absent("onnxscript")),
    ("tools", "compile|aoti_compile_and_package|cmake", lambda: None if CXX else "no C++ compiler"),
    ("tools", "cmake", lambda: None if CMAKE else "no cmake"),
    ("gpu", 'device="cuda"', lambda: None if torch.cuda.is_available() else "no GPU"),
    ("gpu", "nsys", lambda: None if shutil.which("nsys") else "no nsys"),  # which looks at a GPU's kernels
    ("peers", "mmdet", lambda: imported(peers.mmdet)),
    ("peers", "effdet", lambda: imported(peers.effdet)),
]


def needs(block: Block) -> list[tuple[str, Callable[[], str | None]]]:
    return [(marker, why) for marker, words, why in NEEDS if re.search(rf"(?<!\w)({words})(?!\w)", block.text)]


def missing(block: Block) -> str | None:
    """Why a block cannot run here."""
    return next((reason for _, why in needs(block) if (reason := why()) is not None), None)


def run_shell(text: str) -> None:
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(["bash", "-euc", text], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")


def run(page: Path, block: Block, names: dict[str, object]) -> None:
    if block.language == "sh":
        run_shell(block.text)
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        if "detectron2.register" in block.text and find_spec("detectron2") is None:
            test_compat_detectron2.stand_in(monkeypatch)
        # The empty lines make a traceback name the page's line.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def main(page: Path, report: Path) -> None:
    warnings.simplefilter("ignore")  # that TorchScript is old
    names: dict[str, object] = {}
    with report.open("w") as file:
        for block in blocks(page):
            if not block.runs:
                continue
            outcome, why = "passed", missing(block)
            if why is not None:
                outcome = "skipped"
            else:
                try:
                    run(page, block, names)
                except Exception:
                    outcome, why = "failed", traceback.format_exc()
            print(json.dumps([block.line, outcome, why]), file=file, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
