"""The pages in docs/examples show the notebooks of the commit that they name, and can be read anywhere."""

import re
import subprocess
import sys

import nbformat
import pytest
from conftest import PROJECT

from cxr.core.errors import InputError

FOLDER = PROJECT / "docs" / "examples"
sys.path.insert(0, str(FOLDER))
import render  # noqa: E402


@pytest.mark.parametrize("page", render.PAGES)
def test_a_page_shows_the_text_and_the_code_of_the_notebook_that_it_names(page):
    commit = render.commit_of_page(page)
    try:
        wanted, found = render.texts_of_notebook(page, commit), render.texts_of_page(page, commit)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"git does not know commit {commit} here (no git, or a shallow clone)")
    stale = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    notebook = render.notebook_of(page).name
    assert not stale, f"{page}.md is not {notebook} of {commit}: run `{render.COMMAND}` and commit docs/examples"
    assert list(wanted) == list(found), f"cells in another order than in {notebook}: run `{render.COMMAND}`"


@pytest.mark.parametrize("page", [*render.PAGES, "README"])
def test_a_page_says_where_it_comes_from_and_nothing_of_the_machine(page):
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    assert f"`{render.COMMAND}`" in text and re.search(r"at commit `[0-9a-f]{7}`", text)
    for private in ("127.0.0.1", "localhost", "/home/", "/root/", "/tmp/", "/Users/", "file://"):
        assert private not in text
    assert render.private(text) == []
    assert not re.search(r"<style|<table|<script| style=", text)


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 3e6


def test_every_notebook_of_a_study_has_a_page():
    notebooks = {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert notebooks - {"0_pretrain", "0_lungs"} == set(render.PAGES) - {"report"}


def executed(page, **sources):
    """Today's notebook as if it had been executed; `sources`: code of cells that ran, by id with `_` for `-`."""
    notebook = nbformat.read(render.notebook_of(page), as_version=4)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id.replace("-", "_"), cell.source)
    return render.Executed(notebook, "score X s0", "abc1234")


def test_a_page_is_refused_where_the_study_ran_other_code(tmp_path):
    writer = render.Writer(tmp_path, "phantom")
    with pytest.raises(InputError, match="3_score.ipynb, cell score-04: the study 'phantom' ran other code"):
        writer.page("3_score", executed("3_score", score_04="before = 0"))
    reworded = executed("3_score", score_03="Other words.")
    assert "Other words." not in writer.page("3_score", reworded), "the text is today's"


def test_what_a_cell_put_out_follows_its_code(tmp_path):
    notebook = executed("3_score")
    cell = next(cell for cell in notebook.notebook.cells if cell.id == "score-04")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="» progress: image 1/2\nmaps of 2 images\n"),
        nbformat.v4.new_output("stream", name="stderr", text="a warning\n"),
        nbformat.v4.new_output(
            "display_data", {"text/markdown": "see [train](http://x:5000/#/experiments/1/runs/a)"}
        ),
    ]
    text = render.Writer(tmp_path, "phantom").page("3_score", notebook)
    part = text.split("<!-- cell score-04 -->")[1].split("<!-- cell")[0]
    assert part.endswith("```\n\n```\nmaps of 2 images\n```\n\nsee train\n\n")
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="/usr/share/maps.npz\n")]
    with pytest.raises(InputError, match="name a folder or server of this machine: /usr/share/maps.npz"):
        render.Writer(tmp_path, "phantom").page("3_score", notebook)


def test_tables_become_markdown():
    html = (
        "<style>td {color: red}</style><table><thead><tr><th></th><th colspan='2'>test</th></tr>"
        "<tr><th>label</th><th>images</th><th>patients</th></tr></thead>"
        "<tbody><tr><th rowspan='2'>a|b</th><td>1</td><td>&lt;2</td></tr><tr><td>3</td><td>4</td></tr></tbody>"
        "</table>"
    )
    assert render.markdown(html).splitlines() == [
        "| label | test images | test patients |",
        "| --- | --- | --- |",
        "| a\\|b | 1 | &lt;2 |",
        "|  | 3 | 4 |",
    ]


def test_what_unfolds_keeps_its_tags_and_loses_its_style():
    html = '<div class="x"><details><summary><b style="color: red">yes</b> Did?</summary><p>5</p></details></div>'
    assert render.markdown(html) == "<details><summary><b>yes</b> Did?</summary><p>5</p></details>"
