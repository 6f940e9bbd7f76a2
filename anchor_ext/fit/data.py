"""Ground truth of whole data sets, from the files that people have."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from .._arguments import image_shape as read_image_shape
from .._arguments import show
from .._core import check_shape
from ._entries import Entries, Pictures, Progress
from ._source import on_cpu

__all__ = ["DataSet", "read"]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Ground truth of many images.

    What could not be used is in `left_out`, by the reason; what is odd, but kept, in `noted`. The entries say where
    each stands.
    """

    boxes: Tensor  # (G, 4) float64: x1, y1, x2, y2 in pixels of its image as it lies on the disk
    image: Tensor  # (G,) int64: which image
    image_shapes: Tensor  # (I, 2) int64: height, width
    labels: Tensor  # (G,) int64: which class
    class_names: tuple[str, ...]
    files: tuple[str, ...] = ()  # (I,) where the pictures should be; "" or absent where nobody knows
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    noted: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        count, images = len(self.boxes), len(self.image_shapes)
        for name, shape in {
            "boxes": (count, 4), "image": (count,), "image_shapes": (images, 2), "labels": (count,),
        }.items():  # fmt: skip
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}; expected {shape}")
        for name, end in (("image", images), ("labels", len(self.class_names))):
            numbers = getattr(self, name)
            if count and not (int(numbers.min()) >= 0 and int(numbers.max()) < end):
                raise ValueError(f"{name} has {int(numbers.min())} to {int(numbers.max())}; expected 0 to {end - 1}")

    def __repr__(self) -> str:
        out = {kind: len(entries) for kind, entries in self.left_out.items()}
        return (
            f"DataSet({len(self.boxes)} boxes, {len(self.image_shapes)} images, {len(self.class_names)} classes, "
            f"left_out={out})"
        )


@on_cpu
def read(
    source: Any,
    *,
    image_shape: Sequence[int] | None = None,
    images: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> DataSet:
    """A data set's boxes, with the shapes of their images.

    Args:
        source: a file or folder, of which the ending or the content says what it is:

            - `.json`: COCO;
            - a folder with `.xml` files: Pascal VOC;
            - a folder with `.txt` files: YOLO, `class cx cy w h` in fractions of the image, or a polygon's corners;
              names of classes are taken from a `classes.txt` or `data.yaml` there or in the two folders above;
            - `.csv`: per line a box, by the columns' names (`image_path, xmin, ymin, xmax, ymax, label`, and the like;
              `height` and `width` of the image where they are there), or without them `path,x1,y1,x2,y2,class`;
            - a tensor `(G, 4)` of x1, y1, x2, y2, which are boxes of one image of `image_shape`;
            - a `DataSet`, which is returned as it is.
        image_shape: `(H, W)` of all images of which nothing else says it.
        images: the folder of the pictures. They are read for their sizes only where the annotations lack them, which
            needs Pillow.
        progress: called with the files that are read and all there are.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or nothing is left of the data.
        OSError: a file cannot be read.
    """
    if isinstance(source, DataSet):
        return source
    shape = None if image_shape is None else read_image_shape(image_shape)
    if shape is not None:
        check_shape("image_shape", shape, 1)
    if not isinstance(source, (str, os.PathLike)):
        return _of_tensor(source, shape)
    path = Path(source)
    if images is not None and not Path(images).is_dir():
        raise ValueError(f"images is {os.fspath(images)!r}; expected a folder")
    pictures = Pictures(None if images is None else Path(images), shape)
    reader = _reader(path)
    try:
        entries = reader(path, pictures, progress)
    except (ValueError, RecursionError, ElementTree.ParseError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}; expected readable annotations") from error
    return _assembled(str(path), entries)


def _reader(path: Path) -> Callable[[Path, Pictures, Progress | None], Entries]:
    from . import _coco, _csv, _voc, _yolo

    if path.is_dir():
        for ending, reader in ((".xml", _voc.read), (".txt", _yolo.read)):
            if next(path.rglob(f"*{ending}"), None) is not None:
                return reader
        raise ValueError(f"data is {str(path)!r}; expected a folder with .xml (Pascal VOC) or .txt (YOLO) files")
    readers = {".json": _coco.read, ".csv": _csv.read}
    if path.suffix.lower() not in readers:
        raise ValueError(f"data is {str(path)!r}; expected a folder, or a file that ends in .json (COCO) or .csv")
    return readers[path.suffix.lower()]


def _of_tensor(boxes: Any, shape: tuple[int, int] | None) -> DataSet:
    expected = "expected a file, a folder, or numbers (G, 4): x1, y1, x2, y2 in pixels"
    try:
        tensor = torch.as_tensor(boxes, dtype=torch.float64, device="cpu").detach()
    except Exception as error:  # text, a ragged list, None in it, ...: the same mistake
        raise TypeError(f"data is {show(boxes)}; {expected}") from error
    if tensor.ndim != 2 or tensor.shape[1] != 4:
        raise ValueError(f"data has shape {tuple(tensor.shape)}; {expected}")
    if shape is None:
        raise ValueError("image_shape is None; expected (height, width) of the image that the boxes are of")
    entries = Entries()
    entries.add_image("", shape)
    entries.add_boxes(tensor, [0] * len(tensor), ["box"] * len(tensor), "boxes[{}]")
    return _assembled("data", entries)


def _assembled(name: str, entries: Entries) -> DataSet:
    """Of what is usable; each other box is named under the first thing that is wrong with it."""
    boxes, image = entries.boxes(), torch.tensor(entries.image, dtype=torch.int64)
    shapes = torch.tensor(entries.shapes, dtype=torch.int64).view(-1, 2)
    of_box = shapes[image].double() if len(image) else torch.zeros(0, 2)
    height, width = of_box.unbind(1)
    x1, y1, x2, y2 = boxes.unbind(1)
    wrong = {
        "not finite": ~boxes.isfinite().all(1),
        "without area": ~((x2 > x1) & (y2 > y1)),
        "of an image without a size": height < 1,
        "outside of the image": (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height),
    }
    good = torch.ones(len(boxes), dtype=torch.bool)
    for kind, is_wrong in wrong.items():
        entries.leave_out(kind, (good & is_wrong).nonzero()[:, 0].tolist())
        good &= ~is_wrong
    over = (x1 < -1) | (y1 < -1) | (x2 > width + 1) | (y2 > height + 1)  # a pixel, since some formats count from 1
    entries.note("partly outside of the image", (good & over).nonzero()[:, 0].tolist())
    if not bool(good.any()):
        reasons = "; ".join(f"{kind}: {len(some)}, such as {some[0]}" for kind, some in entries.left_out.items())
        raise ValueError(f"{name} has no boxes that can be used ({reasons or 'there are none'}); expected some")
    names = sorted(set(entries.labels), key=entries.label_order)
    numbers = {label: number for number, label in enumerate(names)}
    labels = torch.tensor([numbers[label] for label in entries.labels], dtype=torch.int64)
    return DataSet(
        boxes[good],
        image[good],
        shapes,
        labels[good],
        tuple(map(str, names)),
        tuple(entries.files),
        entries.left_out,
        entries.noted,
    )
