"""Do these anchors fit my data? The best anchor of every box, reports, and better numbers."""

from ._best import BestIou, best_iou

__all__ = ["BestIou", "best_iou"]
