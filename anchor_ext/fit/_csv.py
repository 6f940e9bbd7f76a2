"""CSV files with a box per line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .. import _ground_truth
from ._entries import Entries, Pictures, Progress

__all__ = ["read"]

_COLUMNS = {
    "image": ("image_path", "image", "image_name", "image_id", "img", "filename", "file_name", "file", "path"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "label": ("label", "class", "class_name", "name", "category", "labelname"),
    "height": ("height", "image_height", "img_height"),
    "width": ("width", "image_width", "img_width"),
}  # fmt: skip
_CORNERS = ("x1", "y1", "x2", "y2")
_PLAIN = ("image", *_CORNERS, "label")  # keras-retinanet's, which has no header


def read(path: Path, pictures: Pictures, progress: Progress | None) -> Entries:
    entries = Entries()
    entries.label_order = str
    text = path.read_text(encoding="utf-8-sig")
    dialect = "excel" if text.count(",") >= text.count(";") else _Semicolons
    rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines(), dialect), 1) if any(row)]
    columns = _columns(path, rows[0][1] if rows else [])
    if not _is_number(rows[0][1][columns["x1"]]) and rows[0][1][columns["x1"]].strip():
        del rows[0]
    images: dict[str, int] = {}
    for number, row in rows:
        _add(path, number, row, columns, images, pictures, entries)
    return entries


class _Semicolons(csv.excel):
    delimiter = ";"


def _columns(path: Path, first: Sequence[str]) -> dict[str, int]:
    """Where each column is: by the header's names, or by how many there are."""
    names = [word.strip().lower() for word in first]
    found = {key: next((names.index(name) for name in known if name in names), -1) for key, known in _COLUMNS.items()}
    if all(found[key] >= 0 for key in _CORNERS):
        return {key: at for key, at in found.items() if at >= 0}
    if len(first) == 4 and all(map(_is_number, first)):
        return {key: at for at, key in enumerate(_CORNERS)}
    if len(first) == 6 and all(_is_number(word) or not word.strip() for word in first[1:5]):
        return {key: at for at, key in enumerate(_PLAIN)}
    expected = "a header with x1, y1, x2, y2 or xmin, ymin, xmax, ymax; path,x1,y1,x2,y2,class; or four numbers"
    raise ValueError(f"{path} begins with {','.join(first)[:80]!r}; expected {expected}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _add(
    path: Path,
    number: int,
    row: Sequence[str],
    columns: dict[str, int],
    images: dict[str, int],
    pictures: Pictures,
    entries: Entries,
) -> None:
    place = f"{path}, line {number}"
    cell = {key: row[at].strip() if at < len(row) else "" for key, at in columns.items()}
    name = cell.get("image", "")
    if name not in images:
        picture = pictures.named(name, path.parent)
        shape = _ground_truth.shape_of(cell.get("height"), cell.get("width"))
        images[name] = entries.add_image(picture, shape or pictures.shape_of(picture, entries))
    if not any(cell[corner] for corner in _CORNERS):
        return  # an image without boxes
    try:
        numbers = [float(cell[corner]) for corner in _CORNERS]
    except ValueError:
        return entries.leave_out("unreadable", [f"{place} ({','.join(row)[:80]})"])
    entries.add_box(numbers, images[name], cell.get("label", ""), place.replace("{", "{{").replace("}", "}}"))
