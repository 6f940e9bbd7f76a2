"""The page that bench.py prints: its measurements as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from device_times import bytes_per_second
from timing import medians, spread


def markdown(headers: list[str], lines: Iterable[list[str]]) -> list[str]:
    table = [headers, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(headers))]
    padded = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    rule = "|".join("-" * (width + 1) + ":" for width in widths)
    return [f"| {padded[0]} |", f"|{rule}|", *(f"| {line} |" for line in padded[1:])]


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def ratio(samples: dict[str, list[float]], above: str, below: str, digits: int = 2) -> str:
    """The median of what each round says: a machine that is slow for some rounds is slow for both."""
    rounds = zip(samples.get(above, []), samples.get(below, []), strict=False)  # of a slow function there are fewer
    quotients = [over / under for over, under in rounds if over > 0 and under > 0]  # 0: no kernel was seen
    return number(statistics.median(quotients) if quotients else None, digits)


def row_name(row: dict[str, Any]) -> list[str]:
    return [str(row["threads"]), row["dtype"], "{}x{}".format(*row["image_shape"])]


def main_table(rows: list[dict[str, Any]]) -> list[str]:
    times = ["anchor_ext", "full", "anchor_ext out=", "fill_"]
    rival_names = ["numpy", "torchvision", "torchvision compiled", "plain", "plain compiled"]
    headers = ["threads", "dtype", "image", "anchors", "anchor_ext", "full", "out=", "fill_", "ours/full", "out=/fill_"]
    headers += ["NumPy", "torchvision", "tv. comp.", "plain", "plain comp.", "spread"]
    lines = []
    for row in rows:
        m = medians(row["seconds"])
        line = [*row_name(row), f"{row['num_anchors']:,}", *(number(1e6 * m[name]) for name in times)]
        line += [ratio(row["seconds"], "anchor_ext", "full"), ratio(row["seconds"], "anchor_ext out=", "fill_")]
        line += [ratio(row["seconds"], name, "anchor_ext", 1) for name in rival_names]
        variation = spread(row["seconds"]["anchor_ext"])
        lines.append([*line, "-" if variation is None else f"{variation:.0%}"])
    return markdown(headers, lines)


def compiled_table(rows: list[dict[str, Any]]) -> list[str]:
    names = ["anchor_ext compiled", "torchvision compiled", "plain compiled", "full compiled"]
    graphs = ["anchor_ext graph", "plain compiled graph", "full graph"]
    names += [name for name in graphs if any(name in row["seconds"] for row in rows)]
    lines = []
    for row in rows:
        m = medians(row["seconds"])
        times = [number(1e6 * m[name] if name in m else None) for name in names]
        rival = ratio(row["seconds"], "plain compiled", "anchor_ext compiled", 1)
        limit = ratio(row["seconds"], "anchor_ext compiled", "full compiled")
        lines.append([*row_name(row), *times, rival, limit])
    return markdown(["threads", "dtype", "image", *names, "plain/ours", "ours/full"], lines)


def part_table(rows: list[dict[str, Any]], part: str) -> list[str]:
    """Microseconds of one part of a CUDA call; for kernels, how many there are, too."""
    names = list(dict.fromkeys(name for row in rows for name in row["cuda"][part]))
    lines = []
    for row in rows:
        m = medians(row["cuda"][part])
        cells = [number(1e6 * m[name] if m.get(name) else None) for name in names]  # none where no kernel was seen
        if part == "kernel":
            kernels = row["cuda"]["kernels"]
            cells = [f"{cell} ({kernels.get(name, 0):.0f})" for name, cell in zip(names, cells, strict=True)]
        lines.append([*row_name(row)[1:], *cells])
    return markdown(["dtype", "image", *names], lines)


def bandwidth_table(rows: list[dict[str, Any]]) -> list[str]:
    names = ["anchor_ext", "anchor_ext out=", "plain compiled", "full", "fill_"]
    lines = []
    for row in rows:
        m = medians(row["cuda"]["kernel"])
        rates = {name: bytes_per_second(row["bytes"], m[name]) for name in names if name in m}
        known = {name: rate for name, rate in rates.items() if rate}
        cells = [number(known[name] / 1e9 if name in known else None) for name in names]
        limit = ratio(row["cuda"]["kernel"], "fill_", "anchor_ext out=")  # of rates, which is that of times upside down
        lines.append([*row_name(row)[1:], f"{row['bytes']:,}", *cells, limit])
    return markdown(["dtype", "image", "bytes", *names, "out=/fill_"], lines)


def growth_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        m = row["nanoseconds_per_anchor"]
        image, anchors = "{}x{}".format(*row["image_shape"]), f"{row['num_anchors']:,}"
        cells = [number(m[name], 3) for name in ("anchor_ext out=", "fill_")]
        lines.append([image, anchors, *cells, ratio(row["seconds"], "anchor_ext out=", "fill_")])
    return markdown(["image", "anchors", "out=", "fill_", "out=/fill_"], lines)


def report(result: dict[str, Any]) -> str:
    """The page that is printed and lands."""
    about, rows = result["about"], result["rows"]
    cuda = f", CUDA {about['cuda']}" if about["device"] == "cuda" else ""
    text = [
        f"# {about['hardware']}: anchor_ext, its rivals and the limit\n",
        f"{about['system']}, Python {about['python']}, torch {about['torch']}{cuda}, "
        f"anchor_ext {about['anchor_ext']}, torchvision {about['torchvision']}.",
        f"`{result['command']}`\n",
        "Microseconds per call. ours/full and out=/fill_: 1.00 is the speed of writing the bytes. From NumPy to plain",
        "comp.: how many times as long as anchor_ext they take. Ratios are medians over the rounds, of what was timed",
        "in the same round. spread: anchor_ext's interquartile range.\n",
        *main_table(rows),
        "\nUnder `torch.compile`, for the one shape; microseconds per call.\n",
        *compiled_table(rows),
        "",
    ]
    if about["device"] == "cuda":
        text += ["The host's microseconds to submit a call.\n", *part_table(rows, "host")]
        text += ["\nOne call to an idle device, until it is done; microseconds.\n", *part_table(rows, "one call")]
        text += ["\nKernels: microseconds on the device, and how many there are.\n", *part_table(rows, "kernel")]
        text += ["\nGigabytes written per second of kernel.\n", *bandwidth_table(rows), ""]
    threads = "" if about["device"] == "cuda" else f", {about['threads']} threads"
    text += [
        f"Growth: nanoseconds per anchor, float32, into a given tensor{threads}.\n",
        *growth_table(result["growth"]),
    ]
    text += ["", *result["remarks"]]
    return "\n".join(text).rstrip() + "\n"
