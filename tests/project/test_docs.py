"""README.md, CONTRIBUTING.md and docs/*.md: every block runs as it stands, every link leads somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from pages import PAGES, blocks, needs
from toolchain import ROOT, setup_py

BLOCKS = [(page, block) for page in PAGES for block in blocks(page)]
MAKEFILE = (ROOT / "Makefile").read_text()
WORDS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def each_block(kind: str) -> pytest.MarkDecorator:
    def marks(block) -> list[pytest.MarkDecorator]:
        return [getattr(pytest.mark, marker) for marker, _ in needs(block)] if kind == "runs" else []

    chosen = [
        pytest.param(page, block, id=f"{page.name}:{block.line}", marks=marks(block))
        for page, block in BLOCKS
        if getattr(block, kind)
    ]
    return pytest.mark.parametrize("page, block", chosen)


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of a page's blocks, which run once, in a process and a folder of their own."""
    known = {}

    def outcomes_of(page) -> dict[int, tuple[str, str | None]]:
        if page not in known:
            folder = tmp_path_factory.mktemp(page.stem)
            for name in ("docs", "examples"):
                (folder / name).symlink_to(ROOT / name)
            (folder / "path" / "to").mkdir(parents=True)
            (folder / "path" / "to" / "labels").symlink_to(ROOT / "examples" / "labels")
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
            }
            command = [sys.executable, ROOT / "tests" / "pages.py", page, folder / "report"]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=900
            )
            assert done.returncode == 0, done.stderr
            lines = map(json.loads, (folder / "report").read_text().splitlines())
            known[page] = {line: (outcome, why) for line, outcome, why in lines}
        return known[page]

    return outcomes_of


@each_block("runs")
def test_block(page, block, outcomes):
    outcome, why = outcomes(page)[block.line]
    if outcome == "skipped":
        pytest.skip(why)
    assert outcome == "passed", why


@each_block("builds")
def test_what_a_block_installs_and_builds(page, block):
    functions = setup_py()
    project = (ROOT / "pyproject.toml").read_text()
    for command in block.commands:
        word, *arguments = command.split()
        if word == "make":
            assert set(arguments) <= WORDS, command
        elif word == "pip" and command not in (functions["PREPARE"], functions["INSTALL"]):
            assert arguments[0] == "install"
            for package in arguments[1:]:
                assert f'"{package}"' in project, command
        else:
            assert word in ("pip", "cd"), command


@each_page
def test_a_block_says_what_it_is(page):
    assert {block.language for block in blocks(page)} <= {"python", "sh", "text", ""}
    assert page.read_text().count("\n```") % 2 == 0


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            file, _, heading = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            if heading:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                assert heading in [re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings], link


def test_every_framework_has_a_recipe_of_at_most_five_lines():
    recipes = {}
    for page, block in BLOCKS:
        framework = re.search(r"anchor_ext\.compat\.(\w+)", block.text)
        if page.name == "dialects.md" and block.language == "python" and framework:
            recipes.setdefault(framework[1], []).append(sum(map(bool, block.text.splitlines())))
    assert sorted(recipes) == ["detectron2", "effdet", "mmdet", "torchvision", "ultralytics"]
    assert all(count <= 5 for counts in recipes.values() for count in counts)


def test_the_readme_is_three_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@each_page
def test_words_of_make(page):
    assert set(re.findall(r"`make (\w+)`", page.read_text())) <= WORDS


def test_ci_calls_the_words_of_make():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    commands = re.findall(r"^\s*- run: (.+)$", workflow, re.MULTILINE)
    assert commands == ["make lint", "make test"]
