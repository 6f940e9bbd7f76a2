"""Reports and suggestions as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._report import Group, Report

__all__ = ["aligned", "percent", "report_as_text", "verdict"]

_MOST_CLASSES = 20
_TITLES = {
    "size": "by size: the square root of a box's area, in pixels of the network's input",
    "ratio": "by ratio: height / width",
    "class": "by class, the worst first",
    "level": "by the level whose anchor is best",
}


def percent(share: float) -> str:
    """With a digit more where it is nearly all."""
    return f"{100 * share:.2f} %" if 0.995 <= share < 1 else f"{100 * share:.1f} %"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def verdict(report: Report) -> list[str]:
    """What a reader should know first."""
    at = min(range(len(report.thresholds)), key=lambda i: abs(report.thresholds[i] - 0.5))
    threshold, whole = report.thresholds[at], report.whole
    said = [
        f"{percent(whole.recall[at])} of {whole.boxes:,} boxes have an anchor with an IoU of {threshold:g} or more. "
        f"The mean of the best IoUs is {whole.mean_iou:.3f}."
    ]
    missed = {
        (key, group.name): group.boxes * (1 - group.recall[at]) for key in ("size", "ratio") for group in report.by[key]
    }
    total = whole.boxes * (1 - whole.recall[at])
    if total > 0:
        for key, what in (("size", "pixels large"), ("ratio", "times as high as wide")):
            name, lost = max(((n, c) for (k, n), c in missed.items() if k == key), key=lambda item: item[1])
            group = next(group for group in report.by[key] if group.name == name)
            said.append(
                f"Of those that none reaches {percent(lost / total)} are {name} {what}; "
                f"of all such boxes {percent(group.recall[at])} are reached."
            )
    positives = report.positives
    if positives.low_quality_only or positives.none:
        said.append(
            f"In training {percent(positives.low_quality_only / positives.boxes)} of the boxes have positives by the "
            f"low-quality rule alone, and {percent(positives.none / positives.boxes)} have none."
        )
    unused = [
        f"{level.name} ({len(level.used) - sum(level.used)} of {len(level.used)})"
        for level in report.levels
        if not all(level.used)
    ]
    if unused:
        said.append(f"Cell anchors that nothing ever uses: {', '.join(unused)}.")
    return said


def report_as_text(report: Report) -> str:
    data, positives = report.data, report.positives
    head = ["", "boxes", *(f"IoU >= {threshold:g}" for threshold in report.thresholds), "mean IoU"]
    parts = [f"{report.whole.boxes:,} boxes of {len(data.image_shapes):,} images"]
    for kinds, said in ((data.left_out, "left out"), (data.noted, "noted")):
        for kind, entries in kinds.items():
            parts.append(f"{said}, {kind}: {len(entries):,}, such as {entries[0]}")
    parts += ["", *verdict(report), "", "recall: the share of boxes that some anchor reaches this IoU with"]
    parts.append(aligned([head, _row(report.whole)]))
    for key, title in _TITLES.items():
        groups = report.by[key]
        if key == "class" and len(groups) < 2:
            continue
        parts += ["", title, aligned([head, *map(_row, groups[:_MOST_CLASSES])])]
        if key == "class" and len(groups) > _MOST_CLASSES:
            parts.append(f"and {len(groups) - _MOST_CLASSES} classes more")
    parts += ["", f"positives, as matching gives them to {positives.boxes:,} boxes of {positives.images:,} images"]
    parts.append(
        aligned(
            [
                ("anchors per box, mean and median", f"{positives.mean:.1f}", str(positives.median)),
                _part("boxes that only the low-quality rule gives any", positives.low_quality_only, positives.boxes),
                _part("boxes without any", positives.none, positives.boxes),
            ]
        )
    )
    outside = int((report.level < 0).sum())
    if outside:
        parts.append(f"{outside:,} boxes overlap no anchor: each makes positives of nearly all anchors of its image")
    parts += ["", "levels", _levels(report)]
    return "\n".join(parts)


def _row(group: Group) -> list[str]:
    return [group.name, f"{group.boxes:,}", *map(percent, group.recall), f"{group.mean_iou:.3f}"]


def _part(name: str, count: int, of: int) -> tuple[str, str, str]:
    return name, f"{count:,}", percent(count / of)


def _levels(report: Report) -> str:
    rows = [["", "stride", "best for", "positives", "cell anchors used"]]
    total = max(sum(level.positives for level in report.levels), 1)
    for level in report.levels:
        y, x = level.stride or (0, 0)
        stride = "" if level.stride is None else f"{y:g}" if y == x else f"{y:g}x{x:g}"
        rows.append(
            [
                level.name,
                stride,
                percent(level.best / report.whole.boxes),
                percent(level.positives / total),
                f"{sum(level.used)} of {len(level.used)}",
            ]
        )
    return aligned(rows)
