"""Timings on the CPU twice, each in a process of its own: with glibc's malloc as it is, and without its mmap."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from matching import TUNABLES
from timing import hardware, versions

__all__ = ["finish", "parse", "print_about"]


def parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers, with versions and hardware")
    parser.add_argument("--quick", action="store_true", help="a small image and few rounds, no torch.compile")
    parser.add_argument("--one-allocator", action="store_true", help="this process alone, as it was started")
    return parser.parse_args()


def print_about(device: torch.device) -> None:
    about = f"{hardware(device)}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{about}\none thread, malloc: {os.environ.get('GLIBC_TUNABLES') or 'the default'}; milliseconds")


def finish(options: argparse.Namespace, script: str, rows: list[Any], **more: Any) -> None:
    """Measures again with the other allocator, where this process is the first; writes what was measured."""
    tunables = os.environ.get("GLIBC_TUNABLES")
    results = [{"malloc": tunables, "rows": rows, **more}]
    if options.device == "cpu" and not options.one_allocator and tunables is None:
        print(flush=True)
        again = [sys.executable, script, "--device", "cpu", "--one-allocator", *(["--quick"] * options.quick)]
        again += ["--json", f"{options.json}.other"] if options.json else []
        subprocess.run(again, check=True, env={**os.environ, "GLIBC_TUNABLES": TUNABLES})
        if options.json:
            other = Path(f"{options.json}.other")
            results += json.loads(other.read_text())["results"]
            other.unlink()
    if options.json:
        device = torch.device(options.device)
        about = {**versions(), "hardware": hardware(device), "device": str(device)}
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        text = {"command": f"python benchmarks/{Path(script).name}", "versions": about, "results": results}
        Path(options.json).write_text(json.dumps(text, indent=1))
