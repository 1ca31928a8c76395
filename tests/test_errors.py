"""What messages are made of (`cxr.core.errors`)."""

from __future__ import annotations

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from cxr.core.errors import SHOWN, InputError, first_line, some


def test_first_line_is_the_first_that_says_something():
    assert first_line(ValueError("\n  no such layer.\nTraceback ...")) == "no such layer"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError(" \n")) == "ValueError"
    assert first_line(ValueError("x" * 400)) == "x" * 300


def test_some_lists_the_first_and_counts_the_rest():
    assert some(range(SHOWN)) == "0, 1, 2, 3, 4"
    assert some(range(SHOWN + 2)) == "0, 1, 2, 3, 4 and 2 more"
    assert some(["a\nb"]) == "a\\nb"


def test_jupyter_shows_the_message_of_bad_input_and_no_traceback(capsys):
    shell = InteractiveShell()
    done = shell.run_cell("from cxr.core.errors import InputError\nraise InputError('seed: too small')")
    assert isinstance(done.error_in_exec, InputError)
    assert capsys.readouterr().out == "InputError: seed: too small\n"


@pytest.mark.slow
def test_jupyter_moves_the_page_to_the_message():
    code = "from cxr.core.errors import InputError\nraise InputError('seed: too small')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, allow_errors=True).execute()
    moves, error = notebook.cells[0].outputs
    assert "scrollIntoView" in moves.data["application/javascript"]
    assert error.traceback == ["InputError: seed: too small"]
