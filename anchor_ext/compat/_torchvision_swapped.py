"""How `accelerate` changes a module's class, and changes it back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import anchor_utils

from . import _check as check
from ._follow import has_own
from .torchvision import _ANCHORS, _DEFAULT_BOXES, AnchorGenerator, DefaultBoxGenerator

__all__ = [
    "State",
    "Swapped",
    "drop_in",
    "is_16_bit",
    "matched",
    "must_be_whole",
    "must_not_override",
    "swap",
    "type_of",
    "undo",
    "why_not_ours",
]


@dataclasses.dataclass
class State:
    """What an accelerated module keeps of itself as it was, and which of its parts are replaced."""

    generator: nn.Module | None
    parts: frozenset[str]
    installed: nn.Module | None = None
    float32: bool = False


def _remember(generator: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], anchors: Any) -> None:
    """A forward hook: what the last anchors were made for, which the loss has to know."""
    images, features = (*arguments, *(keywords[name] for name in ("image_list", "feature_maps") if name in keywords))
    generator.recent = ([feature.shape[-2:] for feature in features], images.tensors.shape[-2:], features[0].dtype)


def _in_float32(generator: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], anchors: Any) -> Any:
    """A forward hook: anchors that autocast would have in 16 bits."""
    _remember(generator, arguments, keywords, anchors)
    level_shapes, image_shape, dtype = generator.recent
    if not is_16_bit(dtype):
        return anchors
    generator.recent = (level_shapes, image_shape, torch.float32)
    return [generator.grid(level_shapes, image_shape=image_shape, device=anchors[0].device)] * len(anchors)


_HOOKS = (_remember, _in_float32)


def is_16_bit(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)


class Swapped:
    """A mixin of the replacing methods; the other base is the module's own class."""

    _accelerated: State
    _watches_generator = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new, type(self).__bases__, self.__getstate__()

    def __prepare_scriptable__(self) -> nn.Module:
        """torch's hook: TorchScript gets the model as it was, but for the anchors."""
        scriptable: Any = copy.copy(self)
        scriptable.__dict__["_modules"] = dict(scriptable._modules)  # torch writes into it
        undo(scriptable, keeps_generator=True)
        return scriptable  # type: ignore[no-any-return]


_CLASSES: dict[Any, Any] = {}


def _class_of(methods: Any, original: Any) -> Any:
    if (methods, original) not in _CLASSES:
        names = {"__module__": original.__module__, "__doc__": original.__doc__}
        _CLASSES[methods, original] = type(original.__name__, (methods, original), names)
    return _CLASSES[methods, original]


def _new(methods: Any, original: Any) -> Any:
    made = _class_of(methods, original)
    return made.__new__(made)  # as copy and pickle make one


def type_of(module: Any) -> Any:
    """The class of a module, or the one that it had before."""
    return type(module).__bases__[1] if isinstance(module, Swapped) else type(module)


def swap(
    module: Any,
    methods: type[Swapped],
    generator: nn.Module | None = None,
    parts: Iterable[str] = (),
    float32: bool = False,
) -> None:
    """Gives a module the replaced methods, and a generator in place of its own."""
    own = module.anchor_generator if generator is not None else None
    module.__dict__["_accelerated"] = State(own, frozenset(parts), generator, float32)
    if generator is not None:
        module.anchor_generator = generator
        if (methods._watches_generator or float32) and not why_not_ours(generator):
            generator.register_forward_hook(_in_float32 if float32 else _remember, with_kwargs=True)
    object.__setattr__(module, "__class__", _class_of(methods, type(module)))


def undo(module: Any, *, keeps_generator: bool = False) -> None:
    state = module.__dict__.pop("_accelerated")
    watches = module._watches_generator or state.float32
    object.__setattr__(module, "__class__", type_of(module))
    if state.generator is None or keeps_generator:
        return
    if watches:
        for generator in (module.anchor_generator, state.installed):
            for key in [key for key, hook in generator._forward_hooks.items() if hook in _HOOKS]:
                del generator._forward_hooks[key]
                generator._forward_hooks_with_kwargs.pop(key, None)
            vars(generator).pop("recent", None)  # whoever shares the generator goes torchvision's way
    if module.anchor_generator is state.installed:  # else it has been given another since
        module.anchor_generator = state.generator


def matched(module: Any, boxes: list[Tensor], level_shapes: Any, image_shape: Any) -> Any:
    """Per image and anchor a box or a negative number, by the module's generator and its `proposal_matcher`."""
    matcher = module.proposal_matcher
    return module.anchor_generator.grid.match(
        boxes,
        level_shapes,
        image_shape=image_shape,
        high=matcher.high_threshold,
        low=matcher.low_threshold,
        allow_low_quality=matcher.allow_low_quality_matches,
    )


def must_not_override(module: Any, original: type, names: Iterable[str]) -> None:
    """Raises CompatError where a module has methods of its own in place of these."""
    for name in names:
        own = getattr(type(module), name, None) is not getattr(original, name) or name in vars(module)
        check.that(not own, f"{type(module).__name__}.{name}", "overridden", "torchvision's own, which it replaces")


def must_be_whole(float32: bool, left: dict[str, str], *parts: str) -> None:
    """Raises CompatError where parts without which nothing would be float32 are left."""
    for part in parts:
        check.that(
            not (float32 and part in left), "float32", float32, f"False, since {part} are left: {left.get(part)}"
        )


def why_not_ours(generator: Any) -> str:
    """Why the anchors may be others than those of `generator.grid`; empty where they are those."""
    kind = type(generator)
    if kind not in (AnchorGenerator, DefaultBoxGenerator):
        return f"anchor_generator is a {kind.__name__}; expected torchvision's or anchor_ext's"
    hooks = [*generator._forward_hooks.values(), *generator._forward_pre_hooks.values()]
    if any(hook not in _HOOKS for hook in hooks):
        return "anchor_generator has hooks"
    if "forward" in vars(generator) or has_own(generator, *(_ANCHORS if kind is AnchorGenerator else _DEFAULT_BOXES)):
        return "anchor_generator has methods of its own"
    return ""


def drop_in(generator: Any) -> Any:
    """Ours in the place of torchvision's, or why not."""
    kind = type(generator)
    if kind in (AnchorGenerator, DefaultBoxGenerator):
        return why_not_ours(generator) or generator
    if generator._forward_hooks or generator._forward_pre_hooks:
        return "anchor_generator has hooks"
    made: Any
    try:
        if kind is anchor_utils.AnchorGenerator:
            name, made = "cell_anchors", AnchorGenerator(generator.sizes, generator.aspect_ratios)
        elif kind is anchor_utils.DefaultBoxGenerator:
            options = {option: getattr(generator, option) for option in ("scales", "steps", "clip")}
            name, made = "_wh_pairs", DefaultBoxGenerator(generator.aspect_ratios, **options)
        else:
            return (
                f"anchor_generator is a {kind.__name__}; expected torchvision's AnchorGenerator or DefaultBoxGenerator"
            )
    except (TypeError, ValueError) as error:  # beyond what ours takes
        return f"anchor_generator has arguments of its own: {error}"
    methods = ("forward", "grid_anchors", "set_cell_anchors", "_grid_default_boxes")
    if not vars(generator).keys().isdisjoint(methods):
        return "anchor_generator has methods of its own"
    ours, theirs = getattr(made, name), getattr(generator, name)
    if len(ours) != len(theirs) or not all(torch.equal(a, b.cpu()) for a, b in zip(ours, theirs, strict=True)):
        return f"anchor_generator.{name} are not those that it would make of its arguments"
    return made
