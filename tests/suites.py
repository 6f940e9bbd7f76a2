"""The frameworks' own test suites, with their own generators and with the drop-ins in their place.

    python tests/suites.py FOLDER

FOLDER has the frameworks' sources as they clone: `vision`, `mmdetection`, `detectron2`; who is absent is named. Each
suite runs twice, in its own process. Printed are a table, and every test that does not end the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

# By the name of the clone: the module whose version counts, and what concerns anchors.
SUITES = {
    "vision": ("torchvision", ["test/test_models.py", "test/test_models_detection_anchor_utils.py", "-k", "detection"]),
    "mmdetection": (
        "mmdet",
        ["tests/test_models/test_task_modules/test_prior_generators", "tests/test_models/test_dense_heads"],
    ),
    "detectron2": (
        "detectron2",
        ["tests/modeling/test_anchor_generator.py", "tests/modeling/test_rpn.py", "tests/modeling/test_model_e2e.py"],
    ),
}


def put_drop_ins_in_place() -> None:
    """Of whichever framework is there, before its tests import it."""
    framework = os.environ["ANCHOR_EXT_SUITE"]
    if framework == "torchvision":
        import torchvision.models.detection as detection

        from anchor_ext.compat import torchvision as ours

        for name in ("AnchorGenerator", "DefaultBoxGenerator"):
            original = getattr(detection.anchor_utils, name)
            for module in [m for key, m in sys.modules.items() if key.startswith("torchvision.")]:
                if getattr(module, name, None) is original:
                    setattr(module, name, getattr(ours, name))
    elif framework == "mmdet":
        from anchor_ext.compat import mmdet

        mmdet.register()
    else:
        from anchor_ext.compat import detectron2

        print(detectron2.register())


def pytest_configure(config) -> None:  # this file is a plugin of the runs that it starts
    if os.environ.get("ANCHOR_EXT_SUITE"):
        put_drop_ins_in_place()


def outcomes(folder: Path, arguments: list[str], drop_ins_of: str) -> dict[str, str]:
    """Of each test; an empty name leaves the framework as it is."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary, "report.xml")
        environment = {**os.environ, "ANCHOR_EXT_SUITE": drop_ins_of, "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
        )}  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "suites", f"--junitxml={report}", *arguments]
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if not report.exists():
            sys.exit(f"{folder.name}: pytest ended with {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
        result = {}
        for case in ElementTree.parse(report).iter("testcase"):
            ended = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            result[f"{case.get('classname')}.{case.get('name')}"] = ended[0] if ended else "passed"
        return result


def main(folder: Path) -> int:
    different = 0
    print("| Suite | Version | Tests | Pass with its own | Pass with the drop-ins |\n|---|---|---|---|---|")
    for name, (framework, arguments) in SUITES.items():
        if not (folder / name).exists():
            print(f"| {name} | not in {folder} | | | |")
            continue
        show = f"import {framework} as framework; print(getattr(framework, '__version__', ''))"
        version = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout.strip()
        own, ours = (outcomes(folder / name, arguments, drop_ins) for drop_ins in ("", framework))
        passed = [list(ended.values()).count("passed") for ended in (own, ours)]
        print(f"| {name} | {version} | {len(own)} | {passed[0]} | {passed[1]} |", flush=True)
        for test in sorted(own.keys() | ours.keys()):
            if own.get(test) != ours.get(test):
                different += 1
                print(f"    {test}: {own.get(test)} with its own, {ours.get(test)} with the drop-ins")
    return different


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()) != 0)
