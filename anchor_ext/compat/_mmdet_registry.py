"""Where mmdet looks for its generators: its registry, and names in its modules."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["replace"]

_PACKAGE = "mmdet.models.task_modules.prior_generators"


def replace(classes: Iterable[type], *, by_stock: bool = False) -> dict[str, list[str]]:
    """Puts drop-ins where mmdet's classes of the same names are, or the latter back.

    Returns:
        "registry", "replaced" and "kept", as `mmdet.register` says.

    Raises:
        ImportError: mmdet is not installed.
    """
    import mmdet.models.task_modules.prior_generators  # noqa: F401  (registers its own, and refuses names that are taken)
    from mmdet.registry import TASK_UTILS

    homes = [sys.modules[f"{_PACKAGE}.{name}"] for name in ("anchor_generator", "point_generator")]
    stock = {name: value for home in homes for name, value in vars(home).items() if value.__class__ is type}
    swaps = {stock[cls.__name__]: cls for cls in classes}
    if by_stock:
        swaps = {ours: theirs for theirs, ours in swaps.items()}
    for cls in swaps.values():
        TASK_UTILS.register_module(name=cls.__name__, module=cls, force=True)

    # mmdet's own module of a class refers to it by its name, as do pickles.
    loaded = [(name, vars(module)) for name, module in sorted(sys.modules.items()) if type(module) is ModuleType]
    modules = {name: names for name, names in loaded if names.get("__name__") == name}  # once each
    at_home = {home.__name__ for home in homes}
    others = {name: names for name, names in modules.items() if name not in at_home}
    of_mmdet = {name: names for name, names in others.items() if name.partition(".")[0] == "mmdet"}
    for names in of_mmdet.values():
        names.update({name: swaps[cls] for name, cls in _held(names, swaps).items()})
    heirs: list[type] = list(itertools.chain.from_iterable(map(type.__subclasses__, swaps)))
    return {
        "registry": sorted(cls.__name__ for cls in swaps.values()),
        "replaced": _listed(of_mmdet, swaps.values()),
        "kept": _listed(others, swaps)
        + sorted({f"{heir.__module__}.{heir.__qualname__}" for heir in heirs if heir.__module__ not in at_home}),
    }


def _held(names: Mapping[str, Any], classes: Iterable[type]) -> dict[str, Any]:
    """What a module calls these classes."""
    wanted = {id(cls) for cls in classes}  # nothing is asked of what else it holds
    return {name: value for name, value in names.items() if id(value) in wanted}


def _listed(modules: Mapping[str, Mapping[str, Any]], classes: Iterable[type]) -> list[str]:
    classes = list(classes)
    return [f"{module}.{name}" for module, names in modules.items() for name in _held(names, classes)]
