"""`--may-skip gpu,peers`: a run in which any other skip is a failure.

A test says by markers what it needs. With the option every skipped test that carries none of the listed markers is
printed by name with its reason, and the run fails. `--may-skip none` allows no skip at all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--may-skip",
        metavar="MARKERS",
        help="fail if a test is skipped that carries none of these markers, separated by commas, or none",
    )


def pytest_configure(config: pytest.Config) -> None:
    text = config.getoption("may_skip")
    if text is None:
        return
    known = {line.partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")}
    allowed = set() if text == "none" else set(text.split(","))
    if not allowed <= known:
        raise pytest.UsageError(f"--may-skip {text}: no marker is named {', '.join(sorted(allowed - known))}")
    config.pluginmanager.register(MaySkip(text, allowed))


def markers_of_file(path: Path) -> set[str]:
    """The names in a file's `pytestmark`, read without running it: a file that skips itself has not been imported."""
    return {
        node.attr
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark"
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark"
    }


class MaySkip:
    def __init__(self, text: str, allowed: set[str]) -> None:
        self.text, self.allowed = text, allowed
        self.unexpected: dict[str, str] = {}

    def look(self, report: pytest.TestReport | pytest.CollectReport, markers: Iterable[str]) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and self.allowed.isdisjoint(markers):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.unexpected[report.nodeid] = reason.removeprefix("Skipped: ")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item):
        report = yield
        self.look(report, {marker.name for marker in item.iter_markers()})
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector):
        report = yield
        if report.skipped:
            self.look(report, markers_of_file(collector.path) if collector.path.is_file() else ())
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexpected:
            terminalreporter.section(f"skipped, but --may-skip is {self.text}", red=True)
            for name, reason in self.unexpected.items():
                terminalreporter.line(f"{name}: {reason}")
            terminalreporter.line(f"unexpected skips: {len(self.unexpected)}", red=True)
