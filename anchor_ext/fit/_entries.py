"""What the readers of annotations share: images and boxes as they are found, and where pictures lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Entries", "Pictures", "Progress"]

Progress = Callable[[int, int], None]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")


class Entries:
    """All images and boxes of a data set, usable or not."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.shapes: list[tuple[int, int]] = []  # (0, 0) where nobody knows
        self.image: list[int] = []
        self.labels: list[Any] = []
        self.label_order: Callable[[Any], Any] | None = None
        self.left_out: dict[str, list[str]] = {}
        self.noted: dict[str, list[str]] = {}
        self._boxes: list[Tensor] = []
        self._places: list[tuple[int, str, Sequence[int]]] = []  # where a file's boxes begin, and how they are named

    def add_image(self, file: str, shape: tuple[int, int] | None) -> int:
        self.files.append(file)
        self.shapes.append(shape or (0, 0))
        return len(self.files) - 1

    def add_boxes(
        self, boxes: Tensor, image: Sequence[int], labels: Sequence[Any], place: str, numbers: Sequence[int] = ()
    ) -> None:
        """Boxes `(n, 4)` float64. `place` says where one stands, formatted with its number: by default among these."""
        self._places.append((len(self.image), place, numbers))
        self._boxes.append(boxes)
        self.image.extend(image)
        self.labels.extend(labels)

    def add_box(self, numbers: Sequence[float], image: int, label: Any, place: str) -> None:
        self.add_boxes(torch.tensor([numbers], dtype=torch.float64), [image], [label], place)

    def boxes(self) -> Tensor:
        return torch.cat(self._boxes) if self._boxes else torch.zeros(0, 4, dtype=torch.float64)

    def leave_out(self, kind: str, which: Iterable[int | str]) -> None:
        self._say(self.left_out, kind, which)

    def note(self, kind: str, which: Iterable[int | str]) -> None:
        self._say(self.noted, kind, which)

    def _say(self, to: dict[str, list[str]], kind: str, which: Iterable[int | str]) -> None:
        said = [one if isinstance(one, str) else self._named(one) for one in which]
        if said:
            to.setdefault(kind, []).extend(said)

    def _named(self, box: int) -> str:
        low, high = 0, len(self._places)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._places[middle][0] <= box else (low, middle)
        first, place, numbers = self._places[low]
        corners = ", ".join(f"{number:g}" for number in self._boxes[low][box - first].tolist())
        return f"{place.format(numbers[box - first] if numbers else box - first)} ({corners})"


class Pictures:
    """Where the pictures are, and what their shapes are."""

    def __init__(self, folder: Path | None, shape: tuple[int, int] | None) -> None:
        self.folder, self.shape = folder, shape
        self._listed: dict[Path, dict[str, Path]] = {}

    def named(self, name: str, *folders: Path) -> str:
        """A picture by its name: in the folder that the user gave, or the first of others that has it."""
        if not name:
            return ""
        for folder in (self.folder, *folders):
            if folder is not None:
                for candidate in (folder / name, folder / Path(name).name):
                    if candidate.is_file():
                        return str(candidate)
        return name

    def of_stem(self, stem: str, *folders: Path) -> str:
        """A picture by its name without an ending, or ""."""
        for folder in (self.folder, *folders):
            if folder is not None and stem in self._list(folder):
                return str(self._list(folder)[stem])
        return ""

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._listed:
            files = folder.iterdir() if folder.is_dir() else ()
            self._listed[folder] = {file.stem: file for file in files if file.suffix.lower() in ENDINGS}
        return self._listed[folder]

    def shape_of(self, file: str, entries: Entries) -> tuple[int, int] | None:
        """(H, W) of all images as the user gave it, or of the file's header."""
        if self.shape is not None or not file or not Path(file).is_file():
            return self.shape
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(
                "the sizes of the pictures are needed, and reading them needs Pillow: pip install Pillow "
                "(or give image_shape, --image-shape)"
            ) from error
        try:
            with Image.open(file) as picture:
                width, height = picture.size
                turned = picture.getexif().get(0x0112) in (5, 6, 7, 8)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            entries.note("unreadable picture", [f"{file}: {error}"])
            return None
        if turned:  # as viewers and YOLO's loaders show it, of which annotators saw the one or the other
            entries.note("turned by its EXIF orientation", [file])
            return width, height
        return height, width
