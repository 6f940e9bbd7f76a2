"""The frameworks' own test suites: as they are, with the drop-ins in place, and with accelerated models.

    python tests/suites.py FOLDER

FOLDER has the frameworks' sources as they clone: `vision`, `mmdetection`, `detectron2`; who is absent is named. Each
suite runs in processes of its own. Printed are a table, and every test that does not end the same way.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

# By the name of the clone: the module whose version counts, and what concerns anchors.
SUITES = {
    "vision": (
        "torchvision",
        [
            *(
                "test/test_models.py",
                "test/test_models_detection_anchor_utils.py",
                "test/test_models_detection_utils.py",
            ),
            *("test/test_models_detection_negative_samples.py", "test/test_onnx.py", "-k", "detection or rcnn"),
        ],
    ),
    "mmdetection": (
        "mmdet",
        ["tests/test_models/test_task_modules/test_prior_generators", "tests/test_models/test_dense_heads"],
    ),
    "detectron2": (
        "detectron2",
        ["tests/modeling/test_anchor_generator.py", "tests/modeling/test_rpn.py", "tests/modeling/test_model_e2e.py"],
    ),
}


def put_drop_ins_in_place(framework: str) -> None:
    """Before its tests import it."""
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


def accelerate_what_is_built(framework: str) -> None:
    """By torchvision's builders; FCOS, which `accelerate` refuses, stays as it is."""
    from torchvision.models import detection, list_models
    from torchvision.models._api import BUILTIN_MODELS

    from anchor_ext.compat.torchvision import accelerate

    def accelerated(build):
        @functools.wraps(build)
        def then_accelerate(*arguments, **options):
            model = build(*arguments, **options)
            assert accelerate(model).replaced
            return model

        return then_accelerate

    assert framework == "torchvision"
    for name in list_models(detection):
        if not name.startswith("fcos"):
            build = BUILTIN_MODELS[name]
            BUILTIN_MODELS[name] = accelerated(build)
            for module in (detection, sys.modules[build.__module__]):
                setattr(module, name, BUILTIN_MODELS[name])


CHANGES = {"the drop-ins": put_drop_ins_in_place, "accelerate": accelerate_what_is_built}


def pytest_configure(config) -> None:  # this file is a plugin of the runs that it starts
    if change := os.environ.get("ANCHOR_EXT_SUITE"):
        CHANGES[change](os.environ["ANCHOR_EXT_SUITE_OF"])


def outcomes(folder: Path, framework: str, arguments: list[str], change: str) -> dict[str, str]:
    """Of each test; an empty `change` leaves the framework as it is."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary, "report.xml")
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "ANCHOR_EXT_SUITE": change, "ANCHOR_EXT_SUITE_OF": framework}
        # Not by `python -m`, which would import the clone instead of what is installed.
        pytest = Path(sys.executable).with_name("pytest")
        command = [str(pytest), "-q", "-p", "suites", "-o", "addopts=", f"--junitxml={report}", *arguments]
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
    print(
        "| Suite | Version | Tests | Pass as it is | With the drop-ins | With accelerate |\n|---|---|---|---|---|---|"
    )
    for name, (framework, arguments) in SUITES.items():
        if not (folder / name).exists():
            print(f"| {name} | not in {folder} | | | | |")
            continue
        show = f"import {framework} as framework; print(getattr(framework, '__version__', ''))"
        version = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout.strip()
        changes = [change for change in CHANGES if framework == "torchvision" or change != "accelerate"]
        own = outcomes(folder / name, framework, arguments, "")
        changed = {change: outcomes(folder / name, framework, arguments, change) for change in changes}
        passed = [list(ended.values()).count("passed") for ended in (own, *changed.values())]
        cells = [str(count) for count in passed] + [""] * (len(CHANGES) - len(changes))
        print(f"| {name} | {version} | {len(own)} | {' | '.join(cells)} |", flush=True)
        for change, ours in changed.items():
            for test in sorted(own.keys() | ours.keys()):
                if own.get(test) != ours.get(test):
                    different += 1
                    print(f"    {test}: {own.get(test)} as it is, {ours.get(test)} with {change}")
    return different


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()) != 0)
