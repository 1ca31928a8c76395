"""The report as a page: its list of contents, names that hold markup, nothing from the network."""

import re

import nbformat
import pandas as pd
import pytest

from cxr.core import markdown, tables
from cxr.report import page_parts
from cxr.report.judgement import Judgement
from cxr.study import report_page

NAME = "<script>alert(1)</script>"


def exported(tmp_path, texts, outputs=()):
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    shown = [nbformat.v4.new_output("display_data", data=data) for data in outputs]
    cells.insert(0, nbformat.v4.new_code_cell("x", outputs=shown))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    report_page.export(tmp_path / "n.ipynb", tmp_path / "n.html")
    return (tmp_path / "n.html").read_text(encoding="utf-8")


def test_the_contents_stand_after_the_first_section_and_their_links_lead_somewhere(tmp_path):
    page = exported(tmp_path, ["## What it says\n\nYes.", "## Numbers & more", "# Appendix\n\n## Méthods, all"])
    (contents,) = re.findall(r"<nav.*?</nav>", page)
    links = re.findall(r'<a href="#([^"]+)">(.*?)</a>', contents)
    assert [text for _, text in links] == ["What it says", "Numbers &amp; more", "Méthods, all"]
    for target, _ in links:
        assert page.count(f'id="{target}"') == 1, target
    places = [page.index(text) for text in ("Yes.", "<b>Contents:</b>", "<b>Appendix:</b>", f'id="{links[1][0]}"')]
    assert places == sorted(places), "after the first section"
    assert contents.index("Numbers") < contents.index("<b>Appendix:</b>") < contents.index("Méthods")


def test_a_page_with_one_section_has_no_contents(tmp_path):
    assert "<nav" not in exported(tmp_path, ["# Title", "## One"])


def test_a_name_with_markup_stays_text_everywhere(tmp_path):
    outputs = [
        {"text/html": page_parts.first_screen([f"About {NAME}"], name=NAME, warning=NAME).data},
        {"text/html": page_parts.badges({NAME: Judgement("no", NAME, NAME)}).data},
        {"text/html": tables.html(pd.DataFrame({NAME: [NAME]}))},
        {"text/markdown": f"## {NAME}\n\n`{NAME}`"},
    ]
    page = exported(tmp_path, ["## One", "## Two"], outputs)
    assert page.count("alert(1)") >= 9 and "<script>alert" not in page


MARKUP = ["[x](http://evil/)", "![x](http://evil/x.png)", "http://evil/x", "www.evil.com", "`[x](http://evil/)`"]


@pytest.mark.parametrize(
    "name", [*MARKUP, "`` ` ``![x](http://evil/x.png)", "a\n\n[x]: http://evil/\n\n[x]", "<b>*a*"]
)
def test_markdown_in_a_name_makes_no_link_and_no_picture(name, tmp_path):
    text = f"images of {markdown.code(name)} and of {markdown.plain(name)}"
    body = exported(tmp_path, ["# One"], [{"text/markdown": text}]).partition("<body")[2]
    assert not re.search(r"""<(a|img|b|em)\b(?![^>]*#)""", body) and "evil" in body or "a" in body


def test_the_page_loads_nothing_from_the_network(tmp_path):
    assert "default-src 'none'; img-src data:" in exported(tmp_path, ["# A"]).partition("<body")[0]
    page = exported(tmp_path, ["# A\n\n$x^2$", "## B", "## C\n\n```mermaid\ngraph TD\n```"])
    loaded = re.findall(
        r"""(?:src=|url\(|import\(|import |from |<link[^>]*href=)\s*["']?(?:https?:)?//[^"')\s]*""", page
    )
    assert not loaded
