"""Ground truth from the files that people have, for the command line: boxes, and what to call each of them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from . import _arguments

__all__ = ["GroundTruth", "read"]

_HEADERS = (["x1", "y1", "x2", "y2"], ["xmin", "ymin", "xmax", "ymax"])


class GroundTruth(NamedTuple):
    boxes: dict[str, list[float]]  # where it stands in the file: x1, y1, x2, y2
    image: str = ""  # for a title, where the file names it
    shape: tuple[int, int] | None = None  # (H, W) of the image that the boxes are in pixels of, where the file says so


def read(file: str, image: str | None = None) -> GroundTruth:
    """The boxes of one image; YOLO's, fractions of it, are those of a shape of (1, 1).

    Args:
        file: .json (COCO), .xml (Pascal VOC), .txt (YOLO), .csv or .npy (x1 y1 x2 y2).
        image: which image of a COCO file, by its file name or id; default the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is broken; the message has the file and the line or entry.
    """
    ending = Path(file).suffix.lower()
    if ending not in _READERS:
        raise ValueError(f"--boxes is {file!r}; expected a name that ends in {', '.join(_READERS)}")
    try:
        return _READERS[ending](file, image)
    except (ValueError, EOFError, ElementTree.ParseError, RecursionError) as error:
        if str(error).startswith(file):
            raise
        raise ValueError(f"{file}: {error}; expected a readable {ending} file") from error


def _numbers(values: Any, where: str, expected: str) -> list[float]:
    """Four finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or isinstance(values, str) or not all(map(math.isfinite, numbers)):
        found = " ".join(values) if values and all(isinstance(value, str) for value in values) else values
        raise ValueError(f"{where} is {_arguments.show(found)}; expected {expected}")
    return numbers


def _lines(file: str) -> list[tuple[str, list[str]]]:
    """Per line that is not blank its name and words, which commas or semicolons part, or else spaces."""
    lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    words = [re.split("[,;]", line) if "," in line or ";" in line else line.split() for line in lines]
    return [(f"line {number}", of_line) for number, of_line in enumerate(words, 1) if of_line]


def _read_csv(file: str, image: str | None) -> GroundTruth:
    lines = _lines(file)
    if lines and [word.strip(" \"'").lower() for word in lines[0][1]] in _HEADERS:
        del lines[0]
    return GroundTruth({name: _numbers(words, f"{file}, {name}", "four numbers x1 y1 x2 y2") for name, words in lines})


def _read_yolo(file: str, image: str | None) -> GroundTruth:
    expected = "a class and four fractions of the image, cx cy w h"
    boxes = {}
    for name, words in _lines(file):
        x, y, width, height = numbers = _numbers(words[1:], f"{file}, {name}", expected)
        if max(map(abs, numbers)) > 2:  # far beyond any rounding: pixels, by mistake
            raise ValueError(f"{file}, {name} is {' '.join(words)!r}; expected {expected}, not pixels")
        boxes[name] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return GroundTruth(boxes, "", (1, 1))


def _read_npy(file: str, image: str | None) -> GroundTruth:
    import numpy as np

    array = np.load(file, allow_pickle=False)
    if getattr(array, "shape", ())[1:] != (4,) or array.dtype.kind not in "iuf":  # an archive, .npz, has no shape
        raise ValueError(f"{file} holds {_arguments.show(array)}; expected numbers (G, 4), x1 y1 x2 y2")
    rows = {f"row {row}": numbers for row, numbers in enumerate(array.tolist())}
    return GroundTruth({name: _numbers(row, f"{file}, {name}", "finite numbers") for name, row in rows.items()})


def _read_voc(file: str, image: str | None) -> GroundTruth:
    root = ElementTree.parse(file).getroot()
    if root.tag != "annotation":
        raise ValueError(f"{file} has the root element {root.tag!r}; expected Pascal VOC's 'annotation'")
    tags = ("xmin", "ymin", "xmax", "ymax")
    boxes = {}
    for number, entry in enumerate(root.findall("object"), 1):
        texts = [entry.findtext(f"bndbox/{tag}") for tag in tags]
        boxes[f"object {number}"] = _numbers(texts, f"{file}, object {number}", f"a bndbox of {' '.join(tags)}")
    shape = shape_of(root.findtext("size/height"), root.findtext("size/width"))
    return GroundTruth(boxes, root.findtext("filename") or "", shape)


def shape_of(height: Any, width: Any) -> tuple[int, int] | None:
    """(H, W), or None where the file has none; some tools write zeros."""
    sides = [int(side) if re.fullmatch("[1-9][0-9]*", str(side)) else 0 for side in (height, width)]
    return (sides[0], sides[1]) if all(sides) else None


def _read_coco(file: str, image: str | None) -> GroundTruth:
    content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    lists = []
    for key, needed in (("images", "id"), ("annotations", "image_id")):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{file} has no list {key!r}; expected COCO's 'images' and 'annotations'")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or needed not in entry:
                raise ValueError(f"{file}, {key}[{i}] is {_arguments.show(entry)}; expected an object with {needed!r}")
        lists.append(entries)
    images, annotations = lists
    chosen = images
    if image is not None:  # by id or whole file name; else by the last part of both
        last = os.path.basename
        chosen = [entry for entry in images if image in (str(entry["id"]), entry.get("file_name"))]
        chosen = chosen or [entry for entry in images if last(str(entry.get("file_name"))) == last(image)]
    if not chosen or (image is not None and len(chosen) > 1):
        known = ", ".join(repr(entry.get("file_name", entry["id"])) for entry in (chosen or images)[:3])
        wanted = "images" if image is None else f"images of the name or id {image!r}"
        raise ValueError(f"{file} has {len(chosen)} {wanted}; expected one of its {len(images)}, such as {known}")
    entry = chosen[0]
    boxes = {}
    for i, one in enumerate(annotations):
        if one["image_id"] == entry["id"]:
            where = f"{file}, annotations[{i}]"
            x, y, width, height = _numbers(one.get("bbox"), where, "a bbox of four numbers x y w h")
            boxes[f"annotations[{i}]"] = [x, y, x + width, y + height]
    name = str(entry.get("file_name", f"image {entry['id']}"))
    name += f", the first of {len(images):,} images" if image is None and len(images) > 1 else ""
    return GroundTruth(boxes, name, shape_of(entry.get("height"), entry.get("width")))


_READERS: dict[str, Callable[[str, str | None], GroundTruth]]
_READERS = {".json": _read_coco, ".xml": _read_voc, ".txt": _read_yolo, ".csv": _read_csv, ".npy": _read_npy}
