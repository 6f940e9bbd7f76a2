"""`--may-skip`: a skip that nobody has allowed fails the run, and is named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from toolchain import ROOT

CONFIGURATION = "[pytest]\naddopts = --strict-markers\nmarkers =\n    gpu: a GPU\n    tools(*names): tools\n"
FILES = {
    "test_marked.py": """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("no GPU")

@pytest.fixture
def cmake():
    pytest.skip("no cmake")

@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.tools("cmake"))])
def test_by_its_parameter(x, request):
    if x == 2:
        request.getfixturevalue("cmake")

@pytest.mark.xfail(strict=True)
def test_known_to_fail():
    assert False
""",
    "test_module.py": """
import pytest

onnx = pytest.importorskip("nothing_has_this_name")
pytestmark = [pytest.mark.tools, pytest.mark.gpu]

def test_never_collected(): ...
""",
    # The function's name, the file's and the folder's are no markers.
    "gpu/test_gpu.py": """
import pytest

@pytest.mark.skipif(True, reason="for no reason")
def gpu(): ...

test_gpu = gpu
""",
    "test_module_without_markers.py": "import pytest\npytest.skip('of its own', allow_module_level=True)\n",
}
MARKED = {"test_marked.py::test_on_a_gpu": "gpu", "test_marked.py::test_by_its_parameter[2]": "tools"}
UNMARKED = {"gpu/test_gpu.py::test_gpu", "test_module_without_markers.py"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "pytest.ini").write_text(CONFIGURATION)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder, *arguments: str) -> tuple[int, set[str], str]:
    """The exit status, the names that are called unexpected, and all that was printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "may_skip", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    _, _, section = done.stdout.partition("skipped, but --may-skip is")
    lines = section.splitlines()[1:]
    return done.returncode, {line.partition(": ")[0] for line in lines if ".py" in line}, done.stdout + done.stderr


@pytest.mark.quick
def test_a_skip_that_is_not_allowed_is_named_and_fails(folder):
    status, names, printed = run(folder, "--may-skip", "none")
    assert (status, names) == (1, {*MARKED, *UNMARKED, "test_module.py"}), printed
    assert "gpu/test_gpu.py::test_gpu: for no reason" in printed and "unexpected skips: 5" in printed


@pytest.mark.parametrize("allowed", ["gpu", "tools", "gpu,tools"])
def test_what_is_listed_is_allowed(folder, allowed):
    status, names, printed = run(folder, "--may-skip", allowed)
    expected = UNMARKED | {name for name, marker in MARKED.items() if marker not in allowed}
    assert (status, names) == (1, expected), printed


def test_nothing_is_unexpected(folder):
    status, names, printed = run(folder, "--may-skip=gpu,tools", "test_marked.py", "test_module.py")
    assert (status, names) == (0, set()), printed
    assert "unexpected" not in printed


def test_a_file_that_skips_itself_alone_fails_with_1(folder):
    status, names, printed = run(folder, "--may-skip=none", "test_module.py")
    assert (status, names) == (1, {"test_module.py"}), printed


def test_without_the_option_nothing_changes(folder):
    status, names, printed = run(folder)
    assert (status, names) == (0, set()), printed


def test_a_marker_that_does_not_exist(folder):
    status, _, printed = run(folder, "--may-skip", "gpu,gqu")
    assert status == pytest.ExitCode.USAGE_ERROR and "no marker is named gqu" in printed


def test_the_suite_has_the_option(request):
    assert "may_skip" in vars(request.config.option)
