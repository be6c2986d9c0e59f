"""The pages name files, folders and commands that there are."""

import re
from pathlib import Path

import pytest

from mmconvnext.cli import COMMANDS

REPO = Path(__file__).resolve().parents[1]
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]
FOLDERS = "mmconvnext|tests|configs|benchmarks|docs|tools|.ci"
# Names in capitals stand for what the reader chooses.
PATH = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[a-z0-9_][a-z0-9_./]*(?<!\.))(?![\w*{{/<])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page):
    text = page.read_text("utf-8")
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link}
    missing = {link for link in links if not (page.parent / link).exists()}
    if page.name != "CHANGELOG.md":  # what was there once
        missing |= {path for path in PATH.findall(text) if not (REPO / path).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    code = "\n".join(re.findall(r"```sh\n.*?```|`[^`\n]+`", page.read_text("utf-8"), re.S))
    found = re.findall(r"(?:^|`|/|-m )mmconvnext ([a-z-]+)", code, re.M)
    assert set(found) <= set(COMMANDS)
