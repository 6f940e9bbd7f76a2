"""Folders of Pascal VOC's xml files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from .. import _ground_truth
from ._entries import Entries, Pictures, Progress

__all__ = ["read"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path, pictures: Pictures, progress: Progress | None) -> Entries:
    entries = Entries()
    entries.label_order = str
    files = sorted((folder / "Annotations" if (folder / "Annotations").is_dir() else folder).rglob("*.xml"))
    for done, file in enumerate(files, 1):
        try:
            root = ElementTree.parse(file).getroot()
            if root.tag != "annotation":
                raise ValueError(f"the root element is {root.tag!r}, not 'annotation'")
        except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
            entries.leave_out("unreadable", [f"{file}: {error}"])
            continue
        _add(root, file, pictures, entries)
        if progress is not None:
            progress(done, len(files))
    return entries


def _add(root: ElementTree.Element, file: Path, pictures: Pictures, entries: Entries) -> None:
    name = root.findtext("filename") or ""
    picture = pictures.named(name, file.parent, file.parent.parent / "JPEGImages", file.parent.parent / "images")
    shape = _ground_truth.shape_of(root.findtext("size/height"), root.findtext("size/width"))
    image = entries.add_image(picture, shape or pictures.shape_of(picture, entries))
    for number, entry in enumerate(root.findall("object"), 1):
        place = f"{file}, object {number}"
        texts = [entry.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        try:
            numbers = [float(text) for text in texts]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            entries.leave_out("unreadable", [f"{place} ({' '.join(map(str, texts))})"])
            continue
        if entry.findtext("difficult") == "1":
            entries.note("difficult", [place])
        entries.add_box(numbers, image, entry.findtext("name") or "", place.replace("{", "{{").replace("}", "}}"))
