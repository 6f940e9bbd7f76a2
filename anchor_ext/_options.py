"""The options of the command line that say which anchors."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from .anchors import Anchors

__all__ = ["add_anchors", "anchors_of"]


def _positive(text: str, separator: str, expected: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(separator)]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    return numbers


def _numbers(text: str) -> list[float]:
    return _positive(text, ",", "finite numbers > 0, such as 8 or 8,12")


def _stride(text: str) -> list[float]:
    expected = "a finite number > 0, or two for (y, x), such as 8 or 8x4"
    pair = _positive(text, "x", expected)
    if len(pair) > 2:
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    return [pair[0], pair[-1]]


def _level(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected distinct integers in 0..30") from None


def _per_level(lists: list[list[float]] | None, *, one_each: bool = False) -> Any:
    """Lists as `Anchors` takes them: per level, or flat where no item had a comma."""
    if lists is None:
        return None
    if len(lists) == 1 and not one_each:  # "1,2" says of every level what "1 2" does
        return lists[0]
    return [numbers[0] for numbers in lists] if all(len(numbers) == 1 for numbers in lists) else lists


def add_anchors(parser: argparse.ArgumentParser) -> None:
    """Those of `anchors_of`."""
    anchors = parser.add_argument_group("anchors", "A list per level is written with commas: --sizes 8,12 16,24 32,48")
    each: dict[str, Any] = {"nargs": "+", "type": _numbers}
    anchors.add_argument("--levels", nargs="+", type=_level, help="pyramid levels (default: 3 4 5 6 7)")
    anchors.add_argument("--sizes", **each, help="in pixels, one or a list per level (default: 2**(level + 2))")
    anchors.add_argument(
        "--ratios", **each, help="height / width, for all levels or a list per level (default: 0.5 1 2)"
    )
    anchors.add_argument("--scales", **each, help="of the sizes, as --ratios (default: 1 1.26 1.59, exact: 2**(i/3))")
    anchors.add_argument(
        "--strides", nargs="+", type=_stride, help="in pixels per level, 8 or 8x4 for (y, x) (default: 2**level)"
    )


def anchors_of(options: argparse.Namespace) -> Anchors:
    """Raises ArgumentTypeError, in the words of the command line."""
    sizes, ratios = _per_level(options.sizes, one_each=True), _per_level(options.ratios)
    try:
        return Anchors(options.levels, options.strides, sizes, ratios, _per_level(options.scales))
    except (TypeError, ValueError) as error:
        message = re.sub(
            r"\b(sizes|ratios|scales|strides)\b", r"--\1", str(error).replace("pyramid_levels", "--levels")
        )
        raise argparse.ArgumentTypeError(message) from error
