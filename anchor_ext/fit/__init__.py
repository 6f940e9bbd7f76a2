"""Do these anchors fit my data? The best anchor of every box, reports, and better numbers."""

from ._best import BestIou, best_iou
from ._report import Group, LevelUse, Positives, Report, report
from ._suggest import Score, Suggestion, suggest
from .data import DataSet, read
from .resizing import (
    Detectron2Resize,
    FixedResize,
    KeepSize,
    Letterbox,
    MmdetResize,
    Resizing,
    TorchvisionResize,
    resized,
)

__all__ = [
    "BestIou",
    "DataSet",
    "Detectron2Resize",
    "FixedResize",
    "Group",
    "KeepSize",
    "Letterbox",
    "LevelUse",
    "MmdetResize",
    "Positives",
    "Report",
    "Resizing",
    "Score",
    "Suggestion",
    "TorchvisionResize",
    "best_iou",
    "read",
    "report",
    "resized",
    "suggest",
]
