"""Reports as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..plot import optional_packages, read_image

if TYPE_CHECKING:
    from ._report import Report

__all__ = ["figures", "worst"]

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")  # Okabe and Ito
_MOST_CROPS = 6
_MOST_LISTED = 4096  # boxes, the worst first, among which pictures are looked for


def figures(reports: dict[str, Report]) -> dict[str, Any]:
    """matplotlib figures by name, of one report or more beside each other: {"today": ..., "suggested": ...}.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with optional_packages():
        from matplotlib.figure import Figure

    made: dict[str, Any] = {}

    def figure(name: str, width: float, height: float, columns: int = 1) -> Any:
        made[name] = Figure(figsize=(width, height), layout="constrained", dpi=110)
        axes = made[name].subplots(1, columns, squeeze=False)[0]
        return axes if columns > 1 else axes[0]

    drawn = figure("shapes", 6.2 * len(reports), 5.6, len(reports))
    drawn = list(drawn) if len(reports) > 1 else [drawn]
    for axes, (name, report) in zip(drawn, reports.items(), strict=True):
        _shapes(axes, name, report)
    for get, put in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        lows, highs = zip(*(getattr(axes, get)() for axes in drawn), strict=True)
        for axes in drawn:
            getattr(axes, put)(min(lows), max(highs))
    _recall(figure("recall", 5.6, 4), reports)
    _by_size(figure("size", 7.4, 4), reports)
    left, right = figure("positives", 9.4, 3.8, 2)
    _by_level(left, reports)
    _per_box(right, reports)
    return made


def _shapes(axes: Any, name: str, report: Report) -> None:
    """Boxes by width and height, coloured by the share that an anchor reaches, and the anchors over them."""
    sides = (report.resized.boxes[:, 2:] - report.resized.boxes[:, :2]).numpy()
    threshold = _middle(report)
    reached = (report.iou >= threshold).float().numpy()
    options = dict(xscale="log", yscale="log", gridsize=44, mincnt=1, linewidths=0.1)
    counts = axes.hexbin(sides[:, 0], sides[:, 1], **options)
    opaque = torch.from_numpy(counts.get_array().data.copy()).log1p()
    counts.remove()
    cells = axes.hexbin(sides[:, 0], sides[:, 1], reached, cmap="RdYlBu", vmin=0, vmax=1, **options)
    cells.set_alpha((0.25 + 0.75 * opaque / opaque.max()).numpy())
    axes.figure.colorbar(cells, ax=axes, label=f"share of the boxes with an IoU of {threshold:g} or more", shrink=0.8)
    for i, (level, shapes) in enumerate(zip(report.levels, report.shapes, strict=True)):
        widths, heights = zip(*shapes, strict=True) if shapes else ((), ())
        look = dict(s=34, color=_COLORS[i % len(_COLORS)], edgecolors="white", linewidths=0.9, zorder=3)
        axes.scatter(widths, heights, label=level.name, **look)
    for axis in (axes.xaxis, axes.yaxis):
        _pixels(axis)
    axes.set(xlabel="width in pixels", ylabel="height in pixels", title=f"{name}: boxes (colours) and anchors (dots)")
    axes.set_aspect("equal")
    axes.legend(loc="lower right", fontsize="small", framealpha=0.9)


