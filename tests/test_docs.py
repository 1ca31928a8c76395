"""The pages hang together: every link leads somewhere, every page is reached, every command is one."""

import re
import shlex

import pytest
from conftest import PROJECT

from cxr.cli import main
from cxr.core.params import DriftParams, StudyParams

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def links(page):
    """Files of this project that a page leads to."""
    targets = (target.partition("#")[0] for target in LINK.findall(page.read_text("utf-8")))
    return [(page.parent / target).resolve() for target in targets if target and "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert [str(target) for target in links(page) if not target.exists()] == []


def test_every_page_and_picture_is_reached_from_the_readme():
    reached, waiting = set(), [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        new = [target for target in links(page) if target not in reached]
        reached.update(new)
        waiting += [target for target in new if target.suffix == ".md"]
    files = [path for path in (PROJECT / "docs").rglob("*") if path.suffix in {".md", ".png", ".jpg"}]
    assert [str(path) for path in files if path.resolve() not in reached] == []


def commands(page):
    """`cxr ...` lines of a page's blocks, as words."""
    text = "\n".join(BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ")
    for line in text.splitlines():
        line = line.removeprefix("$ ")
        if line.startswith("cxr ") and "..." not in line:
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page):
    for words in commands(page):
        for mark in ("|", ">", "&&", "&"):
            words = words[: words.index(mark)] if mark in words else words
        if words in (["--help"], ["--version"]):
            continue
        arguments = main.parser().parse_args(words)
        for setting in getattr(arguments, "set", []):
            known = DriftParams.known() if words[0] == "drift" else StudyParams.known()
            assert setting.partition("=")[0] in known, (page.name, setting)


def test_examples_in_the_help_are_understood():
    parser = main.parser()
    (commands,) = parser._subparsers._group_actions
    for name, command in {"": parser, **commands.choices}.items():
        lines = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  cxr ")]
        assert lines, name
        for line in lines:
            words = shlex.split(line)[1:]
            for mark in ("|", ">"):
                words = words[: words.index(mark)] if mark in words else words
            main.parser().parse_args(words)
