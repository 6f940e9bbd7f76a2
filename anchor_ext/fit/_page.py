"""A report as one HTML file, or as pictures in a folder."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._figures import figures, worst
from ._tables import report_as_text, verdict

if TYPE_CHECKING:
    from ._report import Report
    from ._suggest import Suggestion

__all__ = ["write_page", "write_pictures"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: 0.8em; overflow-x: auto; font-size: 13px; line-height: 1.35; }
.verdict { font-size: 1.15em; } table { border-collapse: collapse; } td, th { padding: 0.2em 0.9em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr + tr { border-top: 1px solid #ddd; }
"""
_CAPTIONS = {
    "shapes": "Every box by its width and height, as the network sees it. Blue: an anchor reaches it. Red: none does. "
    "Paler: few boxes. The dots are the anchors. A red cloud without dots near it needs other sizes or ratios; red "
    "among dots lies between the cells of a coarse grid, and needs a finer level or a larger image.",
    "recall": "How many boxes have an anchor with at least this IoU.",
    "size": "Where recall is lost.",
    "positives": "What training sees: how many anchors each level gives, and how many each box gets.",
    "worst": "Look here for wrong annotations, too.",
}


def write_page(file: str | os.PathLike[str], reports: dict[str, Report], suggestion: Suggestion | None = None) -> None:
    """All in one file, pictures as well.

    Args:
        file: to be written.
        reports: by name, today's first.
        suggestion: whose texts can be pasted.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    parts = ["<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>Do these anchors fit?</title>"]
    parts.append(f"<style>{_STYLE}</style></head><body><h1>Do these anchors fit?</h1>")
    first = next(iter(reports.values()))
    parts += [f"<p class='verdict'>{html.escape(line)}</p>" for line in verdict(first)]
    if suggestion is not None:
        parts.append("<h2>Better numbers</h2>")
        parts.append(_table(suggestion.rows()))
        parts += [f"<h3>{name}</h3><pre>{html.escape(text)}</pre>" for name, text in suggestion.constructors().items()]
    for name, figure in _all_figures(reports).items():
        image = io.BytesIO()
        figure.savefig(image, format="png")
        source = base64.b64encode(image.getvalue()).decode()
        parts.append(f"<h2>{name}</h2><p>{_CAPTIONS[name]}</p><img alt='{name}' src='data:image/png;base64,{source}'>")
    for name, report in reports.items():
        parts.append(f"<h2>All numbers, {html.escape(name)}</h2><pre>{html.escape(report_as_text(report))}</pre>")
    parts.append("</body></html>\n")
    Path(file).write_text("\n".join(parts), encoding="utf-8")


def write_pictures(folder: str | os.PathLike[str], reports: dict[str, Report]) -> list[Path]:
    """A PNG per picture; returns their files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in _all_figures(reports).items():
        files.append(Path(folder) / f"{name}.png")
        figure.savefig(files[-1])
    return files


def _all_figures(reports: dict[str, Report]) -> dict[str, Any]:
    made = figures(reports)
    crops = worst(next(iter(reports.values())))
    return made if crops is None else {**made, "worst": crops}


def _table(rows: list[list[str]]) -> str:
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
