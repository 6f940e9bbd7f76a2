"""Draws what bench.py has measured: time against anchors, log-log, with the limit as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timing import medians

# Colour, line and width of each function; one colour is one author, and dashes are compiled.
STYLES = {
    "numpy": ("tab:gray", "-", 1.2),
    "torchvision": ("tab:orange", "-", 1.2),
    "torchvision compiled": ("tab:orange", "--", 1.2),
    "plain": ("tab:blue", "-", 1.2),
    "plain compiled": ("tab:blue", "--", 1.2),
    "plain compiled graph": ("tab:blue", ":", 1.2),
    "anchor_ext": ("tab:red", "-", 2.0),
    "anchor_ext out=": ("tab:red", "-.", 1.2),
    "anchor_ext compiled": ("tab:red", "--", 1.2),
    "anchor_ext graph": ("tab:red", ":", 1.2),
    "full": ("black", "-", 2.6),
    "fill_": ("black", "--", 2.6),
    "empty kernel": ("black", ":", 1.2),
}
LABELS = {"full": "limit: torch.full", "fill_": "limit: fill_", "plain": "plain torch", "numpy": "NumPy"}


def lines(axes: Any, points: list[tuple[int, dict[str, float]]]) -> None:
    for name, (colour, dashes, width) in STYLES.items():
        there = [(count, values[name]) for count, values in points if name in values]
        if there:
            label = LABELS.get(name, name.replace("plain ", "plain torch "))
            axes.loglog(*zip(*there, strict=True), dashes, color=colour, linewidth=width, marker=".", label=label)
    axes.set_xlabel("anchors")
    axes.grid(which="both", alpha=0.2)


def draw(result: dict[str, Any], path: Path) -> None:
    """A panel of the float32 rows per number of threads, and one of growth. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    about, rows = result["about"], [row for row in result["rows"] if row["dtype"] == "float32"]
    threads = list(dict.fromkeys(row["threads"] for row in rows))
    figure = Figure(figsize=(6 * (len(threads) + 1), 6.6), layout="constrained")
    panels = figure.subplots(1, len(threads) + 1)
    for axes, number in zip(panels, threads, strict=False):
        points = [(row["num_anchors"], medians(row["seconds"])) for row in rows if row["threads"] == number]
        lines(axes, [(count, {name: 1e6 * value for name, value in m.items()}) for count, m in points])
        axes.set_ylabel("microseconds per call")
        on = "CUDA" if about["device"] == "cuda" else f"{number} thread{'s' * (number > 1)}"
        axes.set_title(f"a call, float32, {on}")
    lines(panels[-1], [(row["num_anchors"], row["nanoseconds_per_anchor"]) for row in result["growth"]])
    panels[-1].set_ylabel("nanoseconds per anchor")
    panels[-1].set_title("growth, float32, into a given tensor")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    versions = f"anchor_ext {about['anchor_ext']}, torch {about['torch']}, Python {about['python']}"
    figure.suptitle(f"{about['hardware']}: {versions}\n{result['command']}")
    figure.savefig(path, dpi=110)
