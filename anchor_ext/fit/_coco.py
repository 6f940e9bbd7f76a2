"""COCO's json."""

from __future__ import annotations

import gc
import json
from array import array
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _ground_truth
from .._arguments import show
from ._entries import Entries, Pictures, Progress

__all__ = ["read"]


def read(path: Path, pictures: Pictures, progress: Progress | None) -> Entries:
    content = _parsed(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise ValueError(f"{path} has no lists 'images' and 'annotations'; expected COCO's")
    entries = Entries()
    numbers = _add_images(content["images"], path, pictures, entries)
    names = _names(content.get("categories"), entries)
    entries.label_order = str
    annotations = content["annotations"]
    try:
        columns = _columns(annotations)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):  # then one by one
        readable = [_is_readable(annotation) for annotation in annotations]
        entries.leave_out(
            "unreadable",
            [f"annotations[{i}] ({show(annotations[i])})" for i, good in enumerate(readable) if not good],
        )
        kept = [i for i, good in enumerate(readable) if good]
        columns = _columns([annotations[i] for i in kept])
    else:
        kept = range(len(annotations))  # type: ignore[assignment]
    boxes, image_ids, category_ids, crowds = columns
    images = [numbers.get(one, -1) for one in image_ids]
    usable = [i for i, (image, crowd) in enumerate(zip(images, crowds, strict=True)) if image >= 0 and not crowd]
    if len(usable) < len(annotations):
        for i, (image, crowd) in enumerate(zip(images, crowds, strict=True)):
            if crowd:
                entries.leave_out("crowd", [f"annotations[{kept[i]}]"])
            elif image < 0:
                entries.leave_out("of an unknown image", [f"annotations[{kept[i]}] (image_id {show(image_ids[i])})"])
        boxes = array("d", chain.from_iterable(boxes[4 * i : 4 * i + 4] for i in usable))
        images = [images[i] for i in usable]
        category_ids = [category_ids[i] for i in usable]
    corners = _corners(boxes)
    labels = [names.get(one, one) for one in category_ids]
    places = [] if len(usable) == len(annotations) else [kept[i] for i in usable]
    entries.add_boxes(corners, images, labels, "annotations[{}]", places)
    return entries


def _parsed(path: Path) -> Any:
    # A large file makes millions of objects, none of them garbage, through which the collector would go over and over.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    finally:
        if was_on:
            gc.enable()


def _columns(annotations: list[Any]) -> tuple[array[float], list[Any], list[Any], list[Any]]:
    """Boxes, images, categories and crowds; raises where an annotation lacks one, or has it of another type."""
    boxes = list(map(itemgetter("bbox"), annotations))
    if not set(map(len, boxes)) <= {4} or not set(map(type, boxes)) <= {list}:
        raise ValueError("expected bboxes of four numbers")
    numbers = array("d", chain.from_iterable(boxes))
    image_ids = list(map(itemgetter("image_id"), annotations))
    categories = [one.get("category_id") for one in annotations]
    hash(tuple(image_ids)), hash(tuple(categories))
    return numbers, image_ids, categories, [one.get("iscrowd") for one in annotations]


def _is_readable(annotation: Any) -> bool:
    try:
        _columns([annotation])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return True


def _corners(boxes: array[float]) -> Tensor:
    if not boxes:
        return torch.zeros(0, 4, dtype=torch.float64)
    corners = torch.frombuffer(boxes, dtype=torch.float64).view(-1, 4).clone()
    corners[:, 2:] += corners[:, :2]
    return corners


def _add_images(images: list[Any], path: Path, pictures: Pictures, entries: Entries) -> dict[Any, int]:
    """Each image's number by its id."""
    numbers: dict[Any, int] = {}
    folder = path.parent if pictures.folder is None else pictures.folder
    prefix = f"{folder}/"
    for i, entry in enumerate(images):
        try:
            own = entry["id"]
            again = own in numbers
        except (KeyError, TypeError):
            entries.leave_out("unreadable image", [f"images[{i}] ({show(entry)})"])
            continue
        if again:
            entries.note("image listed twice", [f"images[{i}] (id {show(own)})"])
            continue
        height, width, file = entry.get("height"), entry.get("width"), entry.get("file_name")
        file = prefix + file if isinstance(file, str) and file else ""
        if type(height) is int and type(width) is int and 0 < height < 2**31 and 0 < width < 2**31:
            shape: tuple[int, int] | None = (height, width)
        else:
            shape = _ground_truth.shape_of(height, width) or pictures.shape_of(file, entries)
        numbers[own] = entries.add_image(file, shape)
    return numbers


def _names(categories: Any, entries: Entries) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for i, entry in enumerate(categories if isinstance(categories, list) else []):
        try:
            names[entry["id"]] = str(entry["name"])
        except (KeyError, TypeError):
            entries.note("unreadable category", [f"categories[{i}] ({show(entry)})"])
    return names
