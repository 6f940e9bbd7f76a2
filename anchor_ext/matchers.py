"""The rules by which frameworks match anchors to boxes, for `Anchors.match` and `AnchorGrid.match`.

A rule is a small frozen object with its original's arguments. What its match gives equals, index for index, what the
original gives of the anchors that `generate` makes in float32. docs/matching.md compares the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._arguments import is_sequence, listed, number, show

__all__ = [
    "ArgMaxMatcher",
    "Detectron2Matcher",
    "FocalLossMatcher",
    "Matcher",
    "MaxIoUAssigner",
    "Rule",
    "SSDMatcher",
]

_MAX_THRESHOLDS = 8


@dataclasses.dataclass(frozen=True)
class Rule:
    """What all rules have in common."""

    def __post_init__(self) -> None:
        if type(self) is Rule:
            raise TypeError("Rule is what the rules have in common; expected one of them, such as Matcher")
        object.__setattr__(self, "_text", f"match/1;{self._entries()}")

    def _entries(self) -> str:
        raise NotImplementedError

    def _keep(self, **read: Any) -> None:
        """Fields as they were read, in place of what the user gave: a tensor could change later."""
        for name, value in read.items():
            object.__setattr__(self, name, value)

    def _finish(self, matched: Tensor) -> Any:
        """The original's result of the operator's."""
        return matched


def _check_bools(rule: Any, *names: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {show(value)}; expected True or False")


def thresholds_of(named: dict[str, Any], expected: str) -> list[float]:
    """Numbers in ascending order, from 0 on, by the names of the arguments that they came as.

    Raises:
        TypeError, ValueError: they are not.
    """
    result: list[float] = []
    for name, value in named.items():
        threshold = number(name, value, expected)
        if threshold < (result[-1] if result else 0.0):
            raise ValueError(f"{name} is {threshold:g}; expected {expected}")
        result.append(threshold)
    return result


def _numbers(values: Sequence[float]) -> str:
    return ",".join(map(repr, values))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@dataclasses.dataclass(frozen=True)
class Matcher(Rule):
    """torchvision's `Matcher` of `box_iou`, and the default.

    Best box where its IoU is at least `high_threshold`, -1 (background) below `low_threshold`, -2 between. Then, if
    `allow_low_quality_matches`, every anchor whose IoU with some box is that box's greatest gets its own best box back.
    A box that overlaps no anchor makes positives of nearly all anchors by this; `low_quality_needs_overlap` leaves it
    out.

    Args:
        high_threshold, low_threshold: `0 <= low_threshold <= high_threshold`.
        allow_low_quality_matches, low_quality_needs_overlap: as said.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    high_threshold: float = 0.5
    low_threshold: float = 0.4
    allow_low_quality_matches: bool = True
    low_quality_needs_overlap: bool = False

    def _entries(self) -> str:
        _check_bools(self, "allow_low_quality_matches", "low_quality_needs_overlap")
        named = {"low_threshold": self.low_threshold, "high_threshold": self.high_threshold}
        thresholds = thresholds_of(named, "numbers with 0 <= low_threshold <= high_threshold")
        self._keep(low_threshold=thresholds[0], high_threshold=thresholds[1])
        return torchvision_entries(thresholds, self.allow_low_quality_matches, self.low_quality_needs_overlap)


def torchvision_entries(thresholds: Sequence[float], low_quality: bool, needs_overlap: bool) -> str:
    """The text's entries of torchvision's rule; `thresholds` are low and high."""
    return (
        f"thresholds={_numbers(thresholds)};codes=-1,-2,matched;low_quality={'own' if low_quality else 'nothing'};"
        f"needs_overlap={_yes(needs_overlap)}"
    )


@dataclasses.dataclass(frozen=True)
class SSDMatcher(Rule):
    """torchvision's `SSDMatcher`: best box from `threshold` on, else -1; then each box takes the first anchor of its
    greatest IoU, the last box where several take one (as on the CPU; on CUDA the original's order is undefined).

    Raises:
        TypeError, ValueError: `threshold` is no number >= 0.
    """

    threshold: float = 0.5

    def _entries(self) -> str:
        thresholds = thresholds_of({"threshold": self.threshold}, "a number >= 0")
        self._keep(threshold=thresholds[0])
        return f"thresholds={_numbers(thresholds)};codes=-1,matched;low_quality=last;anchors=first"


