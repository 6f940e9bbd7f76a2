"""Building and loading: what is missing is named, with the line that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from toolchain import CXX, ROOT, setup_py

import anchor_ext

PACKAGE = Path(anchor_ext.__file__).parent


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path) -> Path:
    """A folder that looks like a CUDA 12.8 toolkit."""
    home = tmp_path / "cuda-12.8"
    executable(
        home / "bin" / "nvcc",
        f"""case "$1" in
            --version) echo "Cuda compilation tools, release 12.8, V12.8.93" ;;
            --list-gpu-arch) printf 'compute_50\\ncompute_75\\ncompute_90\\ncompute_120\\n' ;;
            --dryrun) echo '#$ _SPACE_= ' >&2; echo '#$ TOP={home}/bin/..' >&2 ;;
        esac
        """,
    )
    return home


@pytest.fixture
def setup(monkeypatch):
    for name in ("FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return setup_py()


def test_finds_the_toolkit_behind_a_wrapper(setup, toolkit, tmp_path, monkeypatch):
    wrapper = executable(tmp_path / "bin" / "nvcc", f'exec {toolkit}/bin/nvcc "$@"\n')
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert setup["find_cuda_home"]() == str(toolkit)
    monkeypatch.setenv("CUDA_HOME", "/elsewhere")
    assert setup["find_cuda_home"]() == "/elsewhere"


def test_decides_on_cuda(setup, toolkit, monkeypatch):
    decide = setup["decide_on_cuda"]
    assert decide("12.6", str(toolkit))[0] == "12.8"
    assert decide(None, str(toolkit)) == (None, "this torch is a build without CUDA")
    assert decide("12.6", None)[0] is None and "no nvcc" in decide("12.6", None)[1]
    assert decide("12.6", "/elsewhere") == (None, "no nvcc in CUDA_HOME=/elsewhere")
    monkeypatch.setenv("FORCE_CUDA", "yes")
    with pytest.raises(SystemExit, match="FORCE_CUDA is 'yes'; expected 1"):
        decide("12.6", str(toolkit))
    monkeypatch.setenv("FORCE_CUDA", "0")
    assert decide("12.6", str(toolkit)) == (None, "FORCE_CUDA=0")
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert decide("12.6", str(toolkit))[0] == "12.8"
    with pytest.raises(SystemExit, match=r"FORCE_CUDA=1, but this torch is a build without CUDA.*\n.*FORCE_CUDA=0 pip"):
        decide(None, str(toolkit))
    with pytest.raises(SystemExit, match="FORCE_CUDA=1, but no nvcc"):
        decide("12.6", None)


def test_cuda_of_another_major_version(setup, toolkit):
    with pytest.raises(SystemExit) as stopped:
        setup["decide_on_cuda"]("13.0", str(toolkit))
    message = str(stopped.value)
    for part in ("CUDA 13.0", "CUDA 12.8", f"CUDA_HOME={toolkit}", "FORCE_CUDA=0 pip install --no-build-isolation ."):
        assert part in message


def test_cuda_too_old_for_large_kernel_parameters(setup, toolkit):
    nvcc = toolkit / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace("release 12.8", "release 12.0"))
    with pytest.raises(SystemExit, match=r"CUDA 12.0.*\n.*CUDA 12.1 or newer"):
        setup["decide_on_cuda"]("12.6", str(toolkit))


def test_an_nvcc_that_does_not_work(setup, tmp_path):
    executable(tmp_path / "bin" / "nvcc", "exit 1")
    with pytest.raises(SystemExit, match="lists no architecture"):
        setup["arch_flags"](str(tmp_path))


def test_every_arch_from_7_5_on_and_ptx_of_the_newest(setup, toolkit, monkeypatch):
    assert setup["arch_flags"](str(toolkit)) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    flags = setup["arch_flags"](str(toolkit))
    assert any("sm_80" in flag for flag in flags) and any("code=compute_90" in flag for flag in flags)


def build_ext(tmp_path: Path, **environment: str) -> str:
    """What a build prints that stops before it compiles anything."""
    command = [
        sys.executable,
        str(ROOT / "setup.py"),
        "build_ext",
        "-b",
        str(tmp_path / "lib"),
        "-t",
        str(tmp_path / "t"),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode != 0 and not list(tmp_path.glob("lib/**/*.so"))
    return done.stdout + done.stderr


def test_torch_is_missing(tmp_path):
    hidden = tmp_path / "torch.py"
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    message = build_ext(tmp_path, PYTHONPATH=str(tmp_path))
    assert "No module named 'torch'" in message and sys.executable in message
    assert 'pip install torch "setuptools>=77" pybind11 ninja\n    pip install --no-build-isolation .\n' in message


def test_setuptools_is_too_old(monkeypatch):
    monkeypatch.setattr("setuptools.__version__", "76.1.0")
    with pytest.raises(SystemExit, match=r"setuptools 76.1.0 is too old.*\n    pip install --upgrade .setuptools>=77"):
        setup_py()


def test_the_compiler_is_missing(tmp_path):
    message = build_ext(tmp_path, CXX="no-such-compiler")
    assert (
        "there is no C++ compiler: 'no-such-compiler' is not on the PATH" in message
        and "apt-get install g++" in message
    )


def import_in(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", "import anchor_ext"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_importing_without_a_binary(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "anchor_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    error = import_in(tmp_path)
    assert "ImportError: anchor_ext's native library in" in error and "libanchor_ext.so" in error
    assert "pip install --no-build-isolation --no-deps --force-reinstall ." in error
    assert "The above exception was the direct cause" in error


def test_importing_in_the_source_tree(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "anchor_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "setup.py").touch()
    error = import_in(tmp_path)
    assert "started in anchor_ext's source tree" in error and "--force-reinstall" not in error


def test_importing_what_another_python_built(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "anchor_ext", ignore=shutil.ignore_patterns("__pycache__"))
    (module,) = (tmp_path / "anchor_ext").glob("_core*.so")
    module.write_bytes(b"built for something else")
    error = import_in(tmp_path)
    assert "_core" in error and "circular" not in error
    assert "ImportError: anchor_ext's native library in" in error


@pytest.mark.tools("c++")
def test_importing_a_foreign_binary(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "anchor_ext", ignore=shutil.ignore_patterns("libanchor_ext.so", "__pycache__"))
    source = tmp_path / "foreign.cpp"
    source.write_text("extern void of_another_torch(); void (*keep)() = of_another_torch;")
    library = tmp_path / "anchor_ext" / "libanchor_ext.so"
    subprocess.run([CXX, "-shared", "-fPIC", source, "-o", library], check=True)
    error = import_in(tmp_path)
    assert "undefined symbol" in error and "ImportError: anchor_ext's native library in" in error
    library.write_bytes(b"no library at all")
    assert "ImportError: anchor_ext's native library in" in import_in(tmp_path)


def test_the_source_distribution_is_complete(tmp_path):
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "out", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path], cwd=tree, check=True, capture_output=True
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    for folder in ("csrc", "anchor_ext", "tests", "benchmarks"):
        for path in (tree / folder).rglob("*.*"):
            if path.suffix in (".h", ".cpp", ".cu", ".py", ".pyi", ".typed"):
                assert str(path.relative_to(tree)) in packed
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "setup.py",
        "pyproject.toml",
    } <= packed
