"""Folders of YOLO's txt files."""

from __future__ import annotations

import re
from pathlib import Path

from ._entries import Entries, Pictures, Progress

__all__ = ["read"]

_NAMES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")
_NO_LABELS = re.compile(r"(classes|labels|readme.*|license.*|train|val|test|requirements.*|notes)\.txt", re.IGNORECASE)
_EXPECTED = "expected a class and four fractions of the image, cx cy w h, or the corners of a polygon"


def read(folder: Path, pictures: Pictures, progress: Progress | None) -> Entries:
    entries = Entries()
    files = sorted(file for file in folder.rglob("*.txt") if not _NO_LABELS.fullmatch(file.name))
    if not files:
        raise ValueError(f"{folder} has no .txt file but such as classes.txt; expected a label file per image")
    names = _names(folder)
    order = {name: number for number, name in enumerate(names.values())}
    entries.label_order = lambda label: (order.get(label, len(order)), len(label), label)
    for done, file in enumerate(files, 1):
        _add(file, folder, names, pictures, entries)
        if progress is not None:
            progress(done, len(files))
    return entries


def _add(file: Path, folder: Path, names: dict[str, str], pictures: Pictures, entries: Entries) -> None:
    picture = pictures.of_stem(file.stem, file.parent, _beside(file.parent), folder.parent / "images")
    shape = pictures.shape_of(picture, entries)
    image = entries.add_image(picture, shape)
    height, width = shape or (0, 0)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return entries.leave_out("unreadable", [f"{file}: {error}"])
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{file}, line {number}"
        try:
            x1, y1, x2, y2 = _fractions(words[1:])
        except ValueError as error:
            entries.leave_out("unreadable", [f"{place} ({line.strip()[:60]!r}): {error}"])
            continue
        if shape is None:
            entries.leave_out("of an image without a size", [place])
            continue
        label = names.get(words[0], words[0])
        corners = [x1 * width, y1 * height, x2 * width, y2 * height]
        entries.add_box(corners, image, label, place.replace("{", "{{").replace("}", "}}"))


def _fractions(words: list[str]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2.

    Raises:
        ValueError: the words are neither a box nor a polygon.
    """
    numbers = [float(word) for word in words]
    if max(map(abs, numbers), default=9) > 2:  # far beyond any rounding: pixels, by mistake
        raise ValueError(f"{_EXPECTED}, not pixels")
    if len(numbers) in (4, 5):  # the fifth is how sure a detector was
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(_EXPECTED)
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _beside(labels: Path) -> Path:
    """Where the pictures of .../labels/... are: in .../images/..."""
    parts = list(labels.parts)
    for i in range(len(parts) - 1, -1, -1):
        if parts[i] == "labels":
            return Path(*parts[:i], "images", *parts[i + 1 :])
    return labels


def _names(folder: Path) -> dict[str, str]:
    """Names by numbers, as far as a file has them."""
    for place in (folder, folder.parent, folder.parent.parent):
        for name in _NAMES:
            try:
                text = (place / name).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            names = _of_yaml(text) if name.endswith(("yaml", "yml")) else text.split("\n")
            if names:
                return {str(number): each.strip() for number, each in enumerate(names) if each.strip()}
    return {}


def _of_yaml(text: str) -> list[str]:
    """What `names` lists in any of the ways that YOLO's tools write: in brackets, by dashes or by numbers."""
    found = re.search(r"^names:[ \t]*(\[.*?\]|\{.*?\})", text, re.MULTILINE | re.DOTALL)
    if found:
        parts = found[1][1:-1].split(",")
    else:
        block = re.search(r"^names:[ \t]*(?:#.*)?\n((?:[ \t]*(?:-|\d+[ \t]*:).*\n?)+)", text, re.MULTILINE)
        parts = block[1].splitlines() if block else []
    return [re.sub(r"^\s*(?:-|\d+\s*:)\s*|\s+#.*$", "", part).strip(" \t\n'\"") for part in parts]