@dataclasses.dataclass(frozen=True)
class Detectron2Matcher(Rule):
    """detectron2's `Matcher`: a pair `(matches, labels)`, of every anchor's best box and of a label per interval.

    Args:
        thresholds: ascending numbers > 0, at most 8.
        labels: a label of -1, 0 or 1 for each interval, one more than thresholds.
        allow_low_quality_matches: whether anchors whose IoU with some box is that box's greatest get label 1.
        low_quality_needs_overlap: whether a box that overlaps no anchor labels none by this.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    thresholds: Sequence[float] = (0.4, 0.5)
    labels: Sequence[int] = (0, -1, 1)
    allow_low_quality_matches: bool = True
    low_quality_needs_overlap: bool = False

    def _entries(self) -> str:
        _check_bools(self, "allow_low_quality_matches", "low_quality_needs_overlap")
        expected = f"1 to {_MAX_THRESHOLDS} ascending numbers > 0"
        given = listed("thresholds", self.thresholds, expected)
        if len(given) > _MAX_THRESHOLDS:
            raise ValueError(f"thresholds has {len(given)} items; expected {expected}")
        thresholds = thresholds_of({f"thresholds[{i}]": threshold for i, threshold in enumerate(given)}, expected)
        if thresholds[0] == 0:
            raise ValueError(f"thresholds[0] is 0; expected {expected}")
        expected = f"{len(thresholds) + 1} of -1, 0, 1, one more than thresholds"
        labels = listed("labels", self.labels, expected)
        if len(labels) != len(thresholds) + 1 or any(
            type(label) is not int or label not in (-1, 0, 1) for label in labels
        ):
            raise ValueError(f"labels is {show(self.labels)}; expected {expected}")
        self._keep(thresholds=tuple(thresholds), labels=tuple(labels))
        codes = ",".join(["matched"] * len(self.labels))
        return (
            f"thresholds={_numbers(thresholds)};codes={codes};quotient=zero_if_apart;both=yes;"
            f"low_quality={'own' if self.allow_low_quality_matches else 'nothing'};"
            f"needs_overlap={_yes(self.low_quality_needs_overlap)}"
        )

    def _finish(self, matched: Tensor) -> tuple[Tensor, Tensor]:
        bins = matched >> 32  # by comparisons: a table would have to be copied to the device
        labels = torch.full_like(bins, self.labels[0], dtype=torch.int8)
        for i, label in enumerate((*self.labels[1:], self.labels[0], 1), start=1):
            if label != self.labels[0]:
                labels.masked_fill_(bins == i, label)
        return matched & 0xFFFFFFFF, labels


@dataclasses.dataclass(frozen=True)
class MaxIoUAssigner(Rule):
    """mmdet's `MaxIoUAssigner`: index + 1 of the box, 0 for the background, -1 ignored.

    Boxes of at least `min_pos_iou` take the anchors of their greatest IoU, all of them or, without
    `gt_max_assign_all`, the first; later boxes overwrite earlier ones, also better ones.

    Args:
        pos_iou_thr, neg_iou_thr, min_pos_iou, gt_max_assign_all, ignore_iof_thr, ignore_wrt_candidates,
            match_low_quality: as mmdet has them; `neg_iou_thr` is a number or a pair `(low, high)`, of which numbers
            none exceeds `pos_iou_thr`. Regions to be ignored are the argument `ignored` of `match`.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    pos_iou_thr: float
    neg_iou_thr: float | tuple[float, float]
    min_pos_iou: float = 0.0
    gt_max_assign_all: bool = True
    ignore_iof_thr: float = -1
    ignore_wrt_candidates: bool = True
    match_low_quality: bool = True

    def _entries(self) -> str:
        _check_bools(self, "gt_max_assign_all", "ignore_wrt_candidates", "match_low_quality")
        if is_sequence(self.neg_iou_thr):
            pair = listed("neg_iou_thr", self.neg_iou_thr, "a number or a pair (low, high)")
            if len(pair) != 2:
                raise ValueError(f"neg_iou_thr is {show(self.neg_iou_thr)}; expected a number or a pair (low, high)")
            named = {"neg_iou_thr[0]": pair[0], "neg_iou_thr[1]": pair[1]}
            codes = "-2,-1,-2,matched"
        else:
            named, codes = {"neg_iou_thr": self.neg_iou_thr}, "-1,-2,matched"
        expected = "numbers with 0 <= neg_iou_thr <= pos_iou_thr"
        thresholds = thresholds_of({**named, "pos_iou_thr": self.pos_iou_thr}, expected)
        least, ignored = number("min_pos_iou", self.min_pos_iou), number("ignore_iof_thr", self.ignore_iof_thr)
        *negative, positive = thresholds
        self._keep(pos_iou_thr=positive, neg_iou_thr=negative[0] if len(negative) == 1 else tuple(negative))
        self._keep(min_pos_iou=least, ignore_iof_thr=ignored)
        return (
            f"thresholds={_numbers(thresholds)};codes={codes};nan=-2;union=1e-06;least={least!r};"
            f"low_quality={'last' if self.match_low_quality else 'nothing'};"
            f"anchors={'all' if self.gt_max_assign_all else 'first'};"
            f"ignored={max(ignored, 0.0)!r};ignored_part={'anchor' if self.ignore_wrt_candidates else 'region'}"
        )

    def _finish(self, matched: Tensor) -> Tensor:
        return matched + 1