def _pixels(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    axis.set_major_locator(LogLocator(base=2, numticks=14))
    axis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter()
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def _middle(report: Report) -> float:
    """The threshold that pictures show: 0.5, where it is among them."""
    return 0.5 if 0.5 in report.thresholds else report.thresholds[len(report.thresholds) // 2]


def _recall(axes: Any, reports: dict[str, Report]) -> None:
    thresholds = torch.linspace(0, 1, 101)
    for i, (name, report) in enumerate(reports.items()):
        iou = report.iou.sort().values
        recall = 1 - torch.searchsorted(iou, thresholds) / len(iou)
        axes.plot(thresholds, 100 * recall, color=_COLORS[i], label=f"{name}, mean {report.whole.mean_iou:.3f}")
    threshold = _middle(next(iter(reports.values())))
    axes.axvline(threshold, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="IoU", ylabel="boxes that an anchor reaches, in %", xlim=(0, 1), ylim=(0, 101), title="recall")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left")


def _by_size(axes: Any, reports: dict[str, Report]) -> None:
    first = next(iter(reports.values()))
    threshold = _middle(first)
    names = [group.name for group in first.by["size"]]
    at = first.thresholds.index(threshold)
    width = 0.8 / len(reports)
    for i, (name, report) in enumerate(reports.items()):
        recall = {group.name: 100 * group.recall[at] for group in report.by["size"]}
        _bars(axes, i, width, [recall.get(group, 0) for group in names], name)
    counts = [f"{group.name}\n{group.boxes:,}" for group in first.by["size"]]
    axes.set_xticks(range(len(names)), counts, fontsize="small")
    axes.set(
        xlabel="the square root of a box's area in pixels; boxes", ylabel=f"recall at {threshold:g}, in %",
        ylim=(0, 115), title="recall by size",
    )  # fmt: skip
    axes.legend(loc="upper left", ncols=len(reports))


def _bars(axes: Any, which: int, width: float, heights: Sequence[float], label: str) -> None:
    """One report's, beside those of the others."""
    places = [k - 0.4 + width * (which + 0.5) for k in range(len(heights))]
    axes.bar(places, heights, width, color=_COLORS[which], label=label)


def _by_level(axes: Any, reports: dict[str, Report]) -> None:
    width = 0.8 / len(reports)
    most = max(len(report.levels) for report in reports.values())
    names: Sequence[str] = [str(level) for level in range(most)]
    for i, (name, report) in enumerate(reports.items()):
        names = [level.name for level in report.levels] if len(report.levels) == most else names
        per_image = [level.positives / max(report.positives.images, 1) for level in report.levels]
        _bars(axes, i, width, per_image, name)
    axes.set_xticks(range(most), names)
    axes.set(ylabel="positive anchors per image", title="positives by level")
    axes.legend()


def _per_box(axes: Any, reports: dict[str, Report]) -> None:
    width = 0.8 / len(reports)
    for i, (name, report) in enumerate(reports.items()):
        counts = report.positives.per_box.clamp(max=10).bincount(minlength=11) / max(report.positives.boxes, 1)
        _bars(axes, i, width, (100 * counts).tolist(), name)
    axes.set_xticks(range(11), [*map(str, range(10)), "10+"])
    axes.set(xlabel="positive anchors of a box", ylabel="boxes, in %", title="positives by box")
    axes.legend()


def worst(report: Report) -> Any | None:
    """The boxes that anchors fit least, drawn on their pictures with their best anchors; None without pictures."""
    with optional_packages():
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

    crops: list[tuple[int, Any]] = []
    seen: set[int] = set()
    for g in report.iou.argsort()[:_MOST_LISTED].tolist():
        image = int(report.resized.image[g])
        if image in seen and len(seen) > 1:  # each picture once, while there are others
            continue
        pixels = _picture(report.data.files[image])
        seen.add(image)
        if pixels is not None:
            crops.append((g, pixels))
        if len(crops) == _MOST_CROPS or len(seen) > 4 * _MOST_CROPS:
            break
    if not crops:
        return None
    columns = min(len(crops), 3)
    rows = -(-len(crops) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.8 * rows), layout="constrained", dpi=110)
    drawn = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in drawn:
        axes.set_axis_off()
    for axes, (g, pixels) in zip(drawn, crops, strict=False):
        box, anchor = report.resized.boxes[g].tolist(), report.anchor(g)
        left, top, right, bottom = report.extent(int(report.resized.image[g]))
        axes.imshow(pixels, extent=(left, right, bottom, top), cmap="gray", aspect="equal")
        for corners, color in ((anchor, "#56b4e9"), (box, "#d55e00")):
            if corners is not None:
                x1, y1, x2, y2 = corners
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=2))
        both = [box, *([anchor] if anchor is not None else [])]
        low = [min(corners[k] for corners in both) for k in (0, 1)]
        high = [max(corners[k] for corners in both) for k in (2, 3)]
        half = max(high[0] - low[0], high[1] - low[1]) * 0.9 + 8
        x, y = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
        axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
        axes.set_title(
            f"IoU {float(report.iou[g]):.2f}: {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} pixels", fontsize=9
        )
    figure.suptitle("the worst boxes (red) and their best anchors (blue)")
    return figure


def _picture(file: str) -> Any | None:
    if not file:
        return None
    try:
        return read_image(file)
    except (OSError, ValueError, SyntaxError):  # Pillow's errors for what is no picture
        return None
