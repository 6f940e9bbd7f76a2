"""The real frameworks that `anchor_ext.compat` stands in for. Without the packages of tests/peers.txt a test skips."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest


@contextlib.contextmanager
def _importing(framework: str) -> Iterator[None]:
    """Turns a failing import into a skip."""
    # yapf writes its parsed grammar into the user's cache as soon as it is imported.
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is theirs
                yield
        except (ImportError, AssertionError) as error:  # mmdet asserts the versions of mmcv and mmengine
            reason = f"{framework} cannot be imported: {error}; see tests/peers.txt"
            pytest.skip(reason, allow_module_level=True)


@functools.cache
def effdet() -> types.ModuleType:
    """The package `effdet`, with its modules `anchors`, `bench` and `config`."""
    with _importing("effdet"):
        module = importlib.import_module("effdet")
        for name in ("anchors", "bench", "config"):
            importlib.import_module(f"effdet.{name}")
    return module


def _bare_package(name: str, *folders: Path) -> None:
    """A package whose submodules can be imported, but whose own `__init__` is not run."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder) for folder in folders]
    sys.modules[name] = package


@functools.cache
def mmdet_without_models() -> types.ModuleType:
    """The package `mmdet`, made so that its prior generators can be imported, but have not been."""
    with _importing("mmdet"):
        package = importlib.import_module("mmdet")
        if importlib.util.find_spec("mmcv._ext") is None:
            # mmdet.models imports every network of mmdet, and those need operators that mmcv-lite has not compiled.
            # Of the operators the box types import one, which only masks call.
            _bare_package("mmcv.ops")
            operator = types.ModuleType("mmcv.ops.roi_align")
            operator.roi_align = None
            sys.modules[operator.__name__] = operator
            models = Path(package.__file__).parent / "models"
            _bare_package("mmdet.models", models)
            _bare_package("mmdet.models.task_modules", models / "task_modules")
    return package


@functools.cache
def mmdet() -> types.ModuleType:
    """The package `mmdet.models.task_modules.prior_generators`, with all of its modules."""
    mmdet_without_models()
    with _importing("mmdet"):
        return importlib.import_module("mmdet.models.task_modules.prior_generators")


@functools.cache
def ultralytics_tal() -> types.ModuleType:
    """The module `ultralytics.utils.tal`, loaded behind stand-ins for what it imports from its package."""
    with _importing("ultralytics"):
        package = importlib.util.find_spec("ultralytics")
        if package is None:
            raise ImportError("no module named 'ultralytics'")
        file = Path(package.origin).parent / "utils" / "tal.py"
        spec = importlib.util.spec_from_file_location("ultralytics.utils.tal", file)
        stand_ins = {
            "ultralytics": {},
            "ultralytics.utils": {"LOGGER": None},
            "ultralytics.utils.metrics": dict.fromkeys(["bbox_iou", "probiou"]),
            "ultralytics.utils.ops": dict.fromkeys(["crop_mask", "xywh2xyxy", "xywhr2xyxyxyxy", "xyxy2xywh"]),
            "ultralytics.utils.torch_utils": {"TORCH_1_11": True, "autocast": None},  # torch is newer than 1.11
        }
        modules = {name: types.ModuleType(name) for name in stand_ins}
        for name, attributes in stand_ins.items():
            modules[name].__path__ = []
            vars(modules[name]).update(attributes)
        tal = importlib.util.module_from_spec(spec)
        with mock.patch.dict(sys.modules, modules):
            spec.loader.exec_module(tal)
    return tal


def mmdet_coders() -> types.ModuleType:
    """mmdet's module of box coders."""
    mmdet()
    with _importing("mmdet"):
        return importlib.import_module("mmdet.models.task_modules.coders.delta_xywh_bbox_coder")