@dataclasses.dataclass(frozen=True)
class ArgMaxMatcher(Rule):
    """effdet's `ArgMaxMatcher` of `IouSimilarity`: best box from `matched_threshold` on, -1 below
    `unmatched_threshold`, -2 between, or the two exchanged without `negatives_lower_than_unmatched`. With
    `force_match_for_each_row` each box takes the first anchor of its greatest IoU; of several boxes the first one.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    matched_threshold: float = 0.5
    unmatched_threshold: float | None = None
    negatives_lower_than_unmatched: bool = True
    force_match_for_each_row: bool = False

    def _entries(self) -> str:
        _check_bools(self, "negatives_lower_than_unmatched", "force_match_for_each_row")
        unmatched = self.matched_threshold if self.unmatched_threshold is None else self.unmatched_threshold
        named = {"unmatched_threshold": unmatched, "matched_threshold": self.matched_threshold}
        thresholds = thresholds_of(named, "numbers with 0 <= unmatched_threshold <= matched_threshold")
        self._keep(unmatched_threshold=thresholds[0], matched_threshold=thresholds[1])
        if not self.negatives_lower_than_unmatched and thresholds[0] == thresholds[1]:
            raise ValueError(
                f"unmatched_threshold is {thresholds[0]:g}; expected less than matched_threshold, as "
                "negatives_lower_than_unmatched is False"
            )
        return (
            f"thresholds={_numbers(thresholds)};"
            f"codes={'-1,-2' if self.negatives_lower_than_unmatched else '-2,-1'},matched;quotient=zero_if_nothing;"
            f"low_quality={'first' if self.force_match_for_each_row else 'nothing'};anchors=first"
        )


@dataclasses.dataclass(frozen=True)
class FocalLossMatcher(Rule):
    """The rule inside the `FocalLoss` of yhenon/pytorch-retinanet and its descendants: best box from 0.5 on, -1 below
    0.4, -2 between, and nothing for boxes that no anchor reaches; a union of less than 1e-8 counts as that.

    Raises:
        TypeError, ValueError: the thresholds are not numbers with `0 <= low <= high`.
    """

    high: float = 0.5
    low: float = 0.4

    def _entries(self) -> str:
        thresholds = thresholds_of({"low": self.low, "high": self.high}, "numbers with 0 <= low <= high")
        self._keep(low=thresholds[0], high=thresholds[1])
        return f"thresholds={_numbers(thresholds)};codes=-1,-2,matched;nan=-2;union=1e-08;low_quality=nothing"
