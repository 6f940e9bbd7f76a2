"""How the drop-ins take the place of detectron2's own classes."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["register_classes"]

_STOCK: dict[str, list[Any]] = {}  # by name, the classes that have been replaced


def _holders(values: list[Any]) -> list[tuple[ModuleType, str]]:
    """The imported modules that have one of these under some name, and the name."""
    found = []
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            found += [(module, name) for name, value in list(vars(module).items()) if any(value is v for v in values)]
    return found


def _is_detectron2s(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] == "detectron2"


def register_classes(*classes: type) -> str:
    from detectron2.modeling import anchor_generator

    registry = anchor_generator.ANCHOR_GENERATOR_REGISTRY
    lines = []
    for cls in classes:
        name = cls.__name__
        registered = registry.get(name) if name in registry else None
        stock = _STOCK.setdefault(name, [])
        for original in (registered, getattr(anchor_generator, name, None)):
            if original is not None and original is not cls and not any(original is other for other in stock):
                stock.append(original)
        if registered is not cls:
            if registered is not None:
                del registry._obj_map[name]  # it has no other way to replace an entry
            registry.register(cls)
        for module, attribute in _holders(stock):
            if _is_detectron2s(module):
                setattr(module, attribute, cls)
        reached = sorted(module.__name__ for module, _ in _holders([cls]) if _is_detectron2s(module))
        lines.append(f"{name} of anchor_ext is in {', '.join(['ANCHOR_GENERATOR_REGISTRY', *reached])}")
        missed = sorted(module.__name__ for module, _ in _holders(stock))
        if missed:
            lines.append(f"{name} of detectron2 is still in {', '.join(missed)}")
    return "\n".join(lines)
